"""Training steps on a GPU, each launched at once as a CUDA graph."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import engine
from patches import PatchLoader

MOST_SCALES = 64
log = logging.getLogger("mim")


class GraphSteps(engine.Steps):
    """Take the steps of `engine.Steps` as CUDA graphs, one for each size of a batch.

    Patches are cut, flipped and trained on inside the graph; an epoch's batches go to the GPU at once. Parameters and
    moments lie in one vector each, so that clipping and AdamW are a few operations whatever the network.

    Dropout draws from a random state of its own, which starts as PyTorch's on the device: networks that are trained
    side by side get the numbers that each would get alone.

    Args:
        model, loader, config: as for `engine.train`; the loader's augmentation may only flip.
        capture: False takes the same steps operation by operation, on any device.
    """

    def __init__(self, model: engine.Network, loader: PatchLoader, config: engine.TrainConfig, *, capture: bool = True):
        super().__init__(model, loader, config)
        device = loader.device
        self.capture, self._graphs, self._stream = capture, {}, torch.cuda.Stream(device) if capture else None
        self.random = _default_generator(device).clone_state() if device.type == "cuda" else None
        self.rates, table = _schedule(config, config.epochs * len(loader))
        self.table = table.to(device)
        self.goals = _goals(model.n_classes, config.label_smoothing, self.weights).to(device)
        self.flat = _flatten(self.parameters)
        self.parts = _split(self.flat, self.parameters)
        self.mean, self.square = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.step_number, self.batch_number = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self.steps_taken = 0  # as step_number, which the graph counts
        self.graph_losses, self.graph_hits = torch.zeros(MOST_SCALES, device=device), self.step_number.new_zeros(())
        self.n_scales = 0
        self.plan = None

    def lr(self) -> float:
        return self.rates[self.steps_taken][0]

    def state(self) -> dict:
        lr, beta = self.rates[self.steps_taken]
        for group in self.optimiser.param_groups:
            group["lr"], group["betas"] = lr, (beta, group["betas"][1])
        step = torch.tensor(float(self.steps_taken), device=self.loader.device)
        moments = zip(_split(self.mean, self.parameters), _split(self.square, self.parameters), strict=True)
        for parameter, (mean, square) in zip(self.parameters, moments, strict=True):
            self.optimiser.state[parameter] = {
                "step": step.clone(),
                "exp_avg": mean.clone(),
                "exp_avg_sq": square.clone(),
            }
        taken = {"last_epoch": self.steps_taken, "_step_count": self.steps_taken + 1, "_last_lr": [lr]}
        self.schedule.load_state_dict(self.schedule.state_dict() | taken)
        state = super().state()
        if self.random is not None:
            state["generators"]["cuda"] = self.random.get_state()
        return state

    def load(self, state: dict) -> None:
        super().load(state)
        if self.random is not None:
            self.random.set_state(torch.cuda.get_rng_state(self.loader.device))
        self.steps_taken = self.schedule.last_epoch
        self.step_number.fill_(self.steps_taken)
        self.flat.copy_(_flatten(self.parameters))
        for name, moment in (("exp_avg", self.mean), ("exp_avg_sq", self.square)):
            moment.copy_(_flatten([self.optimiser.state[parameter][name] for parameter in self.parameters]))

    def begin(self, number: int) -> Tensor:
        order = super().begin(number)
        self.graph_losses.zero_()  # in place: the graphs add to these two
        self.graph_losses[: self.loss_sum.numel()] += self.loss_sum
        self.graph_hits.copy_(self.hits)
        self.hits = self.graph_hits
        return order

    def epoch(self, number: int) -> Iterator[None]:
        order = self.begin(number)
        assert self.loader.generator is not None
        self.loader.generator.set_state(order)
        plan = self.loader.plan()
        if self.plan is None:
            self.plan = plan
        else:
            for kept, drawn in zip(self.plan[1:], plan[1:], strict=True):
                kept.copy_(drawn)
        self.batch_number.fill_(self.n_done)
        for size in plan.sizes[self.n_done :]:
            if size not in self._graphs:
                self._graphs[size] = self._captured(size)
            graph = self._graphs[size]
            if graph is None:
                with self._own_random():
                    self._take(size)
            else:
                graph.replay()
            self.loss_sum = self.graph_losses[: self.n_scales]
            self.steps_taken += 1
            self.n_done += 1
            yield
        self.order = None

    def _take(self, size: int) -> None:
        """Take one step with the next batch of the plan, which has this size."""
        assert self.plan is not None
        first, image, targets = (rows.index_select(0, self.batch_number)[0, :size] for rows in self.plan[1:])
        for parameter in self.parameters:
            parameter.grad = None  # the backward pass then writes instead of adding
        with engine.autocast(first.device, self.config.precision):
            logits = self.model.forward_scales(self.loader.cut(first, image)).float()  # (S, B, K)
        logs = logits.log_softmax(-1)
        weight = size if self.weights is None else self.weights[targets].sum()
        losses = (logs * self.goals.index_select(0, targets)).sum((1, 2)) / -weight
        losses.mean().backward()
        with torch.no_grad():
            self.n_scales = len(losses)
            self.graph_losses[: len(losses)] += losses * size
            self.graph_hits += (logs.exp().mean(0).argmax(-1) == targets).sum()
            self._update()
            self.batch_number += 1
            self.step_number += 1

    def _update(self) -> None:
        """Clip the gradient and take a step of AdamW (Loshchilov and Hutter, arXiv 1711.05101, Algorithm 2)."""
        group = self.optimiser.param_groups[0]
        square_rate = 1 - group["betas"][1]
        kept, mean_rate, length, correction = self.table.index_select(0, self.step_number)[0].unbind()
        gradient = _flatten([p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters])
        gradient *= (self.config.max_norm / (gradient.norm() + 1e-6)).clamp(max=1)  # as clip_grad_norm_
        self.mean.lerp_(gradient, mean_rate)
        self.square.mul_(1 - square_rate).addcmul_(gradient, gradient, value=square_rate)
        step = (self.mean * length).div_(self.square.sqrt().mul_(correction).add_(group["eps"]))
        self.flat.mul_(kept).sub_(step)
        torch._foreach_copy_(list[Tensor](self.parameters), self.parts)  # pyright: ignore[reportPrivateImportUsage]

    def _captured(self, size: int) -> torch.cuda.CUDAGraph | None:
        """Capture a step; None if it is to be taken operation by operation."""
        if not self.capture:
            return None
        assert self._stream is not None
        before = [(tensor, tensor.clone()) for tensor in self._changing()]
        random = self._random_state()

        def restore():
            for tensor, value in before:
                tensor.copy_(value)
            if self.random is not None:
                self.random.set_state(random)

        current = torch.cuda.current_stream(self.loader.device)
        self._stream.wait_stream(current)
        graph = torch.cuda.CUDAGraph()
        try:
            with self._own_random():
                with torch.cuda.stream(self._stream):
                    for _ in range(2):  # what is chosen, compiled or allocated on first use
                        self._take(size)
                        restore()
                pool = next((other.pool() for other in self._graphs.values() if other is not None), None)
                with torch.cuda.graph(graph, pool=pool, stream=self._stream):
                    self._take(size)
        except RuntimeError as error:
            log.warning("a training step cannot be captured as a CUDA graph, and is taken without: %s", error)
            graph = None
        current.wait_stream(self._stream)
        restore()
        return graph

    def _changing(self) -> Iterator[Tensor]:
        """All that a step changes."""
        yield from self.model.state_dict().values()
        yield from (self.flat, self.mean, self.square, self.step_number, self.batch_number)
        yield from (self.graph_losses, self.graph_hits)

    def _random_state(self) -> Any:
        return None if self.random is None else self.random.get_state()

    @contextlib.contextmanager
    def _own_random(self):
        """Let PyTorch draw from this object's random state on the device."""
        if self.random is None:
            yield
            return
        default = _default_generator(self.loader.device)
        before = default.graphsafe_get_state()
        default.graphsafe_set_state(self.random)
        try:
            yield
        finally:
            default.graphsafe_set_state(before)


def _default_generator(device: torch.device) -> torch.Generator:
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]


def _schedule(config: engine.TrainConfig, n_steps: int) -> tuple[list[tuple[float, float]], Tensor]:
    """Compute the schedule of all steps ahead.

    Returns:
        Learning rate and first beta before each step and after the last; and for each step what AdamW multiplies by,
        (n_steps, 4) float32: the parameters, the new gradient's part of the mean, the mean in the step, and the root
        of the mean square.
    """
    optimiser = torch.optim.AdamW([torch.zeros(1)], lr=config.lr, weight_decay=config.weight_decay)
    schedule = engine.make_schedule(optimiser, config, n_steps)
    group, rates, rows = optimiser.param_groups[0], [], []
    optimiser.step()
    for step in range(1, n_steps + 1):
        lr, (beta, beta_square) = group["lr"], group["betas"]
        rates.append((lr, beta))
        corrections = 1 - beta**step, 1 - beta_square**step
        rows.append([1 - lr * config.weight_decay, 1 - beta, lr / corrections[0], corrections[1] ** -0.5])
        schedule.step()
    rates.append((group["lr"], group["betas"][0]))
    return rates, torch.tensor(rows)


def _goals(n_classes: int, smoothing: float, weights: Tensor | None) -> Tensor:
    """For each target the weights of the classes' logarithms in its loss, (K, K)."""
    ones = torch.ones(n_classes) if weights is None else weights.cpu()
    return torch.diag((1 - smoothing) * ones) + smoothing / n_classes * ones


def _flatten(tensors: list) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _split(flat: Tensor, like: list) -> list[Tensor]:
    """Views of a vector in the shapes of some tensors."""
    parts = flat.split([tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]
