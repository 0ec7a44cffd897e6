"""The command line: parsed, checked without opening a file, and turned into the settings of runs."""

import logging
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from itertools import product
from urllib.parse import urlsplit

from cli.flags import EVERY_MODE, MODEL_PARTS, MODES, SPLIT_FLAGS, SWEPT, build_parser, defaults
from models import ALIASES, MODELS, check_options
from pretreatment import spelled
from splits.split import WITH_FOLDS
from training.config import RunConfig
from training.effects import unused_by, without_effect
from utils import InputError, match_name

MAX_MINUTES = 10**6
MAX_SEED = 2**32  # NumPy's generators take no larger one
log = logging.getLogger("mim")


@dataclass(frozen=True)
class Command:
    """What a command line asks for.

    Attributes:
        mode: a key of MODES, or None to train.
        args: the values of all flags, the model's parts apart.
        configs: settings of the runs, one per run; of a mode that takes a scene and a split, one; else none.
        model_options: the model's parts that were given.
    """

    mode: str | None
    args: Namespace
    configs: list[RunConfig]
    model_options: dict


def parse(argv: list[str] | None = None) -> Command:
    """Parse and check the command line; None for the process's own.

    Raises:
        InputError: a flag that is wrong, or not used by the mode.
    """
    given = vars(build_parser().parse_args(argv))
    mode = _mode(given)
    args = Namespace(**defaults(mode) | given)
    options = {name: vars(args).pop(name) for name in MODEL_PARTS if name in given}
    for name in ("scan_types", "scales"):
        if name in options:
            options[name] = tuple(options[name])
    _check_least(args, block_rows=1, test_stride=1, seed=0)
    if args.seed + args.runs > MAX_SEED:
        raise InputError(f"--seed must be below {MAX_SEED}, not {args.seed}")
    if args.conformal is not None and not 0 < args.conformal < 1:
        raise InputError(f"--conformal must lie above 0 and below 1, not {args.conformal:g}; 0.1 is usual")
    if args.max_gigabytes is not None and not 0 < args.max_gigabytes < float("inf"):
        raise InputError(f"--max_gigabytes must be above 0, not {args.max_gigabytes:g}")
    if args.max_minutes is not None and not 0 < args.max_minutes <= MAX_MINUTES:
        raise InputError(f"--max_minutes must be above 0 and at most {MAX_MINUTES}, not {args.max_minutes:g}")
    _check_output(args.output)
    _check_visdom(args.visdom)
    if mode == "augment" and not 1 < args.augment < float("inf"):
        raise InputError(f"--augment must be above 1, the factor of training pixels, not {args.augment:g}")
    if mode == "predict" and args.restore is None:
        raise InputError("--predict needs --restore CHECKPOINT, a last.pt or best.pt of a run's folder")
    configs = []
    if mode is None or "dataset" in MODES[mode].takes:
        configs = _configs(args, options, given, mode)
    return Command(mode, args, configs, options)


def _mode(given: dict) -> str | None:
    """Find the mode, and refuse the flags that it does not use."""
    everywhere = {*EVERY_MODE, "visdom"} if given.get("visdom") == "off" else {*EVERY_MODE}
    for mode, facts in MODES.items():
        if mode in given:
            unused = sorted(set(given) - facts.takes - {mode, *facts.more} - everywhere)
            if unused:
                raise InputError(f"--{mode} does not use {_flags(unused)}; leave it out")
            return mode
    for mode, facts in MODES.items():
        if unused := sorted(set(given) & set(facts.more)):
            raise InputError(f"{_flags(unused)} goes with --{mode}; leave it out")
    return None


def _configs(args: Namespace, options: dict, given: dict, mode: str | None) -> list[RunConfig]:
    """Make and check the settings of every run: scenes x networks x patch sizes, each with its seeds."""
    if args.__dict__.get("dataset") is None:
        raise InputError("--dataset is missing; `python main.py --help` lists the scenes")
    values = {name: getattr(args, name) for name in SWEPT}
    lists = {name: list(dict.fromkeys(each)) if name in given else [each] for name, each in values.items()}
    if mode is not None:
        for name, each in lists.items():
            if len(each) > 1:
                raise InputError(f"--{mode} takes one --{name}, not {len(each)}")
    if mode is None:
        lists["model"] = [match_name(name, MODELS, "model", ALIASES) for name in lists["model"]]
    names = [each.name for each in fields(RunConfig) if each.name not in (*SWEPT, "model_options")]
    shared = {name: getattr(args, name) for name in names}
    try:
        shared["spectral"] = spelled(args.spectral)  # so that two spellings are one setting
    except InputError as error:
        raise InputError(f"--{error}") from error  # the message begins with the setting's name
    chosen = [dict(zip(SWEPT, each, strict=True)) for each in product(*lists.values())]
    made = [RunConfig(**shared, **each, model_options=options) for each in chosen]
    for config in made:
        if config.patch_size < 1 or config.patch_size % 2 == 0:
            raise InputError(
                f"--patch_size must be odd and at least 1, so that a patch has a centre, not {config.patch_size}"
            )
    if mode is None:
        _check_training(args)
        _check_used(dict.fromkeys(lists["model"]), given, args)
        made = [_with_effect(_as_published(config, given)) for config in made]
        made = [config for number, config in enumerate(made) if config not in made[:number]]  # each run once
    if args.sampling_mode in WITH_FOLDS and args.buffer is None:
        buffer = max(config.patch_size for config in made)
        made = [replace(config, buffer=buffer) for config in made]
    configs = []
    for config in made:
        _check_split(config, given)
        if mode is None:
            _check_model(config)
        configs += [replace(config, seed=seed) for seed in range(config.seed, config.seed + args.runs)]
    return configs


def _as_published(config: RunConfig, given: dict) -> RunConfig:
    """Set what was not given to what the model's authors have: patch and components, and with the recipe the rest."""
    entry = MODELS[config.model]
    settings = {"patch_size": entry.patch_size, "pca": entry.pca}
    if config.recipe == "published":
        settings |= {"spectral": "none", **entry.published}
    return replace(config, **{name: value for name, value in settings.items() if name not in given})


def _check_used(models: Iterable[str], given: dict, args: Namespace) -> None:
    """Refuse the flags that no model of the command uses, and note those that some do not use."""
    without = {model: without_effect(model, args.context) for model in models}
    flags = {name: f"--no-{name}" if value is False else f"--{name}" for name, value in given.items()}
    unused = {name: flag for name, flag in flags.items() if all(name in each for each in without.values())}
    if unused:
        it = "it" if len(unused) == 1 else "them"
        raise InputError(f"{unused_by(without, unused, args.context)}; leave {it} out")
    for model, each in without.items():
        if unused := {name: flag for name, flag in flags.items() if name in each}:
            log.info("note: %s", unused_by([model], unused, args.context))
    windowless = [model for model in without if MODELS[model].looks_at != "patch"]
    if windowless and any(size != 1 for size in given.get("patch_size", ())):
        log.info("note: --patch_size has no effect on %s: without windows it is 1", ", ".join(windowless))


def _with_effect(config: RunConfig) -> RunConfig:
    """Set what has no effect on the model to one value, so that the same run has the same settings."""
    unused = {each.name: each.default for each in fields(RunConfig)}
    unused = {name: unused[name] for name in without_effect(config.model, config.context)}
    unused.pop("data_parallel", None)  # of the command, not of one run
    values = {"spectral": "none", "pca": 0, "epoch": 0}
    unused |= {name: value for name, value in values.items() if name in unused}
    if MODELS[config.model].looks_at != "patch":
        unused |= {"patch_size": 1}
    return replace(config, **unused)


def _check_split(config: RunConfig, given: dict) -> None:
    """Check scene, split and normalisation."""
    _check_least(config, pca=0, min_pixels=0, folds=2, fold=0, block_size=1)
    if config.train_set is None and config.test_set is not None:
        raise InputError("--test_set needs --train_set; that alone tests on all other labelled pixels")
    for key, mask in (("train_key", config.train_set), ("test_key", config.test_set)):
        if getattr(config, key) is not None and mask is None:
            raise InputError(f"--{key} is the variable of a mask that is not given; give --{key[:-4]}_set too")
    drawn = [name for name in SPLIT_FLAGS if name in given]
    if config.train_set is not None and drawn:
        raise InputError(f"--train_set and --test_set fix the split; leave out {_flags(drawn)}")
    used = {"folds": WITH_FOLDS, "fold": WITH_FOLDS, "buffer": WITH_FOLDS, "block_size": ("spatial",)}
    for name, modes in used.items():
        if name in given and config.sampling_mode not in modes:
            raise InputError(f"--{name} is used with --sampling_mode {' or '.join(modes)}; give that or leave it out")
    if "context_size" in given and config.context == "none":
        raise InputError("--context_size is used with --context; give that or leave it out")
    if config.context_size < 3 or config.context_size % 2 == 0:
        raise InputError(f"--context_size must be odd and at least 3, not {config.context_size}")
    if config.buffer is not None and config.buffer < config.patch_size:
        raise InputError(
            f"--buffer must be at least the patch size, {config.patch_size}, so that training and test windows share "
            f"no pixel, not {config.buffer}"
        )
    if config.fold is not None and config.fold >= config.folds:
        raise InputError(
            f"--fold must lie between 0 and {config.folds - 1} (--folds {config.folds}), not {config.fold}"
        )
    if "fit_on" in given and not config.fits_spectra:
        raise InputError(
            "--fit_on has nothing to fit with --normalize none and without --pca, --context and msc; leave it out"
        )


def _check_training(args: Namespace) -> None:
    """Check the recipe as it was given, whatever the model uses of it."""
    _check_least(args, epoch=1, batch_size=1, save_every=1, runs=1)
    if not 0 < args.lr < float("inf"):
        raise InputError(f"--lr must be a number above 0, not {args.lr:g}")
    if not 0 <= args.weight_decay < float("inf"):
        raise InputError(f"--weight_decay must be 0 or more, not {args.weight_decay:g}")
    if not 0 <= args.label_smoothing < 1:
        raise InputError(f"--label_smoothing must be at least 0 and below 1, not {args.label_smoothing:g}")
    if not 0 <= args.val_fraction < 1:
        raise InputError(f"--val_fraction must be at least 0 and below 1, not {args.val_fraction:g}")
    if args.context != "none" and args.test_stride > 1:
        raise InputError("--test_stride saves nothing with --context, which needs all pixels; leave one of them out")
    if args.eval_weights == "best" and not args.val_fraction:
        raise InputError("--eval_weights best needs validation pixels; give --val_fraction, such as 0.1")
    for flag, wanted in (("calibrate", args.calibrate), ("conformal", args.conformal is not None)):
        if wanted and not args.val_fraction:
            raise InputError(f"--{flag} needs validation pixels; give --val_fraction, such as 0.1")


def _check_model(config: RunConfig) -> None:
    """Check the parts of the model."""
    takes = [option.name for option in fields(MODELS[config.model].options)]
    if unused := [name for name in config.model_options if name not in takes]:
        raise InputError(f"{config.model} does not use {_flags(unused)}; it takes {_flags(takes) or 'none'}")
    try:
        check_options(config.model, config.patch_size, **config.model_options)
    except ValueError as error:
        raise InputError(f"--{error}") from error  # the message begins with the option's name


def _check_least(settings: Namespace | RunConfig, **bounds: int) -> None:
    """Check that each of these settings, if it is given, is no less than its bound."""
    for name, least in bounds.items():
        value = getattr(settings, name)
        if value is not None and value < least:
            raise InputError(f"--{name} must be at least {least}, not {value}")


def _check_output(output) -> None:
    """Check that neither the folder of the results nor one above it is a file."""
    for path in () if output is None else (output, *output.parents):
        if path.exists() and not path.is_dir():
            raise InputError(f"--output {output}: {path} is a file; name a folder")


def _check_visdom(url: str | None) -> None:
    """Check the address of a server, or "off"; None if a resumed run has it."""
    if url is None:
        return
    try:
        parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
        valid = parts.hostname and parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:  # a port that is no number
        valid = False
    if not valid:
        raise InputError(f"--visdom {url} is no address of a server; give one such as http://localhost:8097, or off")


def _flags(names: list[str]) -> str:
    return ", ".join(f"--{name}" for name in names)
