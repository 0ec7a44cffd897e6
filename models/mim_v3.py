"""MiM-v3: the light one."""

from models.mim import MiM
from models.options import MiMOptions


class MiMv3(MiM):
    """One stage of two blocks on the full grid, pooled tokens gated by z, index decay, a single head."""

    defaults = MiMOptions(scan="whole", decay="index", tokens="pooled", depth=2)

    @staticmethod
    def default_scales(patch_size: int) -> tuple[int, ...]:
        """The grid keeps its side."""
        return (patch_size,)
