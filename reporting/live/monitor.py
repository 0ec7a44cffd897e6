"""Monitors of a run: the progress bar on the terminal and the log. All monitors have the same methods."""

import json
import logging
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils import write_atomically

PASSES_OF_STEP = 4  # a training step takes about as long as this number of predictions of its patches
LINE_EVERY = 30.0  # seconds between two lines if standard error is not a terminal
WIDE = "{percentage:3.0f}% |{bar}| {elapsed}, {remaining} left{postfix}"
NARROW = "{percentage:3.0f}%, {remaining} left{postfix}"
WIDE_FROM = 90  # columns of a terminal that has room for WIDE
log = logging.getLogger("mim")


class Monitor:
    """A monitor that does nothing; the others override what they need."""

    def epoch(self, record: dict, model) -> None:
        """Report a finished epoch.

        Args:
            record: see `engine.History`.
            model: the network after this epoch.
        """

    def mapping(self, n: int, total: int) -> None:
        """Report n more pixels of the final map, of `total` pixels."""

    def result(self, labels: np.ndarray, confusion: np.ndarray) -> None:
        """Report the final label map, (H, W) 0..K, and the confusion matrix of the test pixels, (K, K)."""

    def close(self) -> None:
        """Finish; nothing is reported after this."""


class Monitors(Monitor):
    """Several monitors as one."""

    def __init__(self, *monitors: Monitor):
        self.monitors = monitors

    def epoch(self, record: dict, model) -> None:
        for monitor in self.monitors:
            monitor.epoch(record, model)

    def mapping(self, n: int, total: int) -> None:
        for monitor in self.monitors:
            monitor.mapping(n, total)

    def result(self, labels: np.ndarray, confusion: np.ndarray) -> None:
        for monitor in self.monitors:
            monitor.result(labels, confusion)

    def close(self) -> None:
        for monitor in self.monitors:
            monitor.close()


class ProgressBar(Monitor):
    """One bar for the whole run, training and mapping, with loss, accuracy and time left; see `Bar`.

    Args:
        n_epochs: epochs of the run.
        n_train: training pixels.
        n_map: about how many pixels the final map predicts.
        first: epochs that an interrupted run has already done.
    """

    def __init__(self, n_epochs: int, n_train: int, n_map: int, first: int = 0):
        self.n_epochs, self.work = n_epochs, PASSES_OF_STEP * n_train
        self.bar = Bar(n_epochs * self.work + n_map, first * self.work)
        self.mapped, self.scores = 0, ""

    def epoch(self, record: dict, model) -> None:
        self.scores = f"loss {record['loss']:.3f}, train {100 * record['train_accuracy']:.1f} %"
        if record["val_accuracy"] is not None:
            self.scores += f", val {100 * record['val_accuracy']:.1f} %"
        self.bar.advance(self.work, f"epoch {record['epoch']}/{self.n_epochs}, {self.scores}")

    def mapping(self, n: int, total: int) -> None:
        self.mapped += n
        self.bar.total = self.n_epochs * self.work + total
        self.bar.advance(n, f"mapping {100 * self.mapped / total:.0f} %, {self.scores}")

    def close(self) -> None:
        self.bar.close()


class Progress:
    """A bar whose total is known at the first call, progress(n, total), with n more units done."""

    def __init__(self, what: str, unit: str):
        self.what, self.unit, self.done, self.bar = what, unit, 0, None

    def __call__(self, n: int, total: int) -> None:
        self.bar = self.bar or Bar(total)
        self.done += n
        self.bar.advance(n, f"{self.what} {self.done:,}/{total:,} {self.unit}")
        if self.done >= total:
            self.close()

    def close(self) -> None:
        """Leave the bar as it is, for example after an interrupt."""
        if self.bar is not None:
            self.bar.close()


class Bar:
    """Progress with the time left: a bar on a terminal, a line every LINE_EVERY seconds in a file or a pipe."""

    def __init__(self, total: int, first: int = 0):
        self.total, self.done = total, first
        self.first, self.started, self.last_line = first, time.monotonic(), time.monotonic()
        self.bar = None
        if sys.stderr.isatty() and os.environ.get("WORLD_SIZE", "1") == "1":  # processes of torchrun share a terminal
            self.bar = tqdm(total=total, initial=first, mininterval=0.2, dynamic_ncols=True, smoothing=0.05)

    def advance(self, n: int, description: str) -> None:
        """Add n to the work done, and show a description of the present state."""
        self.done += n
        if self.bar is not None:
            self.bar.total = self.total
            self.bar.bar_format = WIDE if shutil.get_terminal_size().columns >= WIDE_FROM else NARROW
            self.bar.set_postfix_str(description, refresh=False)
            self.bar.update(n)
        elif time.monotonic() - self.last_line >= LINE_EVERY:
            self.last_line = time.monotonic()
            log.info("%.0f %%, %s left: %s", 100 * self.done / self.total, self._left(), description)

    def _left(self) -> str:
        done, seconds = self.done - self.first, time.monotonic() - self.started
        return tqdm.format_interval(seconds * (self.total - self.done) / done) if done and seconds else "?"

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()


class JsonLog(Monitor):
    """A line of JSON per epoch, readable during the run.

    Args:
        path: of the file.
        records: of the epochs that an interrupted run has already done.
    """

    def __init__(self, path: Path, records: list[dict]):
        self.path = path
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))

    def epoch(self, record: dict, model) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
