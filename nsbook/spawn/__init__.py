"""spawn: being built."""
