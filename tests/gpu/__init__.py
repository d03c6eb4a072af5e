"""`make gpu`: what can only be told on a GPU, in one command."""
