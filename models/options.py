"""The settings of the MiM networks, one dataclass; every field is a flag of the command line."""

from dataclasses import dataclass
from itertools import pairwise

from models.tokens import DECAYS

CHOICES = {
    "stem": ("depthwise", "full"),
    "scan": ("halves", "whole"),
    "decay": DECAYS,
    "tokens": ("learned", "pooled"),
    "fusion": ("weighted", "mean"),
    "scale_loss": ("all", "last"),
}


@dataclass(frozen=True)
class MiMOptions:
    """Settings of a MiM network; the defaults are MiM-v1's.

    Attributes:
        dim, d_inner, d_state: widths of the tokens, of the scan, and its states per channel (N).
        depth: blocks per stage.
        dropout: on the learned tokens and before each decoder, in [0, 1).
        stem: depthwise and pointwise convolution, or one full 3x3 convolution with BatchNorm.
        scan_types: which of the four scan orders, 1 to 4.
        scan: two halves that end at the centre, or the whole order in both directions.
        decay: which factors of the Gaussian decay mask.
        tokens: learned and fused (STL, STF), or pooled and gated.
        fusion: learned weights over the scan types, or their mean.
        scales: sides of the token grid after each stage; None for the model's own.
        scale_loss: every scale has a head and a share in the loss, or the last alone.
        separate_types: a T-Mamba of its own for each scan type.
        scan_backend: back end of the selective scan.
    Raises:
        ValueError: a value outside its choices or range.
    """

    dim: int = 64
    d_inner: int = 64
    d_state: int = 16
    depth: int = 1
    dropout: float = 0.2
    stem: str = "depthwise"
    scan_types: tuple[int, ...] = (1, 2, 3, 4)
    scan: str = "halves"
    decay: str = "both"
    tokens: str = "learned"
    fusion: str = "weighted"
    scales: tuple[int, ...] | None = None
    scale_loss: str = "all"
    separate_types: bool = False
    scan_backend: str = "auto"

    def __post_init__(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"--{name} is {getattr(self, name)!r}; choose from {', '.join(choices)}")
        for name in ("dim", "d_inner", "d_state", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, not {getattr(self, name)}")
        check_dropout(self.dropout)
        types = self.scan_types
        if not types or len(set(types)) != len(types) or not set(types) <= {1, 2, 3, 4}:
            raise ValueError(f"--scan_types takes different numbers from 1 to 4, not {' '.join(map(str, types))}")

    def resolved_scales(self, patch_size: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """Give the grids after the patch, checked: odd, at least 1, none larger than the one before."""
        scales = default if self.scales is None else tuple(self.scales)
        sides = (patch_size, *scales)
        falling = all(after <= before for before, after in pairwise(sides))
        if not scales or not falling or any(side < 1 or side % 2 == 0 for side in scales):
            raise ValueError(
                f"--scales {' '.join(map(str, scales))} does not fit patch size {patch_size}: "
                "give odd sides, none larger than the one before"
            )
        return scales


def check_dropout(dropout: float) -> None:
    """Raise ValueError unless the dropout rate lies in [0, 1)."""
    if not 0 <= dropout < 1:
        raise ValueError(f"--dropout must be at least 0 and below 1, not {dropout}")
