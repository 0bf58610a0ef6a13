"""container: being built."""
