"""`mill bench`: the line, and each step beside its peers, measured on this machine."""
