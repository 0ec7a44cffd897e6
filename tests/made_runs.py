"""Folders of runs as training leaves them, made without training, for the tests of comparisons."""

import copy
import json
from pathlib import Path

import numpy as np

from metrics import confusion_matrix, scores, square_blocks
from reporting import results
from reporting.run_folder import write_maps
from utils import fingerprint

SIDE = 20
OPTIONS = {
    "CNN": {"dim": 64, "dropout": 0.2},
    "MiM-v1": {"dim": 64, "scan_types": [1, 2, 3, 4], "scales": [5, 3, 1], "scan_backend": "auto"},
    "MiM-v2": {"dim": 128, "scan_types": [1, 2, 3, 4], "scales": [7, 5, 3, 1], "scan_backend": "auto"},
}


def make_run(
    folder: Path,
    model="CNN",
    seed=0,
    *,
    scene="Tiny",
    patch=7,
    accuracy=0.9,
    names=("Corn", "Woods", "Water"),
    test=None,
    protocol=None,
    options=None,
    recipe=None,
    augmentation=None,
    maps=True,
    seconds=None,
    block_side=4,
):
    """Write a finished run into a new folder and return its path.

    Args:
        folder: the run is written below it, into model/scene/time-seed.
        model, seed, scene, patch, names: of the run.
        accuracy: about the fraction of the test pixels that are right.
        test: label map of the test pixels, (SIDE, SIDE); None for a constant one with all classes.
        protocol, options, recipe, augmentation: entries that differ from the defaults.
        maps: whether to write prediction.npy and maps.npz.
        seconds: of training and prediction.
        block_side: of the blocks of the intervals.
    """
    train = np.zeros((SIDE, SIDE), dtype=np.int64)
    train[0] = np.arange(SIDE) % len(names) + 1
    if test is None:
        test = np.zeros_like(train)
        test[1:] = np.arange(SIDE * (SIDE - 1)).reshape(SIDE - 1, SIDE) % len(names) + 1
    rng = np.random.default_rng([seed, patch, len(model), round(1e6 * accuracy)])
    prediction = np.where(test > 0, test, 1)
    wrong = rng.random(test.shape) > accuracy
    prediction[wrong] = prediction[wrong] % len(names) + 1
    tested = test > 0
    confusion = confusion_matrix(test[tested] - 1, prediction[tested] - 1, len(names))
    pixels = fingerprint(train, test)
    content = results.score_entries(scores(confusion), confusion, names) | {
        "class_train": np.bincount(train.ravel(), minlength=len(names) + 1)[1:],
        "n_train": int((train > 0).sum()),
        "n_test": int(tested.sum()),
        "n_parameters": 1000 * len(model) + patch,
        "flops_per_patch": 1_000_000 * patch,
        "seconds": seconds or {"train": 10.0 + seed, "predict": 1.0},
        "protocol": {
            "scene": scene,
            "fingerprints": {"cube": "c0be" * 16, "ground_truth": "97" * 32, "masks": pixels, "split": pixels},
            "split": "fixed masks",
            "notes": [],
            "val_fraction": 0.0,
            "n_validation": 0,
            "normalize": "zscore",
            "fit_on": "scene",
            "pca": 0,
            "border": "mirror",
            "model": {
                "name": model,
                "n_bands": 6,
                "n_classes": len(names),
                "patch_size": patch,
                "options": copy.deepcopy(OPTIONS[model]) | (options or {}),
            },
            "recipe": {"epochs": 60, "lr": 1e-3, "precision": "float32", "class_weights": None} | (recipe or {}),
            "augmentation": {"flip": True, "radiation": False, "mixture": False} | (augmentation or {}),
            "batch_size": 64,
            "seed": seed,
            "weights": "last",
            "test_stride": 1,
            "restored_from": None,
            "machine": {"device": "cpu: x86_64", "threads": "1", "git_commit": "f7f9a2a85c71"},
        }
        | (protocol or {}),
    }
    home = folder / model / scene
    home.mkdir(parents=True, exist_ok=True)
    run = home / f"20260101-{len(list(home.iterdir())):06d}-seed{seed}"
    run.mkdir()
    results.write_json(run / "metrics.json", content)
    results.write_json(run / "config.json", {"seed": seed})
    if maps:
        results.write_array(run / "prediction.npy", prediction.astype(np.uint8))
        blank = np.zeros(test.shape, dtype=np.uint8)
        masks = {"truth": train + test, "train": train, "validation": blank, "test": test}
        masks = {name: mask.astype(np.uint8) for name, mask in masks.items()}
        confidence = np.ones(test.shape, dtype=np.float16)
        false_colour = np.zeros((*test.shape, 3), dtype=np.uint8)
        blocks = square_blocks(test.shape, block_side).astype(np.int32)
        write_maps(run, **masks, confidence=confidence, false_colour=false_colour, blocks=blocks)
    return run


def change(run: Path, **entries) -> None:
    """Change entries of a run's metrics.json; a dict is merged into the present entry."""
    path = run / "metrics.json"
    content = json.loads(path.read_text())
    for name, value in entries.items():
        if isinstance(value, dict):
            content[name] |= value
        else:
            content[name] = value
    path.write_text(json.dumps(content))
