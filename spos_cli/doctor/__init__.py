"""Check an experiment and this machine before a long training."""
