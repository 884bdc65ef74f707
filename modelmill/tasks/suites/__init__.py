"""Evaluation suites as local files: what the line is tested on, and what its corpus must not contain."""
