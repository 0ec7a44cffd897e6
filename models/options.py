"""The settings of the networks: a frozen dataclass each, whose fields hold their help, choices and bounds.

Every field is a flag of the command line too, so nothing here imports PyTorch.
"""

from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

DECAYS = ("none", "index", "feature", "both")
SCAN_BACKENDS = ("auto", "cuda", "cpu", "reference")


def _option(default: Any, help: str, **rules: Any) -> Any:
    """Make a field; rules: `choices`, a tuple, or the bounds `least` and `below`."""
    return field(default=default, metadata={"help": help, **rules})


@dataclass(frozen=True)
class ModelOptions:
    """Base class: every value is checked against the rules in its field's metadata.

    Raises:
        ValueError: a value outside its choices or bounds; the message begins with the option's name.
    """

    def __post_init__(self):
        for option in fields(self):
            value, rules = getattr(self, option.name), option.metadata
            if "choices" in rules and value not in rules["choices"]:
                raise ValueError(f"{option.name} is {value!r}; choose from {', '.join(rules['choices'])}")
            least, below = rules.get("least", float("-inf")), rules.get("below", float("inf"))
            if "least" in rules and not least <= value < below:
                also = f" and below {below}" if "below" in rules else ""
                raise ValueError(f"{option.name} must be at least {least}{also}, not {value}")

    def check(self, patch_size: int) -> None:
        """Raise ValueError if the settings do not fit the patch size."""


@dataclass(frozen=True)
class DropoutOptions(ModelOptions):
    """Settings of a network whose rate of dropout alone can be set."""

    dropout: float = _option(0.1, "rate, where the network has it", least=0, below=1)


@dataclass(frozen=True)
class MambaOptions(ModelOptions):
    """Settings of the rivals with a selective scan."""

    d_state: int = _option(16, "states per channel of the selective scan (N)", least=1)
    scan_backend: str = _option("auto", "back end of the selective scan", choices=SCAN_BACKENDS)


@dataclass(frozen=True)
class CNNOptions(ModelOptions):
    """Settings of the CNN."""

    dim: int = _option(64, "width of the layers", least=1)
    dropout: float = _option(0.2, "rate before the head", least=0, below=1)


@dataclass(frozen=True)
class MiMOptions(ModelOptions):
    """Settings of a MiM network; the defaults are MiM-v1's."""

    dim: int = _option(64, "width of the tokens", least=1)
    d_inner: int = _option(64, "width of the selective scan", least=1)
    d_state: int = _option(16, "states per channel of the selective scan (N)", least=1)
    depth: int = _option(1, "blocks per stage", least=1)
    dropout: float = _option(0.2, "rate on the learned tokens and before each decoder", least=0, below=1)
    stem: str = _option(
        "depthwise",
        "depthwise and pointwise convolution, or one full 3x3 convolution with BatchNorm",
        choices=("depthwise", "full"),
    )
    scan_types: tuple[int, ...] = _option(
        (1, 2, 3, 4),
        "which of the four scan orders: rows from the top left, columns from the top left, rows from the top right, "
        "columns from the bottom left",
    )
    scan: str = _option(
        "halves",
        "two halves that end at the centre, or the whole sequence in both directions",
        choices=("halves", "whole"),
    )
    decay: str = _option("both", "factors of the Gaussian decay mask", choices=DECAYS)
    tokens: str = _option(
        "learned", "semantic tokens learned and fused, or pooled and gated", choices=("learned", "pooled")
    )
    fusion: str = _option("weighted", "weights over the scan types learned, or all equal", choices=("weighted", "mean"))
    scales: tuple[int, ...] | None = _option(None, "odd sides of the token grid after each stage")
    scale_loss: str = _option(
        "all", "loss and prediction from a head for every scale, or for the last one only", choices=("all", "last")
    )
    separate_types: bool = _option(False, "separate parameters for each scan type")
    scan_backend: str = _option("auto", "back end of the selective scan", choices=SCAN_BACKENDS)

    def __post_init__(self):
        super().__post_init__()
        types = self.scan_types
        if not types or len(set(types)) != len(types) or not set(types) <= {1, 2, 3, 4}:
            raise ValueError(f"scan_types must be different numbers from 1 to 4, not {' '.join(map(str, types))}")

    def default_scales(self, patch_size: int) -> tuple[int, ...]:
        """Give the sides of the token grid after the patch if `scales` is None: p-2, ..., 3, 1."""
        return tuple(range(patch_size - 2, 0, -2))

    def resolved_scales(self, patch_size: int) -> tuple[int, ...]:
        """Give the sides of the token grid after the patch, checked: odd, none larger than the one before."""
        scales = self.default_scales(patch_size) if self.scales is None else tuple(self.scales)
        falling = all(after <= before for before, after in pairwise((patch_size, *scales)))
        if not scales or not falling or any(side < 1 or side % 2 == 0 for side in scales):
            raise ValueError(
                f"scales {' '.join(map(str, scales))} does not fit patch size {patch_size}: "
                "give odd sides, none larger than the one before"
            )
        return scales

    def check(self, patch_size: int) -> None:
        """Raise ValueError if the scales do not fit the patch size."""
        self.resolved_scales(patch_size)


def _default(name: str, value: Any) -> Any:
    """Make a field like MiMOptions' of that name, with another default."""
    return field(default=value, metadata=MiMOptions.__dataclass_fields__[name].metadata)


@dataclass(frozen=True)
class MiMv2Options(MiMOptions):
    """Settings of MiM-v2."""

    dim: int = _default("dim", 128)
    d_inner: int = _default("d_inner", 128)
    scan: str = _default("scan", "whole")

    def default_scales(self, patch_size: int) -> tuple[int, ...]:
        """Give p, p-2, ..., 3, 1."""
        return tuple(range(patch_size, 0, -2))


@dataclass(frozen=True)
class MiMv3Options(MiMOptions):
    """Settings of MiM-v3."""

    depth: int = _default("depth", 2)
    scan: str = _default("scan", "whole")
    decay: str = _default("decay", "index")
    tokens: str = _default("tokens", "pooled")

    def default_scales(self, patch_size: int) -> tuple[int, ...]:
        """Give p alone: the grid keeps its side."""
        return (patch_size,)
