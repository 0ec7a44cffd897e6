"""Train, evaluate and predict over loaders of patches."""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics import confusion_matrix, scores
from patches import PatchLoader

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
PREDICT_BATCH = 256  # patches at a time, fewer where their token pairs, patch_size^4 each, would be more than these
PREDICT_PAIRS = 2**22
CPU_TOKENS = 2**13  # or on the CPU their tokens: what is between two operators then stays in the cache


@dataclass(frozen=True)
class TrainConfig:
    """The recipe.

    Attributes:
        epochs: passes over the training pixels.
        lr: highest learning rate of the one-cycle schedule.
        weight_decay: AdamW's.
        label_smoothing: share of a target spread evenly over the classes, in [0, 1).
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
    """A record per epoch: epoch, loss, scale_losses, lr, train_accuracy, val_accuracy (None without), seconds."""

    records: list[dict] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float = -1.0


class Alone:
    """How the training of one network is shared among processes: here not at all; see `data_parallel.Share`."""

    def begin(self, epoch: int) -> None:
        """Get ready for an epoch."""

    def part(self, patches: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor | float]:
        """This process's patches and targets of a batch, and their share of its weight in the loss."""
        return patches, targets, 1.0

    def forward(self, model: nn.Module, patches: Tensor) -> Tensor:
        """Logits of every scale, (S, B, K); their gradients become those of all parts."""
        return model.forward_scales(patches)

    def total(self, value: Tensor) -> Tensor:
        """The sum over the processes."""
        return value


def train(
    model: nn.Module,
    loader: PatchLoader,
    val_loader: PatchLoader | None,
    config: TrainConfig,
    monitor,
    *,
    state: dict | None = None,
    save: Callable[[str, dict], None] | None = None,
    share: Alone | None = None,
) -> History:
    """Train a model in place: AdamW, one-cycle schedule, mean over scales of the cross entropy.

    Args:
        model: a PatchClassifier on its device.
        loader: training patches, with a generator.
        val_loader: validation patches, or None.
        config: the recipe.
        monitor: told of every epoch by `monitor.epoch(record, model)`.
        state: what `save` was given earlier, to go on from there as if never interrupted.
        save: called after every epoch as save("last", state), and as save("best", state) when the validation
            accuracy has risen.
        share: how each batch is shared with other processes, None for one process alone.
    Returns:
        The records of all epochs, those before `state` included.
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
    share = share or Alone()
    for epoch in range(len(history.records) + 1, config.epochs + 1):
        started = time.perf_counter()
        record = {"epoch": epoch, "lr": optimiser.param_groups[0]["lr"]}
        share.begin(epoch)
        record |= _train_epoch(model, loader, config, weights, optimiser, schedule, share)
        if not math.isfinite(record["loss"]):
            raise FloatingPointError(f"the loss is not finite in epoch {epoch}; lower the learning rate (--lr)")
        record["val_accuracy"] = None
        if val_loader is not None:
            record["val_accuracy"] = scores(evaluate(model, val_loader, precision=config.precision)).overall_accuracy
        record["seconds"] = time.perf_counter() - started
        history.records.append(record)
        risen = val_loader is not None and record["val_accuracy"] > history.best_accuracy
        if risen:
            history.best_epoch, history.best_accuracy = epoch, record["val_accuracy"]
        if save is not None:
            state = {
                "weights": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
                "generators": _get_generators(loader),
                "history": asdict(history),
            }
            if risen:
                save("best", state)  # first: cut off in between, a resumed run does this epoch again
            save("last", state)
        monitor.epoch(record, model)
    return history


def _train_epoch(model, loader, config, weights, optimiser, schedule, share) -> dict:
    """One pass over the training pixels; the sums stay on the device until its end."""
    model.train()
    parameters = list(model.parameters())
    loss_sum = hits = 0
    for patches, targets in loader:
        batch = len(targets)
        patches, targets, fraction = share.part(patches, targets, weights)
        optimiser.zero_grad(set_to_none=True)
        with _autocast(patches.device, config.precision):
            logits = share.forward(model, patches).float()  # (S, B, K)
        scale_losses = fraction * torch.stack(
            [F.cross_entropy(rows, targets, weights, label_smoothing=config.label_smoothing) for rows in logits]
        )
        scale_losses.mean().backward()
        nn.utils.clip_grad_norm_(parameters, config.max_norm)
        optimiser.step()
        schedule.step()
        loss_sum = loss_sum + scale_losses.detach() * batch
        hits = hits + (logits.detach().softmax(-1).mean(0).argmax(-1) == targets).sum()
    loss_sum, hits, n = share.total(loss_sum), share.total(hits), len(loader.pixels)
    return {
        "loss": float(loss_sum.mean()) / n,
        "scale_losses": (loss_sum / n).tolist(),
        "train_accuracy": float(hits) / n,
    }


@torch.no_grad()
def evaluate(model: nn.Module, loader: PatchLoader, *, precision: str = "float32") -> np.ndarray:
    """Confusion matrix (K, K) of a model over labelled patches; the model is left exactly as it was found."""
    targets, predictions = [], []
    with _eval_mode(model):
        for patches, batch_targets in loader:
            with _autocast(patches.device, precision):
                predictions.append(model(patches).argmax(-1))
            targets.append(batch_targets)
    return confusion_matrix(torch.cat(targets).cpu().numpy(), torch.cat(predictions).cpu().numpy(), model.n_classes)


@torch.no_grad()
def predict(
    model: nn.Module,
    cube: Tensor,
    *,
    pixels: Tensor | None = None,
    batch_size: int | None = None,
    probabilities: bool = False,
    precision: str = "float32",
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Predict pixels of a scene; what is per pixel in the model is computed once for the whole scene.

    Args:
        model: a PatchClassifier; left exactly as it was found.
        cube: normalised scene, (H, W, n_bands), on the model's device.
        pixels: (n, 2) rows and columns, or None for every pixel.
        batch_size: patches at a time, by default as many as `predict_batch` says.
        probabilities: give the classes' probabilities instead of labels.
        precision: a key of PRECISIONS.
        progress: called with the number of pixels after each batch.
    Returns:
        Labels 1..K, (H, W) or with `pixels` (n,), int64 on the CPU; with `probabilities` float32 in [0, 1] with a last
        axis of K.
    """
    height, width, _ = cube.shape
    every_pixel = torch.ones(height, width).nonzero()
    chosen = every_pixel if pixels is None else pixels
    rows = []
    with inference(model, cube.device, precision):
        embedded = model.embed(cube.permute(2, 0, 1).unsqueeze(0))[0].float()
        batch_size = batch_size or predict_batch(model.patch_size, cube.device)
        batches = PatchLoader(embedded, chosen, patch_size=model.patch_size, batch_size=batch_size)
        for patches in batches:
            share = class_shares(model, patches)
            rows.append((share if probabilities else share.argmax(-1) + 1).cpu())
            if progress is not None:
                progress(len(share))
    shape = (len(chosen),) if pixels is not None else (height, width)
    if not rows:
        return torch.empty(0, model.n_classes) if probabilities else torch.empty(0, dtype=torch.int64)
    return torch.cat(rows).reshape(*shape, -1) if probabilities else torch.cat(rows).reshape(shape)


def predict_batch(patch_size: int, device: torch.device) -> int:
    """Patches at a time when mapping."""
    tokens = patch_size * patch_size
    most = min(PREDICT_PAIRS // tokens**2, CPU_TOKENS // tokens) if device.type == "cpu" else PREDICT_PAIRS // tokens**2
    return min(PREDICT_BATCH, max(1, most))


def class_shares(model: nn.Module, patches: Tensor) -> Tensor:
    """Probabilities of the classes, the mean over scales of the softmax: embedded patches (B, C, P, P) to (B, K)."""
    return model.encode(patches).float().softmax(-1).mean(0)


@contextlib.contextmanager
def inference(model: nn.Module, device: torch.device, precision: str):
    """Evaluation mode and the given precision inside, and no gradients."""
    with torch.no_grad(), _eval_mode(model), _autocast(device, precision):
        yield


def _one_cycle(optimiser, config: TrainConfig, steps: int):
    if steps == 1:  # the cycle's only point would be its last, where the rate is next to nothing
        return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)
    return torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, total_steps=steps)


def class_weights(targets: Tensor, n_classes: int) -> tuple[float, ...]:
    """Weights inverse to the classes' frequency, 1 on average over the pixels; 0 for a class without pixels."""
    counts = torch.bincount(targets, minlength=n_classes).double()
    present = counts > 0
    weights = torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), 0.0)
    return tuple(weights.tolist())


@contextlib.contextmanager
def _eval_mode(model: nn.Module):
    """Evaluation mode inside; every module gets its own mode back."""
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
    generators = {"loader": loader.generator.get_state(), "cpu": torch.get_rng_state()}
    if loader.device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state(loader.device)
    return generators


def _set_generators(loader: PatchLoader, generators: dict) -> None:
    loader.generator.set_state(generators["loader"])
    torch.set_rng_state(generators["cpu"])
    if loader.device.type == "cuda" and "cuda" in generators:
        torch.cuda.set_rng_state(generators["cuda"], loader.device)
