"""linux: being built."""
