"""Folders of models and tokenizers that somebody else made: checked before use, opened without running their code."""
