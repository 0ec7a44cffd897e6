"""MiM-v2: the wide one, whole sequences in both directions, and the scales' features fused before the main head."""

import torch
from torch import Tensor, nn

from models.mim import MiM
from models.options import MiMOptions


class MiMv2(MiM):
    """A stage p -> p before the falling ones; the sum of all scales' features goes to a fused head, the last row."""

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: MiMOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        if self.options.scale_loss == "last":
            self.heads = nn.ModuleList()  # the fused head is the only row
        self.fused_head = nn.Linear(self.options.dim, n_classes)

    def decode(self, features: list[Tensor]) -> Tensor:
        """Features of every scale, (B, dim) each, to logits (scales + 1, B, K), the fused head last."""
        fused = self.classify(self.fused_head, torch.stack(features).sum(0)).unsqueeze(0)
        return torch.cat([super().decode(features), fused]) if len(self.heads) else fused
