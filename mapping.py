"""Map a scene with a trained network: a scene in memory at once, or one of any size block by block."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import engine
from certainty import prediction_sets
from context import Surroundings
from models.base import PatchClassifier, SceneClassifier
from patches import PatchLoader, Windows, check_patch_size

PREDICT_BATCH = 256  # patches per batch when predicting on the CPU, at most
PREDICT_PAIRS = 2**22  # pairs of tokens in such a batch, patch_size^4 per patch, at most
CPU_TOKENS = 2**13  # tokens in such a batch, at most: intermediate results then stay in the cache
GPU_TOKENS = 2**18  # tokens in a batch on a GPU, at most: they fill it
BYTES_PER_TOKEN = 24_000  # that MiM-v2 takes on a GPU; a batch takes a quarter of its memory at most
BLOCK_BYTES = 2**24  # size of a block of rows, as read or as embedded, whichever is larger


@dataclass(frozen=True)
class Grid:
    """Select the pixels to predict, numbered row by row, and fill the others from them.

    Attributes:
        shape: (H, W).
        rows, columns: ascending indices; the pixels at their crossings are predicted.
        margin: pixels nearer than this to the scene's edge are not predicted and stay 0.
    """

    shape: tuple[int, int]
    rows: np.ndarray
    columns: np.ndarray
    margin: int = 0

    @classmethod
    def of(cls, shape: tuple[int, int], patch_size: int, *, stride: int = 1, border: str = "mirror") -> "Grid":
        """Take every stride-th row and column; with border "skip" only those whose window lies inside the scene."""
        check_patch_size(patch_size, *shape)
        margin = patch_size // 2 if border == "skip" else 0
        inside = (np.arange(margin, size - margin) for size in shape)
        rows, columns = (indices[(len(indices) - 1) % stride // 2 :: stride] for indices in inside)
        return cls(shape, rows, columns, margin)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def pixels(self, first: int, last: int) -> np.ndarray:
        """Return rows and columns, (last - first, 2), of the pixels numbered first to last - 1."""
        row, column = np.divmod(np.arange(first, last), len(self.columns))
        return np.stack([self.rows[row], self.columns[column]], 1)

    def outside(self, row: int) -> np.ndarray:
        """Give the pixels of a row that are not predicted, (W,) bool: those in the margin."""
        columns = np.arange(self.shape[1])
        edge = (columns < self.margin) | (columns >= self.shape[1] - self.margin)
        return edge | (row < self.margin) | (row >= self.shape[0] - self.margin)

    def wanted(self, also: np.ndarray | None = None) -> np.ndarray:
        """Give the pixels to predict, (H, W) bool: those of the grid, and others that do not lie in the margin."""
        inside = np.zeros(self.shape, dtype=bool)
        inside[self.margin : self.shape[0] - self.margin, self.margin : self.shape[1] - self.margin] = True
        wanted = np.zeros_like(inside) if also is None else also & inside
        wanted[np.ix_(self.rows, self.columns)] = True
        return wanted

    def spread(self, values: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Spread values by number, (len(self), ...), over the rows start to stop, each to the nearest pixels."""
        values = values.reshape(len(self.rows), len(self.columns), *values.shape[1:])
        row, column = (_nearest(*pair) for pair in ((self.rows, self.shape[0]), (self.columns, self.shape[1])))
        spread = values[row[start:stop]][:, column]
        if self.margin:
            spread[:, : self.margin] = spread[:, -self.margin :] = 0
            edge = np.arange(start, stop)
            spread[(edge < self.margin) | (edge >= self.shape[0] - self.margin)] = 0
        return spread


def _nearest(chosen: np.ndarray, size: int) -> np.ndarray:
    """Return for every index below size the position of the nearest chosen one."""
    after = np.searchsorted(chosen, np.arange(size)).clip(max=len(chosen) - 1)
    before = (after - 1).clip(min=0)
    closer = np.abs(chosen[before] - np.arange(size)) <= np.abs(chosen[after] - np.arange(size))
    return np.where(closer, before, after)


@torch.no_grad()
def predict(
    model: PatchClassifier,
    cube: Tensor,
    pixels: Tensor,
    *,
    batch_size: int | None = None,
    precision: str = "float32",
    progress: Callable[[int, int], None] | None = None,
    surroundings: Surroundings | None = None,
) -> Tensor:
    """Predict the class probabilities of some pixels; the per-pixel part of the model runs once on the whole scene.

    Args:
        model: a PatchClassifier; its modes are kept.
        cube: normalised scene, (H, W, n_bands), on the model's device.
        pixels: rows and columns, (n, 2).
        batch_size: patches at a time; None takes `predict_batch`.
        precision: a key of PRECISIONS.
        progress: called after each batch with its number of pixels and the number of all that the model predicts.
        surroundings: with it the probabilities are averaged over those of the pixels around, which are predicted too.
    Returns:
        Class probabilities, (n, K) float32 on the CPU; the label of column k is k + 1.
    """
    if surroundings is not None:
        pixels = pixels.cpu()
        wanted = torch.zeros(cube.shape[:2], dtype=torch.bool)
        wanted[pixels[:, 0], pixels[:, 1]] = True
        known = surroundings.needed(wanted)
        image = torch.zeros(*cube.shape[:2], model.n_classes)
        options = {"batch_size": batch_size, "precision": precision, "progress": progress}
        with at_temperature_1(model):
            image[known] = predict(model, cube, known.nonzero(), **options)
        averaged = surroundings.average(image, known)[pixels[:, 0], pixels[:, 1]]
        return apply_temperature(averaged, model.temperature)
    probabilities = [torch.empty(0, model.n_classes)]  # for the case of no pixels
    with inference(model, cube.device, precision):
        embedded = model.embed(cube.permute(2, 0, 1).unsqueeze(0))[0].float()
        batch_size = batch_size or predict_batch(model.patch_size, cube.device)
        for patches in PatchLoader(embedded, pixels, patch_size=model.patch_size, batch_size=batch_size):
            assert isinstance(patches, Tensor)  # without targets
            probabilities.append(model.class_probabilities(model.encode(patches)).cpu())
            if progress is not None:
                progress(len(patches), len(pixels))
    return torch.cat(probabilities)


@contextlib.contextmanager
def at_temperature_1(model: PatchClassifier):
    """Have a model's probabilities at temperature 1 inside: the temperature belongs behind the context."""
    before, model.temperature = model.temperature, 1.0
    try:
        yield
    finally:
        model.temperature = before


def apply_temperature(probabilities: Tensor, temperature: float) -> Tensor:
    """Raise probabilities (n, K) to the power 1 / temperature, and normalise them."""
    return probabilities if temperature == 1 else (probabilities.log() / temperature).softmax(-1)


def predict_batch(patch_size: int, device: torch.device) -> int:
    """Return the number of patches per batch when predicting."""
    tokens = patch_size * patch_size
    if device.type != "cpu":
        memory = torch.cuda.get_device_properties(device).total_memory if torch.cuda.is_available() else math.inf
        return max(1, int(min(GPU_TOKENS, memory / 4 / BYTES_PER_TOKEN)) // tokens)
    return max(1, min(PREDICT_BATCH, PREDICT_PAIRS // tokens**2, CPU_TOKENS // tokens))


@contextlib.contextmanager
def inference(model: PatchClassifier, device: torch.device, precision: str):
    """Use evaluation mode and the given precision inside, without gradients."""
    with torch.no_grad(), engine.eval_mode(model), engine.autocast(device, precision):
        yield


def map_scene(
    model: PatchClassifier,
    cube: Tensor,
    *,
    stride: int = 1,
    border: str = "mirror",
    also: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    precision: str = "float32",
    progress: Callable[[int, int], None] | None = None,
    threshold: float | None = None,
    surroundings: Surroundings | None = None,
) -> tuple[np.ndarray, ...]:
    """Predict the label map of a scene and the probability of each label.

    Args:
        model: the network; its modes are kept.
        cube: normalised scene, (H, W, n_bands), on the network's device.
        stride: predict every stride-th row and column; the other pixels take the label of the nearest of these.
        border: "mirror", or "skip" to leave the pixels 0 whose window would cross the scene's edge.
        also: pixels to predict regardless of the stride, (H, W) bool.
        valid: pixels with data, (H, W) bool; the others stay 0. None if all pixels have data.
        precision: a key of `engine.PRECISIONS`.
        progress: called after each batch with its number of pixels and the number of all that are predicted.
        threshold: of `certainty.prediction_sets`; None for no sets.
        surroundings: see `predict`; then nearly all pixels are predicted, whatever the stride.
    Returns:
        Labels 1..K, (H, W) uint8, or uint16 from 256 classes on; their probabilities, (H, W) float32; and with a
        threshold the prediction sets, (H, W, K) bool. Pixels without a prediction are 0 in all.
    """
    height, width, _ = cube.shape
    grid = Grid.of((height, width), model.patch_size, stride=stride, border=border)
    wanted = grid.wanted(also)
    pixels = torch.from_numpy(np.argwhere(wanted))
    options = {"precision": precision, "progress": progress, "surroundings": surroundings}
    probabilities = predict(model, cube, pixels, **options).numpy()
    labels = np.zeros(grid.shape, dtype=label_type(model.n_classes))
    labels[wanted] = probabilities.argmax(1) + 1
    confidence = np.zeros(grid.shape, dtype=np.float32)
    confidence[wanted] = probabilities.max(1)
    maps = [labels, confidence]
    if threshold is not None:
        maps.append(np.zeros((*grid.shape, model.n_classes), dtype=bool))
        maps[-1][wanted] = prediction_sets(probabilities, threshold)
    crossings = np.ix_(grid.rows, grid.columns)
    for values in maps:
        spread = grid.spread(values[crossings].reshape(len(grid), *values.shape[2:]), 0, height)
        values[~wanted] = spread[~wanted]
        if valid is not None:
            values[~valid] = 0
    return tuple(maps)


def label_type(n_classes: int) -> type:
    """Return the smallest type that holds labels 1..K."""
    return np.uint8 if n_classes < 256 else np.uint16


def map_blocks(
    model: PatchClassifier,
    read_rows: Callable[[int, int], np.ndarray],
    grid: Grid,
    device: torch.device,
    *,
    start: int = 0,
    stop: int | None = None,
    block_rows: int | None = None,
    precision: str = "float32",
) -> Iterator[tuple[int, np.ndarray]]:
    """Predict a scene of any size while holding only some of its rows in memory.

    The result of a pixel does not depend on the blocks: rows are embedded one by one, and the batches are cut by the
    numbers of the pixels, all of one size. A `models.base.SceneClassifier` needs all rows at once.

    Args:
        model: the network, on the device; its modes are kept after each block.
        read_rows: returns the normalised rows start to stop, (stop - start, W, n_bands) float32.
        grid: the pixels to predict.
        start, stop: numbers of the first pixel and of the one after the last, by default all; a call may start at the
            number at which another stopped.
        block_rows: approximate number of rows at a time; None for as many as fit into BLOCK_BYTES.
        precision: a key of `engine.PRECISIONS`.
    Yields:
        Number of the block's first pixel, and its pixels' probabilities, (n, K) float32.
    """
    height, width = grid.shape
    batch, margin = predict_batch(model.patch_size, device), model.patch_size // 2
    embedded: dict[int, Tensor] = {}  # (C, W + 2 margin) by row, kept while windows need it
    if block_rows is None:
        block_rows = max(1, BLOCK_BYTES // (4 * width * max(model.n_bands, getattr(model.options, "dim", 0))))
    block = max(1, round(block_rows * len(grid) / height / batch)) * batch
    first, stop = start // batch * batch, len(grid) if stop is None else stop
    while first < stop:
        last = min(first + block, stop)
        pixels = grid.pixels(first, last)
        low, high = pixels[0, 0] - margin, pixels[-1, 0] + margin + 1
        needed = _mirrored(np.arange(low, high), height)
        for row in [row for row in embedded if row < needed.min()]:
            del embedded[row]
        with inference(model, device, precision):
            if isinstance(model, SceneClassifier) and not embedded:
                embedded |= _embed_scene(model, read_rows, height, device)
            missing = sorted(set(needed.tolist()) - embedded.keys())
            _embed(model, read_rows, missing, block_rows, embedded, device)
            image = torch.stack([embedded[row] for row in needed.tolist()], 1)  # (C, rows, W + 2 margin)
            windows = Windows(image, model.patch_size)
            corners = torch.from_numpy(pixels - (low + margin, 0)).to(device)
            batches = (windows.gather(_filled(part, batch)) for part in corners.split(batch))
            probabilities = [model.class_probabilities(model.encode(patches)).cpu() for patches in batches]
        yield first, torch.cat(probabilities)[: last - first].numpy()
        first = last


def _mirrored(rows: np.ndarray, height: int) -> np.ndarray:
    rows = np.abs(rows)
    return np.where(rows < height, rows, 2 * (height - 1) - rows)


def _embed_scene(model, read_rows, height, device) -> dict[int, Tensor]:
    """Embed all rows at once; gives them by their numbers, as `_embed` leaves them."""
    margin = model.patch_size // 2
    cube = torch.from_numpy(np.ascontiguousarray(read_rows(0, height))).to(device)
    image = model.embed(cube.permute(2, 0, 1).unsqueeze(0))[0].float()
    return dict(enumerate(F.pad(image, (margin, margin), mode="reflect").unbind(1)))


def _embed(model, read_rows, missing, at_once, embedded, device) -> None:
    """Embed rows one by one, so that the bits of a row do not depend on the others; neighbours are read together."""
    margin = model.patch_size // 2
    while missing:
        n = next((i for i in range(1, len(missing)) if missing[i] != missing[0] + i), len(missing))
        n = min(n, at_once)
        for row, values in zip(missing[:n], read_rows(missing[0], missing[0] + n), strict=True):
            pixels = torch.from_numpy(np.ascontiguousarray(values.T)).to(device)  # (n_bands, W)
            one_row = model.embed(pixels[None, :, None])[0].float()  # (C, 1, W)
            embedded[row] = F.pad(one_row, (margin, margin), mode="reflect")[:, 0]
        missing = missing[n:]


def _filled(pixels: Tensor, size: int) -> Tensor:
    """Repeat the last pixel up to a full batch."""
    return torch.cat([pixels, pixels[-1:].expand(size - len(pixels), 2)])
