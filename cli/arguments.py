"""The command line as it was given: parsed, and checked for what goes together."""

import argparse
from dataclasses import fields
from itertools import product

from cli.checks import SPLIT_FLAGS, check_least, check_output, check_split, check_training, check_visdom
from cli.flags import FOR_COMPARE, FOR_PREDICT, build_parser
from models import MODELS, check_options
from models.options import MiMOptions
from utils import InputError

SWEPT = ("dataset", "model", "patch_size")  # of these several values make a sweep
MODES = {  # the flags that a mode without training takes
    "download": {"folder"},
    "doctor": {"folder", "visdom"},
    "describe": {"folder"},
    "compare": set(FOR_COMPARE),
    "predict": {"restore", "folder", "output", "cuda", "precision", "test_stride"} | FOR_PREDICT.keys(),
    "report": set(),
    "figures": {"folder", "cuda", "seed"},
    "resume": {"cuda", "visdom", "scan_backend"},
    "augment": SPLIT_FLAGS | {"dataset", "folder", "train_set", "test_set", "patch_size", "seed"},
    "audit": SPLIT_FLAGS
    | {"dataset", "folder", "train_set", "test_set", "patch_size", "seed", "normalize", "fit_on", "pca", "output"},
}


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, dict]:
    """Parse and check the command line.

    Returns:
        All arguments, the model's parts left out; and the model's parts that were given.
    Raises:
        InputError: a flag that is wrong, or not used by the mode.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    absent = object()  # parsed anew onto this, what is not given keeps it
    marked = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(args), absent)))
    given = {name for name, value in vars(marked).items() if value is not absent}
    for mode, takes in MODES.items():
        if mode in given:
            unused = sorted(given - takes - {mode})
            if unused:
                raise InputError(f"--{mode} does not use {', '.join(f'--{name}' for name in unused)}; leave it out")
    args.sweep = _combinations(args, given & set(MODES))
    vars(args).update(args.sweep[0])
    names = [option.name for option in fields(MiMOptions)]
    options = {name: vars(args).pop(name) for name in names if name in given}
    for name in ("scan_types", "scales"):
        if name in options:
            options[name] = tuple(options[name])
    if "visdom" not in given and args.resume is not None:
        args.visdom = None  # as the run had it
    if args.figures is not None and "folder" not in given:
        args.folder = None  # as the run had it
    if args.audit and "output" not in given:
        args.output = None
    if args.augment is not None and not 1 < args.augment < float("inf"):
        raise InputError(f"--augment must be above 1, the factor of training pixels, not {args.augment:g}")
    if args.audit or args.augment is not None or not given & set(MODES):
        check_split(args, given)
    if not given & set(MODES):
        for mode, flags in (("predict", FOR_PREDICT), ("compare", FOR_COMPARE)):
            unused = sorted(given & flags.keys())
            if unused:
                raise InputError(f"{', '.join(f'--{name}' for name in unused)} goes with --{mode}; leave it out")
        for each in args.sweep:
            check_training(one := argparse.Namespace(**vars(args) | each))
            check_split(one, given)
            each["model"] = one.model
            takes = [option.name for option in fields(MODELS[one.model].options)]
            for name in options:
                if name not in takes:
                    known = ", ".join(f"--{option}" for option in takes)
                    raise InputError(f"{one.model} does not use --{name}; it takes {known}")
            try:
                check_options(one.model, one.patch_size, **options)
            except ValueError as error:
                raise InputError(f"--{error}") from error  # the message begins with the option's name
        args.model = args.sweep[0]["model"]
    elif args.predict is not None and args.restore is None:
        raise InputError("--predict needs --restore CHECKPOINT, a last.pt or best.pt of a run's folder")
    check_least(args, block_rows=1, test_stride=1)
    check_output(args)
    check_visdom(args.visdom)
    return args, options


def _combinations(args: argparse.Namespace, modes: set[str]) -> list[dict]:
    """Scene, network and patch size of every run of one seed; a mode without training takes one of each."""
    for name in SWEPT:
        values = getattr(args, name)
        if modes and values is not None and len(values) > 1:
            raise InputError(f"--{modes.pop()} takes one --{name}, not {len(values)}")
    lists = [list(dict.fromkeys(getattr(args, name) or [None])) for name in SWEPT]
    return [dict(zip(SWEPT, values, strict=True)) for values in product(*lists)]
