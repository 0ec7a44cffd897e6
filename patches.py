"""Gather patches by index from the mirror-padded scene, a batch in one tensor operation, and augment them."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


class Windows:
    """Gather P x P windows of an image that is already padded.

    Args:
        padded: (C, H', W') float; the first pixel of a window may be any with which the window lies inside.
        patch_size: P.
    """

    def __init__(self, padded: Tensor, patch_size: int):
        self.patch_size, self.n_columns = patch_size, padded.shape[2]
        self.spectra = padded.flatten(1).T.contiguous()  # (H' W', C): the values of a pixel are contiguous
        reach = torch.arange(patch_size, device=padded.device)
        self.window = (reach.unsqueeze(1) * self.n_columns + reach).flatten()  # from the window's first pixel

    def gather(self, first: Tensor) -> Tensor:
        """Cut the windows with these first pixels, (n, 2) rows and columns of the padded image, to (n, C, P, P)."""
        index = (first[:, 0] * self.n_columns + first[:, 1]).unsqueeze(1) + self.window
        flat = self.spectra.index_select(0, index.flatten())
        return flat.view(len(first), self.patch_size, self.patch_size, -1).permute(0, 3, 1, 2)


class PatchLoader:
    """Iterate over batches of patches, on the device of the scene.

    Args:
        image: scene, (C, H, W) float; per-pixel features work as well as bands.
        pixels: (n, 2) int64 rows and columns of the patches' centres; any pixel of the scene can be one.
        targets: (n,) int64 classes 0..K-1, or None to yield patches alone.
        patch_size: P, odd, at most the scene's smaller side.
        batch_size: patches per batch.
        generator: CPU generator; with it every iteration draws another order and batches differ in size by one at most.
            Without it the order is that of `pixels` and all batches but the last are full.
        augment: called as augment(patches, targets, generator) on every batch; training only, needs a generator.
    Yields:
        (B, C, P, P) patches, and with `targets` also (B,) targets.
    Raises:
        ValueError: an even patch size, one larger than the scene, a pixel outside it, or augment without a generator.
    """

    def __init__(
        self,
        image: Tensor,
        pixels: Tensor,
        targets: Tensor | None = None,
        *,
        patch_size: int,
        batch_size: int,
        generator: torch.Generator | None = None,
        augment: Callable[[Tensor, Tensor, torch.Generator], Tensor] | None = None,
    ):
        height, width = image.shape[1:]
        check_patch_size(patch_size, height, width)
        if batch_size < 1:
            raise ValueError(f"the batch size must be at least 1, not {batch_size}")
        if len(pixels) and bool(((pixels < 0) | (pixels >= pixels.new_tensor([height, width]))).any()):
            raise ValueError(f"a pixel lies outside the scene of {height} x {width}")
        if augment is not None and generator is None:
            raise ValueError("augmentation needs a generator")
        padded = F.pad(image.unsqueeze(0), (patch_size // 2,) * 4, mode="reflect")[0]
        self.windows = Windows(padded, patch_size)
        self.pixels = pixels.to(image.device)
        self.targets = None if targets is None else targets.to(image.device)
        self.batch_size, self.device = batch_size, image.device
        self.generator, self.augment = generator, augment

    def __len__(self) -> int:
        return -(-len(self.pixels) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        n = len(self.pixels)
        if self.generator is None:
            batches = torch.arange(n).split(self.batch_size) if n else ()
        else:
            batches = torch.randperm(n, generator=self.generator).tensor_split(len(self)) if n else ()
        for chosen in batches:
            chosen = chosen.to(self.pixels.device)
            patches = self.gather(self.pixels[chosen])
            if self.targets is None:
                yield patches
                continue
            targets = self.targets[chosen]
            if self.augment is not None and self.generator is not None:
                patches = self.augment(patches, targets, self.generator)
            yield patches, targets

    def gather(self, pixels: Tensor) -> Tensor:
        """Cut the windows round some pixels, (n, 2) to (n, C, P, P)."""
        return self.windows.gather(pixels)  # in the padded image, a centre's indices are those of its window's corner


def check_patch_size(patch_size: int, height: int, width: int) -> None:
    """Raise ValueError unless a patch has a centre pixel and fits into the scene."""
    if patch_size < 1 or patch_size % 2 == 0:
        raise ValueError(f"patch_size must be odd, so that a patch has a centre pixel, not {patch_size}")
    if patch_size > min(height, width):
        raise ValueError(f"patch_size {patch_size} is larger than the scene of {height} x {width} pixels")


def labelled_pixels(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels (n, 2) of a label map (H, W) that are not 0, row by row, and their targets (n,), 0-based."""
    pixels = mask.nonzero()
    return pixels, mask[pixels[:, 0], pixels[:, 1]] - 1


@dataclass(frozen=True)
class Augmentation:
    """Augment the patches of a training batch with the parts that are switched on.

    Attributes:
        flip: each patch becomes one of its eight mirror images and rotations, drawn with equal probability.
        radiation: each patch is scaled by a factor drawn from [0.9, 1.1], plus noise.
        mixture: each patch is mixed with another one of its class in the batch, by two weights drawn from [0.01, 1],
            plus noise.
    The noise is normal; its standard deviation is 1/25 of that of a normalised band.
    Source: the three augmentations of DeepHyperX, from their description.
    """

    flip: bool = True
    radiation: bool = False
    mixture: bool = False

    def __call__(self, patches: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        """Augment patches (B, C, P, P) with targets (B,); the targets do not change."""
        if self.flip:
            patches = _flip(patches, generator)
        if self.radiation:
            patches = patches * _uniform(0.9, 1.1, patches, generator) + _noise(patches, generator)
        if self.mixture:
            patches = _mix(patches, targets, generator)
        return patches


def _flip(patches: Tensor, generator: torch.Generator) -> Tensor:
    n, channels, side, _ = patches.shape
    flips = (torch.rand(3, n, generator=generator) < 0.5).to(patches.device)  # rows, columns, rows for columns
    image = (flips * flips.new_tensor([[1], [2], [4]], dtype=torch.int64)).sum(0)
    source = _images(side).to(patches.device)[image] + torch.arange(n, device=patches.device).unsqueeze(1) * side**2
    spectra = patches.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, source.flatten())
    return spectra.view(n, side, side, channels).permute(0, 3, 1, 2)


@functools.cache
def _images(side: int) -> Tensor:
    """Return for each of the eight images of a patch the source of each pixel, row by row: (8, side^2)."""
    grid = torch.arange(side * side).view(side, side)
    turned = [grid, grid.flip(0), grid.flip(1), grid.flip(0, 1)]
    return torch.stack([image.flatten() for image in (*turned, *(image.T for image in turned))])


def _mix(patches: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
    same_class = (targets.unsqueeze(1) == targets).float().cpu()
    partner = torch.multinomial(same_class, 1, generator=generator).squeeze(1).to(patches.device)
    first, second = (_uniform(0.01, 1.0, patches, generator) for _ in range(2))
    return (first * patches + second * patches[partner]) / (first + second) + _noise(patches, generator)


def _uniform(low: float, high: float, patches: Tensor, generator: torch.Generator) -> Tensor:
    return (low + (high - low) * torch.rand(len(patches), 1, 1, 1, generator=generator)).to(patches.device)


def _noise(patches: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(patches.shape, generator=generator).to(patches.device) / 25
