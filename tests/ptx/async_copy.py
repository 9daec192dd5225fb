"""cp.async: bytes that are on their way to shared memory until the thread that sent them waits.

Hardware may deliver at any moment between. So that a missing wait is always seen, they arrive here at the last
possible one, at wait_group; until then touching the destination is a violation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .spaces import COPY_START, READ, WRITE


class Copy(NamedTuple):
    """What some threads sent with one instruction."""

    threads: np.ndarray
    position: np.ndarray  # in the array behind shared memory
    data: np.ndarray  # (threads, bytes)
    group: np.ndarray  # the number of commit_group each thread had passed


class AsyncCopies:
    """The copies in flight of a batch."""

    def __init__(self, batch, threads: int):
        self.batch = batch
        self.committed = np.zeros(threads, np.int64)
        self.pending: list[Copy] = []

    def __bool__(self) -> bool:
        return bool(self.pending)

    def start(self, lanes, instruction, shared, device, size: int, wanted: np.ndarray) -> None:
        """Reads the source now; bytes beyond `wanted` become zeros."""
        memory, source = self.batch.spaces["shared"], self.batch.spaces["global"]
        position = memory.access(lanes, instruction, *shared, 4, size // 4, COPY_START)
        data = np.zeros((lanes.index.size, size), np.uint8)
        for amount in np.unique(wanted):
            if amount == 0:
                continue
            rows = np.flatnonzero(wanted == amount)
            element = 4 if amount % 4 == 0 else 1
            chosen = lanes.only(wanted == amount)
            at = source.access(chosen, instruction, *device, element, int(amount) // element, READ, align=size)
            data[rows[:, None], np.arange(amount)] = source.data[at[:, None] + np.arange(amount)]
        if memory.check:
            memory.in_flight[position[:, None] + np.arange(size)] = 1
        self.pending.append(Copy(lanes.index, position, data, self.committed[lanes.index]))

    def commit(self, lanes) -> None:
        """Copies sent so far are one group."""
        self.committed[lanes.index] += 1

    def wait(self, lanes, newest: int, instruction) -> None:
        """All groups of these threads but the `newest` arrive."""
        waits = np.zeros(self.committed.size, bool)
        waits[lanes.index] = True
        still = []
        for copy in self.pending:
            arrived = waits[copy.threads] & (copy.group < self.committed[copy.threads] - newest)
            if arrived.all():
                self.arrive(copy, instruction)
            elif arrived.any():
                self.arrive(Copy(*(field[arrived] for field in copy)), instruction)
                still.append(Copy(*(field[~arrived] for field in copy)))
            else:
                still.append(copy)
        self.pending = still

    def arrive(self, copy: Copy, instruction) -> None:
        """Writes them, as their threads' store of this moment."""
        memory = self.batch.spaces["shared"]
        size = copy.data.shape[1]
        places = copy.position[:, None] + np.arange(size)
        memory.data[places] = copy.data
        if memory.check:
            memory.in_flight[places] = 0
            memory.check_access(instruction, copy.threads, copy.position, 4, size // 4, WRITE)
        memory.mark(copy.position, 4, size // 4)
