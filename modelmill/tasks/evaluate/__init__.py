"""Every checkpoint of a line → one scorecard with intervals."""
