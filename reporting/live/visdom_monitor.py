"""The live view of a run on a visdom server; the run never waits for it."""

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
    """What is watched.

    Attributes:
        environment: the run's own, see `visdom_client.environment_name`.
        shared: the environment that it shares with other runs.
        name: of the run among the others there; no two have the same.
        about: the run in a line.
        n_epochs, n_train: epochs of the run, and training pixels.
        shape: (H, W) of the scene.
        class_names, palette: K each.
        counts: pixels per class, (K,), by heading.
        settings: what the run was started with.
        pictures: the scene by title: gives a label map (H, W) or a picture (H, W, 3) uint8.
        spectra: gives the panes of the classes' spectra, by title.
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
    """Curves, maps and figures on a visdom server, sent from a thread of its own.

    The run only notes what is new; the thread makes the panes and sends each whole, so that nothing is lost where it
    could not keep up. A server that does not answer, or no longer, is asked again from time to time; when it answers,
    it gets everything. One line tells when it goes and one when it is back.

    Args:
        url: the server's address, such as http://localhost:8097.
        subject: what is watched.
        draw: gives the present label map, (H, W), and how many pixels it predicted, from the model and how many it may.
        records: of the epochs that an interrupted run has behind it.
    """

    TIMEOUT = (3.0, 10.0)  # seconds to connect and to answer
    WAIT_AT_END = 5.0  # seconds
    AGAIN = (1.0, 30.0)  # seconds until a server that is away is asked again: first, and at most
    PAUSE = (0.5, 30.0)  # seconds between two sendings: at least and at most ...
    SHARE_SENT = 0.01  # ... so that sending takes no larger share of the time
    SHARE_DRAWN = 0.01  # of the training time goes into maps while training, at most
    MAPS, LEAST_PIXELS = 10, 400  # of these maps: about so many, of at least so many pixels

    def __init__(self, url: str, subject: Subject, draw: Callable, records: list[dict] = ()):
        self.server, self.subject, self.draw = Server(url, self.TIMEOUT), subject, draw
        self.records = list(records)
        self.trained = self.drawn = 0.0  # seconds
        self.price = None  # seconds that a map takes per pixel
        self.next_map = 0
        self.panes: dict[str, tuple[str, Callable[[], dict]]] = {}  # by title: environment, and what makes it
        self.stale: dict[str, None] = {}  # titles in the order in which they were shown
        self.news, self.closing = threading.Condition(), False
        self.answers: bool | None = None  # None before the first attempt
        self.seen = self.abandoned = False
        self._show_scene()
        self.thread = threading.Thread(target=self._work, daemon=True, name="visdom")
        self.thread.start()

    def epoch(self, record: dict, model) -> None:
        self.records.append(record)
        self.trained += record["seconds"]
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
        with self.news:
            self.closing = True
            self.news.notify()
        self.thread.join(self.WAIT_AT_END)
        if self.thread.is_alive():
            self.abandoned = True
            said = "is too slow to show the end of the run" if self.answers else "does not answer"
            log.info("the visdom server at %s %s; the run goes on without", self.server.url, said)

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
        """Draw the present map with as many pixels as the time allows, or wait until it allows enough."""
        price = self.price or record["seconds"] / (PASSES_OF_STEP * self.subject.n_train)
        every_pixel = self.subject.shape[0] * self.subject.shape[1]
        n_pixels = min(int((self.SHARE_DRAWN * self.trained - self.drawn) / price), every_pixel)
        if n_pixels < min(self.LEAST_PIXELS, every_pixel):
            return
        started = time.perf_counter()
        labels, n_predicted = self.draw(model, n_pixels)
        took = time.perf_counter() - started
        self.drawn, self.price = self.drawn + took, took / n_predicted
        self.next_map = record["epoch"] + max(1, self.subject.n_epochs // self.MAPS)
        title = f"prediction, epoch {record['epoch']}"
        self._show("prediction", partial(panes.label_map, labels, self.subject.palette, title))

    def _show(self, title: str, make: Callable[[], dict], shared: bool = False) -> None:
        """Note what a pane shows now."""
        with self.news:
            self.panes[title] = (self.subject.shared if shared else self.subject.environment, make)
            self.stale[title] = None
            self.news.notify()

    def _work(self) -> None:
        wait = self.AGAIN[0]
        while True:
            with self.news:
                self.news.wait_for(lambda: self.stale or self.closing)
                if not self.stale:
                    break
            started = time.monotonic()
            try:
                everything = self._send()
                took = 0 if everything else time.monotonic() - started
                pause, wait = min(max(self.PAUSE[0], took / self.SHARE_SENT), self.PAUSE[1]), self.AGAIN[0]
            except requests.RequestException as error:
                self._gone(error)
                slow = isinstance(error, requests.Timeout)
                if self.closing:
                    return
                pause, wait = self.AGAIN[1] if slow else wait, min(2 * wait, self.AGAIN[1])
                with self.news:
                    if self.news.wait_for(lambda: self.closing, pause) and slow:
                        return  # it would not answer in time
                continue
            with self.news:
                self.news.wait_for(lambda: self.closing, pause)
        if "confusion" in self.panes:
            self._keep()

    def _send(self) -> bool:
        """Send the panes that are stale; all, which is told, where the server does not know the run."""
        known = self.subject.environment in self.server.environments()
        with self.news:
            titles, self.stale = list(self.stale if known else self.panes), {}
        try:
            while titles:
                self._send_pane(titles[0])
                del titles[0]
        finally:
            with self.news:
                self.stale = dict.fromkeys(titles) | self.stale
        if not self.answers:
            who = "the visdom server is back and" if self.seen else "visdom"
            self._tell("%s shows this run at %s", who, self.server.page(self.subject.environment))
        self.answers = self.seen = True
        return not known

    def _send_pane(self, title: str) -> None:
        environment, make = self.panes[title]
        try:
            self.server.show(environment, title, make(), shared=environment == self.subject.shared)
        except (requests.ConnectionError, requests.Timeout):
            raise
        except Exception as error:  # this pane alone is not shown
            self._tell("visdom does not show the pane %s (%s: %s)", title, type(error).__name__, error)

    def _gone(self, error: Exception) -> None:
        if self.answers is None:
            self._tell(
                "no visdom server answers at %s (`make visdom` starts one); the run goes on without", self.server.url
            )
        elif self.answers:
            self._tell("the visdom server at %s is gone (%s); the run goes on", self.server.url, type(error).__name__)
        self.answers = False

    def _tell(self, *message) -> None:
        if not self.abandoned:
            log.info(*message)

    def _keep(self) -> None:
        """Have the server write down what a finished run showed, so that it is there after a new start."""
        try:
            self.server.keep([self.subject.environment, self.subject.shared])
        except requests.RequestException as error:
            self._gone(error)


def _picture(give: Callable[[], np.ndarray], palette: tuple[str, ...], title: str) -> dict:
    image = give()
    return panes.picture(image, title) if image.ndim == 3 else panes.label_map(image, palette, title)
