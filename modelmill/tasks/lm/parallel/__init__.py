"""One training run on several processes: the layout, this process's part in it, and the sharding of model and state."""
