"""A2S2K-ResNet: an attention between two kernels, then residual blocks with channel attention."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.base import PatchClassifier
from models.options import ModelOptions

WIDTH, SPECTRAL_KERNEL = 24, 7


class ChannelWeights(nn.Module):
    """Efficient channel attention: channel means, a convolution of kernel 3 along the channels, sigmoid.

    Source: Wang et al., ECA-Net, CVPR 2020.
    """

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, bands, rows, columns) in and out."""
        weights = self.convolution(x.mean((2, 3, 4)).unsqueeze(1)).sigmoid()
        return x * weights.transpose(1, 2)[..., None, None]


class ResidualBlock(nn.Module):
    """BatchNorm, ReLU, convolution, BatchNorm, ReLU, convolution, BatchNorm and channel weights, with a skip.

    Args:
        kernel: of both convolutions, (bands, rows, columns).
        first: without the BatchNorm and ReLU at the start, which the layer before has.
    """

    def __init__(self, kernel: tuple[int, int, int], *, first: bool = False):
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        start = [] if first else [nn.BatchNorm3d(WIDTH), nn.ReLU()]
        self.body = nn.Sequential(
            *start,
            nn.Conv3d(WIDTH, WIDTH, kernel, padding=padding),
            nn.BatchNorm3d(WIDTH),
            nn.ReLU(),
            nn.Conv3d(WIDTH, WIDTH, kernel, padding=padding),
            nn.BatchNorm3d(WIDTH),
            ChannelWeights(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 24, bands, rows, columns) in and out."""
        return self.body(x) + x


class A2S2K(PatchClassifier):
    """Two stems, with and without neighbours, mixed channel by channel; then four residual blocks as in SSRN.

    The mixture is a softmax over the two stems, of which one has the logit 0. (In the authors' code both have the same
    logit, so that each is always a half, and the channel attention has kernels of 3 x 3, of which six weights in nine
    meet nothing but padding; neither is what the paper describes.)

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd and at least 3, at least 7 bands.
        options: none.
    Source: Roy et al., Attention-based adaptive spectral-spatial kernel ResNet, IEEE TGRS 59 (2021).
    """

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: ModelOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        depth = (n_bands - SPECTRAL_KERNEL) // 2 + 1
        stride = (2, 1, 1)
        self.stem_alone = _normalised(nn.Conv3d(1, WIDTH, (SPECTRAL_KERNEL, 1, 1), stride=stride))
        self.stem_around = _normalised(nn.Conv3d(1, WIDTH, (SPECTRAL_KERNEL, 3, 3), stride=stride, padding=(0, 1, 1)))
        self.choose = nn.Sequential(nn.Linear(WIDTH, n_bands // 2), nn.ReLU(), nn.Linear(n_bands // 2, WIDTH))
        spectral = (SPECTRAL_KERNEL, 1, 1)
        self.spectral = nn.Sequential(ResidualBlock(spectral, first=True), ResidualBlock(spectral))
        self.all_bands = _normalised(nn.Conv3d(WIDTH, 128, (depth, 1, 1)))
        self.neighbours = _normalised(nn.Conv3d(1, WIDTH, (128, 3, 3)))
        self.spatial = nn.Sequential(ResidualBlock((1, 3, 3)), ResidualBlock((1, 3, 3)))
        self.head = nn.Linear(WIDTH, n_classes)

    def encode(self, embedded: Tensor) -> Tensor:
        alone, around = (stem(embedded.unsqueeze(1)) for stem in (self.stem_alone, self.stem_around))
        weight = self.choose((alone + around).mean((2, 3, 4))).sigmoid()[..., None, None, None]
        x = self.all_bands(self.spectral(weight * alone + (1 - weight) * around))
        x = F.relu(self.spatial(self.neighbours(x.transpose(1, 2))))
        return self.head(x.mean((2, 3, 4))).unsqueeze(0)


def _normalised(convolution: nn.Conv3d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm3d(convolution.out_channels), nn.ReLU())
