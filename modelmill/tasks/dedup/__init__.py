"""Documents → unique documents: by address, by normalised text, by line, by MinHash."""
