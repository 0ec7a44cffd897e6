"""The command line: every flag, and the modes that need no training."""
