"""HTML → the text that a reader came for: a fast parse, a model of blocks, and how the kept blocks are joined."""
