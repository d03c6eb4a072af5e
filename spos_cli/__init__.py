"""Single Path One-Shot neural architecture search (Guo et al., ECCV 2020, arXiv 1904.00420)."""

__version__ = "0.1.0"
