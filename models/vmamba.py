"""VMamba: blocks of the 2-D selective scan on the pixels of a patch."""

from torch import Tensor, nn

from models.base import PatchClassifier, PointwiseConv
from models.options import MambaOptions
from models.ss2d import SS2D

DIM, DEPTH = 64, 3


class VMamba(PatchClassifier):
    """Pointwise embedding, three blocks of LayerNorm and `SS2D` with a skip, LayerNorm, mean, one linear layer.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd.
        options: states and back end of the scans.
    Source: Liu et al., VMamba, NeurIPS 2024; width and depth are those of the MiM networks' scale.
    """

    options: MambaOptions

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: MambaOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.embedding = PointwiseConv(n_bands, DIM)
        self.norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in range(DEPTH))
        self.layers = nn.ModuleList(SS2D(DIM, options) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(DIM)
        self.head = nn.Linear(DIM, n_classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.embedding(x)

    def encode(self, embedded: Tensor) -> Tensor:
        pixels = embedded.permute(0, 2, 3, 1)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            pixels = pixels + layer(norm(pixels))
        return self.head(self.norm(pixels).mean((1, 2))).unsqueeze(0)
