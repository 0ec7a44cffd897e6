"""The 2-D selective scan of VMamba: rows and columns of a patch, forwards and backwards."""

import math

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.options import MambaOptions
from models.ssm import S6

EXPAND = 2


class SS2D(nn.Module):
    """Depthwise 3x3 convolution, SiLU, four scans whose outputs are added, LayerNorm and gate.

    Args:
        dim: channels of a pixel.
        options: states and back end of the scans.
    Source: Liu et al., VMamba, NeurIPS 2024, section 4.2.
    """

    def __init__(self, dim: int, options: MambaOptions):
        super().__init__()
        d_inner = EXPAND * dim
        self.project_in = nn.Linear(dim, 2 * d_inner, bias=False)
        self.convolution = nn.Conv2d(d_inner, d_inner, 3, padding=1, groups=d_inner)
        self.scans = nn.ModuleList(
            S6(d_inner, options.d_state, options.scan_backend, math.ceil(dim / 16)) for _ in range(4)
        )
        self.norm = nn.LayerNorm(d_inner)
        self.project_out = nn.Linear(d_inner, dim, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, H, W, dim) in and out."""
        x, gate = self.project_in(pixels).chunk(2, -1)
        x = F.silu(self.convolution(x.permute(0, 3, 1, 2)))
        rows, columns = rearrange(x, "b c h w -> b (h w) c"), rearrange(x, "b c h w -> b (w h) c")
        scanned = [scan(each) for scan, each in zip(self.scans[:2], (rows, columns), strict=True)]
        scanned += [scan(each.flip(1)).flip(1) for scan, each in zip(self.scans[2:], (rows, columns), strict=True)]
        height, width = pixels.shape[1:3]
        along_rows = (scanned[0] + scanned[2]).unflatten(1, (height, width))
        along_columns = (scanned[1] + scanned[3]).unflatten(1, (width, height)).transpose(1, 2)
        return self.project_out(self.norm(along_rows + along_columns) * F.silu(gate))
