"""The live view of a run on a visdom server. Training never waits for the server."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import requests

from metrics import scores
from reporting.live import panes
from reporting.live.client import Server
from reporting.live.monitor import PASSES_OF_STEP, Monitor

log = logging.getLogger("mim")


@dataclass(frozen=True)
class Subject:
    """The run that is shown.

    Attributes:
        environment: of this run alone, see `client.environment_name`.
        shared: the environment that it shares with other runs.
        name: of the run, unique in the shared environment.
        about: the run in a line.
        n_epochs, n_train: epochs of the run, and training pixels.
        shape: (H, W) of the scene.
        class_names, palette: K each.
        counts: pixels per class, (K,), by heading.
        settings: of the run, by name.
        pictures: by title, functions that return a label map (H, W) or a picture (H, W, 3) uint8 of the scene.
        spectra: by title, functions that return the panes of the spectra.
        scales: of the network, see `results.scale_names`.
    """

    environment: str
    shared: str
    name: str
    about: str
    n_epochs: int
    n_train: int
    shape: tuple[int, int]
    class_names: tuple[str, ...]
    palette: tuple[str, ...]
    counts: dict[str, list[int]]
    settings: dict[str, object]
    pictures: dict[str, Callable[[], np.ndarray]]
    spectra: dict[str, Callable[[], dict]] = field(default_factory=dict)
    scales: Sequence[int] = ()


class VisdomMonitor(Monitor):
    """Curves, maps and scores on a visdom server, sent from a separate thread.

    The training thread only notes what has changed. The sending thread makes the panes and sends each one complete, so
    that nothing is lost if it falls behind. If the server does not answer, it is asked again from time to time; when it
    answers, it gets everything. The log has one line when the server is lost and one when it is back.

    Args:
        url: the server's address, such as http://localhost:8097.
        subject: the run that is shown.
        draw: called with the model and a number of pixels; returns a label map, (H, W), for which it predicts at most
            about this number of pixels, and how many it predicted.
        records: of the epochs that an interrupted run has already done.
    """

    TIMEOUT = (3.0, 10.0)  # seconds to connect and to answer
    WAIT_AT_END = 5.0  # seconds
    RETRY = (1.0, 30.0)  # seconds until a server that does not answer is asked again: first, and at most
    PAUSE = (0.5, 30.0)  # seconds between two messages, least and most, ...
    SENDING_FRACTION = 0.01  # ... so that sending takes at most this fraction of the time
    DRAWING_FRACTION = 0.01  # of the training time is spent on maps during training, at most
    MAPS, LEAST_PIXELS = 10, 400  # about how many maps during training, and with how many pixels at least

    def __init__(self, url: str, subject: Subject, draw: Callable, records: Sequence[dict] = ()):
        self.server, self.subject, self.draw = Server(url, self.TIMEOUT), subject, draw
        self.records = list(records)
        self.seconds_trained = self.seconds_drawn = 0.0
        self.seconds_per_pixel = None  # of a map
        self.next_map = 0
        self.panes: dict[str, tuple[str, Callable[[], dict]]] = {}  # by title: environment, and what makes it
        self.stale: dict[str, None] = {}  # titles of the panes to send, in the order in which they changed
        self.changed, self.closing = threading.Condition(), False
        self.answers: bool | None = None  # None before the first attempt
        self.connected_before = self.abandoned = False
        self._show_scene()
        self.thread = threading.Thread(target=self._work, daemon=True, name="visdom")
        self.thread.start()

    def epoch(self, record: dict, model) -> None:
        self.records.append(record)
        self.seconds_trained += record["seconds"]
        self._show_curves()
        if self.answers and self.next_map <= record["epoch"] < self.subject.n_epochs:
            self._draw(record, model)

    def result(self, labels: np.ndarray, confusion: np.ndarray) -> None:
        subject, result = self.subject, scores(confusion)
        self._show("prediction", partial(panes.label_map, labels, subject.palette, "prediction"))
        legend = partial(panes.legend, subject.class_names, subject.palette, subject.counts, result)
        self._show("classes", legend)
        self._show("confusion", partial(panes.confusion, confusion, subject.class_names))
        self._show("final scores", partial(panes.shared_scores, subject.name, result), shared=True)

    def close(self) -> None:
        with self.changed:
            self.closing = True
            self.changed.notify()
        self.thread.join(self.WAIT_AT_END)
        if self.thread.is_alive():
            self.abandoned = True
            fault = "is too slow to show the end of the run" if self.answers else "does not answer"
            log.info("the visdom server at %s %s; the run finishes without it", self.server.url, fault)

    def _show_scene(self) -> None:
        subject = self.subject
        self._show_curves()
        for title, give in subject.pictures.items():
            self._show(title, partial(_picture, give, subject.palette, title))
        nothing = np.zeros(subject.shape, dtype=np.uint8)
        self._show("prediction", partial(panes.label_map, nothing, subject.palette, "prediction, none yet"))
        self._show("classes", partial(panes.legend, subject.class_names, subject.palette, subject.counts))
        self._show("settings", partial(panes.settings, subject.settings))
        for title, make in subject.spectra.items():
            self._show(title, make)

    def _show_curves(self) -> None:
        records = tuple(self.records)
        self._show("loss", partial(panes.loss, records, self.subject.scales))
        self._show("accuracy", partial(panes.accuracy, records))
        self._show("learning rate", partial(panes.learning_rate, records))
        if not records:
            return
        run = (self.subject.name, self.subject.about, records)
        self._show("training loss", partial(panes.shared_curve, "training loss", *run, "loss"), shared=True)
        curves = {"train accuracy, %": "train_accuracy", "validation accuracy, %": "val_accuracy"}
        for title, key in curves.items():
            if records[-1][key] is not None:
                self._show(title, partial(panes.shared_curve, title, *run, key, 100), shared=True)

    def _draw(self, record: dict, model) -> None:
        """Draw the present map with as many pixels as the time allows, unless it allows too few."""
        seconds_per_pixel = self.seconds_per_pixel or record["seconds"] / (PASSES_OF_STEP * self.subject.n_train)
        every_pixel = self.subject.shape[0] * self.subject.shape[1]
        n_pixels = min(
            int((self.DRAWING_FRACTION * self.seconds_trained - self.seconds_drawn) / seconds_per_pixel), every_pixel
        )
        if n_pixels < min(self.LEAST_PIXELS, every_pixel):
            return
        started = time.perf_counter()
        labels, n_predicted = self.draw(model, n_pixels)
        took = time.perf_counter() - started
        self.seconds_drawn += took
        self.seconds_per_pixel = took / n_predicted
        self.next_map = record["epoch"] + max(1, self.subject.n_epochs // self.MAPS)
        title = f"prediction, epoch {record['epoch']}"
        self._show("prediction", partial(panes.label_map, labels, self.subject.palette, title))

    def _show(self, title: str, make: Callable[[], dict], shared: bool = False) -> None:
        """Note the present content of a pane, to be sent."""
        with self.changed:
            self.panes[title] = (self.subject.shared if shared else self.subject.environment, make)
            self.stale[title] = None
            self.changed.notify()

    def _work(self) -> None:
        wait = self.RETRY[0]
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.stale or self.closing)
                if not self.stale:
                    break
            started = time.monotonic()
            try:
                everything = self._send()
                took = 0 if everything else time.monotonic() - started
                pause, wait = min(max(self.PAUSE[0], took / self.SENDING_FRACTION), self.PAUSE[1]), self.RETRY[0]
            except requests.RequestException as error:
                self._lost(error)
                slow = isinstance(error, requests.Timeout)
                if self.closing:
                    return
                pause, wait = self.RETRY[1] if slow else wait, min(2 * wait, self.RETRY[1])
                with self.changed:
                    if self.changed.wait_for(lambda: self.closing, pause) and slow:
                        return  # the server would not answer in time
                continue
            with self.changed:
                self.changed.wait_for(lambda: self.closing, pause)
        if "confusion" in self.panes:
            self._save()

    def _send(self) -> bool:
        """Send the stale panes; if the server does not know the run, send all and return True."""
        known = self.subject.environment in self.server.environments()
        with self.changed:
            titles, self.stale = list(self.stale if known else self.panes), {}
        try:
            while titles:
                self._send_pane(titles[0])
                del titles[0]
        finally:
            with self.changed:
                self.stale = dict.fromkeys(titles) | self.stale
        if not self.answers:
            who = "the visdom server is back and" if self.connected_before else "visdom"
            self._log("%s shows this run at %s", who, self.server.page(self.subject.environment))
        self.answers = self.connected_before = True
        return not known

    def _send_pane(self, title: str) -> None:
        environment, make = self.panes[title]
        try:
            self.server.show(environment, title, make(), shared=environment == self.subject.shared)
        except (requests.ConnectionError, requests.Timeout):
            raise
        except Exception as error:  # only this pane is not shown
            self._log("visdom does not show the pane %s (%s: %s)", title, type(error).__name__, error)

    def _lost(self, error: Exception) -> None:
        if self.answers is None:
            self._log("no visdom server answers at %s (`make visdom` starts one); training continues", self.server.url)
        elif self.answers:
            reason = type(error).__name__
            self._log("the visdom server at %s no longer answers (%s); training continues", self.server.url, reason)
        self.answers = False

    def _log(self, *message) -> None:
        if not self.abandoned:
            log.info(*message)

    def _save(self) -> None:
        """Have the server save the panes of a finished run, so that it shows them after a restart too."""
        try:
            self.server.save([self.subject.environment, self.subject.shared])
        except requests.RequestException as error:
            self._lost(error)


def _picture(give: Callable[[], np.ndarray], palette: tuple[str, ...], title: str) -> dict:
    image = give()
    return panes.picture(image, title) if image.ndim == 3 else panes.label_map(image, palette, title)
