"""Which split a command line asks for: fixed masks, or one drawn from the ground truth."""

from argparse import Namespace

import numpy as np

from datasets import Scene
from splits.fixed_masks import fixed_masks, load_split
from splits.spatial_cv import split_buffered
from splits.split import Split, split_disjoint, split_per_class, split_random
from utils import InputError

DEFAULT_SAMPLE = {"random": 0.1, "disjoint": 0.1, "fixed": 50}
SAMPLERS = {"random": split_random, "fixed": split_per_class, "disjoint": split_disjoint}


def draws_split(args: Namespace) -> bool:
    """Whether the split is drawn from the ground truth, which must then be there."""
    if args.train_set is not None:
        return False
    return args.sampling_mode is not None or fixed_masks(args.dataset, args.folder) is None


def make_split(
    args: Namespace, scene: Scene, seed: int, rng: np.random.Generator, faults: list[str] | None = None
) -> Split:
    """Read the fixed masks, or draw the split.

    Args:
        args: the command line's arguments.
        scene: with its ground truth where `draws_split`.
        seed: which fold tests, where the split is buffered and no fold is named.
        rng: source of the draw.
        faults: see `datasets.load_split`.
    Raises:
        InputError: masks that do not fit, or a split that cannot be drawn.
    """
    if args.train_set is not None:
        home = args.folder / scene.spec.folder
        masks = [home / p if not p.is_file() and (home / p).is_file() else p for p in (args.train_set, args.test_set)]
        return load_split(*masks, scene, faults)
    in_folder = fixed_masks(scene.spec, args.folder) if args.sampling_mode is None else None
    if in_folder is not None:
        if args.training_sample is not None:
            raise InputError("--training_sample is not used with the scene's fixed masks; give --sampling_mode as well")
        return load_split(*in_folder, scene, faults)
    mode = args.sampling_mode or "random"
    names = {"class_names": scene.spec.class_names, "palette": scene.spec.palette}
    if mode == "buffered":
        sizes = {"patch_size": args.patch_size, "n_folds": args.folds, "block_size": args.block_size}
        fold = seed % args.folds if args.fold is None else args.fold
        return split_buffered(scene.gt, rng, fold=fold, count=args.training_sample, **sizes, **names)
    sample = DEFAULT_SAMPLE[mode] if args.training_sample is None else args.training_sample
    return SAMPLERS[mode](scene.gt, sample, rng, **names)
