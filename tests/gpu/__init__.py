"""`make gpu`: all checks that need a GPU, in one command."""
