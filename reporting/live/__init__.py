"""A run while it is running: progress on the terminal, log.jsonl, and the live view on a visdom server."""
