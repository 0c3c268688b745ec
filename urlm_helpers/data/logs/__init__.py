"""One module per real log."""
