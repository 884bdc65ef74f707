"""A data stage's artifacts → what a person asks about its rows: how many, which, why, and what was changed."""
