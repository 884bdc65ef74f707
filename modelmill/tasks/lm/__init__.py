"""The language model itself: shape, plan, data, losses, optimiser, checkpoints and the one training loop."""
