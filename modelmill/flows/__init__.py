"""What runs, in which order: the line, its stages, deployments, schedules and the command line."""
