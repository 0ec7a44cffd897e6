"""Map a scene with a trained network, block by block, into a folder; what was cut off goes on where it stopped."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from datasets import find_spec, load_scene
from mapping import Grid, label_type, map_blocks
from preprocessing import Preprocessing
from rasters import ARRAYS, Raster, open_raster, write_bands, write_labels
from reporting import results, visualize
from reporting.monitor import Progress
from trained import load_trained
from utils import InputError, fingerprint_file

PROGRESS = "progress.json"
PICTURE_SIDE = 4000  # pixels; larger maps are thinned out for the picture
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bands:
    """How a file's bands become the network's: taken as they are, or interpolated between neighbours.

    Attributes:
        lower, share: per band of the network the file's band below it and the share of the next one; None as they are.
    """

    lower: np.ndarray | None = None
    share: np.ndarray | None = None

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(..., n_bands of the file) to (..., n_bands of the network) float32."""
        values = values.astype(np.float32)
        if self.lower is None:
            return values
        below, above = values[..., self.lower], values[..., np.minimum(self.lower + 1, values.shape[-1] - 1)]
        return below + self.share * (above - below)


def match_bands(raster: Raster, n_bands: int, wavelengths: tuple[float, ...] | None, *, resample: bool) -> Bands:
    """Check a file's bands against those that a network was trained on.

    Args:
        raster: the file.
        n_bands: bands of the network's training scene.
        wavelengths: theirs in nm, or None where not known.
        resample: interpolate linearly where they differ.
    Raises:
        InputError: another number of bands or other wavelengths, without `resample`; wavelengths that are not known on
            both sides, or do not reach as far as the network's, with it.
    """
    theirs = raster.wavelengths
    if resample:
        if wavelengths is None or theirs is None:
            who = raster.path if theirs is None else "the network's training scene"
            raise InputError(f"--resample needs wavelengths on both sides, and {who} has none; leave it out")
        order = np.argsort(theirs)
        given, wanted = np.asarray(theirs)[order], np.asarray(wavelengths)
        reach = np.diff(given).max() if len(given) > 1 else 0
        if wanted.min() < given[0] - reach or wanted.max() > given[-1] + reach:
            raise InputError(
                f"{raster.path} has bands from {given[0]:g} to {given[-1]:g} nm, but the network wants "
                f"{wanted.min():g} to {wanted.max():g} nm; take a network trained on what both have"
            )
        lower = np.clip(np.searchsorted(given, wanted, side="right") - 1, 0, max(len(given) - 2, 0))
        upper = np.minimum(lower + 1, len(given) - 1)
        width = np.where(upper > lower, given[upper] - given[lower], 1)
        share = ((wanted - given[lower]) / width).clip(0, 1).astype(np.float32)
        if (order != np.arange(len(order))).any():
            raise InputError(f"{raster.path}: --resample needs bands in the order of their wavelengths; sort them")
        return Bands(lower, share)
    if raster.shape[2] != n_bands:
        hint = "; --resample interpolates" if wavelengths and theirs else ""
        raise InputError(f"{raster.path} has {raster.shape[2]} bands, the network was trained on {n_bands}{hint}")
    if wavelengths is not None and theirs is not None:
        apart = np.abs(np.subtract(wavelengths, theirs))
        spacing = np.median(np.diff(sorted(wavelengths))) if n_bands > 1 else 1
        if apart.max() > spacing / 2:
            band = int(apart.argmax())
            raise InputError(
                f"{raster.path}: its band {band} (from 0) lies at {theirs[band]:g} nm, the network's at "
                f"{wavelengths[band]:g} nm; --resample interpolates"
            )
    return Bands()


class RowReader:
    """What `map_blocks` reads: normalised rows, 0 where a pixel has no data; and a note of where that is.

    Args:
        raster: the scene.
        bands: its bands to the network's.
        preprocessing: the network's own.
        missing: (H, W) bool, set as rows are read: pixels of which every band is the raster's no-data value or NaN, or
            any is not finite once normalised.
    """

    def __init__(self, raster: Raster, bands: Bands, preprocessing: Preprocessing, missing: np.ndarray):
        self.raster, self.bands, self.preprocessing, self.missing = raster, bands, preprocessing, missing

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop, (stop - start, W, n_bands) float32."""
        raw = self.raster.rows(start, stop)
        out = self.preprocessing(self.bands(raw))
        absent = ~np.isfinite(out).all(-1)
        if self.raster.nodata is not None:
            absent |= (raw == self.raster.nodata).all(-1)
        out[absent] = 0
        self.missing[start:stop] = absent
        return out


def scene_raster(name: str, folder: Path) -> tuple[Raster, str]:
    """A scene by its name: its file where that is all of it, else what is read of it; and the name as it is written."""
    spec = find_spec(name, folder)
    path = Path(folder) / spec.folder / (spec.cube_file or "")
    if path.is_file() and path.suffix.lower() not in ARRAYS:
        raster = open_raster(path, spec.cube_key)
        if spec.shape in (None, raster.shape):
            facts = {"nodata": spec.nodata, "wavelengths": spec.wavelengths}
            return replace(raster, **{fact: value for fact, value in facts.items() if value is not None}), spec.name
    scene = load_scene(name, folder)
    cube = scene.cube if scene.valid is None else np.where(scene.valid[:, :, None], scene.cube, np.float32(np.nan))
    return replace(Raster.of(cube, path), wavelengths=scene.spec.wavelengths), spec.name


def map_new_scene(
    raster: Raster,
    name: str,
    checkpoint_path: Path,
    output: Path,
    device: torch.device,
    *,
    stride: int = 1,
    precision: str = "float32",
    resample: bool = False,
    probabilities: bool = False,
    block_rows: int | None = None,
    geotiff: bool = False,
) -> Path:
    """Map a raster into a new folder, or go on in the one where the same job was cut off.

    Args:
        raster: the scene, (H, W, n_bands).
        name: for titles and the folder's name.
        checkpoint_path: of the trained network.
        output: the folder is output/predict/name/time.
        device: to run on.
        stride: predict every stride-th row and column and fill between.
        precision: a key of `engine.PRECISIONS`.
        resample: interpolate bands by their wavelengths.
        probabilities: write the classes' probabilities and their entropy (nats) as well.
        block_rows: rows at a time, about; the result does not depend on it.
        geotiff: write GeoTIFF instead of ENVI.
    Returns:
        The folder, with prediction.npy, map.png, and map.hdr or map.tif, placed as the raster is; with `probabilities`
        also probabilities and entropy.
    Raises:
        InputError: a checkpoint, bands or sizes that do not fit.
    """
    model, preprocessing, checkpoint = load_trained(checkpoint_path, device)
    bands = match_bands(raster, preprocessing.n_bands_in, checkpoint.get("wavelengths"), resample=resample)
    try:
        grid = Grid.of(raster.shape[:2], model.patch_size, stride=stride, border=checkpoint["border"])
    except ValueError as error:
        raise InputError(f"{raster.path}: {error}") from error
    job = {"checkpoint": fingerprint_file(checkpoint_path), "scene": _identity(raster), "stride": stride}
    job |= {"precision": precision, "resample": resample, "probabilities": probabilities}
    folder, done = _unfinished(output / "predict" / name, job)
    if folder is None:
        folder = results.make_folder(output / "predict" / name)
        results.write_json(folder / PROGRESS, {"job": job, "done": 0})
    else:
        log.info("going on in %s after %s of %s pixels", folder, f"{done:,}", f"{len(grid):,}")
    labels = _array(folder / "labels.part", (len(grid),), label_type(model.n_classes))
    shares = _array(folder / "shares.part", (len(grid), model.n_classes), np.float32) if probabilities else None
    progress = Progress("mapping", "px")
    progress(done, len(grid))
    missing = _array(folder / "missing.part", grid.shape, bool)
    read = RowReader(raster, bands, preprocessing, missing)
    options = {"start": done, "block_rows": block_rows, "precision": precision}
    for first, block in map_blocks(model, read, grid, device, **options):
        last = first + len(block)
        here = tuple(grid.pixels(first, last).T)
        labels[first:last] = np.where(missing[here], 0, block.argmax(1) + 1)
        if shares is not None:
            shares[first:last] = block
        _flush(labels, shares, missing)
        results.write_json(folder / PROGRESS, {"job": job, "done": last})
        progress(last - max(first, done), len(grid))
        labels, shares = _reopened(labels), _reopened(shares)  # written pages leave the memory
    _write_outputs(folder, raster, name, checkpoint, grid, labels, shares, geotiff=geotiff)
    return folder


def _write_outputs(folder, raster, name, checkpoint, grid, labels, shares, *, geotiff) -> None:
    suffix = ".tif" if geotiff else ".hdr"
    classes, palette = checkpoint["class_names"], checkpoint["palette"]
    full = _spread(folder / "labels.full", grid, labels)
    write_labels(folder / f"map{suffix}", full, classes, palette, raster)
    results.write_array(folder / "prediction.npy", full)
    thin = -(-max(grid.shape) // PICTURE_SIDE)
    title = f"{checkpoint['model']['name']} trained on {checkpoint['scene']}, on {name}"
    visualize.save_label_map(folder / "map.png", np.array(full[::thin, ::thin]), classes, palette, title)
    if shares is not None:
        full = _spread(folder / "shares.full", grid, shares)
        write_bands(folder / f"probabilities{suffix}", full, classes, raster)
        entropy = _array(folder / "entropy.full", (*grid.shape, 1), np.float32)
        for row in range(grid.shape[0]):
            p = np.asarray(full[row])
            entropy[row, :, 0] = -(p * np.log(np.maximum(p, np.finfo(np.float32).tiny))).sum(-1)
        write_bands(folder / f"entropy{suffix}", entropy, ("entropy in nats",), raster)
    for part in (*folder.glob("*.part"), *folder.glob("*.full"), folder / PROGRESS):
        part.unlink()


def _spread(path: Path, grid: Grid, values: np.ndarray) -> np.ndarray:
    """Values by number as an image of the whole scene, on disk where they are not one already."""
    shape = (*grid.shape, *values.shape[1:])
    if len(grid) == grid.shape[0] * grid.shape[1]:
        return values.reshape(shape)
    image = _array(path, shape, values.dtype)
    for row in range(grid.shape[0]):
        image[row : row + 1] = grid.spread(values, row, row + 1)
    return image


def _array(path: Path, shape: tuple[int, ...], dtype) -> np.memmap:
    """An array in a file, begun with zeros or gone on with."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    there = path.is_file() and path.stat().st_size == size
    return np.memmap(path, dtype, "r+" if there else "w+", shape=shape)


def _reopened(array: np.memmap | None) -> np.memmap | None:
    return None if array is None else np.memmap(array.filename, array.dtype, "r+", shape=array.shape)


def _flush(*arrays: np.memmap | None) -> None:
    for array in arrays:
        if array is not None:
            array.flush()


def _identity(raster: Raster) -> dict:
    """Which file it is, without reading it all; a simulated scene is in none."""
    if not raster.path.is_file():
        return {"path": str(raster.path)}
    state = raster.path.stat()
    return {"path": str(raster.path.resolve()), "bytes": state.st_size, "modified": state.st_mtime_ns}


def _unfinished(home: Path, job: dict) -> tuple[Path | None, int]:
    """The newest folder in which this very job was cut off, and how many pixels it had done."""
    for path in sorted(home.glob(f"*/{PROGRESS}"), reverse=True):
        state = results.read_json(path)
        if state.get("job") == job:
            return path.parent, state["done"]
    return None, 0
