"""The flags of the command line: names, help, defaults."""

import argparse
from dataclasses import fields
from pathlib import Path

from engine import PRECISIONS
from models import MODELS
from models.options import MiMOptions
from preprocessing import FIT_ON, NORMALIZATIONS
from scenes.catalogue import SCENES
from utils import InputError

FORMATS = ("text", "csv", "markdown", "latex")
VISDOM_URL = "http://localhost:8097"
FOR_PREDICT = {
    "key": {"metavar": "VARIABLE", "help": "the cube's variable in the file of --predict, where it holds several"},
    "resample": {"action": "store_true", "help": "--predict: interpolate the bands by their wavelengths"},
    "probabilities": {"action": "store_true", "help": "--predict: write probabilities and entropy (nats) as well"},
    "block_rows": {
        "type": int,
        "metavar": "N",
        "help": "--predict: rows in memory at a time (default: 64 MiB of them)",
    },
    "map_format": {
        "choices": ("envi", "geotiff"),
        "help": "--predict: of the maps (default: the file's, else ENVI)",
    },
}

FOR_COMPARE = {
    "format": {"choices": FORMATS, "default": "text", "help": "--compare: of the table"},
    "mixed_protocols": {"action": "store_true", "help": "--compare: mark different protocols instead of refusing them"},
}


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action):
        told = action.default is None or "(default" in action.help
        return action.help if told else super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(f"{message}; `python main.py --help` lists the flags")


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of main.py."""
    parser = _Parser(
        prog="main.py",
        description="Classify hyperspectral scenes with the Mamba-in-Mamba models.",
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    _add_modes(parser.add_argument_group("modes without training"))
    _add_data(parser.add_argument_group("scene, split and normalisation"))
    _add_training(parser.add_argument_group("training"))
    _add_model_parts(parser.add_argument_group("the model's parts (a model that lacks one says so)"))
    _add_running(parser.add_argument_group("running"))
    return parser


def _add_modes(group):
    group.add_argument("--download", nargs="+", metavar="NAME", help="fetch these scenes into --folder and stop")
    group.add_argument("--doctor", action="store_true", help="show what this machine can run, check the scan, and stop")
    group.add_argument(
        "--describe",
        metavar="SCENE_OR_FILE",
        help="show what a scene, a file or a folder of files holds, suggest a scene.toml for it, and stop",
    )
    group.add_argument(
        "--predict",
        metavar="SCENE",
        help="map a scene or a file (ENVI, GeoTIFF, .npy, .mat) with the model of --restore and stop; needs no labels",
    )
    group.add_argument(
        "--audit",
        action="store_true",
        help="examine the split (overlap, shared windows, distances, duplicates, numbering) and stop; "
        "with --output DIR write audit.json, audit.png and audit.pdf there",
    )
    group.add_argument(
        "--augment",
        type=float,
        metavar="FACTOR",
        help="write the scene of --dataset as Augmented_NAME, with FACTOR times the training pixels, and stop",
    )
    group.add_argument(
        "--compare",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="put runs side by side, as mean and deviation over their seeds, and stop: folders of runs, folders above "
        "them, metrics.json or results.csv",
    )
    for name, keywords in (FOR_PREDICT | FOR_COMPARE).items():
        group.add_argument(f"--{name}", **keywords)
    group.add_argument(
        "--report",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="draw the pictures and write report.html of finished runs' folders again, and stop",
    )
    group.add_argument(
        "--figures",
        type=Path,
        metavar="RUN",
        help="draw the inside of a finished run's network into RUN/figures (features, scan orders and weights, decay "
        "masks, token attention), as PNG and PDF, and stop",
    )
    group.add_argument("--resume", type=Path, metavar="RUN", help="go on with an interrupted run's folder")


def _add_data(group):
    group.add_argument(
        "--dataset",
        nargs="+",
        metavar="NAME",
        help=f"scene, or several for a sweep: {', '.join(SCENES)}, or one of your own: "
        "a folder in --folder, or a path, with a scene.toml; case, - and _ do not matter",
    )
    group.add_argument("--folder", type=Path, default=Path("Datasets"), help="data root, one subfolder per scene")
    group.add_argument(
        "--train_set",
        type=Path,
        metavar="FILE",
        help="fixed training mask: the array TR, or the only label map in the file",
    )
    group.add_argument(
        "--test_set", type=Path, metavar="FILE", help="fixed test mask: the array TE, or the only label map in the file"
    )
    group.add_argument(
        "--sampling_mode",
        choices=("random", "fixed", "disjoint", "buffered"),
        help="draw the split from the ground truth: a share of each class, a number per class, a share of each "
        "class on one side of a line, or one fold of blocks with a guard between the windows; without it the scene's "
        "fixed masks are used if they are there, else random",
    )
    group.add_argument(
        "--training_sample",
        type=float,
        help="share of each class (0.1 where not given), with fixed the number (50), with buffered the most (all)",
    )
    group.add_argument("--folds", type=int, default=5, metavar="K", help="folds of --sampling_mode buffered")
    group.add_argument(
        "--fold", type=int, metavar="I", help="the fold that tests, from 0 (default: the seed modulo --folds)"
    )
    group.add_argument(
        "--block_size", type=int, metavar="N", help="side of its blocks in pixels (default: chosen from the scene)"
    )
    group.add_argument(
        "--val_fraction", type=float, default=0.0, help="share of each class's training pixels held out for validation"
    )
    group.add_argument("--normalize", choices=NORMALIZATIONS, default="zscore", help="normalisation of each band")
    group.add_argument(
        "--pca", type=int, default=0, metavar="N", help="reduce to N whitened components; 0 keeps the bands"
    )
    group.add_argument("--fit_on", choices=FIT_ON, default="scene", help="pixels that fit normalisation and PCA")
    group.add_argument(
        "--border",
        choices=("mirror", "skip"),
        default="mirror",
        help="mirror the scene at its edge, or leave out the pixels whose window would cross it",
    )


def _add_training(group):
    switch = argparse.BooleanOptionalAction
    group.add_argument(
        "--model",
        nargs="+",
        default=["MiM-v1"],
        metavar="NAME",
        help=f"{', '.join(MODELS)}, or several for a sweep; case, - and _ do not matter (default: MiM-v1)",
    )
    group.add_argument(
        "--patch_size",
        nargs="+",
        type=int,
        default=[7],
        metavar="P",
        help="side of the window round a pixel, odd, or several for a sweep (default: 7)",
    )
    group.add_argument("--epoch", type=int, default=150, help="passes over the training pixels")
    group.add_argument("--batch_size", type=int, default=64, help="patches per training step, at most")
    group.add_argument("--lr", type=float, default=1e-3, help="highest learning rate of the one-cycle schedule")
    group.add_argument("--class_balancing", action="store_true", help="weigh the classes inversely to their frequency")
    group.add_argument(
        "--flip_augmentation", action=switch, default=True, help="random mirror images and rotations of the patches"
    )
    group.add_argument("--radiation_augmentation", action="store_true", help="random brightness and noise")
    group.add_argument("--mixture_augmentation", action="store_true", help="random mixtures within a class, and noise")
    group.add_argument("--restore", type=Path, metavar="CHECKPOINT", help="start from these weights")
    group.add_argument(
        "--weights",
        choices=("last", "best"),
        default="last",
        help="evaluate the last epoch's, or the best in validation",
    )


def _add_model_parts(group):
    for option in fields(MiMOptions):
        own = {
            name: getattr(model.defaults, option.name)
            for name, model in MODELS.items()
            if hasattr(model.defaults, option.name)
        }
        values = dict.fromkeys(map(_as_typed, own.values()))
        if option.name == "scales":
            default = "MiM-v1 p-2 ... 3 1, MiM-v2 p p-2 ... 3 1, MiM-v3 p"
        elif len(values) == 1:
            default = next(iter(values))
        else:
            default = ", ".join(f"{name} {_as_typed(value)}" for name, value in own.items())
        keywords = {"help": f"{option.metadata['help']} (default: {default})", "default": argparse.SUPPRESS}
        if option.name == "separate_types":
            keywords["action"] = "store_true"
        elif option.name in ("scan_types", "scales"):
            keywords |= {"nargs": "+", "type": int, "metavar": "N"}
        elif "choices" in option.metadata:
            keywords["choices"] = option.metadata["choices"]
        else:
            keywords["type"] = type(option.default)
        group.add_argument(f"--{option.name}", **keywords)


def _as_typed(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _add_running(group):
    group.add_argument(
        "--cuda", type=int, metavar="N", help="GPU to use, -1 = the CPU (default: the first GPU, else the CPU)"
    )
    group.add_argument("--seed", type=int, default=0, help="seed of the first run")
    group.add_argument("--runs", type=int, default=1, help="number of runs, with the seeds seed, seed + 1, ...")
    group.add_argument(
        "--again", action="store_true", help="of several runs, train those anew as well that are done already"
    )
    group.add_argument(
        "--data_parallel",
        action="store_true",
        help="under torchrun, split each batch of a run over the processes, instead of the runs",
    )
    group.add_argument("--output", type=Path, default=Path("runs"), help="where the runs' folders and results.csv go")
    group.add_argument(
        "--precision", choices=tuple(PRECISIONS), default="float32", help="of the layers; the scan is float32"
    )
    group.add_argument("--test_stride", type=int, default=1, metavar="N", help="map every N-th pixel and fill between")
    group.add_argument(
        "--with_exploration",
        action="store_true",
        help="draw the training pixels' spectra, class by class, into the run's folder, and show them in visdom",
    )
    group.add_argument(
        "--visdom",
        nargs="?",
        const=VISDOM_URL,
        default=VISDOM_URL,
        metavar="URL",
        help="server for the live view, or off",
    )
