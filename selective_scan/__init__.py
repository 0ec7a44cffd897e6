"""The selective scan of Mamba, the operators around it in a layer, and their back ends."""

from selective_scan.attention_op import attend, can_attend
from selective_scan.backends import BACKENDS, available_backends, choose
from selective_scan.conv_op import causal_conv
from selective_scan.cross_scan_op import CrossScanArguments, Direction, can_cross_scan, cross_scan
from selective_scan.scan_op import selective_scan

__all__ = [
    "BACKENDS",
    "CrossScanArguments",
    "Direction",
    "attend",
    "available_backends",
    "can_attend",
    "can_cross_scan",
    "causal_conv",
    "choose",
    "cross_scan",
    "selective_scan",
]
