"""The results of a run: its map scored on the test pixels, the figures, the pictures, and the page."""

import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

import stops
from certainty import accuracy_by_coverage, calibration, set_scores
from mapping import label_type
from metrics import Scores, accuracy_by_distance, block_counts, confusion_matrix, score_intervals, scores
from reporting import results
from reporting.figures import curves
from reporting.run_folder import Run, write_maps
from reporting.spectra import class_spectra, random_spectra
from splits.leakage import distance_to, examine, sentences
from splits.spatial_cv import interval_blocks
from training.prepare import Job
from utils import count_flops, fingerprint_file, printable

N_SPECTRA = 8  # random spectra of each class
log = logging.getLogger("mim")


@dataclass(frozen=True)
class PredictedMaps:
    """The maps of `mapping.map_scene`: labels 1..K and their probabilities, (H, W); sets, (H, W, K) bool or None."""

    labels: np.ndarray
    confidence: np.ndarray
    sets: np.ndarray | None = None


def score(job: Job, labels: np.ndarray) -> tuple[Scores, np.ndarray]:
    """Score a label map, (H, W) 1..K, on the test pixels; gives the confusion matrix (K, K) too."""
    tested = job.split.test > 0
    target, prediction = job.split.test[tested] - 1, labels[tested].astype(np.int64) - 1
    confusion = confusion_matrix(target, prediction, job.split.n_classes)
    return scores(confusion), confusion


def write_outcome(
    job: Job, folder: Path, maps: PredictedMaps, certainty: dict, seconds: dict, draw: Callable
) -> Generator[Any, None, Scores]:
    """Write the results of a finished run into its folder.

    Args:
        job: the run.
        folder: its folder.
        maps: of the scene; 0 where nothing was predicted.
        certainty: entries of metrics.json on temperature and prediction sets.
        seconds: of training and prediction.
        draw: makes the pictures and the page, see `training.side_by_side.drawing`.
    Yields:
        What `draw` yields while it waits.
    """
    config, split, labels, confidence = job.config, job.split, maps.labels, maps.confidence
    result, confusion = score(job, labels)
    tested = split.test > 0
    right = labels[tested] == split.test[tested]
    by_distance = accuracy_by_distance(right, distance_to(split.train)[tested])
    blocks, land = interval_blocks(split)
    predicted = labels[tested].astype(np.int64) - 1
    counts = block_counts(split.test[tested] - 1, predicted, blocks[tested], blocks.max() + 1, split.n_classes)
    metrics = results.score_entries(result, confusion, split.class_names) | {
        "palette": split.palette,
        "class_train": split.class_counts("train"),
        "pixel_size": job.scene.spec.pixel_size,
        "intervals": {"of": land} | score_intervals(counts),
        "accuracy_by_distance": by_distance,
        "calibration": calibration(right, confidence[tested]),
        "accuracy_by_coverage": accuracy_by_coverage(right, confidence[tested]),
        **certainty,
        "n_train": split.n_train,
        "n_test": split.n_test,
        "n_parameters": job.model.n_parameters,
        "flops_per_patch": _flops(job) or None,
        "seconds": seconds,
        "checkpoint": fingerprint_file(folder / f"{config.eval_weights}.pt"),
        "protocol": job.protocol,
    }
    further = {}
    if maps.sets is not None:
        metrics["conformal"] |= _scores_of_sets(job, maps.sets, blocks)
        further = {"sets": maps.sets}
    findings = examine(split, job.scene, config.window)
    findings["preprocessing"] = config.preprocessing

    results.write_array(folder / "prediction.npy", labels)
    validation = np.zeros_like(split.train) if split.validation is None else split.validation
    masks = {"truth": split.labelled, "train": split.train, "validation": validation, "test": split.test}
    write_maps(
        folder,
        **{name: mask.astype(label_type(split.n_classes)) for name, mask in masks.items()},
        confidence=confidence.astype(np.float16),
        false_colour=job.false_colour(),
        blocks=blocks.astype(np.int32),
        **further,
    )
    results.write_json(folder / "audit.json", findings | {"sentences": sentences(findings, result.overall_accuracy)})
    yield from draw(Run(folder, results.as_json(metrics)), config.command(job.protocol["processes"]))
    with stops.deferred():
        results.append_result(config.output / "results.csv", _row(job, folder, metrics))
        results.write_json(folder / "metrics.json", metrics)  # at the end: with it the run is complete
    lines = [f"{config.model} on {job.scene.spec.name}, seed {job.config.seed}, {metrics['n_train']:,} training pixels"]
    lines += [results.table(result, split.class_names), results.interval_sentence(metrics["intervals"])]
    lines.append(results.certainty_sentence(metrics))
    if maps.sets is not None:
        lines.append(results.sets_sentence(metrics["conformal"], split.method))
    print(printable("\n".join([*lines, results.distance_table(by_distance)])))
    files = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    log.info("%s holds %s; %s has a row for this run", folder, ", ".join(files), config.output / "results.csv")
    return result


def _scores_of_sets(job: Job, sets: np.ndarray, blocks: np.ndarray) -> dict:
    """Measure the prediction sets on the test pixels; the interval is that of an accuracy, see `score_intervals`."""
    tested, n_classes = job.split.test > 0, job.split.n_classes
    target = job.split.test[tested] - 1
    held = sets[tested][np.arange(len(target)), target]
    counts = block_counts(target, np.where(held, target, n_classes), blocks[tested], blocks.max() + 1, n_classes + 1)
    ends = score_intervals(counts)["overall_accuracy"]
    return set_scores(sets[tested], target) | {"coverage_interval": ends}


def _flops(job: Job) -> int:
    """Count the operations for a pixel: of its patch, or of the scene divided by its pixels."""
    side = job.config.patch_size
    height, width = job.cube.shape[:2] if job.whole_scene else (side, side)
    example = job.cube.new_zeros(1, job.model.n_bands, height, width)
    return count_flops(job.model, example) // (height * width if job.whole_scene else 1)


def explore(job: Job, folder: Path) -> None:
    """Draw the spectra of the training pixels, class by class, before anything is trained."""
    spec, split, rng = job.scene.spec, job.split, np.random.default_rng(job.config.seed)
    of = (job.raw_cube, split.train, split.n_classes)
    title = f"{spec.name}: spectra of the {split.n_train:,} training pixels"
    drawn = random_spectra(*of, N_SPECTRA, rng)
    legend = (split.class_names, split.palette, spec.wavelengths)
    curves.save_spectra(folder / "spectra", class_spectra(*of), drawn, *legend, title)


def _row(job: Job, folder: Path, metrics: dict) -> dict:
    config = job.config
    return {
        "finished": datetime.now().isoformat(timespec="seconds"),
        "model": config.model,
        "dataset": job.scene.spec.name,
        "patch_size": config.patch_size,
        "seed": job.config.seed,
        "epochs": config.epoch,
        **{name: metrics[name] for name in ("overall_accuracy", "average_accuracy", "kappa")},
        **{name: metrics[name] for name in ("n_train", "n_test", "n_parameters", "flops_per_patch")},
        "train_seconds": round(metrics["seconds"]["train"], 2),
        "predict_seconds": round(metrics["seconds"]["predict"], 2),
        "split": job.split.method,
        "split_fingerprint": job.split.fingerprint[:16],
        "folder": folder,
    }
