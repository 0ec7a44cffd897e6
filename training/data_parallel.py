"""One run by several processes: each trains on its part of every batch, and what they must know together is summed."""

import contextlib
import inspect
import warnings
from collections.abc import Iterator
from functools import reduce
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from engine import Alone
from training.distributed import LONGEST_WAIT, Ranks
from utils import InputError

TRAINING = "training"
SYNC_BUFFERS = "forward_sync_buffers"  # its name from PyTorch 2.13 on
if SYNC_BUFFERS not in inspect.signature(DistributedDataParallel).parameters:
    SYNC_BUFFERS = "broadcast_buffers"


@contextlib.contextmanager
def together(ranks: Ranks, device: torch.device):
    """The processes can sum inside; when the first one leaves, `folders_to_help` ends for the others."""
    if ranks.world == 1:
        yield
        return
    if device.type == "cuda" and device.index != ranks.local_rank:
        raise InputError(
            f"--data_parallel takes the GPU of each process's own number, not {device} for process {ranks.local_rank}; "
            "leave --cuda out and start no more processes than GPUs, or give --cuda -1 for the CPU"
        )
    sizes = {"rank": ranks.rank, "world_size": ranks.world, "timeout": LONGEST_WAIT}
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=ranks.store, **sizes)
    try:
        yield
    finally:
        if ranks.first:
            call_for_help(ranks, "")
    dist.destroy_process_group()


def call_for_help(ranks: Ranks, folder: Path | str) -> None:
    """Tell the other processes which run to train now; none where it is empty."""
    if ranks.world > 1:
        ranks.tell(f"{TRAINING}/{ranks.next(TRAINING)}", str(folder))


def folders_to_help(ranks: Ranks) -> Iterator[Path]:
    """The folders that the first process names, as it comes to them."""
    for number in count():
        folder = ranks.hear(f"{TRAINING}/{number}")
        if not folder:
            return
        yield Path(folder)


class Share(Alone):
    """What `engine.train` takes as its `share`: this process's part of each batch, with the gradients of all.

    Every process draws the same batches with the same augmentation; each drops out on its own, by a seed made of the
    run's, the epoch and the rank, so that a resumed run repeats to the bit.

    Args:
        model: a PatchClassifier; its BatchNorm becomes one over the whole batch, its weights the first process's.
        seed: of the run.
        ranks: this process and the others, `together`.
    """

    def __init__(self, model: nn.Module, seed: int, ranks: Ranks):
        self.seed, self.ranks = seed, ranks
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = BatchNorm  # the same parameters and buffers, summed differently
        warnings.filterwarnings("ignore", "Grad strides do not match")  # of 1x1 convolutions; the values are right
        self.replica = DistributedDataParallel(_Scales(model), **{SYNC_BUFFERS: False})
        self.replica.register_comm_hook(None, _sum_gradients)

    def begin(self, epoch: int) -> None:
        seed = np.random.SeedSequence((self.seed, epoch, self.ranks.rank)).generate_state(1, np.uint64)
        torch.manual_seed(int(seed[0]))

    def part(self, patches: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor | float]:
        patches, mine = (whole.tensor_split(self.ranks.world)[self.ranks.rank] for whole in (patches, targets))
        if weights is None:
            return patches, mine, len(mine) / len(targets)
        return patches, mine, weights[mine].sum() / weights[targets].sum()

    def forward(self, model: nn.Module, patches: Tensor) -> Tensor:
        return self.replica(patches)

    def total(self, value: Tensor) -> Tensor:
        return add_up(value)


class _Scales(nn.Module):
    """A PatchClassifier whose forward gives the logits of every scale, which is what the replicas share."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, patches: Tensor) -> Tensor:
        return self.model.forward_scales(patches)


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm2d that in training takes mean and variance over the patches of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        exact = x.float()
        n = x.new_tensor([x.numel() // x.shape[1]], dtype=torch.float32)
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
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class _Sum(torch.autograd.Function):
    """Sum over the processes; what follows it on any of them counts in the gradient."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        return add_up(value)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return add_up(gradient)


def add_up(value: Tensor) -> Tensor:
    """Sum over the processes, the same bits on each."""
    total = value.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def _sum_gradients(state, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Add gradients up in the order of the ranks.

    DistributedDataParallel fills its buckets differently after the first step, and an all-reduce adds up in an order
    that depends on the place in the bucket: a resumed run would not be to the bit what it would have been.
    """
    gradients = bucket.buffer()
    parts = [torch.empty_like(gradients) for _ in range(dist.get_world_size())]
    work = dist.all_gather(parts, gradients, async_op=True)
    return work.get_future().then(lambda _: reduce(torch.add, parts))
