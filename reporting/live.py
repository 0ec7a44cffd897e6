"""The live view of a run on a visdom server."""

import logging
import math
import queue
import threading
from collections.abc import Callable

import numpy as np

from reporting.monitor import Monitor

log = logging.getLogger(__name__)


class VisdomMonitor(Monitor):
    """Curves and maps on a visdom server, sent from a thread of its own so that the run never waits.

    Where visdom is not installed, or its server does not answer or stops answering, one line says so and the run goes
    on without it.

    Args:
        url: the server's address, such as http://localhost:8097.
        environment: name of the run on the server.
        draw_map: gives the current map from the model, (H, W, 3) uint8, or None for no live map; called every
            `map_every` epochs.
        map_every: epochs between two maps.
    """

    WAIT_AT_END = 5.0  # seconds

    def __init__(self, url: str, environment: str, draw_map: Callable | None = None, map_every: int = 10):
        self.url, self.environment = url, environment
        self.draw_map, self.map_every = draw_map, map_every
        self.tasks: queue.Queue = queue.Queue(maxsize=200)
        self.gone, self.connected = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._work, daemon=True, name="visdom")
        self.thread.start()

    def epoch(self, record: dict, model) -> None:
        if self.gone.is_set():
            return
        curves = {"loss": {"total": record["loss"]}, "learning rate": {"lr": record["lr"]}}
        curves["loss"] |= {f"scale {i + 1}": loss for i, loss in enumerate(record["scale_losses"])}
        curves["accuracy"] = {"train": record["train_accuracy"], "validation": record["val_accuracy"]}
        for title, lines in curves.items():
            for name, value in lines.items():
                if value is not None and math.isfinite(value):
                    self._send(_add_point, title, name, record["epoch"], value)
        if self.draw_map is not None and record["epoch"] % self.map_every == 0:
            self.maps({"prediction": self.draw_map(model)})

    def maps(self, images: dict[str, np.ndarray]) -> None:
        for title, image in images.items():
            self._send(_show_image, title, image)

    def close(self) -> None:
        self._send(None)
        self.thread.join(self.WAIT_AT_END)
        if not self.connected.is_set() and not self.gone.is_set():
            log.info("the visdom server at %s does not answer; the run went on without", self.url)

    def _send(self, task, *arguments) -> None:
        """Queue a task; drop it when the server is too slow to keep up."""
        if not self.gone.is_set():
            try:
                self.tasks.put_nowait((task, arguments))
            except queue.Full:
                log.debug("visdom is slow: a point or a map was dropped")

    def _work(self) -> None:
        try:
            client = _connect(self.url, self.environment)
            self.connected.set()
            log.info("visdom shows this run at %s, environment %s", self.url, self.environment)
            while True:
                task, arguments = self.tasks.get()
                if task is None:
                    return
                task(client, *arguments)
        except ImportError:
            log.info("visdom is not installed; the run goes on without a live view")
        except Exception as error:  # whatever a server does, the run goes on
            log.info("no visdom server answers at %s (%s); the run goes on without", self.url, type(error).__name__)
        finally:
            self.gone.set()


def _connect(url: str, environment: str):
    from urllib.parse import urlsplit

    from visdom import Visdom

    parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
    return Visdom(
        server=f"{parts.scheme}://{parts.hostname}",
        port=parts.port or 8097,
        env=environment,
        raise_exceptions=True,
        use_incoming_socket=False,
    )


def _add_point(client, title: str, name: str, epoch: int, value: float) -> None:
    options = {"title": title, "xlabel": "epoch", "showlegend": True}
    client.line([value], [epoch], win=title, name=name, update="append", opts=options)


def _show_image(client, title: str, image: np.ndarray) -> None:
    client.image(image.transpose(2, 0, 1), win=title, opts={"title": title})
