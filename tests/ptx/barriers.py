"""Barriers of a block: bar.sync, bar.arrive, bar.red, and the threads that wait at them."""

from __future__ import annotations

import numpy as np

from . import checks
from .checks import Violation

NOWHERE = -1
EVERYONE = 0  # a barrier without a number of threads


class Barriers:
    """Which thread of a batch waits at which barrier."""

    def __init__(self, batch):
        self.batch = batch
        threads = batch.threads
        self.at = np.full(threads, NOWHERE)  # the barrier's number
        self.place = np.zeros(threads, np.int64)  # where the thread goes on
        self.wanted = np.zeros(threads, np.int64)  # how many threads, or EVERYONE
        self.predicate = np.zeros(threads, bool)  # of bar.red
        self.waiting = 0
        # Threads that said they were here and went on (bar.arrive), by block and barrier.
        self.arrived = np.zeros((batch.blocks, 16), np.int64)

    def wait(self, index: np.ndarray, number, place: int, wanted) -> int | None:
        """These threads wait; returns `place` if they are all there are, and may go on at once."""
        batch = self.batch
        if self.waiting == 0 and index.size == batch.alive_count and np.all(wanted == EVERYONE) and np.ptp(number) == 0:
            whole_blocks = batch.alive.reshape(batch.blocks, -1)
            if (whole_blocks.all(1) | ~whole_blocks.any(1)).all():
                self.pass_barrier(index)
                return place
        self.at[index], self.place[index], self.wanted[index] = number, place, wanted
        self.waiting += index.size
        return None

    def arrive(self, index: np.ndarray, number) -> None:
        """These threads count as arrived, and go on."""
        np.add.at(self.arrived, (self.batch.block_of[index], number), 1)

    def pass_barrier(self, index: np.ndarray) -> None:
        """Accesses of these threads' blocks before and after it are ordered."""
        stamps = self.batch.stamps
        stamps[index] = (stamps[index] & ~checks.WARP_SYNC) + (1 << checks.BARRIER_SHIFT)

    def release(self) -> bool:
        """Lets go the blocks whose barrier is complete; False if no thread waits at one."""
        if self.waiting == 0:
            return False
        batch = self.batch
        released = [index for block in range(batch.blocks) for index in self.complete(block)]
        if not released:
            self.fail()
        for index in released:
            self.at[index] = NOWHERE
            self.waiting -= index.size
            batch.add(int(self.place[index[0]]), index)
        return True

    def complete(self, block: int) -> list[np.ndarray]:
        """The groups of a block's threads that may go on."""
        batch = self.batch
        first = block * batch.threads_per_block
        threads = np.arange(first, first + batch.threads_per_block)
        waiting = threads[self.at[threads] != NOWHERE]
        if waiting.size == 0:
            return []
        groups = []
        for number in np.unique(self.at[waiting]):
            here = waiting[self.at[waiting] == number]
            wanted = int(self.wanted[here[0]])
            if wanted != EVERYONE and here.size + self.arrived[block, number] >= wanted:
                # Only some threads are ordered by it: the record of accesses goes on as if there was no barrier.
                self.arrived[block, number] = 0
                if here.size == batch.threads_per_block:
                    self.pass_barrier(here)
                groups.extend(here[self.place[here] == place] for place in np.unique(self.place[here]))
            elif wanted == EVERYONE and here.size == np.count_nonzero(batch.alive[threads]):
                self.check_everyone(threads, here)
                self.pass_barrier(here)
                groups.append(here)
        return groups

    def check_everyone(self, threads: np.ndarray, here: np.ndarray) -> None:
        """All threads of the block are at one barrier, and none has left."""
        batch = self.batch
        if not batch.check:
            return
        instruction = batch.program.code[self.place[here[0]] - 1]
        if here.size < threads.size:
            text = f"{threads.size - here.size} threads of the block have exited before it"
            raise Violation(checks.BARRIER_DIVERGED, f"{text}; {batch.where(instruction, here[0])}")
        if np.ptp(self.place[here]):
            other = here[self.place[here] != self.place[here[0]]][0]
            line = batch.program.code[self.place[other] - 1].line
            text = f"other threads of the block are at another barrier, of line {line}"
            raise Violation(checks.BARRIER_DIVERGED, f"{text}; {batch.where(instruction, here[0])}")

    def fail(self) -> None:
        """Nobody can run any more."""
        batch = self.batch
        thread = int(np.flatnonzero(self.at != NOWHERE)[0])
        instruction = batch.program.code[self.place[thread] - 1]
        text = "other threads of the block never come to it"
        raise Violation(checks.BARRIER_DIVERGED, f"{text}; {batch.where(instruction, thread)}")
