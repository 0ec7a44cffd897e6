"""Stop when asked: by Ctrl+C, by SIGTERM or SIGHUP as batch systems send them, or at a time limit.

The first signal raises KeyboardInterrupt, inside `deferred` only at the next safe point. A second Ctrl+C ends the
process at once; files are written whole or not at all, so it loses only what was not saved yet. A signal that the
process was started to ignore, as by nohup, stays ignored.

This module imports nothing slow, so that it can listen while the others are imported.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

TIME_LIMIT = 124  # exit code, as of the command `timeout`
REPEATED = 3.0  # seconds within which torchrun passes a Ctrl+C on that its processes have received already
GRACE = 0.5  # seconds in which Python handles a signal itself, unless C code keeps it from that
IMPORTING = "<frozen importlib._bootstrap>"


class _Stop:
    """What is known of a stop.

    Attributes:
        signal: number of the first signal, or None.
        at: when it came.
        deferred: how many `deferred` are open.
        hints: how to resume what is being done, the innermost last.
        code: exit code of a process that has nothing left to do.
    """

    def __init__(self):
        self.signal: int | None = None
        self.at, self.deferred, self.hints = 0.0, 0, list[Callable[[], str]]()
        self.code: int | None = None


_stop = _Stop()


def reset() -> None:
    """Forget an earlier stop and its time limit."""
    if hasattr(signal, "SIGALRM") and signal.getsignal(signal.SIGALRM) is _handle:
        signal.setitimer(signal.ITIMER_REAL, 0)
    _stop.__init__()


def listen() -> None:
    """Have the signals handled from now on."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows lacks SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def limit(minutes: float) -> None:
    """Stop this many minutes from now, as a signal does."""
    signal.signal(signal.SIGALRM, _handle)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)


def requested() -> bool:
    """Whether the process has been asked to stop."""
    return _stop.signal is not None


def check() -> None:
    """Raise KeyboardInterrupt if the process has been asked to stop; called where nothing is half done."""
    if requested():
        raise KeyboardInterrupt


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Raise no KeyboardInterrupt inside; a stop that was asked for meanwhile is raised at the end."""
    check()
    _stop.deferred += 1
    try:
        yield
    finally:
        _stop.deferred -= 1
    check()


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """End the process also within one long call of C code, which keeps Python from handling a signal.

    For what leaves nothing half done. If the signal has not been handled after GRACE seconds, a thread ends the process
    with the usual message and exit code, provided that the call lets other threads run. Where work of others is
    deferred, and on Windows, a signal waits for the end of the call.
    """
    check()
    in_main = threading.current_thread() is threading.main_thread()
    listens = any(signal.getsignal(number) is _handle for number in (signal.SIGINT, signal.SIGTERM))
    if _stop.deferred or os.name == "nt" or not in_main or not listens:
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    done = threading.Event()

    def watch():
        for number in iter(lambda: os.read(reader, 1), b""):
            if signal.getsignal(number[0]) is _handle and not done.wait(GRACE):
                _stop.signal = _stop.signal or number[0]
                _leave()

    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(before)
        os.close(writer)
        thread.join()
        os.close(reader)


@contextlib.contextmanager
def resumable(hint: Callable[[], str]) -> Iterator[None]:
    """Have a KeyboardInterrupt from inside say how to resume: its arguments end with the hint."""
    _stop.hints.append(hint)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(*interrupt.args, hint()) from interrupt
    finally:
        _stop.hints.remove(hint)


def message(*hints: str) -> str:
    """Say why the process stops, and how to resume."""
    if _stop.signal in (None, signal.SIGINT):
        reason = "interrupted"
    elif _stop.signal == getattr(signal, "SIGALRM", None):
        reason = "stopped at the time limit of --max_minutes"
    else:
        reason = f"stopped by {signal.Signals(_stop.signal).name}"
    return "; ".join((reason, *hints))


def exit_code() -> int:
    """Return 128 + the number of the signal, 130 for Ctrl+C; TIME_LIMIT at a time limit."""
    if _stop.signal is None:
        return 128 + signal.SIGINT
    return TIME_LIMIT if _stop.signal == getattr(signal, "SIGALRM", None) else 128 + _stop.signal


def finish(code: int) -> int:
    """Give back an exit code, with which a signal ends the process from now on."""
    _stop.code = code
    return code


def leave_to_parent() -> None:
    """Have this process, which works for another one, ignore the signals and end with the other one."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    from multiprocessing import parent_process  # slow to import

    parent = parent_process()

    def end_with_it():
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


def _handle(number: int, frame) -> None:
    if _stop.code is not None:
        os._exit(_stop.code)
    if _stop.signal is not None:
        repeated = "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - _stop.at < REPEATED
        if number == signal.SIGINT and not repeated:
            _stop.signal = number
            _leave()
        return
    _stop.signal, _stop.at = number, time.monotonic()
    if _stop.deferred:
        return
    if _is_importing(frame):  # where an exception can be lost, or be taken for a missing package
        _leave()
    raise KeyboardInterrupt


def _leave() -> None:
    text = f"\nmain.py: {message(*(hint() for hint in reversed(_stop.hints)))}\n"
    with contextlib.suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())
    os._exit(exit_code())


def _is_importing(frame) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            return True
        frame = frame.f_back
    return False
