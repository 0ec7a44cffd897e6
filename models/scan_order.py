"""Permutations of the token grid: the centralized Mamba-Cross-Scan (MCS)."""

import torch
from torch import Tensor


def cross_scan_orders(patch_size: int) -> Tensor:
    """Give the four snake orders of a square token grid, the centre pixel in the middle of each.

    Args:
        patch_size: side P of the grid, odd.
    Returns:
        (4, P * P) int64, raster indices in scan order: rows from the top left, columns from the top left, rows from
        the top right, columns from the bottom left. Neighbours in a sequence are neighbours in the grid.
    Raises:
        ValueError: an even or non-positive side, which has no centre pixel.
    Source: Zhou et al. 2025, Mamba-Cross-Scan.
    """
    if patch_size < 1 or patch_size % 2 == 0:
        raise ValueError(f"the token grid needs an odd side of at least 1, not {patch_size}")
    raster = torch.arange(patch_size * patch_size).view(patch_size, patch_size)
    grids = (raster, raster.T, raster.flip(1), raster.flip(0).T)
    return torch.stack([_snake(grid) for grid in grids])


def _snake(grid: Tensor) -> Tensor:
    """Read a grid row by row, every second row from its end."""
    rows = grid.clone()
    rows[1::2] = rows[1::2].flip(1)
    return rows.reshape(-1)


def inverse_orders(orders: Tensor) -> Tensor:
    """Give the permutations that take sequences in scan order back to raster order, (n, L) for (n, L)."""
    return torch.argsort(orders, dim=1)
