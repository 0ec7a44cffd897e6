"""MiM-v1: the paper's network."""

from models.mim import MiM


class MiMv1(MiM):
    """Two halves that end at the centre, learned tokens, one stage per scale p-2, ..., 1, one head per scale."""
