"""What the line runs on: artifact store, compute, tracking, inference and chat, each with an embedded default."""
