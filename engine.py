"""Train a network on patches, evaluate it, and predict pixels."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics import confusion_matrix, scores
from patches import PatchLoader

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
PREDICT_BATCH = 256  # patches per batch when predicting, at most
PREDICT_PAIRS = 2**22  # pairs of tokens in such a batch, patch_size^4 per patch, at most
CPU_TOKENS = 2**13  # tokens in such a batch on the CPU, at most: intermediate results then stay in the cache


class Network(Protocol):
    """What the engine needs of a network; every `models.PatchClassifier` has it."""

    n_classes: int
    patch_size: int

    def __call__(self, patch: Tensor, /) -> Tensor: ...
    def embed(self, x: Tensor) -> Tensor: ...
    def encode(self, embedded: Tensor) -> Tensor: ...
    def forward_scales(self, patch: Tensor) -> Tensor: ...
    def class_probabilities(self, logits: Tensor) -> Tensor: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def train(self) -> nn.Module: ...
    def eval(self) -> nn.Module: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class TrainConfig:
    """Hold the settings of the training recipe.

    Attributes:
        epochs: passes over the training pixels.
        lr: highest learning rate of the one-cycle schedule.
        weight_decay: of AdamW.
        label_smoothing: fraction of a target spread evenly over the classes, in [0, 1).
        max_norm: gradients are clipped to this norm.
        precision: a key of PRECISIONS; the scan itself stays in float32.
        class_weights: (K,) weights of the classes in the loss, or None.
    """

    epochs: int
    lr: float = 1e-3
    weight_decay: float = 5e-3
    label_smoothing: float = 0.1
    max_norm: float = 1.0
    precision: str = "float32"
    class_weights: tuple[float, ...] | None = None


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
    """Train in one process; `training.data_parallel.DataParallel` splits each batch over several.

    Args:
        model: the network.
    """

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


def train(
    model: Network,
    loader: PatchLoader,
    val_loader: PatchLoader | None,
    config: TrainConfig,
    monitor,
    *,
    state: dict | None = None,
    save: Callable[[str, dict], None] | None = None,
    parallel: SingleProcess | None = None,
) -> History:
    """Train a model in place: AdamW, one-cycle schedule, mean over scales of the cross entropy.

    Args:
        model: a PatchClassifier on its device.
        loader: training patches, with a generator.
        val_loader: validation patches, or None.
        config: the recipe.
        monitor: called after every epoch as monitor.epoch(record, model).
        state: what `save` received earlier; training resumes from there as if never interrupted.
        save: called after every epoch as save("last", state), and as save("best", state) if the validation accuracy
            has risen.
        parallel: splits each batch over several processes; None trains in this process alone.
    Returns:
        The records of all epochs, including those before `state`.
    Raises:
        FloatingPointError: the loss is not finite.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    schedule = _one_cycle(optimiser, config, config.epochs * len(loader))
    history = History()
    if state is not None:
        model.load_state_dict(state["weights"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        history = History(**state["history"])
        _set_generators(loader, state["generators"])
    weights = None if config.class_weights is None else torch.tensor(config.class_weights, device=loader.device)
    parallel = parallel or SingleProcess(model)
    for epoch in range(len(history.records) + 1, config.epochs + 1):
        started = time.perf_counter()
        record = {"epoch": epoch, "lr": optimiser.param_groups[0]["lr"]}
        parallel.begin_epoch(epoch)
        record |= _train_epoch(model, loader, config, weights, optimiser, schedule, parallel)
        if not math.isfinite(record["loss"]):
            raise FloatingPointError(f"the loss is not finite in epoch {epoch}; lower the learning rate (lr)")
        accuracy, risen = None, False
        if val_loader is not None:
            accuracy = scores(evaluate(model, val_loader, precision=config.precision)).overall_accuracy
            risen = accuracy > history.best_accuracy
            if risen:
                history.best_epoch, history.best_accuracy = epoch, accuracy
        record |= {"val_accuracy": accuracy, "seconds": time.perf_counter() - started}
        history.records.append(record)
        if save is not None:
            state = {
                "weights": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
                "generators": _get_generators(loader),
                "history": asdict(history),
            }
            if risen:
                save("best", state)  # first: a run that is interrupted in between repeats this epoch when resumed
            save("last", state)
        monitor.epoch(record, model)
    return history


def _train_epoch(model, loader, config, weights, optimiser, schedule, parallel) -> dict:
    """Pass over the training pixels once; the sums stay on the device until the end."""
    model.train()
    parameters = list(model.parameters())
    loss_sum = hits = 0
    for patches, targets in loader:
        patches, own_targets = parallel.part(patches, targets)
        fraction = _weight(own_targets, weights) / _weight(targets, weights)  # of the batch's loss
        optimiser.zero_grad(set_to_none=True)
        with _autocast(patches.device, config.precision):
            logits = parallel.forward_scales(patches).float()  # (S, B, K)
        scale_losses = fraction * torch.stack(
            [F.cross_entropy(rows, own_targets, weights, label_smoothing=config.label_smoothing) for rows in logits]
        )
        scale_losses.mean().backward()
        nn.utils.clip_grad_norm_(parameters, config.max_norm)
        optimiser.step()
        schedule.step()
        loss_sum = loss_sum + scale_losses.detach() * len(targets)
        hits = hits + (model.class_probabilities(logits.detach()).argmax(-1) == own_targets).sum()
    loss_sum, hits, n = parallel.total(loss_sum), parallel.total(hits), len(loader.pixels)
    return {
        "loss": float(loss_sum.mean()) / n,
        "scale_losses": (loss_sum / n).tolist(),
        "train_accuracy": float(hits) / n,
    }


def _weight(targets: Tensor, weights: Tensor | None) -> Tensor | int:
    """Return the weight of some targets in the loss of their batch."""
    return len(targets) if weights is None else weights[targets].sum()


@torch.no_grad()
def evaluate(model: Network, loader: PatchLoader, *, precision: str = "float32") -> np.ndarray:
    """Compute the confusion matrix (K, K) of a model over labelled patches; the model's modes are kept."""
    targets, predictions = [], []
    with _eval_mode(model):
        for patches, batch_targets in loader:
            with _autocast(patches.device, precision):
                predictions.append(model(patches).argmax(-1))
            targets.append(batch_targets)
    return confusion_matrix(torch.cat(targets).cpu().numpy(), torch.cat(predictions).cpu().numpy(), model.n_classes)


@torch.no_grad()
def predict(
    model: Network,
    cube: Tensor,
    pixels: Tensor,
    *,
    batch_size: int | None = None,
    precision: str = "float32",
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Predict the class probabilities of some pixels; the per-pixel part of the model runs once on the whole scene.

    Args:
        model: a PatchClassifier; its modes are kept.
        cube: normalised scene, (H, W, n_bands), on the model's device.
        pixels: rows and columns, (n, 2).
        batch_size: patches at a time; None takes `predict_batch`.
        precision: a key of PRECISIONS.
        progress: called after each batch with its number of pixels.
    Returns:
        Class probabilities, (n, K) float32 on the CPU; the label of column k is k + 1.
    """
    probabilities = [torch.empty(0, model.n_classes)]  # for the case of no pixels
    with inference(model, cube.device, precision):
        embedded = model.embed(cube.permute(2, 0, 1).unsqueeze(0))[0].float()
        batch_size = batch_size or predict_batch(model.patch_size, cube.device)
        for patches in PatchLoader(embedded, pixels, patch_size=model.patch_size, batch_size=batch_size):
            assert isinstance(patches, Tensor)  # without targets
            probabilities.append(model.class_probabilities(model.encode(patches)).cpu())
            if progress is not None:
                progress(len(patches))
    return torch.cat(probabilities)


def predict_batch(patch_size: int, device: torch.device) -> int:
    """Return the number of patches per batch when predicting."""
    tokens = patch_size * patch_size
    most = min(PREDICT_PAIRS // tokens**2, CPU_TOKENS // tokens) if device.type == "cpu" else PREDICT_PAIRS // tokens**2
    return min(PREDICT_BATCH, max(1, most))


@contextlib.contextmanager
def inference(model: Network, device: torch.device, precision: str):
    """Use evaluation mode and the given precision inside, without gradients."""
    with torch.no_grad(), _eval_mode(model), _autocast(device, precision):
        yield


def _one_cycle(optimiser, config: TrainConfig, steps: int):
    if steps == 1:  # the only point of the cycle would be its last, at which the rate is nearly 0
        return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)
    return torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, total_steps=steps)


def class_weights(targets: Tensor, n_classes: int) -> tuple[float, ...]:
    """Compute weights inverse to the frequency of the classes, 1 on average over the pixels; 0 without pixels."""
    counts = torch.bincount(targets, minlength=n_classes).double()
    present = counts > 0
    weights = torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), 0.0)
    return tuple(weights.tolist())


@contextlib.contextmanager
def _eval_mode(model: Network):
    """Use evaluation mode inside; afterwards every module has the mode that it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _autocast(device: torch.device, precision: str):
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def _get_generators(loader: PatchLoader) -> dict:
    assert loader.generator is not None
    generators = {"loader": loader.generator.get_state(), "cpu": torch.get_rng_state()}
    if loader.device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state(loader.device)
    return generators


def _set_generators(loader: PatchLoader, generators: dict) -> None:
    assert loader.generator is not None
    loader.generator.set_state(generators["loader"])
    torch.set_rng_state(generators["cpu"])
    if loader.device.type == "cuda" and "cuda" in generators:
        torch.cuda.set_rng_state(generators["cuda"], loader.device)
