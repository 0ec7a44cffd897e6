"""Write a scene again with more training samples: Augmented_NAME, a scene.toml and two masks beside the same cube."""

import io
import json
import os
from argparse import Namespace
from pathlib import Path

import numpy as np
import scipy.io

from datasets import load_scene
from scenes.catalogue import MASK_KEYS
from scenes.scene_toml import FILE
from splits.choose import draws_split, make_split
from splits.split import Split
from utils import InputError, write_atomically


def augment(args: Namespace) -> Path:
    """Write the scene and split that a command line gives as a scene of their own, with --augment times the training.

    Args:
        args: the command line's arguments.
    Returns:
        The new folder, Augmented_NAME in the data root.
    Raises:
        InputError: a scene without a file, a folder that is there already, or a split that cannot be drawn.
    """
    scene = load_scene(args.dataset, args.folder, need_gt=draws_split(args))
    spec, home = scene.spec, args.folder / f"Augmented_{scene.spec.name}"
    if spec.cube_file is None:
        raise InputError(f"{spec.name} is in no file that another scene could share; augment one that is")
    if home.exists():
        raise InputError(f"{home} is there already; remove it or rename it first")
    rng = np.random.default_rng(args.seed)
    split = enlarge(make_split(args, scene, rng), args.augment, rng)
    entries = {"cube": Path(os.path.relpath(args.folder / spec.folder / spec.cube_file, home)).as_posix()}
    entries |= {"cube_key": spec.cube_key, "class_names": split.class_names, "palette": split.palette}
    entries |= {"rgb_bands": spec.rgb_bands, "wavelengths": spec.wavelengths, "nodata": spec.nodata}
    entries["pixel_size"] = spec.pixel_size
    entries |= dict(zip(("train", "test"), MASK_KEYS, strict=True))
    entries["source"] = f"{spec.name}, {split.method}, seed {args.seed}"
    home.mkdir(parents=True)
    for (file, key), mask in zip(MASK_KEYS.items(), (split.train, split.test), strict=True):
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {key: mask.astype(np.uint16)}, do_compression=True)
        write_atomically(home / file, buffer.getvalue())
    lines = (f"{name} = {json.dumps(value)}\n" for name, value in entries.items() if value is not None)
    write_atomically(home / FILE, "".join(lines))
    return home


def enlarge(split: Split, factor: float, rng: np.random.Generator) -> Split:
    """Let more pixels train, drawn from the test; what is left is the test.

    Args:
        split: with its masks.
        factor: how many times as many pixels of each class train, above 1; at least half of a class's test stays.
        rng: source of the draw.
    """
    train, test = split.train.copy(), split.test.copy()
    for label in range(1, split.n_classes + 1):
        tested = np.flatnonzero(test == label)
        wanted = round((factor - 1) * int((train == label).sum()))
        moved = rng.permutation(tested)[: min(wanted, len(tested) // 2)]
        train.flat[moved], test.flat[moved] = label, 0
    method = f"{split.method}, with {factor:g} times the training pixels where half of the test allows it"
    return Split(train, test, split.class_names, split.palette, method, split.notes)
