"""Where a run is watched: the bar on the terminal and the log. All monitors have the same methods."""

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

PASSES_OF_STEP = 4  # a patch's share of a training step takes as long as about so many predictions
LINE_EVERY = 30.0  # seconds between two lines where nobody watches
WIDE = "{percentage:3.0f}% |{bar}| {elapsed}, {remaining} left{postfix}"
NARROW = "{percentage:3.0f}%, {remaining} left{postfix}"
WIDE_FROM = 90  # columns of the terminal
log = logging.getLogger("mim")


class Monitor:
    """Does nothing; the others override what they need."""

    def epoch(self, record: dict, model) -> None:
        """Take note of a finished epoch (see `engine.History`)."""

    def mapping(self, n: int, total: int) -> None:
        """Take note of n more pixels of the final map, of so many in total."""

    def result(self, labels: np.ndarray, confusion: np.ndarray) -> None:
        """Take note of the final label map, (H, W) 0..K, and the test pixels' confusion matrix, (K, K)."""

    def close(self) -> None:
        """No more will come."""


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
    """One bar over the whole run, training and mapping, with loss, accuracy and time left; lines where nobody watches.

    Args:
        n_epochs: epochs of the run.
        n_train: training pixels.
        n_map: pixels that the final map predicts, about.
        first: epochs done before.
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
    """A bar of a total that is known at the first call: progress(done just now, total)."""

    def __init__(self, what: str, unit: str):
        self.what, self.unit, self.done, self.bar = what, unit, 0, None

    def __call__(self, n: int, total: int) -> None:
        self.bar = self.bar or Bar(total)
        self.done += n
        self.bar.advance(n, f"{self.what} {self.done:,}/{total:,} {self.unit}")
        if self.done >= total:
            self.close()

    def close(self) -> None:
        """Leave the bar as it is, where the work was cut off."""
        if self.bar is not None:
            self.bar.close()


class Bar:
    """Work done of a total, with the time left: a bar on a terminal, now and then a line in a file or a pipe."""

    def __init__(self, total: int, first: int = 0):
        self.total, self.done = total, first
        self.first, self.started, self.told = first, time.monotonic(), time.monotonic()
        self.bar = None
        if sys.stderr.isatty() and os.environ.get("WORLD_SIZE", "1") == "1":  # torchrun's processes share a terminal
            self.bar = tqdm(total=total, initial=first, mininterval=0.2, dynamic_ncols=True, smoothing=0.05)

    def advance(self, n: int, said: str) -> None:
        """Add n to the work that is done, and say what it was."""
        self.done += n
        if self.bar is not None:
            self.bar.total = self.total
            self.bar.bar_format = WIDE if shutil.get_terminal_size().columns >= WIDE_FROM else NARROW
            self.bar.set_postfix_str(said, refresh=False)
            self.bar.update(n)
        elif time.monotonic() - self.told >= LINE_EVERY:
            self.told = time.monotonic()
            log.info("%.0f %%, %s left: %s", 100 * self.done / self.total, self._left(), said)

    def _left(self) -> str:
        done, seconds = self.done - self.first, time.monotonic() - self.started
        return tqdm.format_interval(seconds * (self.total - self.done) / done) if done and seconds else "?"

    def close(self) -> None:
        """Leave it as it stands."""
        if self.bar is not None:
            self.bar.close()


class JsonLog(Monitor):
    """A line of JSON per epoch, readable while the run goes on; begun with the records of earlier epochs."""

    def __init__(self, path: Path, records: list[dict]):
        self.path = path
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))

    def epoch(self, record: dict, model) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
