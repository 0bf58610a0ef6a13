"""doctor: being built."""
