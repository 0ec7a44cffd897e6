"""Verify a finished run: its scores, its checkpoint and its map are computed again and compared."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from datasets import load_scene
from mapping import Grid, predict, predict_batch
from metrics import accuracy_by_distance, block_counts, confusion_matrix, score_intervals, scores
from models import MODELS
from preprocessing import Preprocessing
from reporting import results
from reporting.run_folder import Run
from splits.choose import draws_split
from splits.leakage import distance_to
from training.checkpoint import Checkpoint, restore_weights
from training.config import RunConfig
from training.prepare import Job, prepare
from utils import InputError, choose_device, describe_machine, fingerprint_file

N_PIXELS = 500  # predicted again, at least, if the map has as many
TIES = {"float32": 1e-3, "bfloat16": 0.05}  # difference of probabilities that another machine can make
SAME_BITS = ("code", "torch", "numpy", "cuda", "platform", "device", "threads")  # keys of the machine that decide bits


def verify(folder: Path, data: Path | None = None, cuda: int | None = None) -> list[str]:
    """Verify a finished run.

    Args:
        folder: of the run.
        data: data root, None for that of the run.
        cuda: device, None for that of the run.
    Returns:
        What agrees, in sentences.
    Raises:
        InputError: something differs, which the message names; or the run or its scene cannot be read.
    """
    run, config = Run.read(folder), RunConfig.read(folder)
    config = replace(config, restore=None, cuda=config.cuda if cuda is None else cuda, folder=data or config.folder)
    checkpoint = folder / f"{config.eval_weights}.pt"
    shapes = [" x ".join(map(str, each.shape)) for each in (run.prediction, run.maps["test"])]
    if shapes[0] != shapes[1]:
        raise InputError(f"{folder} is not verified: prediction.npy has {shapes[0]} pixels, and maps.npz {shapes[1]}")
    agrees, differs = _scores(run)
    for compare in (_checksum, _map):
        try:
            found = compare(run, config, checkpoint)
        except InputError as error:
            found = [], [str(error)]
        agrees += found[0]
        differs += found[1]
    if differs:
        raise InputError(f"{folder} is not verified: {'; '.join(differs)}")
    return [*agrees, f"{folder} is verified"]


def _scores(run: Run) -> tuple[list[str], list[str]]:
    """Compute the scores of metrics.json from prediction.npy and the masks."""
    labels, maps, n_classes = run.prediction, run.maps, len(run.class_names)
    train, test = (maps[name].astype(np.int64) for name in ("train", "test"))
    tested = test > 0
    if max(test.max(), train.max(), labels.max()) > n_classes:
        return [], [f"prediction.npy or maps.npz has labels above {n_classes}, the number of classes"]
    target, predicted = test[tested] - 1, labels[tested].astype(np.int64) - 1
    if (predicted < 0).any():
        return [], ["prediction.npy has no label for some test pixels"]
    confusion = confusion_matrix(target, predicted, n_classes)
    expected = results.score_entries(scores(confusion), confusion, run.class_names)
    expected |= {"n_train": int((train > 0).sum()), "n_test": int(tested.sum())}
    expected["class_train"] = np.bincount(train.ravel(), minlength=n_classes + 1)[1:]
    expected["accuracy_by_distance"] = accuracy_by_distance(predicted == target, distance_to(train)[tested])
    if "blocks" in maps:
        counts = block_counts(target, predicted, maps["blocks"][tested], maps["blocks"].max() + 1, n_classes)
        expected["intervals"] = score_intervals(counts)
    expected = {name: value for name, value in results.as_json(expected).items() if name in run.metrics}
    noted = dict(run.metrics)
    if isinstance(noted.get("intervals"), dict):
        noted["intervals"] = {name: value for name, value in noted["intervals"].items() if name != "of"}  # in words
    wrong = [name for name, value in expected.items() if not _alike(value, noted[name])]
    if not wrong:
        return [f"metrics.json: {', '.join(expected)} follow from prediction.npy and the masks"], []
    return [], [f"{name} of metrics.json {_both(run.metrics[name], expected[name])}" for name in wrong]


def _both(noted, computed) -> str:
    plain = all(isinstance(each, int | float | None) for each in (noted, computed))
    return f"is {noted}, and {computed} from prediction.npy" if plain else "is another from prediction.npy"


def _alike(one, two) -> bool:
    """Whether two values of JSON are equal, numbers up to the rounding of other versions of NumPy."""
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_alike(one[key], two[key]) for key in one)
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(_alike, one, two))
    if isinstance(one, float) and isinstance(two, int | float):
        return math.isclose(one, two, rel_tol=1e-9, abs_tol=1e-12)
    return one == two


def _checksum(run: Run, _config: RunConfig, checkpoint: Path) -> tuple[list[str], list[str]]:
    """Compare the checkpoint with its SHA-256, which runs of earlier versions lack."""
    noted = run.metrics.get("checkpoint")
    if not isinstance(noted, str):
        return [f"{checkpoint.name}: metrics.json has no SHA-256 of it"], []
    if not checkpoint.is_file():
        return [], [f"{checkpoint.name} is missing"]
    if fingerprint_file(checkpoint) != noted:
        return [], [f"{checkpoint.name} has another SHA-256 than metrics.json notes"]
    return [f"{checkpoint.name} has the SHA-256 that metrics.json notes"], []


def _map(run: Run, config: RunConfig, path: Path) -> tuple[list[str], list[str]]:
    """Read scene and masks again, and predict pixels again; without a scene that is the same nothing is predicted."""
    checkpoint = Checkpoint.load(path)
    options = {"need_gt": draws_split(config), "drop_bands": config.drop_bands}
    scene = load_scene(config.dataset, config.folder, **options)
    job = prepare(config, scene, choose_device(config.cuda))
    noted, found = run.protocol["fingerprints"], job.fingerprints()
    changed = [name for name, value in found.items() if noted.get(name) != value]
    masks = {"train": job.split.train, "test": job.split.test, "truth": job.split.labelled}
    masks["validation"] = np.zeros_like(job.split.train) if job.split.validation is None else job.split.validation
    other = [name for name, mask in masks.items() if not np.array_equal(run.maps[name], mask)]
    differs = [f"the scene's {name.replace('_', ' ')} is another than in the run" for name in changed]
    differs += [f"{name} of maps.npz is another than from the scene's files" for name in other]
    if changed:
        return [], differs
    restore_weights(job.model, config.model, path)
    job.model.temperature = checkpoint.temperature
    if MODELS[config.model].looks_at != "location":
        cube = Preprocessing.from_state(checkpoint.preprocessing)(job.raw_cube, scene.valid)
        job.cube = torch.from_numpy(cube).to(job.cube.device)
    agrees, wrong = _predict(run, job)
    if not other:
        agrees.insert(0, "cube, ground truth and masks are those of the run")
    return agrees, differs + wrong


def _predict(run: Run, job: Job) -> tuple[list[str], list[str]]:
    """Predict whole batches of the run's map again, so that their bits can be compared."""
    model, config = job.model, job.config
    stride, border = config.test_stride, config.border
    grid = Grid.of(job.split.train.shape, model.patch_size, stride=stride, border=border)
    all_pixels = np.argwhere(grid.wanted(job.split.test > 0))
    batch = predict_batch(model.patch_size, job.cube.device)
    n_batches = -(-len(all_pixels) // batch)
    # one batch more than are needed, as the last one may be small
    chosen = np.unique(np.linspace(0, n_batches - 1, min(n_batches, 1 - -N_PIXELS // batch)).round().astype(int))
    pixels = np.concatenate([all_pixels[number * batch : (number + 1) * batch] for number in chosen])
    options = {"batch_size": batch, "precision": config.precision, "surroundings": job.surroundings}
    probabilities = predict(model, job.cube, torch.from_numpy(pixels), **options).numpy()
    place = tuple(pixels.T)
    labels, confidence = run.prediction[place].astype(np.int64), run.maps["confidence"][place]
    if job.scene.valid is not None:
        data = job.scene.valid[place]
        labels, confidence, probabilities = labels[data], confidence[data], probabilities[data]
    if not len(labels) or labels.min() < 1 or labels.max() > model.n_classes:
        return [], ["prediction.npy lacks labels of pixels that the run predicted"]
    of_label = probabilities[np.arange(len(labels)), labels - 1]
    machine, now = run.protocol["machine"], describe_machine(job.cube.device)
    others = [name for name in SAME_BITS if machine.get(name) != now[name]]
    exact = not others and job.surroundings is None
    wrong = (probabilities.argmax(1) + 1 != labels) & (exact | (probabilities.max(1) - of_label > _tie(config)))
    what = f"{len(labels):,} pixels predicted again with the checkpoint"
    if wrong.any():
        return [], [f"{wrong.sum():,} of {what} have other labels in prediction.npy"]
    if exact:
        bits = probabilities.max(1).astype(np.float16) != confidence
        if bits.any():
            return [], [f"{bits.sum():,} of {what} have other confidences in maps.npz, on the same machine"]
        return [f"{what} have the labels of prediction.npy, and the bits of the confidences of maps.npz"], []
    apart = np.abs(of_label - confidence.astype(np.float32)) > _tie(config)
    if apart.any():
        return [], [f"{apart.sum():,} of {what} have other confidences in maps.npz"]
    why = f"another {', '.join(others)} computed it" if others else "a context rounds by the pixels that are predicted"
    return [f"{what} have the labels of prediction.npy but for ties; bits are not compared: {why}"], []


def _tie(config: RunConfig) -> float:
    return TIES[config.precision]
