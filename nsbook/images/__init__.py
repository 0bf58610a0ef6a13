"""images: being built."""
