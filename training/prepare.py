"""One run's settings: everything that can be wrong with it is found here, before a file is written."""

import logging
from argparse import Namespace
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

import engine
from datasets import Scene
from models import PatchClassifier, create_model
from patches import Augmentation, PatchLoader, check_patch_size, labelled_pixels
from preprocessing import Preprocessing, fit_preprocessing
from reporting import results
from splits.choose import make_split
from splits.leakage import brief, brief_sentence
from splits.split import Split, hold_out, skip_border
from training.checkpoint import check_backend, model_facts, restore_weights
from training.distributed import Ranks
from utils import InputError, describe_machine, fingerprint, seed_everything

OTHER_MODES = {
    "audit",
    "augment",
    "compare",
    "describe",
    "doctor",
    "download",
    "figures",
    "predict",
    "report",
    "resume",
}
OTHER_MODES |= {"again", "block_rows", "format", "key", "map_format", "mixed_protocols", "probabilities", "resample"}
log = logging.getLogger("mim")


@dataclass
class Job:
    """Everything of one run that is settled before training starts."""

    args: Namespace
    options: dict
    seed: int
    scene: Scene
    split: Split
    masks: str  # SHA-256 of training and test pixels as read or drawn, before any are held out or skipped
    preprocessing: Preprocessing
    cube: torch.Tensor  # (H, W, n_bands), normalised, on the device
    model: PatchClassifier
    recipe: engine.TrainConfig
    augmentation: Augmentation
    ranks: Ranks  # the processes that share each batch

    def loader(self, mask: np.ndarray, **options) -> PatchLoader:
        """Patches and targets of a label map."""
        pixels, targets = labelled_pixels(torch.tensor(mask))
        sizes = {"patch_size": self.args.patch_size, "batch_size": self.args.batch_size}
        return PatchLoader(self.cube.permute(2, 0, 1), pixels, targets, **sizes, **options)

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of what the result rests on, as read and as used."""
        return {
            "cube": fingerprint(self.scene.cube),
            "ground_truth": fingerprint(self.scene.gt),
            "masks": self.masks,
            "split": self.split.fingerprint,
        }

    @cached_property
    def protocol(self) -> dict:
        """What a reader must know to compare the result with another; drawn up once, when the run starts."""
        args, split = self.args, self.split
        return {
            "scene": self.scene.spec.name,
            "fingerprints": self.fingerprints(),
            "split": split.method,
            "notes": (*self.scene.notes, *split.notes),
            "val_fraction": args.val_fraction,
            "n_validation": split.n_validation,
            "normalize": args.normalize,
            "fit_on": args.fit_on,
            "pca": args.pca,
            "border": args.border,
            "border_test_pixels_skipped": split.border_skipped,
            "guard_pixels_dropped": split.buffer_dropped,
            "unlearned_test_pixels_dropped": split.unlearned_dropped,
            "audit": brief(split, self.scene.cube, args.patch_size),
            "model": model_facts(args.model, self.model),
            "recipe": asdict(self.recipe),
            "augmentation": asdict(self.augmentation),
            "batch_size": args.batch_size,
            "processes": self.ranks.world,
            "seed": self.seed,
            "weights": args.weights,
            "test_stride": args.test_stride,
            "restored_from": args.restore,
            "machine": describe_machine(next(self.model.parameters()).device),
        }


def prepare(
    args: Namespace,
    options: dict,
    seed: int,
    scene: Scene,
    device: torch.device,
    normalised: dict | None = None,
    ranks: Ranks | None = None,
) -> Job:
    """Settle split, normalisation and model; what can be wrong is found here, before a file is written.

    Args:
        args, options: the command line's arguments, and the model's parts among them.
        seed: of split, weights, order and augmentation.
        scene: with its cube.
        device: to run on.
        normalised: of the same scene and device, kept between runs that share them; filled here.
        ranks: the processes that share each batch; None for this one alone.
    Raises:
        InputError: anything that does not fit.
    """
    height, width, _ = scene.cube.shape
    seed_everything(seed)
    rng = np.random.default_rng(seed)
    split = make_split(Namespace(**vars(args) | {"seed": seed}), scene, rng)
    masks = split.fingerprint
    if args.val_fraction:
        split = hold_out(split, args.val_fraction, rng)
    if args.border == "skip":
        split = skip_border(split, args.patch_size // 2)
    preprocessing, cube = _normalise(args, scene, split, device, {} if normalised is None else normalised)
    sizes = {"n_bands": preprocessing.n_bands_out, "n_classes": split.n_classes, "patch_size": args.patch_size}
    try:
        check_patch_size(args.patch_size, height, width)
        model = create_model(args.model, **sizes, **options).to(device)
    except ValueError as error:
        raise InputError(str(error)) from error
    check_backend(model, device)
    if args.restore is not None:
        restore_weights(model, args.model, args.restore)
    n_train = split.n_train
    if min(args.batch_size, n_train) * args.patch_size**2 < 2:
        raise InputError("BatchNorm needs more than one pixel in a batch; raise --batch_size or --patch_size")
    ranks = ranks or Ranks()
    if n_train // -(-n_train // args.batch_size) < ranks.world:
        raise InputError(
            f"a batch of {n_train:,} training pixels and --batch_size {args.batch_size} has fewer patches than "
            f"--data_parallel has processes, {ranks.world}; start fewer, or raise --batch_size"
        )
    weights = None
    if args.class_balancing:
        weights = engine.class_weights(labelled_pixels(torch.from_numpy(split.train))[1], split.n_classes)
    recipe = engine.TrainConfig(args.epoch, lr=args.lr, precision=args.precision, class_weights=weights)
    augmentation = Augmentation(args.flip_augmentation, args.radiation_augmentation, args.mixture_augmentation)
    return Job(args, options, seed, scene, split, masks, preprocessing, cube, model, recipe, augmentation, ranks)


def _normalise(args, scene: Scene, split: Split, device: torch.device, kept: dict):
    """Preprocessing and the cube that it gives, (H, W, n_bands) on the device; made once for runs that share it."""
    settings = (args.normalize, args.fit_on, args.pca, split.fingerprint if args.fit_on == "train" else None)
    if settings not in kept:
        kept.clear()  # one at a time: a cube is large
        preprocessing = fit_preprocessing(
            scene.cube,
            split.train,
            normalize=args.normalize,
            fit_on=args.fit_on,
            n_components=args.pca,
            valid=scene.valid,
        )
        cube = preprocessing(scene.cube, scene.valid)
        kept[settings] = preprocessing, torch.from_numpy(cube).to(device)
    return kept[settings]


def announce(job: Job) -> None:
    """Say once what the runs rest on."""
    split = job.split
    sizes = (split.n_train, split.n_test, split.n_classes)
    log.info("split: %s; %d training and %d test pixels, %d classes", split.method, *sizes)
    if split.validation is not None:
        log.info("validation: %d of the labelled pixels, taken out of the training pixels", split.n_validation)
    for note in split.notes:
        log.info("note: %s", note)
    log.info("%s", brief_sentence(job.protocol["audit"]))


def write_config(job: Job, folder: Path) -> None:
    """Write config.json, from which --resume makes the run again."""
    arguments = {name: value for name, value in vars(job.args).items() if name not in OTHER_MODES | {"sweep"}}
    content = {"arguments": arguments, "options": job.options, "seed": job.seed, "protocol": job.protocol}
    results.write_json(folder / "config.json", content)
