"""Training: one run and many runs, from settings to a folder of results."""
