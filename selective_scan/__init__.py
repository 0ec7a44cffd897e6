"""The selective scan of Mamba, `selective_scan`, what stands beside it in a layer, and the back ends behind them."""

from selective_scan.backends import BACKENDS, available_backends, choose
from selective_scan.conv_op import causal_conv
from selective_scan.interface import selective_scan
from selective_scan.merge_op import can_merge, scan_and_merge

__all__ = [
    "BACKENDS",
    "available_backends",
    "can_merge",
    "causal_conv",
    "choose",
    "scan_and_merge",
    "selective_scan",
]
