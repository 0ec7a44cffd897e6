"""The monitors of a run: its log, the bar on the terminal, and the live view if a server answers."""

import math
from functools import partial
from pathlib import Path

import numpy as np

from mapping import map_scene
from reporting.live import panes
from reporting.live.client import environment_name
from reporting.live.monitor import JsonLog, Monitors, ProgressBar
from reporting.live.visdom_monitor import Subject, VisdomMonitor
from reporting.spectra import class_spectra, random_spectra
from training.prepare import Job

SPECTRA_EACH = 5  # random spectra of each class
USUAL_OUTPUT = "runs"  # the names of runs in another folder include it


def watch(job: Job, folder: Path, records: list[dict]) -> Monitors:
    """Start the monitors of a run.

    Args:
        job: the run.
        folder: its folder, which gets log.jsonl.
        records: of the epochs that an interrupted run has finished.
    """
    n_train, n_map = job.split.n_train, job.split.train.size // job.config.test_stride**2
    bar = ProgressBar(job.config.epoch, n_train, n_map, len(records))
    monitors = [JsonLog(folder / "log.jsonl", records), bar]
    if job.config.visdom != "off":
        monitors.append(VisdomMonitor(job.config.visdom, _subject(job, folder), partial(_draw, job), records))
    return Monitors(*monitors)


def _draw(job: Job, model, n_pixels: int) -> tuple[np.ndarray, int]:
    """Label map from about n_pixels predicted pixels, at most, and how many they were."""
    height, width = job.split.train.shape
    stride = math.ceil(math.sqrt(height * width / n_pixels))
    border, precision = job.config.border, job.config.precision
    labels, *_ = map_scene(model, job.cube, stride=stride, border=border, valid=job.scene.valid, precision=precision)
    return labels, max(1, height // stride) * max(1, width // stride)


def _subject(job: Job, folder: Path) -> Subject:
    config, split, spec = job.config, job.split, job.scene.spec
    where = () if config.output.name == USUAL_OUTPUT else (config.output.name,)
    masks = split.masks()
    pictures = {"false colour": job.false_colour}
    pictures |= {"ground truth": lambda: split.labelled}
    pictures |= {f"{part} pixels": lambda mask=mask: mask for part, mask in masks.items()}
    parts = "".join(f" {name}={value}" for name, value in config.model_options.items() if name != "scan_backend")
    settings = _settings(job, folder)
    return Subject(
        environment=environment_name(spec.name, config.model, f"p{config.patch_size}", folder.name, *where),
        shared=environment_name(spec.name, "all", *where),
        name=f"{config.model} p{config.patch_size}{parts} {folder.name}",
        about=", ".join(
            f"{name} {settings[name]}" for name in ("epochs", "batch size", "learning rate", "normalisation")
        ),
        n_epochs=config.epoch,
        scales=job.protocol["model"]["options"].get("scales", ()),
        n_train=split.n_train,
        shape=split.train.shape,
        class_names=split.class_names,
        palette=split.palette,
        counts={part: split.class_counts(part).tolist() for part in masks},
        settings=settings,
        pictures=pictures,
        spectra=_spectra(job) if config.with_exploration else {},
    )


def _settings(job: Job, folder: Path) -> dict[str, object]:
    config, protocol = job.config, job.protocol
    switches = ("flip_augmentation", "radiation_augmentation", "mixture_augmentation", "class_balancing")
    return {
        "model": config.model,
        "scene": job.scene.spec.name,
        "patch size": config.patch_size,
        "parts": ", ".join(f"{name} {value}" for name, value in config.model_options.items())
        or "as the model has them",
        "parameters": "none" if job.model.n_parameters is None else f"{job.model.n_parameters:,}",
        "epochs": config.epoch,
        "batch size": config.batch_size,
        "learning rate": f"{config.lr:g}",
        "seed": job.config.seed,
        "split": protocol["split"],
        "normalisation": config.normalize + (f", {config.pca} principal components" if config.pca else ""),
        "border": config.border,
        "weights": config.eval_weights,
        "with": ", ".join(name.replace("_", " ") for name in switches if getattr(config, name)) or "no augmentation",
        "device": protocol["machine"]["device"],
        "folder": folder,
    }


def _spectra(job: Job) -> dict:
    """Make the panes of the training pixels' spectra, as the file has them."""
    spec, split = job.scene.spec, job.split
    n_bands = job.raw_cube.shape[2]
    bands, unit = (spec.wavelengths, "wavelength, nm") if spec.wavelengths else (range(1, n_bands + 1), "band")
    legend = {"class_names": split.class_names, "palette": split.palette, "bands": bands, "unit": unit}
    of = (job.raw_cube, split.train, split.n_classes)

    def mean():
        return panes.spectra(*class_spectra(*of), **legend)

    def some():
        rng = np.random.default_rng(job.config.seed)
        return panes.sample_spectra(random_spectra(*of, SPECTRA_EACH, rng), **legend)

    return {"spectra": mean, "random spectra": some}
