"""One file per entry point: one tracked run each."""
