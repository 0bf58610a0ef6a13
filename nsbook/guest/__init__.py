"""guest: being built."""
