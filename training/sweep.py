"""Many runs: over seeds, networks, patch sizes and scenes, by one process or by all of torchrun's."""

import contextlib
import logging
from argparse import Namespace
from pathlib import Path
from shutil import get_terminal_size

import torch
from filelock import FileLock, Timeout

from datasets import load_scene
from reporting import results
from reporting.comparison.runs import compare
from reporting.comparison.tables import render_comparisons
from reporting.live.monitor import Monitor
from splits.choose import draws_split
from training.checkpoint import CHECKPOINT
from training.data_parallel import folders_to_help, together
from training.distributed import Ranks
from training.prepare import Job, announce, prepare, write_config
from training.run import run, train
from utils import InputError, choose_device, load_checkpoint, start_command

LOCK = ".in-use.lock"
log = logging.getLogger("mim")


class Desk:
    """What runs share: the scene as read, and normalised, of which the last is kept; the device; and who helps.

    Args:
        device: to run on.
        team: the processes that share each batch.
    """

    def __init__(self, device: torch.device, team: Ranks):
        self.device, self.team, self.wanted, self.told = device, team, None, None

    def scene(self, args: Namespace):
        """The scene of a run, and the dictionary in which `prepare` keeps what is normalised."""
        wanted = (args.dataset, args.folder, draws_split(args))
        if wanted != self.wanted:
            self.loaded = load_scene(args.dataset, args.folder, need_gt=draws_split(args))
            self.wanted, self.normalised = wanted, {}
        return self.loaded, self.normalised

    def prepare(self, args: Namespace, options: dict, seed: int) -> Job:
        """See `job.prepare`."""
        scene, normalised = self.scene(args)
        args.dataset = scene.spec.described or scene.spec.name
        return prepare(args, options, seed, scene, self.device, normalised, self.team)

    def announce(self, job: Job) -> None:
        """Say what a run rests on, unless it is what was said last."""
        scene, args = job.scene, job.args
        facts = (scene.spec.name, args.model, args.patch_size, job.split.method)
        if facts != self.told:
            size = (*scene.cube.shape, args.model, args.patch_size, self.device)
            log.info("%s: %d x %d pixels, %d bands; %s, patch %d, on %s", scene.spec.name, *size)
            announce(job)
        self.told = facts


def train_runs(args: Namespace, options: dict, ranks: Ranks) -> None:
    """Do all runs of a command; under torchrun every process takes the next one that nobody has taken.

    With args.data_parallel it is the first process that does all runs, and the others help it to train.

    Of several runs those are left out that are done already, and those go on that were cut off, where settings, scene,
    masks, code and PyTorch are the same. One that fails is told at the end and does not hold up the others.

    Args:
        args, options: of the command line; args.sweep has the scene, the network and the patch size of each run.
        ranks: this process and the others.
    Raises:
        InputError: some run cannot be done.
    """
    if args.data_parallel and ranks.alone:
        raise InputError(
            "--data_parallel splits the batches over the processes of torchrun; "
            "start it with torchrun --nproc_per_node=N main.py and the same flags"
        )
    args.data_parallel = args.data_parallel and ranks.world > 1
    queue, team = (Ranks(), ranks) if args.data_parallel else (ranks, Ranks())
    desk = Desk(choose_device(args.cuda, ranks.local_rank), team)
    with together(team, desk.device):
        if team.first:
            _do_all(args, options, desk, queue)
        else:
            _help(args, options, desk)


def _do_all(args: Namespace, options: dict, desk: Desk, ranks: Ranks) -> None:
    runs = [(each, seed) for each in args.sweep for seed in range(args.seed, args.seed + args.runs)]
    folders, failures = {}, []
    while (number := ranks.next("run")) < len(runs):
        each, seed = runs[number]
        own = Namespace(**vars(args) | each)
        try:
            folders[number] = _do(own, options, seed, desk, alone=len(runs) == 1)
        except (InputError, FloatingPointError) as error:
            if len(runs) == 1:
                raise
            failures.append(f"{own.model} on {own.dataset}, patch {own.patch_size}, seed {seed}: {error}")
            log.info("%s; the other runs go on", failures[-1])
    _finish(folders, failures, len(runs), ranks)


def _finish(folders, failures, n_runs, ranks: Ranks) -> None:
    """Whoever comes last shows all results together."""
    mine = [f"{number:09} {folder}" for number, folder in folders.items() if folder]
    ranks.tell(f"folders/{ranks.rank}", "\n".join(mine))
    if ranks.next("finished") == ranks.world - 1 and n_runs > 1:
        told = "\n".join(ranks.hear(f"folders/{rank}") for rank in range(ranks.world))
        done = [Path(line.split(" ", 1)[1]) for line in sorted(told.splitlines()) if line]  # as the command has them
        if done:
            print(render_comparisons(compare(done, mixed_protocols=True), "text", get_terminal_size((120, 24)).columns))
    if failures:
        raise InputError(f"{len(failures)} of {n_runs} runs failed: " + "; ".join(failures))


def _do(args: Namespace, options: dict, seed: int, desk: Desk, *, alone: bool) -> Path | None:
    """One run, or what is left of it; gives its folder, None where another process is at it."""
    job = desk.prepare(args, options, seed)
    scene = job.scene
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


def resume(args: Namespace, options: dict, ranks: Ranks) -> None:
    """Go on with an interrupted run from its last finished epoch.

    Args:
        args, options: of the command line; args.resume is the run's folder.
        ranks: this process and the others, as many as shared the run's batches before.
    Raises:
        InputError: the folder is none of an interrupted run, or it cannot be done in the same way any more.
    """
    folder = args.resume
    config = _config_of(folder)
    if (folder / "metrics.json").exists():
        raise InputError(f"{folder} is complete; there is nothing to resume")
    processes = config["protocol"].get("processes", 1)
    if processes not in (1, ranks.world):
        start = f"{start_command(processes)} --resume {folder}"
        raise InputError(f"the batches of {folder} are split over {processes} processes; go on with {start}")
    team = ranks if processes > 1 else Ranks()
    cuda = config["arguments"].get("cuda") if args.cuda is None else args.cuda
    desk = Desk(choose_device(cuda, team.local_rank), team)
    with together(team, desk.device):
        if not team.first:
            return _help(args, options, desk)
        announce(job := _job_of(folder, args, options, desk))
        try:
            go_on(job, folder)
        except Timeout as error:
            raise InputError(f"another process is at work in {folder}; let it end, or end it, and try again") from error


def _help(args: Namespace, options: dict, desk: Desk) -> None:
    """Train what the first process trains, until it is done with everything."""
    for folder in folders_to_help(desk.team):
        job = _job_of(folder, args, options, desk)
        with contextlib.suppress(FloatingPointError):  # the first process has it too, and tells it
            train(job, Monitor(), _state_of(folder))


def _config_of(folder: Path) -> dict:
    config = results.read_json(folder / "config.json")
    if not {"arguments", "options", "seed", "protocol"} <= set(config):
        raise InputError(f"{folder / 'config.json'} is not that of a run; give the folder of a run")
    return config


def _job_of(folder: Path, args: Namespace, options: dict, desk: Desk) -> Job:
    """A run's job once more; GPU, server and back end are the command line's where it names them."""
    config = _config_of(folder)
    earlier = Namespace(**vars(args) | config["arguments"])
    for name in ("cuda", "visdom"):
        if getattr(args, name) is not None:
            setattr(earlier, name, getattr(args, name))
    for name in ("folder", "output", "train_set", "test_set", "restore"):
        setattr(earlier, name, getattr(earlier, name) and Path(getattr(earlier, name)))
    as_run = {name: tuple(value) if isinstance(value, list) else value for name, value in config["options"].items()}
    job = desk.prepare(earlier, as_run | options, config["seed"])
    if not config["protocol"]["fingerprints"].items() <= job.fingerprints().items():
        raise InputError(f"{folder}: the scene or the masks have changed since the run began; start a new run")
    return job


def go_on(job: Job, folder: Path) -> None:
    """Do the rest of a run that was cut off, in its folder; Timeout where another process is at work in it."""
    with _at_work(folder):
        state = _state_of(folder)
        log.info("going on in %s after epoch %d", folder, len(state["history"]["records"]) if state else 0)
        for scrap in folder.glob(".*.tmp"):  # what a process was writing when it was killed
            scrap.unlink()
        run(job, folder, state)


def _state_of(folder: Path) -> dict | None:
    """What `engine.train` goes on from; None before the first epoch has ended."""
    last = folder / "last.pt"
    try:
        return load_checkpoint(last, CHECKPOINT)["state"] if last.exists() else None
    except InputError as error:
        raise InputError(f"{last} is damaged; delete it, and the run starts from its first epoch again") from error


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
