"""The selective scan of Mamba, `selective_scan`, what stands beside it in a layer, and the back ends behind them."""

from selective_scan.backends import BACKENDS, available_backends, choose
from selective_scan.conv_op import causal_conv
from selective_scan.cross_scan_op import Direction, can_cross_scan, cross_scan
from selective_scan.interface import selective_scan

__all__ = [
    "BACKENDS",
    "Direction",
    "available_backends",
    "can_cross_scan",
    "causal_conv",
    "choose",
    "cross_scan",
    "selective_scan",
]
