"""MiM-v3: the light one."""

from models.mim import MiM


class MiMv3(MiM):
    """One stage of two blocks on the full grid, pooled tokens gated by z, index decay, a single head."""
