"""The folder of a finished run, made without training, for the tests of what is made from it."""

from pathlib import Path

import numpy as np

from certainty import accuracy_by_coverage, calibration, prediction_sets, set_scores
from metrics import (
    accuracy_by_distance,
    block_counts,
    confusion_matrix,
    score_intervals,
    scores,
    square_blocks,
)
from reporting import results
from reporting.run_folder import Run, write_maps
from scenes.catalogue import PALETTE
from training.config import RunConfig

CONFIG = RunConfig(dataset="Tiny", seed=4, visdom="off", model_options={"dim": 64})
COMMAND = CONFIG.command()


def write_run(
    folder: Path,
    *,
    shape: tuple[int, int] = (20, 30),
    names: tuple[str, ...] = ("Corn", "Woods", "Water"),
    scene: str = "Tiny",
    n_epochs: int = 6,
    n_scales: int = 2,
    validation: bool = True,
    faults: tuple[str, ...] = (),
) -> Run:
    """Write the folder of a run: fields of each class, a quarter unlabelled, about one test pixel in eight wrong.

    The first row is not predicted and not in the split; of three or more classes the last has no test pixel.
    """
    rng = np.random.default_rng(0)
    n_classes, (height, width) = len(names), shape
    kind = np.uint8 if n_classes < 256 else np.uint16
    seeds = rng.integers(0, [height, width], (3 * n_classes, 2))
    rows, columns = np.mgrid[:height, :width]
    nearest = np.argmin([(rows - r) ** 2 + (columns - c) ** 2 for r, c in seeds], axis=0)
    labels = (nearest % n_classes + 1).astype(kind)
    truth = np.where((rng.random(shape) < 0.25) | (rows == 0), 0, labels).astype(kind)
    draw = rng.random(shape)
    masks = {
        "train": draw < 0.2,
        "validation": (draw >= 0.2) & (draw < 0.25) & validation,
        "test": (draw >= 0.3) & ((truth < n_classes) | (n_classes < 3)),
    }
    masks = {name: np.where(mask, truth, 0).astype(kind) for name, mask in masks.items()}
    wrong = rng.random(shape) < 0.125
    prediction = np.where(wrong, rng.integers(1, n_classes + 1, shape), labels).astype(kind)
    prediction[0] = 0
    confidence = np.where(prediction > 0, rng.uniform(0.2, 1, shape), 0).astype(np.float16)

    tested = masks["test"] > 0
    confusion = confusion_matrix(masks["test"][tested].astype(int) - 1, prediction[tested].astype(int) - 1, n_classes)
    result = scores(confusion)
    right = (masks["test"] == prediction)[tested]
    blocks = square_blocks((height, width), 4).astype(np.int32)
    of = (masks["test"], prediction, blocks)
    target, predicted, block = (values[tested].astype(np.int64) for values in of)
    counts = block_counts(target - 1, predicted - 1, block, blocks.max() + 1, n_classes)
    n_train, n_test = int((masks["train"] > 0).sum()), int(tested.sum())
    options = {"dim": 64, "scales": [2 * i + 1 for i in reversed(range(n_scales))]}
    protocol = {
        "scene": scene,
        "fingerprints": {"cube": "c0" * 32, "ground_truth": "91" * 32, "masks": "3a" * 32, "split": "5b" * 32},
        "split": "fixed masks",
        "notes": ["the masks leave out 139 pixels that the ground truth labels"],
        "n_validation": int((masks["validation"] > 0).sum()),
        "normalize": "zscore",
        "fit_on": "scene",
        "pca": 0,
        "audit": {"patch_size": 7, "train_pixel_in_window": 0.789, "distance_median": 2.0},
        "model": {"name": "MiM-v1", "n_bands": 200, "n_classes": n_classes, "patch_size": 7, "options": options},
        "recipe": {"epochs": n_epochs, "lr": 0.00123, "weight_decay": 0.005, "class_weights": None},
        "augmentation": {"flip": True, "radiation": False},
        "batch_size": 64,
        "seed": 4,
        "weights": "last",
        "restored_from": None,
        "machine": {"python": "3.11.7", "torch": "2.13.0", "device": "cpu: x86_64", "git_commit": None},
        "something_new": 17,
    }
    metrics = results.score_entries(result, confusion, names) | {
        "palette": [PALETTE[i % len(PALETTE)] for i in range(n_classes)],
        "intervals": {"of": "blocks of 4 x 4 pixels"} | score_intervals(counts),
        "calibration": calibration(right, confidence[tested]),
        "accuracy_by_coverage": accuracy_by_coverage(right, confidence[tested]),
        "accuracy_by_distance": accuracy_by_distance(rng.random(500) < 0.9, rng.integers(1, 15, 500)),
        "n_train": n_train,
        "n_test": n_test,
        "n_parameters": 87952,
        "flops_per_patch": 8481792,
        "seconds": {"train": 93.4, "predict": 2.01},
        "protocol": protocol,
    }
    sentences = [
        *(f"FAULT: {fault}." for fault in faults),
        "No pixel both trains and tests.",
        "Verdict: with windows of 7 x 7.",
    ]
    records = [
        {
            "epoch": epoch,
            "lr": 0.001 / epoch,
            "loss": 2.5 / epoch,
            "scale_losses": [2.5 / epoch + 0.2 * scale for scale in range(n_scales)],
            "train_accuracy": 1 - 0.8 / epoch,
            "val_accuracy": 1 - 0.9 / epoch if validation else None,
            "seconds": 0.25,
        }
        for epoch in range(1, n_epochs + 1)
    ]
    folder.mkdir(parents=True)
    results.write_array(folder / "prediction.npy", prediction)
    colours = (80 * rng.random((height, width, 3)) + 40 * (labels % 4)[..., None]).astype(np.uint8)
    further = {"blocks": blocks}
    if validation:
        further["sets"] = prediction_sets(rng.dirichlet(np.full(n_classes, 0.3), shape).reshape(-1, n_classes), 0.2)
        further["sets"] = further["sets"].reshape(*shape, n_classes)
        further["sets"][0] = False
        measured = set_scores(further["sets"][tested], target - 1) | {"coverage_interval": (0.7, 0.9)}
        metrics |= {"temperature": 1.25, "conformal": {"risk": 0.1, "n_validation": 40, "threshold": 0.2} | measured}
    write_maps(folder, truth=truth, **masks, confidence=confidence, false_colour=colours, **further)
    results.write_json(folder / "audit.json", {"sentences": sentences})
    results.write_json(folder / "metrics.json", metrics)
    results.write_json(folder / "config.json", {"config": CONFIG.as_json(), "protocol": protocol})
    (folder / "log.jsonl").write_text("".join(f"{results.json.dumps(record)}\n" for record in records))
    return Run.read(folder)
