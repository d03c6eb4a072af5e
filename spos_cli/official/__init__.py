"""The official code's files and numbers."""
