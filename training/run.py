"""One run: trained, mapped, scored and written to its folder."""

import logging
import shlex
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import engine
import stops
from certainty import conformal_threshold, fit_temperature, too_few_for_sets
from mapping import map_scene, predict
from metrics import Scores
from models.base import SceneClassifier
from models.classical import Classical
from patches import labelled_pixels
from reporting.live.monitor import Monitor
from training.checkpoint import Checkpoint, model_facts
from training.cuda_graph import GraphSteps
from training.data_parallel import CommonStop, DataParallel, announce_run
from training.fitted import fit, load
from training.monitors import watch
from training.outputs import PredictedMaps, explore, score, write_outcome
from training.prepare import Job
from training.scene_steps import SceneSteps
from utils import start_command

SAVE_SECONDS = 2.0  # seconds between two checkpoints, where an epoch takes a fraction of one
log = logging.getLogger("mim")


def run(job: Job, folder: Path, draw: Callable, state: dict | None = None) -> Generator[Any, None, Scores]:
    """Train, or resume from `state`; then map the scene, score the test pixels and write the run's folder.

    Args:
        job: the run.
        folder: its folder.
        draw: makes the pictures and the page, see `training.side_by_side.drawing`.
        state: of an interrupted run.
    Yields:
        Something after each training step, so that runs can be trained side by side.
    """
    config, split, model = job.config, job.split, job.model
    with stops.resumable(partial(_how_to_resume, job, folder)):
        if config.with_exploration and state is None:
            explore(job, folder)
        monitor = watch(job, folder, [] if state is None else state["history"]["records"])
        try:
            announce_run(job.ranks, folder)
            began = time.perf_counter()
            history = yield from train(job, monitor, state, _saver(job, folder))
            fitted = time.perf_counter()
            _note_nothing_learned(job, history)
            if config.eval_weights == "best":
                model.load_state_dict(Checkpoint.load(folder / "best.pt").state["weights"])
                log.info("evaluating the weights of epoch %d, the best in validation", history.best_epoch)
            certainty = _certainty(job, folder)
            started = time.perf_counter()
            labels, confidence, *sets = map_scene(
                model,
                job.cube,
                stride=config.test_stride,
                border=config.border,
                also=split.test > 0,
                valid=job.scene.valid,
                precision=config.precision,
                progress=partial(_report, monitor),
                threshold=certainty.get("conformal", {}).get("threshold"),
                surroundings=job.surroundings,
            )
            if not np.isfinite(confidence[labels > 0]).all():
                raise FloatingPointError("the network's probabilities are not finite; lower the learning rate (--lr)")
            seconds = {"train": float(sum(record["seconds"] for record in history.records) or fitted - began)}
            seconds["predict"] = time.perf_counter() - started
            monitor.result(labels, score(job, labels)[1])
        finally:
            monitor.close()
        maps = PredictedMaps(labels, confidence, *sets)
        return (yield from write_outcome(job, folder, maps, certainty, seconds, draw))


def _note_nothing_learned(job: Job, history: engine.History) -> None:
    """Log a note if the last epoch was no better on the training pixels than always naming their largest class."""
    counts = job.split.class_counts("train")
    share = max(counts) / sum(counts)
    right = history.records[-1]["train_accuracy"] if history.records else None
    if right is not None and right <= share:
        log.info(
            "note: the network has not learned: in the last epoch %.1f %% of the training pixels were right, and their "
            "largest class alone is %.1f %%; give more epochs (--epoch) or another learning rate (--lr)",
            100 * right,
            100 * share,
        )


def _how_to_resume(job: Job, folder: Path) -> str:
    if (folder / "metrics.json").exists():
        return f"{folder} is complete"
    return f"`{start_command(job.protocol['processes'])} --resume {shlex.quote(str(folder))}` resumes this run"


def _report(monitor: Monitor, n: int, total: int) -> None:
    """Report predicted pixels; between two batches the run may stop."""
    stops.check()
    monitor.mapping(n, total)


def train(
    job: Job, monitor: Monitor, state: dict | None, save: Callable | None = None
) -> Generator[None, None, engine.History]:
    """Train a run's network in one process, or together with the other processes, which must call this too."""
    split, model = job.split, job.model
    if isinstance(model, Classical):
        return (yield from _fitting(job, model, state, save))
    generator = torch.Generator().manual_seed(job.config.seed)
    loader = job.loader(split.train, generator=generator, augment=job.augmentation)
    val_loader = None if split.validation is None else job.loader(split.validation)
    stop = stops.requested
    if job.uses_graphs:
        steps = GraphSteps(model, loader, job.recipe)
    elif isinstance(model, SceneClassifier):
        steps = SceneSteps(model, loader, job.recipe, job.cube, flip=job.augmentation.flip)
    else:
        parallel = None
        if job.ranks.world > 1:
            parallel = DataParallel(model, job.config.seed, job.ranks)
            stop = CommonStop(job.ranks, job.cube.device)
        steps = engine.Steps(model, loader, job.recipe, parallel)
    options: dict[str, Any] = {"state": state, "save": save, "stop": stop, "steps": steps}
    options |= {"save_every": job.config.save_every, "save_seconds": SAVE_SECONDS if job.uses_graphs else 0.0}
    with stops.deferred():
        return (yield from engine.training(model, loader, val_loader, job.recipe, monitor, **options))


def _fitting(
    job: Job, model: Classical, state: dict | None, save: Callable | None
) -> Generator[None, None, engine.History]:
    """Fit a classifier that has no epochs, or load it from `state`."""
    if state is None:
        pixels, targets = labelled_pixels(torch.from_numpy(job.split.train))
        spectra = job.cube[pixels[:, 0], pixels[:, 1]]
        fit(model, job.config.model, spectra, targets, job.config.seed)
    else:
        load(model, job.config.model, state["weights"])
    history = engine.History()
    if save is not None:
        save("last", {"weights": model.state_dict(), "history": asdict(history)})
    yield
    return history


def _certainty(job: Job, folder: Path) -> dict:
    """Fit temperature and prediction sets to the validation pixels, and keep them in the evaluated checkpoint.

    Returns:
        The entries of metrics.json: "temperature" with --calibrate; with --conformal "conformal", a dictionary of
        "risk", "n_validation" and "threshold".
    """
    config, validation = job.config, job.split.validation
    if validation is None:
        return {}
    pixels, targets = labelled_pixels(torch.from_numpy(validation))
    found, rows = {}, np.arange(len(targets))
    options: dict[str, Any] = {"precision": config.precision, "surroundings": job.surroundings}
    if config.calibrate:
        of = predict(job.model, job.cube, pixels, **options)
        found["temperature"] = job.model.temperature = fit_temperature(of.numpy(), targets.numpy())
        log.info("temperature %.3f, fitted to %d validation pixels", found["temperature"], len(targets))
    p_right = predict(job.model, job.cube, pixels, **options).numpy()[rows, targets.numpy()]
    if config.conformal is not None:
        threshold = conformal_threshold(p_right, config.conformal)
        found["conformal"] = {"risk": config.conformal, "n_validation": len(targets), "threshold": threshold}
        if not threshold:
            log.info("note: %s", too_few_for_sets(len(targets), config.conformal))
    path = folder / f"{config.eval_weights}.pt"
    kept = {"temperature": job.model.temperature, "p_right": tuple(p_right.tolist())}
    replace(Checkpoint.load(path), **kept).save(path)
    return found


def _saver(job: Job, folder: Path) -> Callable[[str, dict], None]:
    """Give what `engine.train` calls after an epoch."""
    checkpoint = Checkpoint(
        model=model_facts(job.config.model, job.model),
        preprocessing=job.preprocessing.state(),
        class_names=job.split.class_names,
        palette=job.split.palette,
        scene=job.scene.spec.name,
        wavelengths=job.scene.spec.wavelengths,
        border=job.config.border,
        state={},
        context=None if job.surroundings is None else job.surroundings.context.state(),
        bands=job.scene.bands,
        n_in_file=job.scene.n_in_file,
        nodata=job.scene.nodata,
    )
    return lambda name, state: checkpoint.with_state(state).save(folder / f"{name}.pt")
