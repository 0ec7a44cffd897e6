"""Make the split that the settings ask for: fixed masks, or one drawn from the ground truth."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from datasets import Scene
from splits.fixed_masks import fixed_masks, load_split
from splits.spatial_cv import split_fields, split_spatial
from splits.split import WITH_FOLDS, Split, split_disjoint, split_per_class, split_random
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
        InputError: masks that do not fit, one without the other, or a split that cannot be drawn.
    """
    if (config.train_set is None) != (config.test_set is None):
        raise InputError("train_set and test_set go together; give both or neither")
    if config.train_set is not None and config.test_set is not None:
        home = config.folder / scene.spec.folder
        train, test = (
            home / path if not path.is_file() and (home / path).is_file() else path
            for path in (config.train_set, config.test_set)
        )
        return load_split(train, test, scene, faults)
    in_folder = fixed_masks(scene.spec, config.folder) if config.sampling_mode is None else None
    if in_folder is not None:
        if config.training_sample is not None:
            raise InputError("training_sample is not used with the scene's fixed masks; set sampling_mode as well")
        return load_split(*in_folder, scene, faults)
    mode = config.sampling_mode or "random"
    names: dict[str, Any] = {"class_names": scene.spec.class_names, "palette": scene.spec.palette}
    if mode in WITH_FOLDS:
        options: dict[str, Any] = {
            "patch_size": config.buffer or config.patch_size,
            "n_folds": config.folds,
            "count": config.training_sample,
        }
        options["fold"] = config.seed % config.folds if config.fold is None else config.fold
        if mode == "fields":
            return split_fields(scene.gt, rng, **options, **names)
        return split_spatial(scene.gt, rng, block_size=config.block_size, **options, **names)
    sample = DEFAULT_SAMPLE[mode] if config.training_sample is None else config.training_sample
    return SAMPLERS[mode](scene.gt, sample, rng, **names)
