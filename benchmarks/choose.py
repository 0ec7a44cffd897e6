"""Compare settings of a run by blocked cross-validation within its training pixels; no test pixel is looked at.

python -m benchmarks.choose "--spectral none" "--spectral snv" "--spectral snv --context gaussian" -- --model CNN

Each argument before the -- is a candidate: flags of main.py that are added to those after it, which also name the split
whose training pixels are used. These are cut into blocks, which are dealt to folds; one fold is held out at a time, and
training pixels nearer to it than the buffer, the largest patch size of the candidates, are dropped. A context omits
pixels nearer than that to those that train. A line is printed for each candidate when it is done, and kept with
--json, so that the command resumes where it stopped.
"""

import argparse
import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import distance_transform_cdt

import engine
from cli.arguments import parse
from datasets import load_scene
from mapping import predict
from metrics import confusion_matrix, scores
from patches import labelled_pixels
from reporting.live.monitor import Monitor
from splits.leakage import distance_to
from splits.spatial_cv import assign_blocks
from splits.split import WITH_FOLDS, Split
from training.config import RunConfig
from training.prepare import prepare
from training.run import train
from utils import keep_freed_memory, write_atomically


def held_out(split: Split, n_folds: int, buffer: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut the training pixels into folds of blocks.

    Args:
        split: of which only the training pixels are used.
        n_folds: number of folds.
        buffer: chessboard distance in pixels from which a pixel may train.
    Returns:
        Label maps (H, W) of the pixels that train and of those that are held out, for each fold in which a class is on
        both sides; classes that are not are left out of the second.
    """
    folds = assign_blocks(split.train, n_folds, 2 * buffer)
    pairs = []
    for fold in range(n_folds):
        held = np.where(folds == fold, split.train, 0)
        near = np.asarray(distance_transform_cdt(held == 0, "chessboard")) < buffer
        kept = np.where(near, 0, split.train)
        held = np.where(np.isin(held, np.unique(kept[kept > 0])), held, 0)
        if held.any():
            pairs.append((kept, held))
    return pairs


def measure(config: RunConfig, n_folds: int, buffer: int) -> dict:
    """Train and score one candidate in every fold; fractions, and seconds of training a fold."""
    options = {"need_gt": config.sampling_mode is not None, "drop_bands": config.drop_bands}
    scene = load_scene(config.dataset, config.folder, **options)
    normalised: dict = {}
    confusions, seconds = [], []
    job = prepare(config, scene, torch.device("cpu"), normalised)
    for kept, held in held_out(job.split, n_folds, buffer):
        job = prepare(config, scene, torch.device("cpu"), normalised)  # the same initial weights in every fold
        job = replace(job, split=replace(job.split, train=kept, test=held, validation=None))
        if job.surroundings is not None:
            counts = distance_to(kept) >= buffer
            counts &= True if scene.valid is None else scene.valid
            job.surroundings = replace(job.surroundings, valid=torch.from_numpy(counts))
        started = time.perf_counter()
        engine.exhaust(train(job, Monitor(), None))
        seconds.append(time.perf_counter() - started)
        pixels, targets = labelled_pixels(torch.from_numpy(held))
        found = predict(job.model, job.cube, pixels, precision=config.precision, surroundings=job.surroundings)
        confusions.append(confusion_matrix(targets.numpy(), found.argmax(1).numpy(), job.split.n_classes))
    total = scores(np.sum(confusions, axis=0))
    return {
        "overall_accuracy": total.overall_accuracy,
        "average_accuracy": total.average_accuracy,
        "of_folds": [scores(each).overall_accuracy for each in confusions],
        "n_held_out": int(np.sum(confusions)),
        "seconds": float(np.mean(seconds)),
    }


def main():
    ours, theirs = sys.argv[1:], []
    if "--" in ours:
        theirs = ours[ours.index("--") + 1 :]
        ours = ours[: ours.index("--")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=5, help="of blocks, into which the training pixels are cut")
    parser.add_argument("--json", type=Path, help="keep the results here")
    parser.add_argument("candidates", nargs="+", help='flags of main.py, such as "--spectral snv"')
    # a candidate begins with a hyphen, which argparse takes for a flag of its own
    own = ("-h", "--help", "--folds", "--json")
    args = parser.parse_args([f" {each}" if each[:1] == "-" and each not in own else each for each in ours])
    keep_freed_memory()
    commands = {each.strip(): parse([*theirs, *shlex.split(each)]).configs for each in args.candidates}
    buffer = max(config.patch_size for configs in commands.values() for config in configs)
    kept = json.loads(args.json.read_text()) if args.json and args.json.exists() else []
    for candidate, configs in commands.items():
        for config in configs:
            if config.sampling_mode in WITH_FOLDS:
                config = replace(config, buffer=max(config.buffer or 0, buffer))  # the same pixels for all
            facts = {"candidate": candidate, "settings": config.as_json(), "folds": args.folds, "buffer": buffer}
            facts = json.loads(json.dumps(facts))
            done = next((row for row in kept if {name: row[name] for name in facts} == facts), None)
            if done is None:
                done = facts | measure(config, args.folds, buffer)
                kept.append(done)
                if args.json:
                    write_atomically(args.json, json.dumps(kept, indent=1) + "\n")
            scored = f"OA {100 * done['overall_accuracy']:5.2f} AA {100 * done['average_accuracy']:5.2f}"
            of = f"of {done['n_held_out']} pixels, {done['seconds']:.0f} s a fold"
            print(f"{config.model:<10} seed {config.seed} {candidate:<44} {scored} {of}", flush=True)


if __name__ == "__main__":
    main()
