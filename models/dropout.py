"""Dropout whose mask is drawn many numbers at a time on the CPU."""

import torch
from torch import Tensor, nn

LEVELS = 2**16  # a rate is rounded to a multiple of 1 / LEVELS


class Dropout(nn.Dropout):
    """`nn.Dropout`, out of place, that on the CPU draws four numbers of the mask from each number of the generator.

    PyTorch's draws them one by one there, which took a tenth of a training step.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Any shape in and out; the expectation is kept."""
        dropped = round(self.p * LEVELS)
        if input.device.type != "cpu" or dropped == LEVELS or torch.compiler.is_compiling():
            return super().forward(input)
        if not self.training or dropped == 0:
            return input
        draws = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.int16)[: input.numel()].view(input.shape) >= dropped - LEVELS // 2
        return input * kept.to(input.dtype).mul_(LEVELS / (LEVELS - dropped))
