"""The command line of MiM: train a network on a hyperspectral scene, map it, and leave a folder with the result."""

import errno
import logging
import os
import sys
from argparse import Namespace
from pathlib import Path
from shutil import get_terminal_size

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from cli.arguments import parse
from cli.audit import audit
from cli.augment import augment
from cli.describe import describe
from cli.doctor import examine
from cli.download import download
from datasets import load_scene
from inference.interpret import draw_insides
from inference.predict import map_new_scene, scene_raster
from reporting import results
from reporting.comparison.runs import compare
from reporting.comparison.tables import render_comparisons
from reporting.run_folder import Run
from reporting.run_report import write_pictures_and_page
from scenes.catalogue import find_scene
from scenes.rasters import ARRAYS, GEOTIFF, open_raster
from training.distributed import Ranks
from training.sweep import resume, train_runs
from utils import InputError, choose_device, keep_freed_memory

log = logging.getLogger("mim")


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None for the process's own.
    Returns:
        Exit code: 0 done, 2 the command line or an input is wrong, 130 interrupted.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    for noisy in ("visdom", "urllib3", "websocket", "matplotlib", "fontTools", "rasterio"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        args, options = parse(argv)
        keep_freed_memory()
        ranks = Ranks.of_environment()
        if ranks.world > 1:
            logging.getLogger().handlers[0].setFormatter(logging.Formatter(f"[rank {ranks.rank}] %(message)s"))
        with logging_redirect_tqdm():
            if args.download is not None:
                fetch(args)
            elif args.doctor:
                return show_machine(args)
            elif args.audit:
                print("\n".join(audit(args)))
            elif args.augment is not None:
                log.info("%s holds scene.toml and its masks; --dataset %s uses it", home := augment(args), home.name)
            elif args.describe is not None:
                print("\n".join(describe(args.describe, args.folder)))
            elif args.compare is not None:
                comparisons = compare(args.compare, mixed_protocols=args.mixed_protocols)
                print(render_comparisons(comparisons, args.format, get_terminal_size((120, 24)).columns))
            elif args.predict is not None:
                predict_scene(args, ranks)
            elif args.report is not None:
                report(args)
            elif args.figures is not None:
                draw_figures(args)
            elif args.resume is not None:
                resume(args, options, ranks)
            else:
                train_runs(args, options, ranks)
    except KeyboardInterrupt as interrupt:
        sys.stderr.write("\n")  # after what stood in the bar's line
        return _fail("; ".join(("interrupted", *interrupt.args)), 130)  # and how to go on
    except (InputError, FloatingPointError) as error:
        return _fail(str(error))
    except BrokenPipeError:  # whoever reads the output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return _fail(f"no space is left on the disk for {error.filename or 'the files'}; free some and try again")
        if error.errno in (errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EISDIR) and error.filename:
            return _fail(f"{error.filename} cannot be written or read ({error.strerror}); name another file or folder")
        if error.filename:
            return _fail(f"{error.filename} cannot be written or read ({error.strerror}); is it the right place?")
        return _fail(str(error))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "can't allocate memory" not in str(error):
            raise
        return _fail(
            "the memory is too small for this; lower --batch_size or --patch_size, or use another --cuda device"
        )
    return 0


def _fail(message: str, code: int = 2) -> int:
    sys.stderr.write(f"main.py: {message}\n")
    return code


def fetch(args: Namespace) -> None:
    """Fetch scenes into the data root."""
    try:
        names = [find_scene(name).name for name in args.download]
    except ValueError as error:
        raise InputError(str(error)) from error
    for name in names:
        paths = download(name, args.folder)
        log.info("%s: %s", name, ", ".join(map(str, paths)) or "nothing to fetch")


def show_machine(args: Namespace) -> int:
    """Print what this machine can run; 0 if that includes the main job, else 2."""
    lines, able = examine(args.folder, args.visdom)
    print("\n".join(lines))
    return 0 if able else 2


def report(args: Namespace) -> None:
    """Draw the pictures and write the page of finished runs again."""
    for run in [Run.read(folder) for folder in args.report]:  # all are read before a file is written
        write_pictures_and_page(run)
        log.info("%s is written again", run.folder / "report.html")


def draw_figures(args: Namespace) -> None:
    """Draw what goes on inside a finished run's network."""
    run, arguments = Run.read(args.figures), results.read_json(args.figures / "config.json").get("arguments", {})
    if not {"dataset", "folder"} <= set(arguments):
        raise InputError(f"{args.figures / 'config.json'} is not that of a run; give the folder of a run")
    scene = load_scene(arguments["dataset"], args.folder or Path(arguments["folder"]))
    folder = draw_insides(run, scene.cube, scene.valid, choose_device(args.cuda), args.seed)
    log.info("%s holds %s", folder, ", ".join(sorted(file.name for file in folder.iterdir())))


def predict_scene(args: Namespace, ranks: Ranks) -> None:
    """Map a scene or a file with a trained model; no labels and no training data are needed."""
    path = Path(args.predict)
    if path.suffix.lower() != ".toml" and (path.is_file() or path.suffix.lower() in (".hdr", *GEOTIFF, *ARRAYS)):
        raster, name = open_raster(path, args.key), path.stem
    else:
        raster, name = scene_raster(args.predict, args.folder)
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
        probabilities=args.probabilities,
        block_rows=args.block_rows,
        geotiff=args.map_format == "geotiff" or (args.map_format is None and raster.path.suffix.lower() in GEOTIFF),
    )
    if ranks.first:
        log.info("%s holds %s", folder, ", ".join(sorted(file.name for file in folder.iterdir())))


if __name__ == "__main__":
    sys.exit(main())
