"""Train one network in several processes: each computes its part of every batch, and the gradients are summed."""

import base64
import contextlib
import inspect
import io
import warnings
from collections.abc import Iterator
from functools import reduce
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket, Store  # pyright: ignore[reportPrivateImportUsage]
from torch.nn.parallel import DistributedDataParallel

import stops
from engine import SingleProcess
from models.base import PatchClassifier
from training.distributed import LONGEST_WAIT, Ranks
from utils import InputError

TRAINING, ASKED, LAST_STEP, SUMS = "training", "stop/asked", "stop/last", "stop/sums"
GPU_STEPS = 16  # between two checks whether to stop
SYNC_BUFFERS = "forward_sync_buffers"  # the name since PyTorch 2.13
if SYNC_BUFFERS not in inspect.signature(DistributedDataParallel).parameters:
    SYNC_BUFFERS = "broadcast_buffers"


@contextlib.contextmanager
def process_group(ranks: Ranks, device: torch.device):
    """Let the processes sum tensors inside; when the first process leaves, `announced_runs` ends for the others.

    Args:
        ranks: this process and the others; with one process nothing is set up.
        device: of this process.
    Raises:
        InputError: a GPU that is not the one with the process's own number.
    """
    if ranks.world == 1:
        yield
        return
    if device.type == "cuda" and device.index != ranks.local_rank:
        raise InputError(
            f"--data_parallel takes the GPU of each process's own number, not {device} for process {ranks.local_rank}; "
            "leave --cuda out and start no more processes than GPUs, or give --cuda -1 for the CPU"
        )
    assert isinstance(ranks.store, Store)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=ranks.store,
        rank=ranks.rank,
        world_size=ranks.world,
        timeout=LONGEST_WAIT,
    )
    try:
        yield
    finally:
        if ranks.first:
            announce_run(ranks, "")
    dist.destroy_process_group()


def announce_run(ranks: Ranks, folder: Path | str) -> None:
    """Announce to the other processes the folder of the run that is trained next; "" if there is no further run."""
    if ranks.world > 1:
        ranks.publish(f"{TRAINING}/{ranks.next_number(TRAINING)}", str(folder))


def announced_runs(ranks: Ranks) -> Iterator[Path]:
    """Wait for each run that the first process announces and yield its folder."""
    for number in count():
        folder = ranks.wait_for(f"{TRAINING}/{number}")
        if not folder:
            return
        yield Path(folder)


class DataParallel(SingleProcess):
    """Train on this process's part of each batch with the gradients of all; the `parallel` of `engine.Steps`.

    Every process draws the same batches with the same augmentation. The dropout of each process has a seed of its own,
    made of the run's seed, the epoch and the rank, so that a resumed run repeats to the bit.

    Args:
        model: its BatchNorm becomes one over the whole batch; it gets the weights of the first process.
        seed: of the run.
        ranks: this process and the others, inside `process_group`.
    """

    def __init__(self, model: PatchClassifier, seed: int, ranks: Ranks):
        super().__init__(model)
        self.seed, self.ranks, self.device = seed, ranks, next(model.parameters()).device
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = BatchNorm  # the same parameters and buffers, summed differently
        warnings.filterwarnings("ignore", "Grad strides do not match")  # of 1x1 convolutions; the values are right
        options: dict[str, Any] = {SYNC_BUFFERS: False}
        self.replica = DistributedDataParallel(_Scales(model), **options)
        self.replica.register_comm_hook(None, _sum_gradients)

    def begin_epoch(self, epoch: int) -> None:
        seed = np.random.SeedSequence((self.seed, epoch, self.ranks.rank)).generate_state(1, np.uint64)
        torch.manual_seed(int(seed[0]))

    def part(self, patches: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        n, rank = self.ranks.world, self.ranks.rank
        return patches.tensor_split(n)[rank], targets.tensor_split(n)[rank]

    def forward_scales(self, patches: Tensor) -> Tensor:
        return self.replica(patches)

    def total(self, value: Tensor) -> Tensor:
        return add_up(value)

    def keep(self, sums: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        own = sums | {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(self.device)
        buffer = io.BytesIO()
        torch.save(own, buffer)
        self.ranks.publish(f"{SUMS}/{self.ranks.rank}", base64.b64encode(buffer.getvalue()).decode())
        if not self.ranks.first:
            return [own]  # the first process saves
        texts = (self.ranks.wait_for(f"{SUMS}/{rank}") for rank in range(self.ranks.world))
        return [torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True) for text in texts]

    def take(self, kept: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        own = kept[self.ranks.rank]
        torch.set_rng_state(own["cpu"])
        if self.device.type == "cuda" and "cuda" in own:
            torch.cuda.set_rng_state(own["cuda"], self.device)
        return own


class CommonStop:
    """Have the processes that share each batch stop after the same step, whichever of them is asked to.

    A call is made after each step. The first process announces at one check that all stop at the next one; on a GPU the
    processes are that close to each other only behind a synchronisation, so that few steps are checked.

    Args:
        ranks: this process and the others.
        device: of this process.
    """

    def __init__(self, ranks: Ranks, device: torch.device):
        self.ranks, self.device, self.every = ranks, device, 1 if device.type == "cpu" else GPU_STEPS
        self.steps = self.last = 0

    def __call__(self) -> bool:
        """Count a step; gives whether it is the last one."""
        self.steps += 1
        if self.steps % self.every:
            return False
        if self.device.type != "cpu":
            torch.cuda.synchronize(self.device)
        if self.last:
            return self.steps >= self.last
        asked = stops.requested() or self.ranks.has(ASKED)
        if self.ranks.first and asked:
            self.last = self.steps + self.every
            self.ranks.publish(LAST_STEP, str(self.last))
        elif self.ranks.has(LAST_STEP):
            self.last = int(self.ranks.wait_for(LAST_STEP))
        elif asked:
            self.ranks.publish(ASKED, "")
        return bool(self.last) and self.steps >= self.last


class _Scales(nn.Module):
    """Wrap a PatchClassifier so that its forward returns the logits of every scale, which DDP needs."""

    model: PatchClassifier

    def __init__(self, model: PatchClassifier):
        super().__init__()
        self.model = model

    def forward(self, patches: Tensor) -> Tensor:
        return self.model.forward_scales(patches)


class BatchNorm(nn.BatchNorm2d):
    """Compute the mean and variance of a BatchNorm2d in training over the patches of all processes."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        exact = input.float()
        n = input.new_tensor([input.numel() // input.shape[1]], dtype=torch.float32)
        sums = _Sum.apply(torch.cat([exact.sum((0, 2, 3)), n]))
        n = sums[-1].detach()
        mean = sums[:-1] / n
        centred = exact - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / n
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


class _Sum(torch.autograd.Function):
    """Sum over the processes; the gradient is summed over them too."""

    @staticmethod
    def forward(_ctx, value: Tensor) -> Tensor:
        return add_up(value)

    @staticmethod
    def backward(_ctx, *gradients: Tensor) -> Tensor:
        return add_up(gradients[0])


def add_up(value: Tensor) -> Tensor:
    """Sum over the processes; each gets the same bits."""
    total = value.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def _sum_gradients(_state, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """Sum gradients in the order of the ranks.

    DistributedDataParallel fills its buckets differently after the first step, and the order of an all-reduce depends
    on the place in the bucket: a resumed run would not repeat to the bit.
    """
    gradients = bucket.buffer()
    parts = [torch.empty_like(gradients) for _ in range(dist.get_world_size())]
    work = dist.all_gather(parts, gradients, async_op=True)
    assert work is not None
    return work.get_future().then(lambda _: reduce(torch.add, parts))
