"""Gather patches by index from the mirror-padded scene, a batch in one tensor operation, and augment them."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


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
        return self.cut(self.number(first).unsqueeze(1) + self.window)

    def number(self, pixels: Tensor) -> Tensor:
        """Number pixels of the padded image row by row: (n, 2) to (n,)."""
        return pixels[:, 0] * self.n_columns + pixels[:, 1]

    def cut(self, numbers: Tensor) -> Tensor:
        """Read windows from the numbers of their pixels, (n, P * P), to (n, C, P, P)."""
        flat = self.spectra.index_select(0, numbers.flatten())
        return flat.view(len(numbers), self.patch_size, self.patch_size, -1).permute(0, 3, 1, 2)


class Plan(NamedTuple):
    """The batches of an epoch by numbers, so that all of it can go to a GPU at once.

    Attributes:
        sizes: of the m batches.
        first: (m, largest size) int64, numbers of the windows' first pixels, see `Windows.number`; 0 behind a batch.
        image: the same of the mirror images, 0 to 7, for `PatchLoader.cut`.
        targets: the same of the targets.
    """

    sizes: list[int]
    first: Tensor
    image: Tensor
    targets: Tensor


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
        self.generator, self.augment, self._images = generator, augment, None

    def __len__(self) -> int:
        return -(-len(self.pixels) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        yield from self._cut_batches(self._batches())

    def after(self, order: Tensor, n_batches: int) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        """Iterate over the batches behind the first n_batches of an iteration.

        Args:
            order: state of the generator when that iteration began; its present state is that behind n_batches.
            n_batches: 0 for all of them.
        """
        assert self.generator is not None
        present = self.generator.get_state()
        self.generator.set_state(order)
        batches = self._batches()
        if n_batches:
            self.generator.set_state(present)
        yield from self._cut_batches(batches[n_batches:])

    def _cut_batches(self, batches: Sequence[Tensor]) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
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

    def _batches(self) -> Sequence[Tensor]:
        n = len(self.pixels)
        if n == 0:
            return ()
        if self.generator is None:
            return torch.arange(n).split(self.batch_size)
        return torch.randperm(n, generator=self.generator).tensor_split(len(self))

    def plan(self) -> Plan:
        """Draw an epoch at once, with the random numbers that an iteration would draw; `augment` may only flip."""
        assert self.generator is not None
        assert self.targets is not None
        batches = self._batches()
        flips = getattr(self.augment, "flip", False)
        images = [_draw_images(len(chosen), self.generator) if flips else chosen * 0 for chosen in batches]
        chosen, image = (pad_sequence(list(rows), batch_first=True) for rows in (batches, images))
        chosen = chosen.to(self.device)
        first, targets = self.windows.number(self.pixels)[chosen], self.targets[chosen]
        return Plan([len(chosen) for chosen in batches], first, image.to(self.device), targets)

    def cut(self, first: Tensor, image: Tensor) -> Tensor:
        """Cut mirror images of windows, both (n,) as in a `Plan`, to (n, C, P, P)."""
        if self._images is None:  # of each image the offsets of its pixels, (8, P * P)
            self._images = self.windows.window[_images(self.windows.patch_size).to(self.device)]
        return self.windows.cut(first.unsqueeze(1) + self._images.index_select(0, image))

    def gather(self, pixels: Tensor) -> Tensor:
        """Cut the windows round some pixels, (n, 2) to (n, C, P, P)."""
        return self.windows.gather(pixels)  # in the padded image, a centre's indices are those of its window's corner


def get_generators(loader: PatchLoader) -> dict[str, Tensor]:
    """Return the states of the generators of training: the loader's, and PyTorch's on the CPU and on its GPU."""
    assert loader.generator is not None
    generators = {"loader": loader.generator.get_state(), "cpu": torch.get_rng_state()}
    if loader.device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state(loader.device)
    return generators


def set_generators(loader: PatchLoader, generators: dict[str, Tensor]) -> None:
    """Set what `get_generators` has returned."""
    assert loader.generator is not None
    loader.generator.set_state(generators["loader"])
    torch.set_rng_state(generators["cpu"])
    if loader.device.type == "cuda" and "cuda" in generators:
        torch.cuda.set_rng_state(generators["cuda"], loader.device)


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


def class_weights(targets: Tensor, n_classes: int) -> tuple[float, ...]:
    """Compute weights inverse to the frequency of the classes, 1 on average over the pixels; 0 without pixels."""
    counts = torch.bincount(targets, minlength=n_classes).double()
    present = counts > 0
    weights = torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), 0.0)
    return tuple(weights.tolist())


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
    image = _draw_images(n, generator).to(patches.device)
    source = _images(side).to(patches.device)[image] + torch.arange(n, device=patches.device).unsqueeze(1) * side**2
    spectra = patches.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, source.flatten())
    return spectra.view(n, side, side, channels).permute(0, 3, 1, 2)


def _draw_images(n: int, generator: torch.Generator) -> Tensor:
    """Draw which of its eight images each patch becomes, (n,) int64."""
    flips = torch.rand(3, n, generator=generator) < 0.5  # rows, columns, rows for columns
    return (flips * torch.tensor([[1], [2], [4]])).sum(0)


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
