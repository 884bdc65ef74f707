"""Families of small tasks → problems whose replies a program can verify, split by content, and accuracies."""
