"""Stage ingest: sources (crawls, archives, files, data sets) → pages of plain text."""
