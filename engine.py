"""Train a network on patches, evaluate it, and predict pixels."""

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics import confusion_matrix, scores
from patches import PatchLoader, get_generators, set_generators
from recipe import OPTIMISERS, TrainConfig, make_schedule

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}

Result = TypeVar("Result")


class Network(Protocol):
    """What the engine needs of a network; every `models.PatchClassifier` has it."""

    n_classes: int

    def __call__(self, patch: Tensor, /) -> Tensor: ...
    def forward_scales(self, patch: Tensor) -> Tensor: ...
    def class_probabilities(self, logits: Tensor) -> Tensor: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def train(self) -> nn.Module: ...
    def eval(self) -> nn.Module: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass
class History:
    """Collect a record per epoch and the best epoch in validation.

    Attributes:
        records: per epoch its number, loss, scale_losses, lr, train_accuracy, val_accuracy (None without validation
            pixels) and seconds.
        best_epoch, best_accuracy: of the highest validation accuracy so far; 0 and -1 without validation pixels.
    """

    records: list[dict] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float = -1.0


class SingleProcess:
    """Train a model in one process; `training.data_parallel.DataParallel` splits each batch over several."""

    def __init__(self, model: Network):
        self.model = model

    def begin_epoch(self, epoch: int) -> None:
        """Prepare for an epoch."""

    def part(self, patches: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the patches and targets of a batch that this process trains on."""
        return patches, targets

    def forward_scales(self, patches: Tensor) -> Tensor:
        """Return the logits of every scale, (S, B, K); their gradients are summed over the processes."""
        return self.model.forward_scales(patches)

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a value over the processes."""
        return value

    def keep(self, sums: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return what each process needs to resume within an epoch; they all call this."""
        return [sums]

    def take(self, kept: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return this process's sums of what `keep` returned, after `begin_epoch`."""
        return kept[0]


class Steps:
    """Take training steps: the mean over scales of the cross entropy, gradients clipped.

    `training.cuda_graph.GraphSteps` takes the same steps with one launch each on a GPU, with AdamW and one cycle.

    Args:
        model, loader, config: as for `train`.
        parallel: splits each batch over several processes; None trains in this process alone.
    """

    def __init__(self, model: Network, loader: PatchLoader, config: TrainConfig, parallel: SingleProcess | None = None):
        self.model, self.loader, self.config, self.n = model, loader, config, len(loader.pixels)
        self.parallel = parallel or SingleProcess(model)
        self.parameters = list(model.parameters())
        make = OPTIMISERS[config.optimiser]
        self.optimiser = make(self.parameters, lr=config.lr, weight_decay=config.weight_decay)
        self.schedule = make_schedule(self.optimiser, config, config.epochs * len(loader))
        weights = config.class_weights
        self.weights = None if weights is None else torch.tensor(weights, device=loader.device)
        self.order: Tensor | None = None  # state of the loader's generator when the epoch began; None between epochs
        self.n_done, self.unfinished, self.loss_sum, self.hits = 0, None, torch.zeros(()), torch.zeros(())

    def lr(self) -> float:
        """Return the learning rate of the next step."""
        return self.optimiser.param_groups[0]["lr"]

    def state(self) -> dict:
        """Return what `load` needs to resume to the same bits: weights, optimiser, schedule and random numbers.

        Within an epoch also "unfinished": "order", the generator's state at its beginning; "n_done" batches; "sums".
        """
        state = {
            "weights": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generators": get_generators(self.loader),
        }
        if self.order is not None:
            sums = self.parallel.keep({"loss_sum": self.loss_sum.cpu(), "hits": self.hits.cpu()})
            state["unfinished"] = {"order": self.order, "n_done": self.n_done, "sums": sums}
        return state

    def load(self, state: dict) -> None:
        """Resume from what `state` returned."""
        self.model.load_state_dict(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        set_generators(self.loader, state["generators"])
        self.unfinished = state.get("unfinished")

    def epoch(self, number: int) -> Iterator[None]:
        """Pass over the training pixels once, or those left in a stopped epoch; yields after each batch."""
        for patches, targets in self.loader.after(self.begin(number), self.n_done):
            losses, correct = self._step(patches, targets)
            self.loss_sum = self.loss_sum + losses * len(targets)
            self.hits = self.hits + correct
            self.n_done += 1
            yield
        self.order = None

    def begin(self, number: int) -> Tensor:
        """Begin an epoch, or the rest of the one that `load` was given; gives `order`, and sets `n_done`."""
        self.model.train()
        self.parallel.begin_epoch(number)
        assert self.loader.generator is not None
        order, self.n_done = self.loader.generator.get_state(), 0
        sums = {"loss_sum": torch.zeros(()), "hits": torch.zeros((), dtype=torch.int64)}
        if self.unfinished is not None:
            order, self.n_done = self.unfinished["order"], self.unfinished["n_done"]
            sums = self.parallel.take(self.unfinished["sums"])
            self.unfinished = None
        self.loss_sum, self.hits = (sums[name].to(self.loader.device) for name in ("loss_sum", "hits"))
        self.order = order
        return order

    def epoch_record(self) -> dict:
        """Return the mean losses and the accuracy of the epoch that has ended."""
        loss_sum, hits = (self.parallel.total(value) for value in (self.loss_sum, self.hits))
        return {
            "loss": float(loss_sum.mean()) / self.n,
            "scale_losses": (loss_sum / self.n).tolist(),
            "train_accuracy": float(hits) / self.n,
        }

    def _step(self, patches, targets) -> tuple[Tensor, Tensor]:
        """Take one step; gives the losses of the scales and the number of hits, which stay on the device."""
        patches, own_targets = self.parallel.part(patches, targets)
        fraction = self._weight(own_targets) / self._weight(targets)  # of the batch's loss
        self.optimiser.zero_grad(set_to_none=True)
        with autocast(patches.device, self.config.precision):
            logits = self.parallel.forward_scales(patches).float()
        return self.descend(logits, own_targets, fraction)

    def descend(self, logits: Tensor, targets: Tensor, fraction: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        """Follow the gradient of the loss of some logits, (S, B, K), times a fraction; gives what `_step` does."""
        smoothing = self.config.label_smoothing
        scale_losses = fraction * torch.stack(
            [F.cross_entropy(rows, targets, self.weights, label_smoothing=smoothing) for rows in logits]
        )
        scale_losses.mean().backward()
        nn.utils.clip_grad_norm_(self.parameters, self.config.max_norm)
        self.optimiser.step()
        self.schedule.step()
        hits = (self.model.class_probabilities(logits.detach()).argmax(-1) == targets).sum()
        return scale_losses.detach(), hits

    def evaluate(self, loader: PatchLoader) -> np.ndarray:
        """Compute the confusion matrix (K, K) over labelled patches."""
        return evaluate(self.model, loader, precision=self.config.precision)

    def _weight(self, targets: Tensor) -> Tensor | int:
        """Return the weight of some targets in the loss of their batch."""
        return len(targets) if self.weights is None else self.weights[targets].sum()


def train(*arguments: Any, **options: Any) -> History:
    """Train a model in place; see `training`, whose generator this exhausts."""
    return exhaust(training(*arguments, **options))


def exhaust(generator: Generator[None, None, Result]) -> Result:
    """Run a generator to its end; gives what it returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def training(
    model: Network,
    loader: PatchLoader,
    val_loader: PatchLoader | None,
    config: TrainConfig,
    monitor,
    *,
    state: dict | None = None,
    save: Callable[[str, dict], None] | None = None,
    save_every: int = 1,
    save_seconds: float = 0.0,
    stop: Callable[[], bool] = lambda: False,
    steps: Steps | None = None,
) -> Generator[None, None, History]:
    """Train a model in place, batch by batch.

    Args:
        model: a PatchClassifier on its device.
        loader: training patches, with a generator.
        val_loader: validation patches, or None.
        config: the recipe.
        monitor: called after every epoch as monitor.epoch(record, model).
        state: what `save` received earlier; training resumes from there as if never interrupted.
        save: called after epochs as save("last", state), and as save("best", state) if the validation accuracy has
            risen.
        save_every, save_seconds: epochs, and seconds at least, between two calls save("last", state); the last epoch,
            the best and a stop are always saved.
        stop: called after each batch; if it is true, the state is saved within the epoch and training ends.
        steps: takes the steps; None takes `Steps` in this process alone.
    Yields:
        None after each batch, so that several networks can be trained side by side.
    Returns:
        The records of all epochs, including those before `state`.
    Raises:
        FloatingPointError: the loss is not finite, or the weights at the end.
        KeyboardInterrupt: `stop` has said so.
    """
    steps, history, saved = steps or Steps(model, loader, config), History(), time.perf_counter()
    before = {}
    if state is not None:
        steps.load(state)
        history, before = History(**state["history"]), state.get("unfinished", {})
    for epoch in range(len(history.records) + 1, config.epochs + 1):
        started = time.perf_counter() - before.get("seconds", 0.0)
        record = {"epoch": epoch, "lr": before.get("lr", steps.lr())}
        before = {}
        for _ in steps.epoch(epoch):
            yield
            if stop():
                state = steps.state() | {"history": asdict(history)}
                state["unfinished"] |= {"lr": record["lr"], "seconds": time.perf_counter() - started}
                if save is not None:
                    save("last", state)
                raise KeyboardInterrupt
        record |= steps.epoch_record()
        if not math.isfinite(record["loss"]):
            raise FloatingPointError(f"the loss is not finite in epoch {epoch}; lower the learning rate (--lr)")
        if epoch == config.epochs and not all(each.isfinite().all() for each in model.state_dict().values()):
            raise FloatingPointError(f"the weights are not finite after epoch {epoch}; lower the learning rate (--lr)")
        accuracy, risen = None, False
        if val_loader is not None:
            accuracy = scores(steps.evaluate(val_loader)).overall_accuracy
            risen = accuracy > history.best_accuracy
            if risen:
                history.best_epoch, history.best_accuracy = epoch, accuracy
        record |= {"val_accuracy": accuracy, "seconds": time.perf_counter() - started}
        history.records.append(record)
        due = epoch == config.epochs or (epoch % save_every == 0 and time.perf_counter() - saved >= save_seconds)
        if save is not None and (risen or due):
            state = steps.state() | {"history": asdict(history)}
            if risen:
                save("best", state)  # first: a run that is interrupted in between repeats this epoch when resumed
            save("last", state)
            saved = time.perf_counter()
        monitor.epoch(record, model)
    return history


@torch.no_grad()
def evaluate(model: Network, loader: PatchLoader, *, precision: str = "float32") -> np.ndarray:
    """Compute the confusion matrix (K, K) of a model over labelled patches; the model's modes are kept."""
    targets, predictions = [], []
    with eval_mode(model):
        for patches, batch_targets in loader:
            with autocast(patches.device, precision):
                predictions.append(model(patches).argmax(-1))
            targets.append(batch_targets)
    return confusion_matrix(torch.cat(targets).cpu().numpy(), torch.cat(predictions).cpu().numpy(), model.n_classes)


@contextlib.contextmanager
def eval_mode(model: Network):
    """Use evaluation mode inside; afterwards every module has the mode that it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def autocast(device: torch.device, precision: str):
    """Compute matrix products and convolutions inside in a precision, a key of PRECISIONS."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
