"""Write Augmented_NAME: the same scene with more training samples, as a scene.toml and two masks."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import scipy.io

from datasets import load_scene
from scenes.scene_toml import FILE
from scenes.spec import MASK_KEYS
from splits.choose import draws_split, make_split
from splits.split import Split
from utils import InputError, write_atomically


def augment(config, factor: float) -> Path:
    """Write a scene and its split as a new scene that has more training pixels.

    Args:
        config: the settings of a run, of which scene, split, seed and patch size are used.
        factor: how many times as many pixels train, see `enlarge`.
    Returns:
        The new folder, Augmented_NAME in the data root.
    Raises:
        InputError: the scene has no file, the folder exists already, or the split cannot be drawn.
    """
    folder = Path(config.folder)
    scene = load_scene(config.dataset, folder, need_gt=draws_split(config), drop_bands=config.drop_bands)
    spec, home = scene.spec, folder / f"Augmented_{scene.spec.name}"
    if spec.cube_file is None:
        raise InputError(f"{spec.name} is in no file that another scene could use; augment one that is")
    if home.exists():
        raise InputError(f"{home} exists already; remove it or rename it first")
    rng = np.random.default_rng(config.seed)
    split = enlarge(make_split(config, scene, rng), factor, rng)
    entries: dict = {"cube": Path(os.path.relpath(folder / spec.folder / spec.cube_file, home)).as_posix()}
    entries |= {"cube_key": spec.cube_key, "class_names": split.class_names, "palette": split.palette}
    entries |= {"rgb_bands": spec.rgb_bands, "wavelengths": spec.wavelengths, "nodata": spec.nodata}
    entries["pixel_size"] = spec.pixel_size
    entries |= dict(zip(("train", "test"), MASK_KEYS, strict=True))
    entries["source"] = f"{spec.name}, {split.method}, seed {config.seed}"
    lines = (f"{name} = {json.dumps(value)}\n" for name, value in entries.items() if value is not None)
    home.mkdir(parents=True)
    try:
        for (file, key), mask in zip(MASK_KEYS.items(), (split.train, split.test), strict=True):
            buffer = io.BytesIO()
            scipy.io.savemat(buffer, {key: mask.astype(np.uint16)}, do_compression=True)
            write_atomically(home / file, buffer.getvalue())
        write_atomically(home / FILE, "".join(lines))
    except BaseException:  # a stop too: half a scene would be in the way of the same command
        shutil.rmtree(home)
        raise
    return home


def enlarge(split: Split, factor: float, rng: np.random.Generator) -> Split:
    """Move randomly drawn test pixels to the training pixels.

    Args:
        split: with its masks.
        factor: how many times as many pixels of each class train, above 1; at least half of a class's test pixels stay.
        rng: source of the draw.
    """
    train, test = split.train.copy(), split.test.copy()
    for label in range(1, split.n_classes + 1):
        tested = np.flatnonzero(test == label)
        wanted = round((factor - 1) * int((train == label).sum()))
        moved = rng.permutation(tested)[: min(wanted, len(tested) // 2)]
        train.flat[moved], test.flat[moved] = label, 0
    method = f"{split.method}, with {factor:g} times the training pixels, taken from at most half of the test pixels"
    return Split(train, test, split.class_names, split.palette, method, split.notes)
