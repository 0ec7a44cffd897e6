"""Compare training recipes by cross-validation on the training pixels alone; the test mask is never opened.

python -m benchmarks.recipe --model MiM-v1 --dataset IndianPines --epochs 60 --folds 3
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold

from datasets import load_scene
from engine import TrainConfig, evaluate, train
from metrics import scores
from models import MODELS, create_model
from patches import Augmentation, PatchLoader, labelled_pixels
from preprocessing import fit_preprocessing
from reporting.live.monitor import Monitor
from splits.fixed_masks import load_split
from utils import seed_everything

# name: (changes to the recipe, augmentation, the model's options)
RECIPES = {
    "default": ({}, Augmentation(), {}),
    "lr 5e-4": ({"lr": 5e-4}, Augmentation(), {}),
    "lr 2e-3": ({"lr": 2e-3}, Augmentation(), {}),
    "weight decay 5e-2": ({"weight_decay": 5e-2}, Augmentation(), {}),
    "no label smoothing": ({"label_smoothing": 0.0}, Augmentation(), {}),
    "no flips": ({}, Augmentation(flip=False), {}),
    "no dropout": ({}, Augmentation(), {"dropout": 0.0}),
    "radiation noise": ({}, Augmentation(radiation=True), {}),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="MiM-v1")
    parser.add_argument("--dataset", default="IndianPines")
    parser.add_argument("--folder", type=Path, default=Path("Datasets"))
    parser.add_argument("--patch_size", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    args = parser.parse_args()

    scene = load_scene(args.dataset, args.folder)
    assert scene.cube is not None
    home = args.folder / scene.spec.folder
    split = load_split(home / "TRAIN_GT.mat", home / "TEST_GT.mat", scene)  # checks the masks; split.test stays unused
    cube = torch.from_numpy(fit_preprocessing(scene.cube, split.train)(scene.cube)).permute(2, 0, 1)
    pixels, targets = labelled_pixels(torch.from_numpy(split.train))
    folds = list(StratifiedKFold(args.folds, shuffle=True, random_state=0).split(pixels, targets))
    print(f"{args.model}, {len(pixels)} training pixels of {scene.spec.name}, {args.folds} folds, {args.epochs} epochs")
    for name in args.recipes:
        changes, augmentation, options = RECIPES[name]
        confusions = []
        for fold, (kept, held) in enumerate(folds):
            seed_everything(fold)
            sizes = {"n_bands": len(cube), "n_classes": split.n_classes, "patch_size": args.patch_size}
            model = create_model(args.model, **sizes, **options)
            common = {"patch_size": args.patch_size, "batch_size": 64}
            generator = torch.Generator().manual_seed(fold)
            loader = PatchLoader(cube, pixels[kept], targets[kept], **common, generator=generator, augment=augmentation)
            train(model, loader, None, replace(TrainConfig(args.epochs), **changes), Monitor())
            confusions.append(evaluate(model, PatchLoader(cube, pixels[held], targets[held], **common)))
        each = np.array([100 * scores(confusion).overall_accuracy for confusion in confusions])
        print(f"{name:<22} OA {each.mean():6.2f}  (folds {' '.join(f'{value:.2f}' for value in each)})", flush=True)


if __name__ == "__main__":
    main()
