"""The torch modules: the supernet, the stand-alone network, and what they cost."""
