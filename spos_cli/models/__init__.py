"""The torch modules: the supernet, the stand-alone network, and their costs."""
