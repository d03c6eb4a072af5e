"""One experiment: its folder, and what its settings make."""
