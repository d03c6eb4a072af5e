"""Which architectures exist and what they cost. NumPy only, no torch."""
