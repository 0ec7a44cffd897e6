"""The processes that torchrun starts: which one this is, and the store through which they exchange numbers and text."""

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from torch.distributed.rendezvous import rendezvous

LONGEST_WAIT = timedelta(days=30)


class Store(Protocol):
    """What the processes share; a torch.distributed.Store has it."""

    def add(self, name: str, n: int, /) -> int: ...
    def set(self, name: str, value: str, /) -> None: ...
    def get(self, name: str, /) -> bytes: ...
    def check(self, names: list[str], /) -> bool: ...


class _LocalStore:
    """Store of a single process."""

    def __init__(self):
        self.counts, self.values = Counter(), {}

    def add(self, name: str, n: int, /) -> int:
        self.counts[name] += n
        return self.counts[name]

    def set(self, name: str, value: str, /) -> None:
        self.values[name] = value.encode()

    def get(self, name: str, /) -> bytes:
        return self.values[name]

    def check(self, names: list[str], /) -> bool:
        return all(name in self.values for name in names)


@dataclass(frozen=True)
class Ranks:
    """Describe this process among those that work together; by default it is the only one.

    Attributes:
        rank, world: number of this process, from 0, and how many processes there are.
        local_rank: its number on its machine.
        machines: number of machines that they run on.
        store: a torch.distributed.Store if torchrun has started the process.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    machines: int = 1
    store: Store = field(default_factory=_LocalStore)

    @classmethod
    def of_environment(cls) -> "Ranks":
        """Read torchrun's environment variables; without them this is the only process."""
        if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
            return cls()
        store, rank, world = next(rendezvous("env://", timeout=LONGEST_WAIT))
        store.set_timeout(LONGEST_WAIT)
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        return cls(rank, world, local_rank, int(os.environ.get("GROUP_WORLD_SIZE", 1)), store)

    @property
    def first(self) -> bool:
        """Whether this is the process that does what is done only once."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether this process was started without torchrun."""
        return isinstance(self.store, _LocalStore)

    def next_number(self, name: str) -> int:
        """Return the next number of a common counter, from 0; no two calls on any ranks get the same."""
        return self.store.add(name, 1) - 1

    def publish(self, name: str, value: str) -> None:
        """Set a value that the other processes can wait for."""
        self.store.set(name, os.fsencode(value).decode("latin-1"))  # a folder's name can be any bytes

    def has(self, name: str) -> bool:
        """Whether a value has been published."""
        return self.store.check([name])

    def wait_for(self, name: str) -> str:
        """Return a published value, waiting until it exists."""
        self._wait([name])
        return os.fsdecode(self.store.get(name).decode().encode("latin-1"))

    def wait_for_all(self, name: str) -> None:
        """Wait until every rank has made this call."""
        self.store.set(f"{name}/{self.rank}", "")
        self._wait([f"{name}/{rank}" for rank in range(self.world)])

    def _wait(self, names: list[str]) -> None:
        """Wait until all values exist; not in the store, where no signal would be handled."""
        while not self.store.check(names):
            time.sleep(0.02)
