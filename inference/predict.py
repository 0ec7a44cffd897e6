"""Map a scene with a trained network, block by block, into a folder; an interrupted mapping can be resumed."""

import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import stops
from certainty import conformal_threshold, prediction_sets, too_few_for_sets
from context import GaussianContext
from datasets import load_scene
from inference.bands import check_values, match_bands, turned
from inference.partial_map import LOCK, PartialMap, merged, open_array, work_of_rank
from inference.rows import RowReader, with_data
from mapping import Grid, apply_temperature, label_type, map_blocks, predict_batch
from models import MODELS
from reporting import results
from reporting.figures import maps
from reporting.live.monitor import Progress as Bar
from scenes.catalogue import find_spec
from scenes.georeference import pixel_size_of
from scenes.raster import Ortho, Raster
from scenes.rasters import ARRAYS, open_raster, says_no_axes, write_bands, write_labels
from training.checkpoint import Checkpoint, check_memory
from training.distributed import Ranks
from utils import InputError, describe_machine, fingerprint_file

NOT_IN_SETS = 255  # in the prediction sets of pixels without data
CONTEXT_ROWS = 64  # to which the context is applied at a time
log = logging.getLogger(__name__)


def scene_raster(name: str, folder: Path) -> tuple[Raster, str]:
    """Open a scene by name: its file if that needs no changes, else the scene as read. Give its proper name too."""
    spec = find_spec(name, folder)
    path = Path(folder) / spec.folder / (spec.cube_file or "")
    if path.is_file() and path.suffix.lower() not in ARRAYS:
        raster = open_raster(path, spec.cube_key)
        if spec.shape in (None, raster.shape) and not says_no_axes(raster):
            facts = {"nodata": spec.nodata, "wavelengths": spec.wavelengths}
            return replace(raster, **{fact: value for fact, value in facts.items() if value is not None}), spec.name
    scene = load_scene(name, folder)
    assert scene.cube is not None and scene.bands is not None and scene.n_in_file is not None
    cube = scene.cube if scene.valid is None else np.where(scene.valid[:, :, None], scene.cube, np.float32(np.nan))
    bands, n_in_file = scene.bands, scene.n_in_file
    if bands == tuple(range(n_in_file)):
        return replace(Raster.of(cube, path), wavelengths=scene.spec.wavelengths), spec.name
    # with the bands that were left out, so that a checkpoint finds those that it takes of the file
    whole = np.full((*cube.shape[:2], n_in_file), np.nan, np.float32)
    whole[:, :, bands] = cube
    left_out = tuple(sorted({*range(n_in_file)} - {*bands}))
    return replace(Raster.of(whole, path), wavelengths=spec.wavelengths, bad_bands=left_out), spec.name


def map_new_scene(
    raster: Raster,
    name: str,
    checkpoint_path: Path,
    output: Path,
    device: torch.device,
    ranks: Ranks,
    *,
    stride: int = 1,
    precision: str = "float32",
    resample: bool = False,
    bands_axis: str | None = None,
    probabilities: bool = False,
    conformal: float | None = None,
    block_rows: int | None = None,
    geotiff: bool = False,
    ortho: bool = True,
) -> Path:
    """Map a raster into a new folder, or resume in the folder in which the same job was interrupted.

    Args:
        raster: the scene, (H, W, n_bands).
        name: for titles and the folder's name.
        checkpoint_path: of the trained network.
        output: the folder is output/predict/name/time.
        device: to run on.
        ranks: this process and the others, each of which maps a part of the pixels; the first writes the results.
        stride: predict every stride-th row and column and fill between.
        precision: a key of `engine.PRECISIONS`.
        resample: interpolate bands by their wavelengths.
        bands_axis: where an array has its bands, see `bands.turned`.
        probabilities: write the classes' probabilities and their entropy (nats) as well.
        conformal: risk of prediction sets to write, above 0 and below 1, see `certainty.conformal_threshold`.
        block_rows: rows at a time, about; the result does not depend on it.
        geotiff: write GeoTIFF instead of ENVI.
        ortho: place the maps of a raster that is as the sensor saw it on the grid that its product gives.
    Returns:
        The folder, with mapping.json (what the map rests on), prediction.npy, map.png, and map.hdr or map.tif, placed
        as the raster is; with `probabilities` also the class probabilities and their entropy; with `conformal` the
        prediction sets (a band per class, 1 if it is in the set) and their sizes.
    Raises:
        InputError: a checkpoint, bands or sizes that do not fit.
    """
    checkpoint = Checkpoint.load(checkpoint_path)
    if MODELS[checkpoint.model["name"]].looks_at == "location":
        raise InputError(f"{checkpoint_path} holds places of training pixels, which say nothing about another scene")
    model, preprocessing = checkpoint.network(device)
    if says_no_axes(raster):
        raster = turned(raster, {preprocessing.n_bands_in, checkpoint.n_in_file or 0}, bands_axis)
    if raster.nodata is None and checkpoint.nodata is not None:
        log.info(
            "note: %g marks pixels without data, as in the scene that the network was trained on", checkpoint.nodata
        )
        raster = replace(raster, nodata=checkpoint.nodata)
    if not ortho and raster.ortho is None:
        raise InputError(f"{raster.path} has no table that places its pixels; leave out --no_ortho")
    check_memory(model, *raster.shape[:2], device, training=False)
    bands = match_bands(
        raster,
        preprocessing.n_bands_in,
        checkpoint.wavelengths,
        resample=resample,
        used=checkpoint.bands,
        n_in_file=checkpoint.n_in_file,
    )
    check_values(raster, bands, preprocessing)
    try:
        grid = Grid.of(raster.shape[:2], model.patch_size, stride=stride, border=checkpoint.border)
    except ValueError as error:
        size, side = "{} x {}".format(*raster.shape[:2]), model.patch_size
        raise InputError(f"{raster.path}: {size} pixels are less than the network's patch, {side} x {side}") from error
    job = {"checkpoint": fingerprint_file(checkpoint_path), "scene": _identity(raster), "stride": stride}
    job |= {"precision": precision, "resample": resample, "probabilities": probabilities}
    job |= _sets(checkpoint, checkpoint_path, conformal)
    job = json.loads(json.dumps(job))  # as it comes back from a file
    made: dict[str, tuple] = {"labels": ((len(grid),), label_type(model.n_classes))}
    if probabilities:
        made["probabilities"] = ((len(grid), model.n_classes), np.float32)
    if conformal is not None:
        made["sets"] = ((len(grid), model.n_classes), np.uint8)
    context = None if checkpoint.context is None else GaussianContext(**checkpoint.context)
    parts: dict[str, tuple] = {"known": (grid.shape, np.uint8)}
    if context is None:
        parts |= made
    elif stride > 1:
        raise InputError("the checkpoint's context needs all pixels; leave out --test_stride")
    else:  # the network first, and when it has predicted all pixels the context
        model.temperature = 1.0  # it is applied behind the context
        parts["network"] = ((len(grid), model.n_classes), np.float32)
        parts["features"] = ((*grid.shape, context.components.shape[1]), np.float32)
    if ranks.machines > 1:
        raise InputError("a scene is mapped by the processes of one machine; start torchrun with --nnodes=1")
    batch = predict_batch(model.patch_size, device)
    progress = PartialMap.open(output / "predict" / name, job, parts, ranks)
    folder, mine = progress.folder, work_of_rank(progress.done, len(grid), batch, ranks)
    if progress.done:
        n_done = sum(last - first for first, last in progress.done)
        log.info("resuming %s after %s of %s pixels", folder, f"{n_done:,}", f"{len(grid):,}")
    bar, done = Bar("mapping", "px"), []
    try:
        if not ranks.first:
            ranks.wait_for("made")
        arrays = {part: open_array(folder / f"{part}.part", *facts) for part, facts in parts.items()}
        ranks.publish("made", "")  # now the other processes find the files and do not make them again
        read = RowReader(raster, bands, preprocessing, arrays["known"], context, arrays.get("features"))
        threshold = job["conformal"]["threshold"] if conformal is not None else None
        for start, stop in mine:
            options = {"start": start, "stop": stop, "block_rows": block_rows, "precision": precision}
            for first, block in map_blocks(model, read, grid, device, **options):
                last = first + len(block)
                if context is None:
                    _keep(arrays, first, block, threshold)
                else:
                    arrays["network"][first:last] = block
                for array in arrays.values():
                    array.flush()
                done = merged([*done, (first, last)])
                progress.note(done, ranks.rank)
                bar(len(block), sum(last - first for first, last in mine))
                arrays = {part: open_array(folder / f"{part}.part", *facts) for part, facts in parts.items()}
                read.known = arrays["known"]  # opened again, so that the old pages leave the memory
                read.features = arrays.get("features")
        ranks.wait_for_all("mapped")
        if not ranks.first:
            return folder
        if context is not None:
            arrays |= {part: open_array(folder / f"{part}.part", *facts) for part, facts in made.items()}
            for first, block in _in_context(context, grid, arrays, checkpoint.temperature):
                _keep(arrays, first, block, threshold)
        facts = job | {"network": checkpoint.model, "trained_on": checkpoint.scene}
        facts |= {"temperature": checkpoint.temperature, "class_names": checkpoint.class_names}
        facts |= {"bands": None if bands.lower is None else bands.lower.tolist()}
        facts |= {"placed_by_table": ortho and raster.ortho is not None, "machine": describe_machine(device)}
        facts["fingerprints"] = {file: fingerprint_file(Path(file)) for file, *_ in job["scene"]["files"]}
        try:
            facts |= (missing := read.count())
        except InputError:  # nothing to map, and nothing to resume
            shutil.rmtree(folder)
            raise
        if broken := missing["of_them_some_bands_not_finite"]:
            log.info("note: %d of the pixels have bands that are NaN or infinite; they are 0 in the map", broken)
        if partly := missing["pixels_with_data_in_some_bands_only"]:
            how = "it is taken as it is" if raster.nodata == 0 else "the bands beside them are interpolated there"
            log.info("note: %d pixels hold the no-data value in some bands only; %s", partly, how)
        if flat := missing["pixels_of_one_value_in_all_bands"]:
            log.info("note: %d mapped pixels have one value in all bands; the file may declare it as no data", flat)
        results.write_json(folder / "mapping.json", facts)
        place = raster.ortho if ortho else None
        _write_outputs(folder, name, checkpoint, grid, arrays, read, geotiff=geotiff, place=place)
        with stops.deferred():
            progress.finish()
    except Exception:  # a KeyboardInterrupt leaves all that is needed to resume
        if not progress.done and not done and ranks.world == 1:
            shutil.rmtree(folder)
        raise
    finally:
        bar.close()
        if progress.lock is not None:
            progress.lock.release()
    (folder / LOCK).unlink(missing_ok=True)
    return folder


def _keep(arrays: Mapping[str, np.ndarray], first: int, block: np.ndarray, threshold: float | None) -> None:
    """Write what the map shows of the probabilities (n, K) of the pixels from number `first` on."""
    if len(broken := np.flatnonzero(~np.isfinite(block).all(1))):
        raise FloatingPointError(
            f"the network's probabilities are not finite for {len(broken)} pixels, the first is number "
            f"{first + broken[0]} of the map; does the file hold values that are far too large there?"
        )
    last = first + len(block)
    arrays["labels"][first:last] = block.argmax(1) + 1
    if "probabilities" in arrays:
        arrays["probabilities"][first:last] = block
    if threshold is not None:
        arrays["sets"][first:last] = prediction_sets(block, threshold)


def _in_context(
    context: GaussianContext, grid: Grid, arrays: Mapping[str, np.ndarray], temperature: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Average the network's probabilities over the surroundings, some rows at a time; gives what `map_blocks` does."""
    network = arrays["network"].reshape(len(grid.rows), len(grid.columns), -1)
    columns, reach = slice(grid.columns[0], grid.columns[-1] + 1), context.reach
    for first in range(0, len(grid.rows), CONTEXT_ROWS):
        last = min(first + CONTEXT_ROWS, len(grid.rows))
        low, high = max(0, first - reach), min(last + reach, len(grid.rows))
        of_scene = slice(grid.rows[low], grid.rows[high - 1] + 1)
        features, known = arrays["features"][of_scene, columns], arrays["known"][of_scene, columns]
        image = (np.array(network[low:high]), np.array(features), with_data(known).astype(np.float32))
        averaged = context(*map(torch.from_numpy, image))[first - low : last - low].flatten(0, 1)
        yield first * len(grid.columns), apply_temperature(averaged, temperature).numpy()


def _sets(checkpoint: Checkpoint, path: Path, risk: float | None) -> dict:
    """Give what mapping.json says of the prediction sets: the risk, and the checkpoint's threshold for it."""
    if risk is None:
        return {}
    if checkpoint.p_right is None:
        raise InputError(
            f"{path} has no validation pixels, which --conformal needs; train with --val_fraction, such as 0.1"
        )
    n, threshold = len(checkpoint.p_right), conformal_threshold(checkpoint.p_right, risk)
    if not threshold:
        log.info("note: %s", too_few_for_sets(n, risk))
    return {"conformal": {"risk": risk, "n_validation": n, "threshold": threshold}}


def _write_outputs(folder, name, checkpoint, grid, arrays, read, *, geotiff, place: Ortho | None) -> None:
    suffix, raster = ".tif" if geotiff else ".hdr", read.raster
    if place is not None:
        raster = replace(raster, georeference=place.georeference)

    def placed(image, empty: float = 0):
        return image if place is None else place(np.asarray(image), empty)

    classes, palette = checkpoint.class_names, checkpoint.palette
    labels = placed(_full(folder / "labels.full", grid, arrays["labels"], read))
    write_labels(folder / f"map{suffix}", labels, classes, palette, raster)
    results.write_array(folder / "prediction.npy", labels)
    title = f"{checkpoint.model['name']} trained on {checkpoint.scene}, on {name}"
    maps.save_label_map(folder / "map", labels, classes, palette, title, pixel_size_of(raster.georeference))
    if "probabilities" in arrays:
        image = placed(_full(folder / "probabilities.full", grid, arrays["probabilities"], read, math.nan), math.nan)
        write_bands(folder / f"probabilities{suffix}", image, classes, raster, nodata=math.nan)
        entropy = open_array(folder / "entropy.full", (*image.shape[:2], 1), np.float32)
        for row in range(image.shape[0]):
            p = np.asarray(image[row])
            bits = -(p * np.log(np.maximum(p, np.finfo(np.float32).tiny))).sum(-1)
            entropy[row, :, 0] = np.maximum(bits, 0) + 0.0  # rounding may leave -0
        write_bands(folder / f"entropy{suffix}", entropy, ("entropy in nats",), raster, nodata=math.nan)
    if "sets" in arrays:
        image = placed(_full(folder / "sets.full", grid, arrays["sets"], read, NOT_IN_SETS), NOT_IN_SETS)
        write_bands(folder / f"sets{suffix}", image, classes, raster, nodata=NOT_IN_SETS)
        size = open_array(folder / "set_size.full", (*image.shape[:2], 1), labels.dtype)
        for row in range(image.shape[0]):
            size[row, :, 0] = np.where(image[row] == NOT_IN_SETS, 0, image[row]).sum(-1)
        write_bands(folder / f"set_size{suffix}", size, ("classes in the prediction set",), raster, nodata=0)


def _full(path: Path, grid: Grid, values: np.ndarray, read: RowReader, empty: float = 0) -> np.ndarray:
    """Spread values by pixel number over an image of the whole scene, on disk; `empty` in pixels without data."""
    image = open_array(path, (*grid.shape, *values.shape[1:]), values.dtype)
    for row in range(grid.shape[0]):
        image[row] = grid.spread(values, row, row + 1)[0]
        image[row, read.without_data(row)] = empty
        image[row, grid.outside(row)] = empty
    return image


def _identity(raster: Raster) -> dict:
    """Say which scene it is and how it is read, without reading it all; a simulated scene is in no file."""
    files = raster.files or ((raster.path,) if raster.path.is_file() else ())
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    names = ("product", "key", "shape", "wavelengths", "bad_bands", "scale", "offset", "nodata")
    return {"name": str(raster.path), "files": states} | {name: getattr(raster, name) for name in names}
