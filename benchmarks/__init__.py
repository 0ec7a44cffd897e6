"""Benchmarks: each is run as `python -m benchmarks.NAME` and prints ratios against a peer of the same run."""

from utils import share_cores

share_cores()  # as main.py does, and before PyTorch is imported
