"""A layout of many accelerators → what each would hold, send and compute, found on one CPU without memory for it."""
