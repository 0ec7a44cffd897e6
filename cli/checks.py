"""What can be seen to be wrong with a command line without opening a file; each fault is an InputError."""

from urllib.parse import urlsplit

from models import MODELS
from utils import InputError, match_name

MAX_SEED = 2**32  # NumPy's generators take no larger one
SPLIT_FLAGS = {"sampling_mode", "training_sample", "folds", "fold", "block_size"}


def check_least(args, **bounds) -> None:
    """Each named argument, where given, is no less than its bound."""
    for name, least in bounds.items():
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise InputError(f"--{name} must be at least {least}, not {getattr(args, name)}")


def check_output(args) -> None:
    """The folder that results go to is none that a file stands for."""
    for path in () if args.output is None else (args.output, *args.output.parents):
        if path.exists() and not path.is_dir():
            raise InputError(f"--output {args.output}: {path} is a file; name a folder")


def check_visdom(url: str | None) -> None:
    """The address of a server, or off; None where a resumed run has its own."""
    if url is None:
        return
    try:
        parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
        right = parts.hostname and parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:  # a port that is no number
        right = False
    if not right:
        raise InputError(f"--visdom {url} is no address of a server; give one such as http://localhost:8097, or off")


def check_split(args, given: set[str]) -> None:
    """Scene, split and normalisation."""
    if args.dataset is None:
        raise InputError("--dataset is missing; `python main.py --help` lists the scenes")
    check_least(args, seed=0, pca=0, folds=2, fold=0, block_size=1)
    if args.seed + args.runs > MAX_SEED:
        raise InputError(f"--seed must be below {MAX_SEED}, not {args.seed}")
    if args.patch_size < 1 or args.patch_size % 2 == 0:
        raise InputError(
            f"--patch_size must be odd and at least 1, so that a patch has a centre, not {args.patch_size}"
        )
    check_output(args)
    if (args.train_set is None) != (args.test_set is None):
        raise InputError("--train_set and --test_set go together; give both or neither")
    drawn = sorted(given & SPLIT_FLAGS, key=list(vars(args)).index)
    if args.train_set is not None and drawn:
        raise InputError(f"--train_set and --test_set fix the split; leave out {', '.join(f'--{n}' for n in drawn)}")
    blocks = sorted(given & {"folds", "fold", "block_size"})
    if blocks and args.sampling_mode != "buffered":
        raise InputError(f"--{blocks[0]} is used with --sampling_mode buffered alone; give that or leave it out")
    if args.fold is not None and args.fold >= args.folds:
        raise InputError(f"--fold must lie between 0 and {args.folds - 1} (--folds {args.folds}), not {args.fold}")
    if "fit_on" in given and args.normalize == "none" and not args.pca:
        raise InputError("--fit_on has nothing to fit with --normalize none and no --pca; leave it out")


def check_training(args) -> None:
    """Model and recipe; the model's name becomes the catalogue's."""
    args.model = match_name(args.model, MODELS, "model")
    check_least(args, epoch=1, batch_size=1, runs=1, test_stride=1)
    if not 0 < args.lr < float("inf"):
        raise InputError(f"--lr must be a number above 0, not {args.lr:g}")
    if not 0 <= args.val_fraction < 1:
        raise InputError(f"--val_fraction must be at least 0 and below 1, not {args.val_fraction:g}")
    if args.weights == "best" and not args.val_fraction:
        raise InputError("--weights best needs validation pixels; give --val_fraction, such as 0.1")
