"""An interrupted run: what it is the same run as, how far it came, and what has changed since."""

import logging
from pathlib import Path

from training.checkpoint import resumable_state
from training.prepare import Job
from utils import InputError

VERSIONS, PLACE = ("code", "torch"), ("numpy", "cuda", "device", "threads", "execution")  # keys of the machine
log = logging.getLogger("mim")


def compare_machines(job: Job, folder: Path, then: dict, *, allowed: bool) -> None:
    """Report what has changed since a run began; other versions must be allowed, and are noted in its protocol."""
    now = job.protocol["machine"]
    names = (*VERSIONS, *(name for name in PLACE if name in then))  # earlier versions noted less
    changed = {name: (then.get(name), now[name]) for name in names if then.get(name) != now[name]}
    if not changed:
        return
    said = f"{folder} began with " + ", ".join(
        "other code" if name == "code" else f"{name} {old} instead of {new}" for name, (old, new) in changed.items()
    )
    if {*changed} & {*VERSIONS} and not allowed:
        raise InputError(f"{said}; go back to that, or give --other_versions to resume it all the same")
    log.info("note: %s; the result may differ in its last digits", said)
    note = said.replace(f"{folder} began", "the run was interrupted, and began")
    job.protocol["notes"] = (*job.protocol["notes"], note)


def how_far(state: dict | None) -> tuple[int, str]:
    """Give the finished epochs, and what is done of the next one in words."""
    if state is None:
        return 0, ""
    done = state.get("unfinished", {}).get("n_done", 0)
    return len(state["history"]["records"]), f" and {done} batch{'es' * (done > 1)} of the next" if done else ""


def state_of(folder: Path, job: Job) -> dict | None:
    """Read the state that `engine.train` resumes from; None before the first epoch has ended."""
    last = folder / "last.pt"
    try:
        return resumable_state(last, job.config.model, job.model) if last.exists() else None
    except InputError as error:
        raise InputError(f"{last} is damaged; delete it, and the run starts from its first epoch again") from error


def identity(protocol: dict | None) -> dict | None:
    """Give what makes two runs the same, to the bit on the same machine: all but where they ran."""
    if not isinstance(protocol, dict) or not isinstance(protocol.get("machine"), dict):
        return None
    code = {name: protocol["machine"].get(name) for name in VERSIONS}
    return {name: value for name, value in protocol.items() if name != "machine"} | code
