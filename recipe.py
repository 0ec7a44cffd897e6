"""The recipe of training: optimiser, schedule of the learning rate, and what else a run may set."""

from dataclasses import dataclass
from functools import partial

import torch

OPTIMISERS = {
    "adamw": partial(torch.optim.AdamW, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "sgd": torch.optim.SGD,
    "sgd_momentum": partial(torch.optim.SGD, momentum=0.9),
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
}


@dataclass(frozen=True)
class TrainConfig:
    """Hold the settings of the training recipe.

    Attributes:
        epochs: passes over the training pixels.
        optimiser: a key of OPTIMISERS.
        schedule: of the learning rate, see `make_schedule`.
        lr: highest learning rate.
        weight_decay: of the optimiser.
        label_smoothing: fraction of a target spread evenly over the classes, in [0, 1).
        max_norm: gradients are clipped to this norm.
        precision: a key of `engine.PRECISIONS`; the scan itself stays in float32.
        class_weights: (K,) weights of the classes in the loss, or None.
    """

    epochs: int
    optimiser: str = "adamw"
    schedule: str = "one_cycle"
    lr: float = 1e-3
    weight_decay: float = 5e-3
    label_smoothing: float = 0.1
    max_norm: float = 1.0
    precision: str = "float32"
    class_weights: tuple[float, ...] | None = None


def make_schedule(optimiser: torch.optim.Optimizer, config: TrainConfig, steps: int):
    """Return the schedule of the learning rate over so many steps.

    "one_cycle" is that of Smith and Topin (arXiv 1708.07120), and changes the momentum too, if the optimiser has one;
    "constant"; "cosine" falls to 0 along half a cosine; "step" is multiplied by 0.9 after each tenth of the steps,
    "exponential" by 0.99 after each epoch.
    """
    schedules = torch.optim.lr_scheduler
    if config.schedule == "one_cycle" and steps > 1:
        momentum = any(name in optimiser.param_groups[0] for name in ("momentum", "betas"))
        return schedules.OneCycleLR(optimiser, config.lr, total_steps=steps, cycle_momentum=momentum)
    if config.schedule == "cosine":
        return schedules.CosineAnnealingLR(optimiser, steps)
    if config.schedule == "step":
        return schedules.StepLR(optimiser, max(1, steps // 10), 0.9)
    if config.schedule == "exponential":
        return schedules.StepLR(optimiser, max(1, steps // config.epochs), 0.99)
    return schedules.ConstantLR(optimiser, factor=1.0)  # the only point of a cycle is its last, with a rate of nearly 0
