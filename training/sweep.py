"""Many runs: over seeds, networks, patch sizes and scenes, by one process or by all of torchrun's."""

import contextlib
import logging
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout

import engine
import stops
from datasets import Scene, load_scene
from reporting import results
from reporting.comparison.runs import compare
from reporting.comparison.tables import render_comparisons
from reporting.live.monitor import Monitor
from splits.choose import draws_split
from training.config import RunConfig
from training.data_parallel import announced_runs, process_group
from training.distributed import Ranks
from training.interrupted import VERSIONS, compare_machines, how_far, identity, state_of
from training.prepare import Job, announce, prepare, write_config
from training.run import run, train
from training.side_by_side import Work, drawing, in_turn, most_at_a_time
from utils import InputError, choose_device, start_command

LOCK = ".in-use.lock"
ROOM, ROOM_PER_PIXEL = 32 << 20, 64  # bytes of the pictures, the page and the checkpoints; of the maps
log = logging.getLogger("mim")


class SceneCache:
    """What consecutive runs share: the last scene as read and as normalised, the device, and the processes.

    Args:
        device: to run on.
        team: the processes that share each batch.
    """

    def __init__(self, device: torch.device, team: Ranks):
        self.device, self.team = device, team
        self._key = self._announced = None

    def prepare(self, config: RunConfig) -> Job:
        """Prepare a run (see `prepare.prepare`); its scene is read and normalised only if the last run's differs."""
        key = (config.dataset, config.folder, draws_split(config), config.drop_bands)
        if key != self._key:
            options = {"need_gt": draws_split(config), "drop_bands": config.drop_bands}
            self._scene: Scene = load_scene(config.dataset, config.folder, **options)
            self._key, self._normalised = key, {}
        spec = self._scene.spec
        config = replace(config, dataset=spec.described or spec.name)
        return prepare(config, self._scene, self.device, self._normalised, self.team)

    def announce(self, job: Job) -> None:
        """Log what a run rests on, unless it is the same as for the last run."""
        scene, config = job.scene, job.config
        facts = (scene.spec.name, config.model, config.patch_size, job.split.method)
        if facts != self._announced:
            size = (*job.raw_cube.shape, config.model, config.patch_size, self.device)
            log.info("%s: %d x %d pixels, %d bands; %s, patch %d, on %s", scene.spec.name, *size)
            announce(job)
        self._announced = facts


def train_runs(configs: list[RunConfig], ranks: Ranks, *, rerun: bool = False) -> None:
    """Do all runs of a command; under torchrun every process takes the next run that no process has taken.

    If the runs are data parallel, the first process does all of them, and the others help it to train.

    Of several runs, finished ones are left out and interrupted ones are resumed if settings, scene, masks, code and
    PyTorch are the same. A run that fails is reported at the end and does not stop the others.

    Args:
        configs: the settings of each run; `data_parallel`, `cuda` and `output` are the same in all.
        ranks: this process and the others.
        rerun: train finished runs again.
    Raises:
        InputError: a run that cannot be done.
    """
    first = configs[0]
    if first.data_parallel and ranks.alone:
        raise InputError(
            "--data_parallel splits the batches over the processes of torchrun; "
            "start it with `torchrun --nproc_per_node=N main.py` and the same flags"
        )
    shared = first.data_parallel and ranks.world > 1
    configs = [replace(config, data_parallel=shared) for config in configs]
    queue, team = (Ranks(), ranks) if shared else (ranks, Ranks())
    cache = SceneCache(choose_device(first.cuda, ranks.local_rank), team)
    with process_group(team, cache.device):
        if team.first:
            _do_all(configs, cache, queue, rerun=rerun)
        else:
            _train_announced_runs(cache)


def _do_all(configs: list[RunConfig], cache: SceneCache, ranks: Ranks, *, rerun: bool) -> None:
    folders, failures, only = {}, [], len(configs) == 1
    most = most_at_a_time(configs, cache.device, shared=cache.team.world > 1)
    others = contextlib.nullcontext() if only else stops.resumable(lambda: "the same command does all that is left")
    with others, drawing(most) as draw:

        def runs():
            while (number := ranks.next_number("run")) < len(configs):
                yield number, _do(configs[number], cache, draw, only=only, rerun=rerun)

        for number, outcome in in_turn(runs(), cache.device, most):
            if not isinstance(outcome, Exception):
                folders[number] = outcome
                continue
            if only:
                raise outcome
            config = configs[number]
            name = f"{config.model} on {config.dataset}, patch {config.patch_size}, seed {config.seed}"
            failures.append(name)
            log.info("%s: %s; the other runs continue", name, outcome)
    _finish(folders, failures, len(configs), ranks)


def _finish(folders, failures, n_runs, ranks: Ranks) -> None:
    """Let the process that finishes last show all results together."""
    mine = [f"{number:09} {folder}" for number, folder in folders.items() if folder]
    ranks.publish(f"folders/{ranks.rank}", "\n".join(mine))
    if ranks.next_number("finished") == ranks.world - 1 and n_runs > 1:
        lines = "\n".join(ranks.wait_for(f"folders/{rank}") for rank in range(ranks.world)).splitlines()
        done = [Path(line.split(" ", 1)[1]) for line in sorted(lines) if line]  # in the order of the command
        if done:
            print(
                render_comparisons(
                    compare(done, mixed_protocols=True), "text", shutil.get_terminal_size((120, 24)).columns
                )
            )
    if failures:
        raise InputError(f"{len(failures)} of {n_runs} runs failed, for the reasons above: {'; '.join(failures)}")


def _do(config: RunConfig, cache: SceneCache, draw: Callable, *, only: bool, rerun: bool) -> Work:
    """Do one run, or the rest of it; returns its folder, None if another process works on it."""
    job = cache.prepare(config)
    scene = job.scene
    home = config.output / config.model / scene.spec.name
    earlier = [] if only or rerun else _earlier(home, job)
    for folder in earlier:
        if (folder / "metrics.json").exists():
            name = f"{config.model} on {scene.spec.name}, patch {config.patch_size}, seed {config.seed}"
            log.info("%s is done already: %s (`--rerun` trains it again)", name, folder)
            return folder
    cache.announce(job)
    for folder in earlier:
        try:
            yield from _continue(job, folder, draw)
            return folder
        except Timeout:
            log.info("another process works in %s; it is left alone", folder)
            return None
    _check_room(config.output, job.split.test.size)
    folder = results.make_run_folder(config.output, config.model, scene.spec.name, config.seed)
    with _locked(folder):
        write_config(job, folder)
        yield from run(job, folder, draw)
    return folder


def _check_room(output: Path, n_pixels: int) -> None:
    """Check before the first epoch what the end of a run needs: a table that can be read, and space on the disk.

    Raises:
        InputError: there is too little space.
        OSError: the folder cannot be written.
    """
    results.check_table(output / "results.csv")
    free, needed = shutil.disk_usage(output).free, ROOM + ROOM_PER_PIXEL * n_pixels
    if free < needed:
        raise InputError(
            f"{output}: a run needs about {needed / 2**20:.0f} MiB on the disk, and {free / 2**20:.0f} are free; free "
            "some, or name another --output"
        )


def resume(
    folder: Path,
    ranks: Ranks,
    *,
    cuda: int | None,
    visdom: str | None,
    scan_backend: str | None,
    other_versions: bool = False,
) -> None:
    """Resume an interrupted run from the batch or epoch that was saved last.

    Args:
        folder: of the run.
        ranks: this process and the others, as many as shared the run's batches before.
        cuda, visdom, scan_backend: replace the run's own if given.
        other_versions: go on with another version of PyTorch or of the code.
    Raises:
        InputError: not the folder of an interrupted run, or the run cannot be done in the same way any more.
    """
    config, protocol = _read_config(folder)
    if (folder / "metrics.json").exists():
        raise InputError(f"{folder} is complete; there is nothing to resume")
    processes = protocol.get("processes", 1)
    if processes not in (1, ranks.world):
        start = f"{start_command(processes)} --resume {shlex.quote(str(folder))}"
        raise InputError(f"the batches of {folder} are split over {processes} processes; resume it with {start}")
    team = ranks if processes > 1 else Ranks()
    replaced = {"cuda": cuda, "visdom": visdom, "scan_backend": scan_backend}
    replaced = {name: value for name, value in replaced.items() if value is not None}
    cache = SceneCache(choose_device(config.cuda if cuda is None else cuda, team.local_rank), team)
    with process_group(team, cache.device):
        if not team.first:
            return _train_announced_runs(cache, replaced)
        announce(job := _job_of(folder, cache, replaced))
        try:
            with drawing(1) as draw:
                engine.exhaust(_continue(job, folder, draw, other_versions=other_versions))
        except Timeout as error:
            raise InputError(f"another process works in {folder}; wait for it or end it, and try again") from error


def _train_announced_runs(cache: SceneCache, replaced: dict | None = None) -> None:
    """Train what the first process trains, until it has finished all runs."""
    for folder in announced_runs(cache.team):
        job = _job_of(folder, cache, replaced or {})
        with contextlib.suppress(FloatingPointError):  # the first process has it too, and reports it
            engine.exhaust(train(job, Monitor(), state_of(folder, job)))


def _read_config(folder: Path) -> tuple[RunConfig, dict]:
    """Read a run's settings and protocol."""
    path = folder / "config.json"
    content = results.read_json(path)
    config = RunConfig.from_json(content, path)
    if not isinstance(protocol := content.get("protocol"), dict) or "fingerprints" not in protocol:
        raise InputError(f"{path} is not that of a run; give the folder of a run")
    return config, protocol


def _job_of(folder: Path, cache: SceneCache, replaced: dict) -> Job:
    """Prepare a run again from its folder, with some settings replaced."""
    config, protocol = _read_config(folder)
    replaced = dict(replaced)
    if "scan_backend" in replaced:
        options = config.model_options | {"scan_backend": replaced.pop("scan_backend")}
        config = replace(config, model_options=options)
    job = cache.prepare(replace(config, **replaced))
    if not protocol["fingerprints"].items() <= job.fingerprints().items():
        raise InputError(f"{folder}: the scene or the masks have changed since the run began; start a new run")
    return job


def _continue(job: Job, folder: Path, draw: Callable, *, other_versions: bool = False) -> Work:
    """Do the rest of an interrupted run in its folder; Timeout if another process works in it."""
    compare_machines(job, folder, _read_config(folder)[1].get("machine") or {}, allowed=other_versions)
    with _locked(folder):
        state = state_of(folder, job)
        log.info("resuming %s after epoch %d%s", folder, *how_far(state))
        for leftover in folder.glob(".*.tmp"):  # what a process was writing when it was killed
            leftover.unlink()
        yield from run(job, folder, draw, state)


@contextlib.contextmanager
def _locked(folder: Path):
    with FileLock(folder / LOCK, timeout=0):
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def _earlier(home: Path, job: Job) -> list[Path]:
    """Find the folders of the very same run, the newest first."""
    wanted, found = results.as_json(identity(job.protocol) or {}), []
    but_for_versions = {name: value for name, value in wanted.items() if name not in VERSIONS}
    for path in sorted(home.glob(f"*-seed{job.config.seed}*/config.json"), reverse=True):
        try:
            config = results.read_json(path)
        except InputError:  # interrupted before it was written, or damaged
            continue
        theirs = identity(config.get("protocol")) if isinstance(config, dict) else None
        if theirs == wanted:
            found.append(path.parent)
        elif theirs and not (path.parent / "metrics.json").exists():
            changed = [name for name in VERSIONS if theirs.pop(name) != wanted[name]]
            if theirs == but_for_versions:
                why = "other code" if "code" in changed else "another PyTorch"
                log.info("%s is this run with %s, interrupted; it is left as it is", path.parent, why)
    return found
