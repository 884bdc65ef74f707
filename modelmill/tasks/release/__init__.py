"""The last model of a line and its scorecard → a folder that can be given away."""
