"""book: being built."""
