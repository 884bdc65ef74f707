"""Text as flat arrays: what the data stages share to work on a whole shard at once.

Compiled functions (numba, cached on disk) call only compiled functions of their own module: numba notices a change
of the file that holds a function, not of the files that it calls. Between modules, arrays are the interface.
"""
