"""The selective scan of Mamba: one function, `selective_scan`, and the back ends behind it."""

from selective_scan.backends import BACKENDS, available_backends, choose
from selective_scan.interface import selective_scan

__all__ = ["BACKENDS", "available_backends", "choose", "selective_scan"]
