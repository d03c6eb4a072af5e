"""`make soak`: the whole pipeline under faults."""
