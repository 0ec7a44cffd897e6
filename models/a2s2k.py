"""A2S2K-ResNet: an attention between two kernels, then residual blocks with channel attention."""

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
        """(B, C, bands, pixels) or (B, C, rows, columns) in and out."""
        weights = self.convolution(x.mean((2, 3)).unsqueeze(1)).sigmoid()
        return x * weights.transpose(1, 2)[..., None]


class ResidualBlock(nn.Module):
    """BatchNorm, ReLU, convolution, BatchNorm, ReLU, convolution and channel weights, with a skip around them.

    The first block of a network begins with its convolution and has a BatchNorm after the second one; the last block
    has a BatchNorm and ReLU after the skip.

    Args:
        kernel: of both convolutions.
        first, last: the block's place, if it is one of these.
    Source: Duta et al., Improved residual networks, ICPR 2020, section III-A.
    """

    def __init__(self, kernel: tuple[int, int], *, first: bool = False, last: bool = False):
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.body = nn.Sequential(
            *([] if first else [nn.BatchNorm2d(WIDTH), nn.ReLU()]),
            nn.Conv2d(WIDTH, WIDTH, kernel, padding=padding),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, kernel, padding=padding),
            *([nn.BatchNorm2d(WIDTH)] if first else []),
            ChannelWeights(),
        )
        self.after = nn.Sequential(nn.BatchNorm2d(WIDTH), nn.ReLU()) if last else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, 24, bands, pixels) or (B, 24, rows, columns) in and out."""
        return self.after(self.body(x) + x)


class A2S2K(PatchClassifier):
    """Two stems, with and without neighbours, mixed channel by channel; then four residual blocks as in SSRN.

    The mixture is a softmax over the two stems, of which one has the logit 0. (In the authors' code both have the same
    logit, so that each is always a half, and the channel attention has kernels of 3 x 3, of which six weights in nine
    meet nothing but padding; neither is what the paper describes.) As in `models.ssrn`, 3-D convolutions that have a
    length of 1 along the bands or in space are 2-D ones.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd and at least 3, at least 7 bands.
        options: none.
    Source: Roy et al., Attention-based adaptive spectral-spatial kernel ResNet, IEEE TGRS 59 (2021).
    """

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: ModelOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        depth = (n_bands - SPECTRAL_KERNEL) // 2 + 1
        around = nn.Conv3d(1, WIDTH, (SPECTRAL_KERNEL, 3, 3), stride=(2, 1, 1), padding=(0, 1, 1))
        self.stem_alone = _normalised(nn.Conv2d(1, WIDTH, (SPECTRAL_KERNEL, 1), stride=(2, 1)))
        self.stem_around = nn.Sequential(around, nn.BatchNorm3d(WIDTH), nn.ReLU(), nn.Flatten(3))
        self.choose = nn.Sequential(nn.Linear(WIDTH, n_bands // 2), nn.ReLU(), nn.Linear(n_bands // 2, WIDTH))
        along = (SPECTRAL_KERNEL, 1)
        self.spectral = nn.Sequential(ResidualBlock(along, first=True), ResidualBlock(along))
        self.all_bands = _normalised(nn.Conv2d(WIDTH * depth, 128, 1))
        self.neighbours = _normalised(nn.Conv2d(128, WIDTH, 3))
        self.spatial = nn.Sequential(ResidualBlock((3, 3)), ResidualBlock((3, 3), last=True))
        self.head = nn.Linear(WIDTH, n_classes)

    def encode(self, embedded: Tensor) -> Tensor:
        alone, around = self.stem_alone(embedded.flatten(2).unsqueeze(1)), self.stem_around(embedded.unsqueeze(1))
        weight = self.choose((alone + around).mean((2, 3))).sigmoid()[..., None, None]
        x = self.spectral(weight * alone + (1 - weight) * around)  # (B, 24, bands, P * P)
        x = self.all_bands(x.flatten(1, 2).unflatten(2, embedded.shape[2:]))  # (B, 128, P, P)
        return self.head(self.spatial(self.neighbours(x)).mean((2, 3))).unsqueeze(0)


def _normalised(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())
