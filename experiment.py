"""One run: prepared and checked, then trained, mapped, scored and written to its folder."""

import logging
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

import engine
import splits
from audit import brief, brief_sentence, distance_to
from datasets import Scene
from mapping import map_scene
from metrics import Scores, accuracy_by_distance, confusion_matrix, scores
from models import PatchClassifier, create_model
from patches import Augmentation, PatchLoader, check_patch_size, labelled_pixels
from preprocessing import Preprocessing, fit_preprocessing
from reporting import results, visualize
from reporting.monitor import JsonLog, Monitors, Progress, ProgressBar, VisdomMonitor
from sampling import make_split
from splits import Split
from trained import CHECKPOINT, check_backend, model_facts, restore_weights
from utils import (
    InputError,
    count_flops,
    describe_machine,
    fingerprint,
    load_checkpoint,
    save_checkpoint,
    seed_everything,
)

LIVE_MAPS, LIVE_PIXELS = 5, 2000  # maps on visdom while training, and about how many pixels each predicts

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

    def loader(self, mask: np.ndarray, **options) -> PatchLoader:
        """Patches and targets of a label map."""
        pixels, targets = labelled_pixels(torch.from_numpy(mask))
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
            "n_validation": 0 if split.validation is None else int((split.validation > 0).sum()),
            "normalize": args.normalize,
            "fit_on": args.fit_on,
            "pca": args.pca,
            "border": args.border,
            "border_test_pixels_skipped": split.border_skipped,
            "guard_pixels_dropped": split.guard_dropped,
            "unlearned_test_pixels_dropped": split.unlearned_dropped,
            "audit": brief(split, self.scene.cube, args.patch_size),
            "model": model_facts(args.model, self.model),
            "recipe": asdict(self.recipe),
            "augmentation": asdict(self.augmentation),
            "batch_size": args.batch_size,
            "seed": self.seed,
            "weights": args.weights,
            "restored_from": args.restore,
            "machine": describe_machine(next(self.model.parameters()).device),
        }


def prepare(args: Namespace, options: dict, seed: int, scene: Scene, device: torch.device) -> Job:
    """Settle split, normalisation and model; what can be wrong is found here, before a file is written.

    Args:
        args, options: the command line's arguments, and the model's parts among them.
        seed: of split, weights, order and augmentation.
        scene: with its cube.
        device: to run on.
    Raises:
        InputError: anything that does not fit.
    """
    height, width, _ = scene.cube.shape
    seed_everything(seed)
    rng = np.random.default_rng(seed)
    split = make_split(args, scene, seed, rng)
    masks = split.fingerprint
    if args.val_fraction:
        split = splits.hold_out(split, args.val_fraction, rng)
    if args.border == "skip":
        split = splits.skip_border(split, args.patch_size // 2)
    preprocessing = fit_preprocessing(
        scene.cube,
        split.train,
        normalize=args.normalize,
        fit_on=args.fit_on,
        n_components=args.pca,
        valid=scene.valid,
    )
    sizes = {"n_bands": preprocessing.n_bands_out, "n_classes": split.n_classes, "patch_size": args.patch_size}
    try:
        check_patch_size(args.patch_size, height, width)
        model = create_model(args.model, **sizes, **options).to(device)
    except ValueError as error:
        raise InputError(str(error)) from error
    check_backend(model, device)
    if args.restore is not None:
        restore_weights(model, args.model, args.restore)
    n_train = int((split.train > 0).sum())
    if min(args.batch_size, n_train) * args.patch_size**2 < 2:
        raise InputError("BatchNorm needs more than one pixel in a batch; raise --batch_size or --patch_size")
    weights = None
    if args.class_balancing:
        weights = engine.class_weights(labelled_pixels(torch.from_numpy(split.train))[1], split.n_classes)
    recipe = engine.TrainConfig(args.epoch, lr=args.lr, precision=args.precision, class_weights=weights)
    augmentation = Augmentation(args.flip_augmentation, args.radiation_augmentation, args.mixture_augmentation)
    cube = preprocessing(scene.cube)
    if scene.valid is not None:
        cube[~scene.valid] = 0  # as when a new scene is mapped
    cube = torch.from_numpy(cube).to(device)
    return Job(args, options, seed, scene, split, masks, preprocessing, cube, model, recipe, augmentation)


def announce(job: Job) -> None:
    """Say once what the runs rest on."""
    split = job.split
    n_train, n_test = ((mask > 0).sum() for mask in (split.train, split.test))
    log.info("split: %s; %d training and %d test pixels, %d classes", split.method, n_train, n_test, split.n_classes)
    if split.validation is not None:
        log.info(
            "validation: %d of the labelled pixels, taken out of the training pixels", (split.validation > 0).sum()
        )
    for note in split.notes:
        log.info("note: %s", note)
    log.info("%s", brief_sentence(job.protocol["audit"]))


def write_config(job: Job, folder: Path) -> None:
    """Write config.json, from which --resume makes the run again."""
    arguments = {
        name: value
        for name, value in vars(job.args).items()
        if name not in ("describe", "download", "predict", "resume")
    }
    content = {"arguments": arguments, "options": job.options, "seed": job.seed, "protocol": job.protocol}
    results.write_json(folder / "config.json", content)


def run(job: Job, folder: Path, state: dict | None = None) -> Scores:
    """Train, or go on from `state`; then map the scene, score the test pixels and write the run's folder."""
    args, split, model = job.args, job.split, job.model
    records = [] if state is None else state["history"]["records"]
    log_file = JsonLog(folder / "log.jsonl", records)
    monitor = Monitors(log_file, ProgressBar(args.epoch, len(records)), *_live_view(job, folder))
    try:
        truth = visualize.colour_map(split.labelled, split.palette)
        monitor.maps({"false colour": _false_colour(job), "ground truth": truth})
        generator = torch.Generator().manual_seed(job.seed)
        loader = job.loader(split.train, generator=generator, augment=job.augmentation)
        val_loader = None if split.validation is None else job.loader(split.validation)
        save = _saver(job, folder)
        history = engine.train(model, loader, val_loader, job.recipe, monitor, state=state, save=save)
        if args.weights == "best":
            best = load_checkpoint(folder / "best.pt", CHECKPOINT)
            model.load_state_dict(best["state"]["weights"])
            log.info("evaluating the weights of epoch %d, the best in validation", history.best_epoch)
        started = time.perf_counter()
        labels = map_scene(
            model,
            job.cube,
            stride=args.test_stride,
            border=args.border,
            also=split.test > 0,
            precision=args.precision,
            progress=Progress("mapping", "px"),
        )
        labels = labels if job.scene.valid is None else np.where(job.scene.valid, labels, labels.dtype.type(0))
        seconds = {"train": sum(record["seconds"] for record in history.records)}
        seconds["predict"] = time.perf_counter() - started
        monitor.maps({"prediction": visualize.colour_map(labels, split.palette)})
    except KeyboardInterrupt as interrupt:
        hint = f"`python main.py --resume {folder}` goes on after the last finished epoch"
        raise KeyboardInterrupt(hint) from interrupt
    finally:
        monitor.close()
    return _report(job, folder, labels, seconds)


def _saver(job: Job, folder: Path) -> Callable[[str, dict], None]:
    """What `engine.train` calls after an epoch; a checkpoint alone is enough to map another scene."""
    spec, split = job.scene.spec, job.split
    facts = {
        "kind": CHECKPOINT,
        "model": model_facts(job.args.model, job.model),
        "preprocessing": job.preprocessing.state(),
        "class_names": split.class_names,
        "palette": split.palette,
        "scene": spec.name,
        "wavelengths": spec.wavelengths,
        "border": job.args.border,
    }
    return lambda name, state: save_checkpoint(folder / f"{name}.pt", {**facts, "state": state})


def _live_view(job: Job, folder: Path) -> list[VisdomMonitor]:
    args = job.args
    if args.visdom == "off":
        return []
    side = max(1, round((job.cube.shape[0] * job.cube.shape[1] / LIVE_PIXELS) ** 0.5))

    def draw(model):
        labels = map_scene(model, job.cube, stride=side, border=args.border, precision=args.precision)
        return visualize.colour_map(labels, job.split.palette)

    environment = f"{args.model}_{job.scene.spec.name}_{folder.name}"
    return [VisdomMonitor(args.visdom, environment, draw, map_every=max(1, args.epoch // LIVE_MAPS))]


def _false_colour(job: Job) -> np.ndarray:
    return visualize.false_colour(job.scene.cube, job.scene.spec.rgb_bands)


def _report(job: Job, folder: Path, labels: np.ndarray, seconds: dict) -> Scores:
    """Score the test pixels from the map and write what the run leaves."""
    args, split = job.args, job.split
    tested = split.test > 0
    confusion = confusion_matrix(split.test[tested] - 1, labels[tested].astype(np.int64) - 1, split.n_classes)
    result = scores(confusion)
    n_train, n_parameters = int((split.train > 0).sum()), sum(p.numel() for p in job.model.parameters())
    by_distance = accuracy_by_distance(labels[tested] == split.test[tested], distance_to(split.train)[tested])
    metrics = results.score_entries(result, confusion, split.class_names) | {"accuracy_by_distance": by_distance}
    metrics |= {"n_train": n_train, "n_test": int(tested.sum()), "n_parameters": n_parameters}
    patch = job.cube.new_zeros(1, job.model.n_bands, args.patch_size, args.patch_size)
    metrics |= {"flops_per_patch": count_flops(job.model, patch), "seconds": seconds, "protocol": job.protocol}

    results.write_array(folder / "prediction.npy", labels)
    legend = (split.class_names, split.palette)
    where = f"{args.model} on {job.scene.spec.name}"
    coverage = (
        "every pixel" if args.test_stride == 1 else f"one pixel in {args.test_stride} x {args.test_stride}, filled"
    )
    visualize.save_label_map(folder / "map.png", labels, *legend, f"{where}: {coverage}")
    on_labelled = np.where(split.labelled > 0, labels, 0)
    visualize.save_label_map(folder / "map_labelled.png", on_labelled, *legend, f"{where}: labelled pixels")
    visualize.save_label_map(
        folder / "ground_truth.png", split.labelled, *legend, f"{job.scene.spec.name}: ground truth"
    )
    visualize.save_confusion(folder / "confusion.png", confusion, split.class_names)
    visualize.save_accuracy_by_distance(folder / "distance.png", by_distance, f"{where}, patch {args.patch_size}")
    results.write_json(folder / "metrics.json", metrics)
    results.append_result(args.output / "results.csv", _row(job, folder, metrics))
    print(f"{where}, seed {job.seed}, {n_train:,} training pixels")
    print(results.table(result, split.class_names))
    print(results.distance_table(by_distance))
    files = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    log.info("%s holds %s; %s has a row for this run", folder, ", ".join(files), args.output / "results.csv")
    return result


def _row(job: Job, folder: Path, metrics: dict) -> dict:
    args = job.args
    return {
        "finished": datetime.now().isoformat(timespec="seconds"),
        "model": args.model,
        "dataset": job.scene.spec.name,
        "patch_size": args.patch_size,
        "seed": job.seed,
        "epochs": args.epoch,
        **{name: metrics[name] for name in ("overall_accuracy", "average_accuracy", "kappa")},
        **{name: metrics[name] for name in ("n_train", "n_test", "n_parameters", "flops_per_patch")},
        "train_seconds": round(metrics["seconds"]["train"], 2),
        "predict_seconds": round(metrics["seconds"]["predict"], 2),
        "split": job.split.method,
        "split_fingerprint": job.split.fingerprint[:16],
        "folder": folder,
    }
