"""One file per subcommand: what it does, read from top to bottom."""
