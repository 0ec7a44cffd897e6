"""The flags of the command line. Those of a run's settings and of a model's parts are made from their dataclasses."""

import argparse
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from models import MODELS
from models.options import MiMOptions
from scenes.catalogue import SCENES
from training.config import RunConfig
from training.settings import GROUPS
from utils import InputError, did_you_mean

TABLE_FORMATS = ("text", "csv", "markdown", "latex")
SPLIT_FLAGS = ("sampling_mode", "training_sample", "min_pixels", "folds", "fold", "block_size", "buffer")
MASK_FLAGS = ("train_set", "test_set", "train_key", "test_key")
WINDOW_FLAGS = ("patch_size", "context", "context_size")
SCENE_AND_SPLIT = frozenset(("dataset", "folder", *MASK_FLAGS, "drop_bands", "seed", *WINDOW_FLAGS, *SPLIT_FLAGS))
PREPROCESSING = frozenset(("spectral", "normalize", "fit_on", "pca"))


@dataclass(frozen=True)
class Mode:
    """A flag that makes main.py do something else than train, and then stop.

    Attributes:
        flag: what argparse takes for the mode's own flag.
        takes: names of the settings and parts that the mode uses, of those that a training run has too.
        more: further flags of this mode alone, by name, with what argparse takes for them.
        defaults: what settings are if they are not given, if it is not as for a training run.
        aliases: earlier names of the flag.
    """

    flag: dict[str, Any]
    takes: frozenset[str] = frozenset()
    more: dict[str, dict[str, Any]] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()


MODES = {
    "download": Mode(
        {"nargs": "+", "metavar": "NAME", "help": "fetch these scenes into --folder"}, takes=frozenset(["folder"])
    ),
    "doctor": Mode(
        {"action": "store_true", "help": "show what this machine can run, and check the scan"},
        takes=frozenset(["folder", "visdom"]),
    ),
    "describe": Mode(
        {
            "metavar": "SCENE_OR_FILE",
            "help": "show what a scene, a file or a folder of files holds, and suggest a scene.toml for it",
        },
        takes=frozenset(["folder"]),
    ),
    "audit": Mode(
        {
            "action": "store_true",
            "help": "examine the split (overlap, shared windows, distances, duplicates, numbering); with --output DIR "
            "write audit.json, audit.png and audit.pdf there",
        },
        takes=SCENE_AND_SPLIT | PREPROCESSING | {"output"},
        defaults={"output": None},
    ),
    "augment": Mode(
        {
            "type": float,
            "metavar": "FACTOR",
            "help": "write the scene of --dataset as Augmented_NAME, with FACTOR times the training pixels",
        },
        takes=SCENE_AND_SPLIT,
    ),
    "predict": Mode(
        {
            "metavar": "SCENE",
            "help": "map a scene or a file (ENVI, GeoTIFF, .npy, .mat) with the model of --restore; needs no labels",
        },
        takes=frozenset(
            ["restore", "folder", "output", "cuda", "precision", "test_stride", "conformal", "max_minutes"]
        ),
        more={
            "cube_key": {
                "metavar": "VARIABLE",
                "help": "the cube's variable in the file of --predict, if it holds several",
                "aliases": ("key",),
            },
            "bands_axis": {
                "choices": ("first", "last"),
                "help": "--predict: where the bands of an array are, if their number does not tell",
            },
            "no_ortho": {
                "action": "store_true",
                "help": "--predict: leave the map as the sensor saw the scene, not on the grid of its product",
            },
            "resample": {"action": "store_true", "help": "--predict: interpolate the bands by their wavelengths"},
            "probabilities": {
                "action": "store_true",
                "help": "--predict: write class probabilities and entropy (nats) too",
            },
            "block_rows": {
                "type": int,
                "metavar": "N",
                "help": "--predict: rows in memory at a time (default: 64 MiB of them)",
            },
            "map_format": {
                "choices": ("envi", "geotiff"),
                "help": "--predict: format of the maps (default: that of the input, else envi)",
            },
        },
    ),
    "interpret": Mode(
        {
            "type": Path,
            "metavar": "RUN",
            "help": "draw a finished run's features, scan orders and weights, decay masks and token attention into "
            "RUN/figures",
        },
        takes=frozenset(["folder", "cuda", "seed"]),
        defaults={"folder": None},  # as the run had it
        aliases=("figures",),
    ),
    "report": Mode(
        {
            "nargs": "+",
            "type": Path,
            "metavar": "RUN",
            "help": "draw the pictures and write report.html of finished runs' folders again",
        }
    ),
    "compare": Mode(
        {
            "nargs": "+",
            "type": Path,
            "metavar": "RUN",
            "help": "put runs side by side, with mean and standard deviation over their seeds: folders of runs, "
            "folders above them, metrics.json or results.csv",
        },
        more={
            "table_format": {
                "choices": TABLE_FORMATS,
                "default": "text",
                "help": "--compare: format of the table",
                "aliases": ("format",),
            },
            "mixed_protocols": {
                "action": "store_true",
                "help": "--compare: mark different protocols instead of refusing them",
            },
        },
    ),
    "resume": Mode(
        {"type": Path, "metavar": "RUN", "help": "resume an interrupted run from its folder"},
        takes=frozenset(["cuda", "visdom", "scan_backend", "max_minutes"]),
        more={
            "other_versions": {
                "action": "store_true",
                "help": "--resume: go on with another version of PyTorch or of the code than the run began with",
            },
        },
        defaults={"visdom": None},  # as the run had it
    ),
    "verify": Mode(
        {
            "type": Path,
            "metavar": "RUN",
            "help": "compute the scores of a finished run's folder again, predict 500 pixels again with its "
            "checkpoint, and compare; exit code 2 if anything differs",
        },
        takes=frozenset(["folder", "cuda"]),
        defaults={"folder": None},  # as the run had it
    ),
}
MANY_RUNS = {  # of a command that trains, not of one run
    "runs": {"type": int, "default": 1, "metavar": "N", "help": "number of runs, with the seeds seed, seed + 1, ..."},
    "rerun": {
        "action": "store_true",
        "help": "of several runs, train those again that are finished",
        "aliases": ("again",),
    },
    "max_minutes": {
        "type": float,
        "metavar": "M",
        "help": "stop M minutes after the start, with the state saved, and exit with code 124; the same command of "
        "several runs, or --resume, goes on",
    },
}
EVERY_MODE: dict[str, dict[str, Any]] = {  # of every command
    "max_gigabytes": {
        "type": float,
        "metavar": "N",
        "help": "memory that the content of a file may take (default: 0.27 or, if that is more, 100 times the size of "
        "the file, and at most half of what this process may use)",
    },
}
SWEPT = tuple(each.name for each in fields(RunConfig) if each.metadata.get("swept"))
OPTIONS = {each.name: each for model in MODELS.values() for each in fields(model.options)}  # by name
OPTIONS |= {each.name: each for each in fields(MiMOptions)}  # whose help is the one to show
MODEL_PARTS = tuple(OPTIONS)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        word = message.removeprefix("unrecognized arguments: ").split(" ")[0].split("=")[0]
        hint = ""
        if word != message and word.startswith("--"):
            known = [name.removeprefix("--") for action in self._actions for name in action.option_strings]
            hint = did_you_mean(word.removeprefix("--"), known).replace("did you mean ", "did you mean --")
        raise InputError(f"{message}{hint}; `python main.py --help` lists the flags")


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of main.py. It gives the flags that were typed alone; `defaults` has the rest."""
    parser = _Parser(
        prog="main.py",
        description="Classify hyperspectral scenes with the Mamba-in-Mamba models.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    group = parser.add_argument_group("modes without training (main.py does this and stops)")
    for name, mode in MODES.items():
        _add(group, name, mode.flag | {"aliases": mode.aliases})
        for each, keywords in mode.more.items():
            _add(group, each, keywords)
    for title in GROUPS:
        group = parser.add_argument_group(title)
        for setting in fields(RunConfig):
            if setting.metadata.get("group") == title:
                _add(group, setting.name, _of_setting(setting))
    for name, keywords in (MANY_RUNS | EVERY_MODE).items():
        _add(group, name, keywords)
    group = parser.add_argument_group("the model's parts (a model that lacks one says so)")
    for option in OPTIONS.values():
        _add(group, option.name, _of_option(option))
    return parser


def defaults(mode: str | None) -> dict[str, Any]:
    """Give the values of all flags, the model's parts apart, that are not typed.

    Args:
        mode: a key of MODES, or None for a training run.
    """
    values = {each.name: each.default for each in fields(RunConfig) if each.default is not MISSING}
    for name, keywords in _others().items():
        values[name] = keywords.get("default", False if keywords.get("action") == "store_true" else None)
    return values | (MODES[mode].defaults if mode else {})


def _others() -> dict[str, dict[str, Any]]:
    """Give the flags that are no settings of a run."""
    own = {name: mode.flag for name, mode in MODES.items()}
    more = {name: keywords for mode in MODES.values() for name, keywords in mode.more.items()}
    return own | more | MANY_RUNS | EVERY_MODE


def _add(group, name: str, keywords: dict[str, Any]) -> None:
    keywords = dict(keywords)
    default, aliases = keywords.pop("default", None), keywords.pop("aliases", ())
    if default is not None and default is not False:
        keywords["help"] += f" (default: {_as_typed(default)})"
    group.add_argument(f"--{name}", *(f"--{alias}" for alias in aliases), dest=name, **keywords)


def _of_setting(setting) -> dict[str, Any]:
    """Give what argparse takes for a setting of a run."""
    facts, default = setting.metadata, None if setting.default is MISSING else setting.default
    help = facts["help"].format(scenes=", ".join(SCENES), models=", ".join(MODELS))
    keywords = {"help": help, "default": default, "aliases": facts.get("aliases", ())}
    kind = next((each for each in get_args(setting.type) if each is not type(None)), setting.type)
    if kind is bool:
        return keywords | {"action": argparse.BooleanOptionalAction if default else "store_true"}
    if "choices" in facts:
        renamed = facts.get("renamed_values", {})
        return keywords | {"choices": facts["choices"], "type": lambda value: renamed.get(value, value)}
    keywords |= {"type": kind, "metavar": facts.get("metavar")}
    if facts.get("swept"):
        keywords["nargs"] = "+"
    if setting.name == "visdom":  # the flag alone means the usual server
        keywords |= {"nargs": "?", "const": default}
    return keywords


def _of_option(option) -> dict[str, Any]:
    """Give what argparse takes for a part of a model."""
    own = {
        name: getattr(model.defaults, option.name)
        for name, model in MODELS.items()
        if hasattr(model.defaults, option.name)
    }
    values = dict.fromkeys(map(_as_typed, own.values()))
    if option.name == "scales":
        default = "MiM 1, MiM-v1 p-2 ... 3 1, MiM-v2 p p-2 ... 3 1, MiM-v3 p"
    elif len(values) == 1:
        default = next(iter(values))
    else:
        default = ", ".join(f"{name} {_as_typed(value)}" for name, value in own.items())
    keywords = {"help": f"{option.metadata['help']} (default: {default})"}
    if isinstance(option.default, bool):
        return keywords | {"action": "store_true"}
    if "choices" in option.metadata:
        return keywords | {"choices": option.metadata["choices"]}
    if option.name in ("scan_types", "scales"):
        return keywords | {"nargs": "+", "type": int, "metavar": "N"}
    return keywords | {"type": type(option.default), "metavar": "N" if option.name != "dropout" else "RATE"}


def _as_typed(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
