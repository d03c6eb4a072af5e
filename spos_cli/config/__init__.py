"""The settings of an experiment."""
