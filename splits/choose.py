"""Make the split that the settings ask for: fixed masks, or one drawn from the ground truth."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from datasets import Scene
from scenes.spec import SceneSpec
from splits.fixed_masks import fixed_masks, load_split
from splits.spatial_cv import split_fields, split_spatial
from splits.split import WITH_FOLDS, Split, check_several, count_classes, split_disjoint, split_per_class, split_random
from utils import InputError

DEFAULT_SAMPLE = {"random": 0.1, "disjoint": 0.1, "fixed": 50}
SAMPLERS = {"random": split_random, "fixed": split_per_class, "disjoint": split_disjoint}


class SplitSettings(Protocol):
    """The settings of a run that decide its split; see their help texts."""

    @property
    def dataset(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def train_set(self) -> Path | None: ...
    @property
    def test_set(self) -> Path | None: ...
    @property
    def train_key(self) -> str | None: ...
    @property
    def test_key(self) -> str | None: ...
    @property
    def min_pixels(self) -> int: ...
    @property
    def sampling_mode(self) -> str | None: ...
    @property
    def training_sample(self) -> float | None: ...
    @property
    def folds(self) -> int: ...
    @property
    def fold(self) -> int | None: ...
    @property
    def block_size(self) -> int | None: ...
    @property
    def buffer(self) -> int | None: ...
    @property
    def patch_size(self) -> int: ...
    @property
    def seed(self) -> int: ...


def draws_split(config: SplitSettings) -> bool:
    """Whether the split is drawn from the ground truth, which must exist then."""
    if config.train_set is not None:
        return False
    return config.sampling_mode is not None or fixed_masks(config.dataset, config.folder) is None


def make_split(config: SplitSettings, scene: Scene, rng: np.random.Generator, faults: list[str] | None = None) -> Split:
    """Read the fixed masks, or draw the split.

    Args:
        config: the settings; with spatial cross-validation and no fold named, the seed decides which fold tests.
        scene: with its ground truth if `draws_split`.
        rng: source of the draw.
        faults: see `splits.fixed_masks.load_split`.
    Raises:
        InputError: masks that do not fit, a split that cannot be drawn, or pixels of one class only.
    """
    split = _make(config, scene, rng, faults)
    try:
        check_several(split)
    except InputError as error:
        if faults is None:
            raise
        faults.append(str(error))
    return split


def _make(config: SplitSettings, scene: Scene, rng: np.random.Generator, faults: list[str] | None) -> Split:
    """Make a split; see `make_split`."""
    if config.train_set is not None:
        home = config.folder / scene.spec.folder
        train, test = (
            home / path if path is not None and not path.is_file() and (home / path).is_file() else path
            for path in (config.train_set, config.test_set)
        )
        assert train is not None
        return load_split(train, test, scene, faults, (config.train_key, config.test_key))
    in_folder = fixed_masks(scene.spec, config.folder) if config.sampling_mode is None else None
    if in_folder is not None:
        if config.training_sample is not None:
            raise InputError("--training_sample is not used with the scene's fixed masks; give --sampling_mode as well")
        return load_split(*in_folder, scene, faults, scene.spec.mask_keys)
    mode = config.sampling_mode or "random"
    gt, names, left_out = without_small_classes(scene.gt, scene.spec, config.min_pixels)
    if mode in WITH_FOLDS:
        options: dict[str, Any] = {
            "patch_size": config.buffer or config.patch_size,
            "n_folds": config.folds,
            "count": config.training_sample,
        }
        options["fold"] = config.seed % config.folds if config.fold is None else config.fold
        if mode == "fields":
            split = split_fields(gt, rng, **options, **names)
        else:
            split = split_spatial(gt, rng, block_size=config.block_size, **options, **names)
    else:
        sample = DEFAULT_SAMPLE[mode] if config.training_sample is None else config.training_sample
        split = SAMPLERS[mode](gt, sample, rng, **names)
    return replace(split, notes=(*split.notes, *left_out))


def without_small_classes(gt, spec: SceneSpec, least: int) -> tuple[np.ndarray, dict[str, Any], tuple[str, ...]]:
    """Leave out the classes with few labelled pixels.

    Args:
        gt: (H, W), 0 = unlabelled.
        spec: of the scene, with class names and palette.
        least: labelled pixels that a class needs; 0 keeps all classes.
    Returns:
        The label map of the others, renumbered; their names and palette, by these names; a note on what is left out,
        none if that is nothing.
    Raises:
        InputError: no class has so many pixels.
    """
    names: dict[str, Any] = {"class_names": spec.class_names, "palette": spec.palette}
    counts = count_classes(gt, spec.n_classes) if least else np.zeros(0)
    kept = np.flatnonzero(counts >= least)
    if not least or len(kept) == spec.n_classes:
        return gt, names, ()
    if not len(kept):
        raise InputError(f"no class has {least} labelled pixels; lower --min_pixels")
    numbers = np.zeros(spec.n_classes + 1, np.int64)
    numbers[kept + 1] = np.arange(1, len(kept) + 1)
    small = ", ".join(f"{spec.class_names[i]} ({counts[i]})" for i in np.flatnonzero(counts < least))
    names = {name: tuple(np.array(of)[kept].tolist()) for name, of in names.items()}
    return numbers[gt], names, (f"left out, with fewer than {least} labelled pixels: {small}",)
