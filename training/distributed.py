"""The processes that torchrun starts: which one this is, what they count together, and who waits for whom."""

import os
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

import torch.distributed

LONGEST_WAIT = timedelta(days=30)


class _Alone:
    """A store for one process."""

    def __init__(self):
        self.counts, self.values = Counter(), {}

    def add(self, name: str, n: int) -> int:
        self.counts[name] += n
        return self.counts[name]

    def set(self, name: str, value: str) -> None:
        self.values[name] = value.encode()

    def get(self, name: str) -> bytes:
        return self.values[name]

    def wait(self, names: list[str]) -> None:
        pass


@dataclass(frozen=True)
class Ranks:
    """One process of several that work together; by default the only one.

    Attributes:
        rank, world: number of this process, from 0, and how many there are.
        local_rank: its number on its machine.
        machines: how many machines they run on.
        store: what they share, a torch.distributed.Store where there are several.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    machines: int = 1
    store: object = field(default_factory=_Alone)

    @classmethod
    def of_environment(cls) -> "Ranks":
        """This process as torchrun's environment variables tell it; alone where there are none."""
        if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
            return cls()
        store, rank, world = next(torch.distributed.rendezvous("env://", timeout=LONGEST_WAIT))
        store.set_timeout(LONGEST_WAIT)
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        return cls(rank, world, local_rank, int(os.environ.get("GROUP_WORLD_SIZE", 1)), store)

    @property
    def first(self) -> bool:
        """Whether this is the one that does what must be done once."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether torchrun has not started this."""
        return isinstance(self.store, _Alone)

    def next(self, name: str) -> int:
        """Count up together: every call on any rank gives another number, from 0."""
        return self.store.add(name, 1) - 1

    def tell(self, name: str, value: str) -> None:
        """Leave a value for the others."""
        self.store.set(name, value)

    def hear(self, name: str) -> str:
        """A value that one of them leaves, as soon as it is there."""
        return self.store.get(name).decode()

    def wait_for_all(self, name: str) -> None:
        """Go on when every rank has come here."""
        self.store.set(f"{name}/{self.rank}", "")
        self.store.wait([f"{name}/{rank}" for rank in range(self.world)])
