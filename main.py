"""The command line of MiM: train a network on a hyperspectral scene, map it, and leave a folder with the result."""

import stops  # isort: skip

if __name__ == "__main__":
    stops.listen()  # before the other imports take their time

import contextlib
import errno
import io
import logging
import os
import sys
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from cli.arguments import Command, parse
from limits import raise_limit
from utils import InputError, keep_freed_memory, printable, share_cores

if TYPE_CHECKING:
    from training.distributed import Ranks

log = logging.getLogger("mim")


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None for the process's own.
    Returns:
        Exit code: 0 done, 2 the command line or an input is wrong, 128 + the number of a signal, 124 at a time limit.
    """
    stops.reset()
    _open_streams()
    logging.basicConfig(level=logging.INFO, force=True)
    logging.getLogger().handlers[0].setFormatter(_Printable("%(message)s"))
    for noisy in ("visdom", "urllib3", "websocket", "matplotlib", "fontTools", "rasterio"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        command = parse(argv)
        raise_limit(command.args.max_gigabytes)
        if command.args.max_minutes is not None:
            stops.limit(command.args.max_minutes)
        share_cores()
        keep_freed_memory()
        return RUN[command.mode](command) or 0
    except KeyboardInterrupt as interrupt:
        sys.stderr.write("\n")  # the progress bar's line ends here
        return _fail(stops.message(*interrupt.args), stops.exit_code())
    except (InputError, FloatingPointError) as error:
        return _fail(str(error))
    except BrokenPipeError:  # the program that reads the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _fail(_on_files(error))
    except (MemoryError, RuntimeError) as error:
        out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        if not out_of_memory and "can't allocate memory" not in str(error):
            raise
        return _fail(
            "the memory is too small for this; lower --batch_size or --patch_size, or use another --cuda device"
        )
    return 0


class _Printable(logging.Formatter):
    """Format a message without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _open_streams() -> None:
    """Let the run go on where nobody reads what it prints, and print what the terminal's encoding lacks escaped."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # it was closed; without this the next file that is opened would get its number
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str, code: int = 2) -> int:
    sys.stderr.write(f"main.py: {printable(message)}\n")
    return code


def _on_files(error: OSError) -> str:
    """Say what is wrong with a file or the disk."""
    if error.errno == errno.ENOSPC:
        return f"no space is left on the disk for {error.filename or 'the files'}; free some and try again"
    if error.errno in (errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EISDIR) and error.filename:
        return f"{error.filename} cannot be written or read ({error.strerror}); name another file or folder"
    if error.filename:
        return f"{error.filename} cannot be written or read ({error.strerror}); is it the right place?"
    return str(error)


# One function per mode. Each imports what it needs, so that --help and a refused flag do not wait for PyTorch.


def train(command: Command) -> None:
    """Do all runs of the command."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from training.sweep import train_runs

    with logging_redirect_tqdm():
        train_runs(command.configs, _ranks(), rerun=command.args.rerun)


def resume(command: Command) -> None:
    """Resume an interrupted run."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from training import sweep

    args, backend = command.args, command.model_options.get("scan_backend")
    with logging_redirect_tqdm():
        replaced = {"cuda": args.cuda, "visdom": args.visdom, "scan_backend": backend}
        sweep.resume(args.resume, _ranks(), **replaced, other_versions=args.other_versions)


def download(command: Command) -> None:
    """Fetch scenes into the data root."""
    from cli.download import download
    from scenes.catalogue import find_scene

    names = [find_scene(name).name for name in command.args.download]
    with stops.resumable(lambda: "the same command resumes the transfer"):
        for name in names:
            paths = download(name, command.args.folder)
            log.info("%s: %s", name, ", ".join(map(str, paths)) or "nothing to fetch")


def doctor(command: Command) -> int:
    """Print what this machine can run; 0 if that includes the main job, else 2."""
    from cli.doctor import examine

    lines, able = examine(command.args.folder, command.args.visdom)
    print("\n".join(lines))
    return 0 if able else 2


def audit(command: Command) -> None:
    """Print what the split says about unseen land."""
    from cli.audit import audit

    print(printable("\n".join(audit(command.configs[0], command.args.output))))


def augment(command: Command) -> None:
    """Write a scene again with more training pixels."""
    from cli.augment import augment

    home = augment(command.configs[0], command.args.augment)
    log.info("%s holds scene.toml and its masks; --dataset %s uses it", home, home.name)


def describe(command: Command) -> None:
    """Print what a scene, a file or a folder holds."""
    from cli.describe import describe

    print(printable("\n".join(describe(command.args.describe, command.args.folder))))


def compare(command: Command) -> None:
    """Print finished runs side by side."""
    from reporting.comparison.runs import compare
    from reporting.comparison.tables import render_comparisons

    args = command.args
    comparisons = compare(args.compare, mixed_protocols=args.mixed_protocols)
    print(printable(render_comparisons(comparisons, args.table_format, get_terminal_size((120, 24)).columns)))


def report(command: Command) -> None:
    """Draw the pictures and write the page of finished runs again."""
    from reporting.run_folder import Run
    from reporting.run_report import write_pictures_and_page
    from training.config import RunConfig

    runs = [Run.read(folder) for folder in command.args.report]  # all are read before a file is written
    for run, config in [(run, RunConfig.read(run.folder)) for run in runs]:
        write_pictures_and_page(run, config.command(run.protocol.get("processes", 1)))
        log.info("%s is written again", run.folder / "report.html")


def interpret(command: Command) -> None:
    """Draw the activations of a finished run's network."""
    from datasets import load_scene
    from inference.interpret import draw_interpretation
    from reporting.run_folder import Run
    from training.config import RunConfig
    from utils import choose_device

    args = command.args
    run, config = Run.read(args.interpret), RunConfig.read(args.interpret)
    scene = load_scene(config.dataset, args.folder or config.folder, drop_bands=config.drop_bands)
    assert scene.cube is not None  # it is asked for
    folder = draw_interpretation(run, scene.cube, scene.valid, choose_device(args.cuda), args.seed)
    log.info("%s holds %s", folder, ", ".join(sorted(file.name for file in folder.iterdir())))


def predict(command: Command) -> None:
    """Map a scene or a file with a trained model; no labels and no training data are needed."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from inference.predict import map_new_scene, scene_raster
    from scenes.rasters import ARRAYS, GEOTIFF, PRODUCTS, open_raster, says_no_axes
    from utils import choose_device

    args, ranks = command.args, _ranks()
    path = Path(args.predict)
    if path.suffix.lower() != ".toml" and (
        path.is_file() or path.suffix.lower() in (".hdr", *GEOTIFF, *ARRAYS, *PRODUCTS)
    ):
        raster, name, bands_axis = open_raster(path, args.cube_key), path.stem, args.bands_axis
    else:
        (raster, name), bands_axis = scene_raster(args.predict, args.folder), "last"
    if args.bands_axis is not None and (bands_axis != args.bands_axis or not says_no_axes(raster)):
        raise InputError(
            f"--bands_axis is for .npy, .npz, .mat and plain HDF5 files; {args.predict} says where its bands are"
        )
    with logging_redirect_tqdm(), stops.resumable(lambda: "the same command resumes where it stopped"):
        folder = map_new_scene(
            raster,
            name,
            args.restore,
            args.output,
            choose_device(args.cuda, ranks.local_rank),
            ranks,
            stride=args.test_stride,
            precision=args.precision,
            resample=args.resample,
            bands_axis=bands_axis,
            ortho=not args.no_ortho,
            probabilities=args.probabilities,
            conformal=args.conformal,
            block_rows=args.block_rows,
            geotiff=args.map_format == "geotiff" or (args.map_format is None and raster.path.suffix.lower() in GEOTIFF),
        )
    if ranks.first:
        log.info("%s holds %s", folder, ", ".join(sorted(file.name for file in folder.iterdir())))


def verify(command: Command) -> None:
    """Compute what a finished run's folder holds again, and compare."""
    from inference.verify import verify

    args = command.args
    print("\n".join(verify(args.verify, args.folder, args.cuda)))


def _ranks() -> "Ranks":
    """Find this process's place among those of torchrun, and name it in the log."""
    from training.distributed import Ranks

    ranks = Ranks.of_environment()
    if ranks.world > 1:
        logging.getLogger().handlers[0].setFormatter(_Printable(f"[rank {ranks.rank}] %(message)s"))
    return ranks


RUN = {
    None: train,
    "resume": resume,
    "download": download,
    "doctor": doctor,
    "audit": audit,
    "augment": augment,
    "describe": describe,
    "compare": compare,
    "report": report,
    "interpret": interpret,
    "predict": predict,
    "verify": verify,
}

if __name__ == "__main__":
    sys.exit(stops.finish(main()))
