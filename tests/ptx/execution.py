"""A batch of blocks, executed in lock-step.

Threads that are at the same instruction form a group; `Lanes` are the active ones of it. A program is cut into
segments that control enters at the top and leaves at the bottom. Of all groups the one that is furthest back in the
program runs next, so that threads that diverged meet again where their paths join; groups at one place become one. At
a barrier threads wait until no other can run. At an instruction that concerns a warp, a group waits until all threads
the instruction asks for are there.
"""

from __future__ import annotations

import numpy as np

from . import checks
from .async_copy import AsyncCopies
from .barriers import Barriers
from .checks import Violation
from .spaces import Device, Private

ALL = slice(None)


class Lanes:
    """The active threads.

    Attributes:
        index: their numbers in the batch, rising.
        whole: all others have exited: what is written to their registers does not matter.
    """

    __slots__ = ("batch", "index", "whole")

    def __init__(self, batch: Batch, index: np.ndarray):
        self.batch, self.index = batch, index
        self.whole = index.size == batch.alive_count

    def only(self, chosen: np.ndarray) -> Lanes:
        """Those where `chosen` (one flag for each of `index`) is true."""
        lanes = object.__new__(Lanes)
        lanes.batch, lanes.index, lanes.whole = self.batch, self.index[chosen], False
        if lanes.index.size == self.index.size:
            lanes.whole = self.whole
        return lanes

    def where(self, predicate: np.ndarray, negated: bool) -> Lanes:
        """Those whose predicate (one flag for each thread of the batch) is true, or false."""
        chosen = predicate[self.index]
        return self.only(~chosen if negated else chosen)


class Batch:
    """Some blocks of a launch; used again for the next ones."""

    def __init__(self, launch, blocks: int):
        self.launch, self.kernel = launch, launch.kernel
        self.program = launch.kernel.program
        self.check, self.statistics = launch.check, launch.statistics
        self.granule = launch.kernel.granule
        self.blocks, self.threads_per_block = blocks, launch.threads_per_block
        self.threads = threads = blocks * self.threads_per_block
        self.block_of = np.repeat(np.arange(blocks), self.threads_per_block)
        self.thread_in_block = np.tile(np.arange(self.threads_per_block), blocks)
        warps_per_block = -(-self.threads_per_block // 32)
        self.warp_of = self.block_of * warps_per_block + self.thread_in_block // 32
        self.lane_of = self.thread_in_block % 32
        self.warps = blocks * warps_per_block
        self.lane_bits = 2.0**self.lane_of
        self.everyone = np.arange(threads)
        shared_bytes = max(16, -(-(self.program.shared_bytes + launch.dynamic_shared) // 16) * 16)
        local_bytes = max(16, -(-self.program.local_bytes // 16) * 16)
        self.spaces = {
            "shared": Private(self, "shared", blocks, shared_bytes, self.block_of, True),
            "local": Private(
                self, "local", threads if self.program.local_bytes else 1, local_bytes, self.everyone, False
            ),
            "global": Device(self, launch.memory, launch.record),
        }
        self.spaces["const"] = self.spaces["global"]
        self.registers = launch.kernel.take_registers(threads)
        self.registers.attach(self)

    def end(self) -> None:
        """Breaks the circles of references that would keep its arrays until Python looks for such, GB of them."""
        self.spaces.clear()
        self.registers.batch = self.copies = self.barriers = None

    def run(self, first_block: int, count: int) -> None:
        """Executes `count` blocks from `first_block` (their numbers in the grid) on."""
        self.first_block = first_block
        self.alive = self.block_of < count
        self.alive_count = int(np.count_nonzero(self.alive))
        self.stamps = checks.first_stamps(first_block + np.arange(self.blocks), self.threads_per_block)
        self.spaces["shared"].clear()
        self.spaces["local"].clear()
        self.registers.reset()
        self.copies = AsyncCopies(self, self.threads)
        self.barriers = Barriers(self)
        self.pending: dict[int, np.ndarray] = {}  # where groups are that can run
        self.parked: dict[int, np.ndarray] = {}  # where groups wait for the rest of their warps
        self.add(0, np.flatnonzero(self.alive))
        while self.pending or self.release():
            place = min(self.pending)
            self.run_group(place, self.pending.pop(place))
        if self.check and self.copies:
            copy = self.copies.pending[0]
            who = self.who(self.block_number(copy.threads[0]), self.thread_in_block[copy.threads[0]])
            raise Violation(checks.IN_FLIGHT, f"its block ends, and {who} has not waited for a cp.async")

    def run_group(self, place: int, index: np.ndarray) -> None:
        """Runs a group until it ends, waits, splits, or is no longer the furthest back."""
        launch, segments, slots = self.launch, self.kernel.segments, self.registers.slots
        lanes = Lanes(self, index)
        while True:
            segment = segments[place]
            if segment.participants is not None:
                lanes = self.converged(segment, lanes)
                if lanes is None:
                    return
            launch.count(segment, lanes)
            for step in segment.steps:
                step(slots, lanes)
            place = segment.leave(self, slots, lanes)
            if place is None:
                return
            if self.pending or self.parked:
                self.add(place, lanes.index)
                return
            if lanes.index.size != self.alive_count or not lanes.whole:
                lanes = Lanes(self, lanes.index)

    def add(self, place: int, index: np.ndarray) -> None:
        """A group that can run from `place` on."""
        if index.size == 0:
            return
        for groups in (self.pending, self.parked):
            if place in groups:
                index = np.concatenate([groups.pop(place), index])
                index.sort()
        self.pending[place] = index

    def converged(self, segment, lanes: Lanes) -> Lanes | None:
        """Those of the group whose warps are complete; the others are parked."""
        if lanes.whole:
            return lanes
        here = np.zeros(self.threads, bool)
        here[lanes.index] = True
        missing = self.warp_masks(self.alive & ~here)[self.warp_of[lanes.index]]
        waits = (missing & segment.participants(self.registers.slots)[lanes.index]) != 0
        if not waits.any():
            return lanes
        self.parked[segment.start] = lanes.index[waits]
        return None if waits.all() else lanes.only(~waits)

    def warp_masks(self, flags: np.ndarray) -> np.ndarray:
        """For every warp a mask of 32 bits: its threads whose flag is true."""
        return np.bincount(self.warp_of, self.lane_bits * flags, self.warps).astype(np.uint32)

    def release(self) -> bool:
        """Lets threads pass barriers; False if none waits at one."""
        if self.barriers.release():
            return True
        if self.parked:
            place, index = next(iter(self.parked.items()))
            instruction = self.program.code[place]
            text = (
                f"other threads of its warp that are to take part never come here; {self.where(instruction, index[0])}"
            )
            raise Violation(checks.WARP_DIVERGED, text)
        return False

    def exit(self, index: np.ndarray) -> None:
        """These threads have ended."""
        self.alive[index] = False
        self.alive_count -= index.size

    # --- for messages -----------------------------------------------------------------------------------------------

    def block_number(self, thread: int) -> int:
        """In the grid."""
        return self.first_block + int(self.block_of[thread])

    def who(self, block: int, thread_in_block: int) -> str:
        """A thread in words."""
        thread = self.launch.thread_position(int(thread_in_block))
        return f"thread {thread} of block {self.launch.block_position(int(block))}"

    def where(self, instruction, thread: int) -> str:
        """An instruction and the thread that is at it."""
        who = self.who(self.block_number(thread), self.thread_in_block[thread])
        return f"{who} at line {instruction.line}: {instruction.text} ({self.program.name})"
