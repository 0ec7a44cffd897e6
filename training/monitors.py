"""What watches a run: its log, the bar on the terminal, and where a server answers the live view."""

import math
from functools import partial
from pathlib import Path

import numpy as np

from mapping import map_scene
from reporting.figures import maps
from reporting.live import panes
from reporting.live.client import environment_name
from reporting.live.monitor import JsonLog, Monitors, ProgressBar
from reporting.live.visdom_monitor import Subject, VisdomMonitor
from reporting.spectra import class_spectra, random_spectra
from training.prepare import Job

SPECTRA_EACH = 5  # random spectra of each class
USUAL_OUTPUT = "runs"  # runs in another folder have it in their names


def watch(job: Job, folder: Path, records: list[dict]) -> Monitors:
    """Start what watches a run.

    Args:
        job: the run.
        folder: its folder, which gets log.jsonl.
        records: of the epochs that an interrupted run has behind it.
    """
    n_train, n_map = job.split.n_train, job.split.train.size // job.args.test_stride**2
    bar = ProgressBar(job.args.epoch, n_train, n_map, len(records))
    monitors = [JsonLog(folder / "log.jsonl", records), bar]
    if job.args.visdom != "off":
        monitors.append(VisdomMonitor(job.args.visdom, _subject(job, folder), partial(_draw, job), records))
    return Monitors(*monitors)


def _draw(job: Job, model, n_pixels: int) -> tuple[np.ndarray, int]:
    """Label map from about n_pixels predicted pixels, at most, and how many they were."""
    height, width = job.split.train.shape
    stride = math.ceil(math.sqrt(height * width / n_pixels))
    settings = {"border": job.args.border, "precision": job.args.precision}
    labels, _ = map_scene(model, job.cube, stride=stride, valid=job.scene.valid, **settings)
    return labels, max(1, height // stride) * max(1, width // stride)


def _subject(job: Job, folder: Path) -> Subject:
    args, split, spec = job.args, job.split, job.scene.spec
    where = () if args.output.name == USUAL_OUTPUT else (args.output.name,)
    masks = {"train": split.train, "validation": split.validation, "test": split.test}
    masks = {title: mask for title, mask in masks.items() if mask is not None}
    pictures = {"false colour": partial(maps.false_colour, job.scene.cube, spec.rgb_bands)}
    pictures |= {"ground truth": lambda: split.labelled}
    pictures |= {f"{title} pixels": lambda mask=mask: mask for title, mask in masks.items()}
    parts = "".join(f" {name}={value}" for name, value in job.options.items() if name != "scan_backend")
    settings = _settings(job, folder)
    return Subject(
        environment=environment_name(spec.name, args.model, f"p{args.patch_size}", folder.name, *where),
        shared=environment_name(spec.name, "all", *where),
        name=f"{args.model} p{args.patch_size}{parts} {folder.name}",
        about=", ".join(
            f"{name} {settings[name]}" for name in ("epochs", "batch size", "learning rate", "normalisation")
        ),
        n_epochs=args.epoch,
        n_train=split.n_train,
        shape=split.train.shape,
        class_names=split.class_names,
        palette=split.palette,
        counts={title: split.class_counts(title).tolist() for title in masks},
        settings=settings,
        pictures=pictures,
        spectra=_spectra(job) if args.with_exploration else {},
    )


def _settings(job: Job, folder: Path) -> dict[str, object]:
    args, protocol = job.args, job.protocol
    switches = ("flip_augmentation", "radiation_augmentation", "mixture_augmentation", "class_balancing")
    return {
        "model": args.model,
        "scene": job.scene.spec.name,
        "patch size": args.patch_size,
        "parts": ", ".join(f"{name} {value}" for name, value in job.options.items()) or "as the model has them",
        "parameters": f"{sum(p.numel() for p in job.model.parameters()):,}",
        "epochs": args.epoch,
        "batch size": args.batch_size,
        "learning rate": f"{args.lr:g}",
        "seed": job.seed,
        "split": protocol["split"],
        "normalisation": args.normalize + (f", {args.pca} principal components" if args.pca else ""),
        "border": args.border,
        "weights": args.weights,
        "with": ", ".join(name.replace("_", " ") for name in switches if getattr(args, name)) or "no augmentation",
        "device": protocol["machine"]["device"],
        "folder": folder,
    }


def _spectra(job: Job) -> dict:
    """Panes of the training pixels' spectra, as the file has them."""
    spec, split = job.scene.spec, job.split
    n_bands = job.scene.cube.shape[2]
    bands, unit = (spec.wavelengths, "wavelength, nm") if spec.wavelengths else (range(1, n_bands + 1), "band")
    legend = {"class_names": split.class_names, "palette": split.palette, "bands": bands, "unit": unit}
    of = (job.scene.cube, split.train, split.n_classes)

    def mean():
        return panes.spectra(*class_spectra(*of), **legend)

    def some():
        rng = np.random.default_rng(job.seed)
        return panes.sample_spectra(random_spectra(*of, SPECTRA_EACH, rng), **legend)

    return {"spectra": mean, "random spectra": some}
