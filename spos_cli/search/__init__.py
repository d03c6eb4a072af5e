"""The search: evolution, the scoring of candidates, and the journal of scores."""
