"""Many runs: over seeds, networks, patch sizes and scenes, by one process or by all of torchrun's."""

import contextlib
import logging
from argparse import Namespace
from pathlib import Path
from shutil import get_terminal_size

from filelock import FileLock, Timeout

from datasets import load_scene
from experiment import run
from job import Job, announce, prepare, write_config
from ranks import Ranks
from reporting import results
from reporting.compare import compare
from reporting.compared import render
from sampling import draws_split
from trained import CHECKPOINT
from utils import InputError, choose_device, load_checkpoint

LOCK = ".in-use.lock"
log = logging.getLogger("mim")


def train_runs(args: Namespace, options: dict, ranks: Ranks) -> None:
    """Do all runs of a command; under torchrun every process takes the next one that nobody has taken.

    Of several runs those are left out that are done already, and those go on that were cut off, where settings, scene,
    masks, code and PyTorch are the same. One that fails is told at the end and does not hold up the others.

    Args:
        args, options: of the command line; args.sweep has the scene, the network and the patch size of each run.
        ranks: this process and the others.
    Raises:
        InputError: some run cannot be done.
    """
    runs = [(each, seed) for each in args.sweep for seed in range(args.seed, args.seed + args.runs)]
    folders, failures, desk = [], [], _Desk(choose_device(args.cuda, ranks.local_rank))
    while (number := ranks.next("run")) < len(runs):
        each, seed = runs[number]
        own = Namespace(**vars(args) | each)
        try:
            folders.append(_do(own, options, seed, desk, alone=len(runs) == 1))
        except (InputError, FloatingPointError) as error:
            if len(runs) == 1:
                raise
            failures.append(f"{own.model} on {own.dataset}, patch {own.patch_size}, seed {seed}: {error}")
            log.info("%s; the other runs go on", failures[-1])
    _finish(folders, failures, len(runs), ranks)


def _finish(folders, failures, n_runs, ranks: Ranks) -> None:
    """Whoever comes last shows all results together."""
    ranks.tell(f"folders/{ranks.rank}", "\n".join(str(folder) for folder in folders if folder))
    if ranks.next("finished") == ranks.world - 1 and n_runs > 1:
        told = "\n".join(ranks.hear(f"folders/{rank}") for rank in range(ranks.world))
        done = [Path(folder) for folder in told.splitlines() if folder]
        if done:
            print(render(compare(done, mixed_protocols=True), "text", get_terminal_size((120, 24)).columns))
    if failures:
        raise InputError(f"{len(failures)} of {n_runs} runs failed: " + "; ".join(failures))


class _Desk:
    """What runs share: the scene as read, and normalised; the last one is kept."""

    def __init__(self, device):
        self.device, self.wanted, self.told = device, None, None

    def scene(self, args: Namespace):
        """The scene of a run, and the dictionary in which `prepare` keeps what is normalised."""
        wanted = (args.dataset, args.folder, draws_split(args))
        if wanted != self.wanted:
            self.loaded = load_scene(args.dataset, args.folder, need_gt=draws_split(args))
            self.wanted, self.normalised = wanted, {}
        return self.loaded, self.normalised

    def announce(self, job: Job) -> None:
        """Say what a run rests on, unless it is what was said last."""
        scene, args = job.scene, job.args
        facts = (scene.spec.name, args.model, args.patch_size, job.split.method)
        if facts != self.told:
            size = (*scene.cube.shape, args.model, args.patch_size, self.device)
            log.info("%s: %d x %d pixels, %d bands; %s, patch %d, on %s", scene.spec.name, *size)
            announce(job)
        self.told = facts


def _do(args: Namespace, options: dict, seed: int, desk: _Desk, *, alone: bool) -> Path | None:
    """One run, or what is left of it; gives its folder, None where another process is at it."""
    scene, normalised = desk.scene(args)
    args.dataset = scene.spec.described or scene.spec.name
    job = prepare(args, options, seed, scene, desk.device, normalised)
    home = args.output / args.model / scene.spec.name
    earlier = [] if alone or args.again else _earlier(home, job)
    for folder in earlier:
        if (folder / "metrics.json").exists():
            name = f"{args.model} on {scene.spec.name}, patch {args.patch_size}, seed {seed}"
            log.info("%s is done already: %s (--again trains it anew)", name, folder)
            return folder
    desk.announce(job)
    for folder in earlier:
        try:
            go_on(job, folder)
            return folder
        except Timeout:
            log.info("another process is at work in %s; it is left to it", folder)
            return None
    folder = results.make_run_folder(args.output, args.model, scene.spec.name, seed)
    with _at_work(folder):
        write_config(job, folder)
        run(job, folder)
    return folder


def go_on(job: Job, folder: Path) -> None:
    """Do the rest of a run that was cut off, in its folder; Timeout where another process is at work in it."""
    with _at_work(folder):
        last = folder / "last.pt"
        state = load_checkpoint(last, CHECKPOINT)["state"] if last.exists() else None
        log.info("going on in %s after epoch %d", folder, len(state["history"]["records"]) if state else 0)
        for scrap in folder.glob(".*.tmp"):  # what a process was writing when it was killed
            scrap.unlink()
        run(job, folder, state)


@contextlib.contextmanager
def _at_work(folder: Path):
    with FileLock(folder / LOCK, timeout=0):
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def _earlier(home: Path, job: Job) -> list[Path]:
    """Folders of the very same run, the newest first."""
    wanted, found = results.as_json(_identity(job.protocol)), []
    for path in sorted(home.glob(f"*-seed{job.seed}*/config.json"), reverse=True):
        try:
            config = results.read_json(path)
        except InputError:  # cut off before it was written, or damaged
            continue
        if isinstance(config, dict) and _identity(config.get("protocol")) == wanted:
            found.append(path.parent)
    return found


def _identity(protocol: dict | None) -> dict | None:
    """What makes two runs the same, to the bit on the same machine: all but where they ran."""
    if not isinstance(protocol, dict) or not isinstance(protocol.get("machine"), dict):
        return None
    code = {name: protocol["machine"].get(name) for name in ("code", "torch")}
    return {name: value for name, value in protocol.items() if name != "machine"} | code
