"""Benchmarks: each is run as `python -m benchmarks.NAME` and prints ratios against a peer of the same run."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as main.py does, and before PyTorch is imported
