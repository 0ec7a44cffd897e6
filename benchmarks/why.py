"""Measure why networks differ on land that they have not seen, and make docs/why.md from it.

`python -m benchmarks.why --folder DATA` trains each subject on the five spatial folds of Indian Pines, at most 50
training pixels a class, and looks at its errors on the fold that is left out. Results are kept as they come, so the
command resumes where it stopped; with `--page` it only makes the tables and pictures again. This is a diagnosis: it
looks at test pixels, so no setting is chosen by it.
"""

import argparse
import json
import shlex
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import distance_transform_cdt
from torch import Tensor

import engine
from benchmarks.why_page import NETWORKS, write_page
from certainty import calibration
from cli.arguments import parse
from datasets import load_scene
from mapping import predict
from metrics import accuracy_by_distance, confusion_matrix, scores
from models.base import PatchClassifier
from patches import PatchLoader
from reporting.live.monitor import Monitor
from splits.leakage import distance_to
from training.prepare import Job, prepare
from training.run import train
from utils import keep_freed_memory, write_atomically

KEPT = Path(__file__).resolve().parent / "results" / "why.json"
COMMON = "--dataset IndianPines --sampling_mode spatial --training_sample 50 --epoch 100 --context gaussian --cuda -1"
PARTS = ("--stem full", "--scan whole", "--tokens pooled", "--decay none", "--scan_types 1", "--scales 1")
SUBJECTS = (
    *(f"--model {name} --spectral {spectral}" for spectral in ("none", "snv") for name in NETWORKS),
    *(f"--model MiM-v1 --spectral snv {part}" for part in PARTS),
    f"--model MiM-v1 --spectral snv {' '.join(PARTS[:3])} --scales 1",
)
LAGS = range(1, 11)  # pixels between two of which the errors are compared
FOLDS, CURVE_EVERY, CURVE_PIXELS, N_PATCHES = 5, 10, 1000, 512


class Curve(Monitor):
    """Score some test pixels while a network trains."""

    def __init__(self, job: Job):
        pixels = np.argwhere(job.split.test)
        drawn = np.random.default_rng(0).permutation(len(pixels))[:CURVE_PIXELS]
        mask = np.zeros_like(job.split.test)
        mask[tuple(pixels[drawn].T)] = job.split.test[tuple(pixels[drawn].T)]
        self.loader, self.points = job.loader(mask), []

    def epoch(self, record: dict, model) -> None:
        if record["epoch"] % CURVE_EVERY == 0 or record["epoch"] == 1:
            unseen = scores(engine.evaluate(model, self.loader)).overall_accuracy
            self.points.append([record["epoch"], record["train_accuracy"], unseen])


def correlation_by_lag(wrong: np.ndarray, tested: np.ndarray) -> list[float]:
    """Correlate the errors of test pixels that are LAGS pixels apart along a row or a column.

    Args:
        wrong, tested: (H, W) bool.
    Returns:
        Pearson's correlation of the two error indicators for each lag; NaN without errors or without pairs.
    """
    values = np.where(tested, wrong, np.nan) - wrong[tested].mean()
    variance = np.nanmean(values**2)
    pairs = (
        np.concatenate([(values[lag:] * values[:-lag]).ravel(), (values[:, lag:] * values[:, :-lag]).ravel()])
        for lag in LAGS
    )
    return [
        float(np.nanmean(each) / variance) if variance and np.isfinite(each).any() else float("nan") for each in pairs
    ]


def edge_distance(gt: np.ndarray) -> np.ndarray:
    """Compute how far inside its field each pixel is: chessboard distance to the nearest pixel of another label."""
    distance = np.zeros(gt.shape, dtype=np.int64)
    for label in np.unique(gt[gt > 0]):
        distance += np.asarray(distance_transform_cdt(np.pad(gt == label, 1), "chessboard"), dtype=np.int64)[1:-1, 1:-1]
    return distance


def influence(model: PatchClassifier, patches: Tensor) -> np.ndarray:
    """Measure how much each pixel of a patch moves the answer.

    Args:
        model: in evaluation mode.
        patches: (n, n_bands, P, P).
    Returns:
        (P, P), sum 1: the norm over the bands of the gradient of the log-probability of the predicted class, mean over
        the patches.
    """
    patches = patches.clone().requires_grad_()
    model(patches).max(1).values.sum().backward()
    assert patches.grad is not None
    norm = patches.grad.norm(dim=1).mean(0)
    return (norm / norm.sum()).numpy()


@torch.no_grad()
def without(model: PatchClassifier, patches: Tensor, targets: Tensor) -> dict[str, float]:
    """Score patches as they are, with the centre pixel everywhere, and with the centre replaced by its neighbours."""
    centre = patches.shape[2] // 2
    alone = patches[:, :, centre : centre + 1, centre : centre + 1].expand_as(patches)
    around = patches.clone()
    near = patches[:, :, centre - 1 : centre + 2, centre - 1 : centre + 2].sum((2, 3)) - patches[:, :, centre, centre]
    around[:, :, centre, centre] = near / 8
    variants = {"patch": patches, "centre_alone": alone, "without_centre": around}
    return {name: float((model(each).argmax(1) == targets).float().mean()) for name, each in variants.items()}


def measure(subject: str, folder: Path, fold: int) -> dict:
    """Train a subject on a fold, and measure its errors on the pixels that are left out."""
    (config,) = parse(shlex.split(f"{COMMON} {subject} --seed {fold} --folder {shlex.quote(str(folder))}")).configs
    scene = load_scene(config.dataset, config.folder, need_gt=True)
    job = prepare(config, scene, torch.device("cpu"))
    curve = Curve(job)
    engine.exhaust(train(job, curve, None))
    assert scene.gt is not None  # asked for above
    tested = job.split.test > 0
    truth = job.split.test[tested] - 1
    pixels = torch.from_numpy(np.argwhere(tested))
    found = predict(job.model, job.cube, pixels).numpy()
    averaged = predict(job.model, job.cube, pixels, surroundings=job.surroundings).numpy()
    right = found.argmax(1) == truth
    wrong = np.zeros(tested.shape, dtype=bool)
    wrong[tested] = ~right
    drawn = np.random.default_rng(0).permutation(len(pixels))[:N_PATCHES]
    cube, size = job.cube.permute(2, 0, 1), config.patch_size
    (patches,) = PatchLoader(cube, pixels[drawn], patch_size=size, batch_size=N_PATCHES)
    assert isinstance(patches, Tensor)  # without targets
    accuracy = scores(confusion_matrix(truth, found.argmax(1), job.split.n_classes))
    with engine.eval_mode(job.model):
        return {
            "overall_accuracy": accuracy.overall_accuracy,
            "average_accuracy": accuracy.average_accuracy,
            "with_context": float((averaged.argmax(1) == truth).mean()),
            "mean_confidence": float(found.max(1).mean()),
            "calibration_error": calibration(right, found.max(1))["expected_calibration_error"],
            "curve": curve.points,
            "error_correlation": correlation_by_lag(wrong, tested),
            "by_edge": accuracy_by_distance(right, edge_distance(scene.gt)[tested]),
            "by_training": accuracy_by_distance(right, distance_to(job.split.train)[tested]),
            "influence": influence(job.model, patches).tolist(),
            "without": without(job.model, patches, torch.from_numpy(truth[drawn].astype(np.int64))),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("Datasets"), help="data root with IndianPines")
    parser.add_argument("--page", action="store_true", help="only make docs/why.md again")
    args = parser.parse_args()
    keep_freed_memory()
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else []
    for fold in range(FOLDS) if not args.page else ():
        for subject in SUBJECTS:
            facts = {"subject": subject, "common": COMMON, "fold": fold}
            if any({name: row[name] for name in facts} == facts for row in kept):
                continue
            kept.append(facts | measure(subject, args.folder, fold))
            write_atomically(KEPT, json.dumps(kept, indent=1) + "\n")
            last = kept[-1]
            scored = f"OA {100 * last['overall_accuracy']:.2f}, with context {100 * last['with_context']:.2f}"
            print(f"fold {fold} {subject}: {scored}", flush=True)
    write_page(kept)


if __name__ == "__main__":
    main()
