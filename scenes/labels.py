"""Read label maps, number their classes, and bring them to the grid of the cube."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scenes.matfiles import choose_array
from scenes.on_grid import UNLABELLED, to_grid
from scenes.raster import Raster
from scenes.rasters import GEOTIFF, PICTURES, read_file
from scenes.spec import SceneSpec, note
from utils import InputError, did_you_mean

USUAL_UNLABELLED = (-9999, -999, -99, -2, -1, 99, 127, 128, 254, 255, 999, 9999, 32767, 65534, 65535)  # beside 0


@dataclass(frozen=True)
class Numbering:
    """Which values of a label map stand for which classes.

    Attributes:
        values: of the classes 1, 2, ..., (K,).
        others: values that are unlabelled.
    """

    values: tuple[int, ...]
    others: tuple[int, ...]

    def __call__(self, array: np.ndarray, path: Path) -> np.ndarray:
        """Give the classes, 0 where unlabelled, as int64; InputError for a value that stands for nothing."""
        found = _whole(array, path)
        if unknown := sorted({*np.unique(found).tolist()} - {*self.values, *self.others, UNLABELLED}):
            raise InputError(f"{path} has the label {unknown[0]}, which is none of the ground truth's; correct it")
        labels = np.zeros(array.shape, np.int64)
        for i, value in enumerate(self.values):
            labels[found == value] = i + 1
        return labels


def number_classes(values: np.ndarray, spec: SceneSpec, path: Path, notes: list[str] | None = None) -> SceneSpec:
    """Find out which values of a described scene's label map stand for which of its class names.

    Args:
        values: of the label map, any shape.
        spec: the scene; its `class_names` name the values in ascending order, without those of `unlabelled`. If not as
            many values as names occur, the names are those of 1, 2, ...
        path: the file, for a message.
        notes: as for `cubes.read_cube`.
    Returns:
        The scene, with its numbering if that is not 1, 2, ..., without the classes that it excludes.
    Raises:
        InputError: the values do not fit the names, or `exclude_classes` names none of the classes.
    """
    found, names = np.unique(_whole(values, path)).tolist(), spec.class_names
    marked = UNLABELLED in found  # the file itself says which pixels have no label
    found = [value for value in found if value != UNLABELLED]
    unlabelled = spec.unlabelled or (() if marked and 0 in found and len(found) == len(names) else (0,))
    used = [value for value in found if value not in unlabelled]
    if not (spec.unlabelled or marked) and len(names) > 1 and found == [*range(len(names))]:
        raise InputError(
            f"{path}: the labels are 0 to {len(names) - 1}, and `class_names` has {len(names)} names; is 0 the class "
            f"{names[0]!r}, or unlabelled pixels? Say `unlabelled = -1`, or `unlabelled = 0`, in {spec.described}"
        )
    if not spec.unlabelled and 0 in found and (doubtful := {*used} & {*USUAL_UNLABELLED} - {*range(len(names) + 1)}):
        raise InputError(
            f"{path}: the label {max(doubtful)} may stand for unlabelled pixels; say `unlabelled = {max(doubtful)}` or "
            f"`unlabelled = 0` in {spec.described}"
        )
    if names and marked and used == [*range(1, len(names))] and not spec.unlabelled:
        what = f"no pixel has the class {names[-1]!r}; if 0 is a class too, say `unlabelled = -1`"
        note(notes, f"{path.name}: its labels are 1 to {len(names) - 1} and a no-data value; {what}")
    if {*used} <= {*range(1, len(names) + 1)}:
        numbered = {*range(1, len(names) + 1)} - {*unlabelled}
        of_class = {value: names[value - 1] for value in numbered}
    elif len(used) == len(names):
        of_class = dict(zip(used, names, strict=True))
        note(notes, f"{path.name}: its labels {shortened(used)} are the classes 1 to {len(names)}, in this order")
    elif {*used} < {*range(len(names))}:
        of_class = dict(enumerate(names))
        note(notes, f"{path.name}: its labels count from 0; they are the classes 1 to {len(names)}")
    else:
        raise InputError(
            f"{path}: labels run from {min(found)} to {max(found)}, but {spec.name} has the classes 1 to {len(names)} "
            f"and {' and '.join(map(str, unlabelled)) or 'no value'} for unlabelled; correct `class_names` or "
            "`unlabelled`"
        )
    excluded = _excluded(spec, of_class, path)
    kept = {value: name for value, name in of_class.items() if value not in excluded}
    if not kept:
        raise InputError(f"{spec.described}: 'exclude_classes' leaves no class")
    if excluded:
        left_out = ", ".join(of_class[value] for value in sorted(excluded))
        note(notes, f"{path.name}: the pixels of {left_out} count as unlabelled, as exclude_classes says")
    if tuple(kept) == tuple(range(1, len(names) + 1)) and unlabelled == (0,):
        return spec
    colour = dict(zip(names, spec.palette, strict=True))
    return replace(
        spec,
        class_names=tuple(kept.values()),
        palette=tuple(colour[name] for name in kept.values()),
        numbering=Numbering(tuple(kept), (*unlabelled, *sorted(excluded))),
    )


def _excluded(spec: SceneSpec, of_class: dict[int, str], path: Path) -> set[int]:
    """Give the values of the classes that `exclude_classes` names, by their names or values."""
    values, excluded = {name: value for value, name in of_class.items()}, set()
    for word in spec.exclude_classes:
        if word not in values and word not in map(str, of_class):
            choices = ", ".join(values)
            raise InputError(
                f"{spec.described}: 'exclude_classes' names {word!r}{did_you_mean(word, values)}, which is no class of "
                f"{path.name}; choose from {choices}"
            )
        excluded.add(values[word] if word in values else int(word))
    return excluded


def shortened(values: list[int]) -> str:
    """List whole numbers in ascending order, runs of three or more as first-last."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _whole(array: np.ndarray, path: Path) -> np.ndarray:
    """Give whole numbers as int64, and `UNLABELLED` for NaN; InputError if they are not."""
    array = np.where(np.isnan(array), np.float64(UNLABELLED), array) if array.dtype.kind == "f" else array
    if not np.isfinite(array).all() or (array != np.round(array)).any():
        raise InputError(f"{path}: labels must be whole numbers; is this the cube, not a label map?")
    return array.astype(np.int64)


def without_nodata(labels: np.ndarray, raster: Raster | None, spec: SceneSpec) -> np.ndarray:
    """Put `UNLABELLED` where the file of a label map says that it has no data.

    If the file says so of 0, and `unlabelled` of the scene does not name 0, it may be a class, and stays.
    """
    if raster is None or raster.nodata is None or np.isnan(raster.nodata):
        return labels
    if raster.nodata == 0 and spec.described is not None and spec.unlabelled and 0 not in spec.unlabelled:
        return labels
    wide = labels.astype(np.float64 if labels.dtype.kind == "f" else np.int64)
    return np.where(labels == raster.nodata, UNLABELLED, wide)


def read_gt(path: Path, spec: SceneSpec) -> tuple[np.ndarray, Raster | None]:
    """Read a scene's ground truth as it is stored; the array, and its raster if the format has one."""
    arrays, raster = read_file(path, spec.gt_key, (2, 3))
    gt = choose_array(arrays, spec.gt_key if raster is None else None, path, "the ground truth", (2,))
    coloured = path.suffix.lower() in (*PICTURES, *GEOTIFF)
    if coloured and gt.ndim == 3 and gt.shape[2] == 3:
        return _by_colour(np.nan_to_num(gt), path, spec), raster  # clear pixels become black
    gt = gt[:, :, 0] if gt.ndim == 3 and gt.shape[2] == 1 else gt
    if spec.described is None and "." in (spec.gt_key or ""):
        gt = np.where(gt < 1, 0, gt)  # Gulfport marks unlabelled by -1
    return without_nodata(gt, raster, spec), raster


def _by_colour(picture: np.ndarray, path: Path, spec: SceneSpec) -> np.ndarray:
    """Number the colours of a picture (H, W, 3) as the scene's palette does; black is unlabelled."""
    colours = [0, *(int(colour[1:], 16) for colour in spec.palette)]
    found = picture.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    if unknown := sorted({*np.unique(found).tolist()} - {*colours}):
        shown = ", ".join(f"#{colour:06x}" for colour in unknown[:5])
        raise InputError(
            f"{path} is a picture with colours that `palette` does not name, {shown}{', ...' if unknown[5:] else ''}; "
            "name the colour of each class there (black is unlabelled), or give a label map of numbers"
        )
    labels = np.zeros(found.shape, np.int64)
    for i, colour in enumerate(colours[1:]):
        labels[found == colour] = i + 1
    return labels


def fit_labels(
    gt: np.ndarray,
    raster: Raster | None,
    like: Raster | None,
    path: Path,
    spec: SceneSpec,
    notes: list[str] | None = None,
) -> tuple[np.ndarray, SceneSpec]:
    """Bring a ground truth to the grid of the cube and check it.

    Args:
        gt, raster: as from `read_gt`.
        like: the cube's raster, if it has one.
        path: its file, for a message.
        spec: the scene, with its shape.
        notes: as for `read_cube`.
    Returns:
        (H, W) int64, 0 = unlabelled; and the scene, with its classes numbered.
    Raises:
        InputError: the grid does not fit, or the scene does not have such labels.
    """
    assert spec.shape is not None
    if gt.ndim == 2:
        gt = to_grid(gt, raster, like, spec.shape[:2], path, notes)
    if gt.shape != spec.shape[:2]:
        raise InputError(f"{path}: the ground truth is {gt.shape}, but {spec.name} is {spec.shape[:2]} (rows, columns)")
    if spec.described is not None:
        spec = number_classes(gt, spec, path, notes)
        own = raster.class_names if raster else None
        if own and spec.numbering is None and sorted(own) == sorted(spec.class_names) and own != spec.class_names:
            raise InputError(
                f"{path} names its classes 1, 2, ... {', '.join(own)}, and {spec.described} has them in another order; "
                "correct `class_names`"
            )
    return check_labels(gt, path, spec), spec


def check_labels(array: np.ndarray, path: Path, spec: SceneSpec) -> np.ndarray:
    """Give a label map's classes 0..K as (H, W) int64; InputError if it holds anything else."""
    if spec.numbering is not None:
        return spec.numbering(array, path)
    labels = _whole(array, path)
    labels[labels == UNLABELLED] = 0
    if labels.min() < 0 or labels.max() > spec.n_classes:
        raise InputError(
            f"{path}: labels run from {labels.min()} to {labels.max()}, but {spec.name} has the classes 1 to "
            f"{spec.n_classes} and 0 for unlabelled"
            + (f"; `unlabelled` in {spec.described} names other values without a label" if spec.described else "")
        )
    return np.ascontiguousarray(labels)
