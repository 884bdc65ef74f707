"""Annealing: a checkpoint → learning rate to zero on the best data, checkpoints averaged."""
