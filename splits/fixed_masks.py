"""Fixed masks: read, checked against each other and the ground truth, and their classes named."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from datasets import Scene, where_from
from scenes.catalogue import find_spec
from scenes.labels import check_labels, number_classes, without_nodata
from scenes.matfiles import choose_array
from scenes.on_grid import to_grid
from scenes.rasters import read_file
from scenes.spec import MASK_KEYS, SceneSpec
from splits.split import Split, check_classes, count_classes
from utils import InputError


def fixed_masks(name: str | SceneSpec, folder: Path) -> tuple[Path, Path] | None:
    """Give the paths of a scene's TRAIN_GT.mat and TEST_GT.mat, or None if neither exists.

    Args:
        name: the scene or its name.
        folder: data root.
    Raises:
        InputError: only one of them exists, or one that the scene.toml names does not.
    """
    spec = name if isinstance(name, SceneSpec) else find_spec(name, folder)
    train, test = (Path(folder) / spec.folder / file for file in spec.mask_files or MASK_KEYS)
    existing = [path for path in (train, test) if path.exists()]
    if spec.mask_files:
        for path in (train, test):
            if path not in existing:
                raise InputError(where_from(spec, path))
    if len(existing) == 1:
        raise InputError(
            f"{existing[0]} exists without its counterpart; add that, or give a sampling_mode or both masks"
        )
    return (train, test) if existing else None


def load_split(
    train_file: Path,
    test_file: Path | None,
    scene: Scene,
    faults: list[str] | None = None,
    keys: tuple[str | None, str | None] = (None, None),
) -> Split:
    """Read the fixed masks of a scene, check them against each other and the ground truth, and name their classes.

    Args:
        train_file, test_file: the array TR or TE is taken, or the only 2-D array of the scene's shape. Without a test
            mask all other labelled pixels of the ground truth test.
        scene: the scene, with its ground truth if it exists.
        faults: for an audit, a list to which faults that keep a split from being trained on (common pixels, another
            numbering, transposed masks, untrained classes) are appended, which otherwise are raised.
        keys: variables of the two masks in their files, or None.
    Returns:
        The split in the masks' numbering; `notes` say what was corrected or does not agree.
    Raises:
        InputError: masks that are missing, unreadable, swapped, of another shape, overlapping, or numbered in a way
            that is neither the ground truth's nor the catalogue's.
    """
    if test_file is None:
        return _rest_tests(Path(train_file), scene, faults, keys[0])
    pairs = [(Path(file), key) for file, key in zip((train_file, test_file), keys, strict=True)]
    if scene.gt is None and scene.spec.described is not None:  # the masks themselves tell the classes' numbers
        masks = [_mask_array(*pair, key, scene)[0] for pair, key in zip(pairs, ("TR", "TE"), strict=True)]
        values = np.concatenate([mask.ravel() for mask in masks])
        scene = replace(scene, spec=number_classes(values, scene.spec, pairs[0][0]))
    train, train_note = _read_mask(*pairs[0], "TR", scene, faults)
    test, test_note = _read_mask(*pairs[1], "TE", scene, faults)
    empty_note = ""
    if scene.valid is not None and (n_empty := int((((train > 0) | (test > 0)) & ~scene.valid).sum())):
        train, test = np.where(scene.valid, train, 0), np.where(scene.valid, test, 0)
        empty_note = f"{n_empty} pixels of the masks have no data and were left out"
    overlap = int(((train > 0) & (test > 0)).sum())
    if overlap:
        sentence = (
            f"{train_file} and {test_file} overlap: {overlap} pixels are in both, so a test would be of what was "
            "trained on; give masks without a common pixel"
        )
        _refuse(InputError(sentence), faults)
    try:
        names, note = _class_names(train, test, scene)
    except InputError as error:
        _refuse(error, faults)
        names, note = scene.spec.class_names, ""
    colours = dict(zip(scene.spec.class_names, scene.spec.palette, strict=True))
    more = "" if (train > 0).sum() <= (test > 0).sum() else "more pixels train than test; are the masks swapped?"
    notes = [
        note,
        more,
        empty_note,
        *dict.fromkeys((train_note, test_note)),
        *_coverage(np.maximum(train, test), names, scene),
    ]
    split = Split(train, test, names, tuple(colours[name] for name in names), "fixed masks")
    try:
        check_classes(split)
    except InputError as error:
        _refuse(error, faults)
    return replace(split, notes=tuple(note for note in notes if note))


def _refuse(error: InputError, faults: list[str] | None) -> None:
    if faults is None:
        raise error
    faults.append(str(error))


def _rest_tests(path: Path, scene: Scene, faults: list[str] | None, key: str | None) -> Split:
    """Read a training mask; the labelled pixels of the ground truth that do not train test."""
    spec, gt = scene.spec, scene.gt
    if gt is None:
        raise InputError(
            f"train_set alone tests on the rest of the ground truth, and {spec.name} has none; give test_set"
        )
    train, note = _read_mask(path, key, "TR", scene, faults)
    train = train if scene.valid is None else np.where(scene.valid, train, 0)
    names, renumbered = _class_names(train, np.zeros_like(train), scene)
    numbers = np.array([0, *(names.index(name) + 1 for name in spec.class_names)])
    test = np.where(train > 0, 0, numbers[gt])
    colours = dict(zip(spec.class_names, spec.palette, strict=True))
    method = "training mask; all other labelled pixels test"
    split = Split(train, test, names, tuple(colours[name] for name in names), method)
    try:
        check_classes(split)
    except InputError as error:
        _refuse(error, faults)
    notes = (renumbered, note, *_coverage(np.maximum(train, test), names, scene))
    return replace(split, notes=tuple(each for each in notes if each))


def _mask_array(path: Path, own: str | None, key: str, scene: Scene) -> tuple[np.ndarray, str]:
    """Read the array of a mask: the variable `own` if that is given, else TR or TE, else the only one that fits.

    A mask with a place on the map is brought to the cube's grid; a note says so, which is "" if that changes nothing.
    """
    spec = scene.spec
    assert spec.shape is not None
    arrays, raster = read_file(path, own, (2, 3))
    shape, kinds = spec.shape[:2], {"TR": "training", "TE": "test"}
    other = {"TR": "TE", "TE": "TR"}[key]
    if own is None and key not in arrays and other in arrays:
        raise InputError(
            f"{path} holds {other}, the {kinds[other]} mask, but was given as the {kinds[key]} mask; are the training "
            "and the test mask swapped?"
        )
    name = None if raster is not None else own or (key if key in arrays else None)
    wanted = f"{own or key}, the {kinds[key]} mask of {spec.name} {shape}"
    mask = choose_array(arrays, name, path, wanted, (2,), None if raster is not None else (shape, shape[::-1]))
    notes: list[str] = []
    if raster is not None and mask.ndim == 2:
        mask = to_grid(without_nodata(mask, raster, spec), raster, scene.raster, shape, path, notes)
    return mask, "".join(notes)


def _read_mask(path: Path, own: str | None, key: str, scene: Scene, faults: list[str] | None) -> tuple[np.ndarray, str]:
    """Read a fixed mask, see `_mask_array`; (H, W), and a note on what was corrected or ""."""
    spec = scene.spec
    assert spec.shape is not None
    mask, note = _mask_array(path, own, key, scene)
    shape = spec.shape[:2]
    if mask.shape != shape:
        if mask.shape != shape[::-1]:
            raise InputError(f"{path}: the mask is {mask.shape}, but {spec.name} is {shape} (rows, columns)")
        if spec.masks is None or not spec.masks.transposed:
            sentence = f"{path}: the mask is {mask.shape} and fits {spec.name}, {shape}, only transposed; transpose it"
            _refuse(InputError(sentence), faults)
        mask, note = mask.T, f"the masks of {spec.name} are stored {shape[::-1]} and were transposed to {shape}"
    mask = check_labels(mask, path, spec)
    if not mask.any():
        raise InputError(f"{path} has no labelled pixel")
    return mask, note


def _class_names(train: np.ndarray, test: np.ndarray, scene: Scene) -> tuple[tuple[str, ...], str]:
    """Give the names of the masks' ids, and a note if they differ from the scene's, else "".

    The ground truth decides: most pixels of a mask id must be of the class that the id stands for. Without a ground
    truth the class counts decide whether these are the masks that the catalogue knows.
    """
    spec, gt = scene.spec, scene.gt
    own = spec.class_names
    known = own if spec.masks is None else spec.masks.names
    renumbered = (
        f"the masks number the classes of {spec.name} differently from its ground truth; the names follow the masks"
    )
    if gt is None:
        counts = [tuple(count_classes(mask, spec.n_classes)) for mask in (train, test)]
        if spec.masks is not None and counts == [spec.masks.train_counts, spec.masks.test_counts]:
            return known, "" if known == own else renumbered
        return own, "without the ground truth the masks' numbering cannot be checked; it is taken as the scene's"
    for names, note in ((own, ""), (known, renumbered)):
        if all(_disagreement(mask, gt, names, own) is None for mask in (train, test)):
            return names, note
    differing = {name: _disagreement(mask, gt, own, own) for name, mask in (("training", train), ("test", test))}
    name, (mask_id, gt_id) = next((name, pair) for name, pair in differing.items() if pair is not None)
    where = f"the {name} mask's class {mask_id} lies on the ground truth's class {gt_id} ({own[gt_id - 1]})"
    if gt.shape[0] == gt.shape[1] and all(_disagreement(mask.T, gt, own, own) is None for mask in (train, test)):
        raise InputError(f"{where}, and only transposed the masks fit {spec.name}; transpose them")
    if train.max() == 1 < gt.max():
        raise InputError(
            f"{where}: it holds 0 and 1 only; a mask holds the number of each pixel's class, and 0 elsewhere"
        )
    raise InputError(f"{where}: its numbering is neither {spec.name}'s nor a known other one; renumber it")


def _disagreement(mask, gt, names, own) -> tuple[int, int] | None:
    """Give the first mask id whose pixels are mostly of another class than its name says, with that class; or None."""
    for label in np.unique(mask[mask > 0]):
        under = gt[(mask == label) & (gt > 0)]
        if under.size:
            majority = int(np.bincount(under).argmax())
            if own[majority - 1] != names[label - 1]:
                return int(label), majority
    return None


def _coverage(masks: np.ndarray, names: tuple[str, ...], scene: Scene) -> list[str]:
    """Give sentences on pixels that masks and ground truth do not label alike."""
    gt = scene.gt
    if gt is None:
        return []
    extra, left_out = int(((masks > 0) & (gt == 0)).sum()), int(((masks == 0) & (gt > 0)).sum())
    both = (masks > 0) & (gt > 0)
    differing = int((np.array(names)[masks[both] - 1] != np.array(scene.spec.class_names)[gt[both] - 1]).sum())
    notes = []
    if differing:
        notes.append(f"{differing:,} pixels have different classes in the masks and the ground truth; the masks count")
    if extra:
        notes.append(f"the masks label {extra:,} pixels that the ground truth leaves unlabelled; they are kept")
    if left_out:
        notes.append(f"the masks leave out {left_out:,} pixels that the ground truth labels")
    return notes
