"""What the interpreter reports: races, conflicts between blocks, barriers and warps, bytes that nobody wrote.

Races. Every thread carries a stamp: which block and thread it is and how many barriers it has passed. Of every
granule of memory (the smallest access of the kernel, 1 to 8 bytes) the record keeps the stamps of the last write and
of two reads: the last one, and one before it from as far away as there was (another block, else another warp, else
another thread). That is enough: two accesses, one of them a write, are a race unless a barrier (or, within a warp, a
bar.warp.sync) lies between, and if any earlier access races with a new one, so does one of those kept. Threads of
different blocks have no barrier in common. Atomics and volatile accesses do not race with each other.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# A stamp from its lowest bit: thread in block, number of bar.warp.sync, number of barriers, block, flags.
THREAD_BITS, WARP_SYNC_BITS, BARRIER_BITS, BLOCK_BITS = 10, 10, 20, 21
WARP_SYNC_SHIFT = THREAD_BITS
BARRIER_SHIFT = WARP_SYNC_SHIFT + WARP_SYNC_BITS
BLOCK_SHIFT = BARRIER_SHIFT + BARRIER_BITS
THREAD = (1 << THREAD_BITS) - 1
WARP = THREAD & ~31
WARP_SYNC = ((1 << WARP_SYNC_BITS) - 1) << WARP_SYNC_SHIFT
BARRIER = ((1 << BARRIER_BITS) - 1) << BARRIER_SHIFT
BLOCK = ((1 << BLOCK_BITS) - 1) << BLOCK_SHIFT
ATOMIC = 1 << (BLOCK_SHIFT + BLOCK_BITS)
PRESENT = ATOMIC << 1


class Violation(Exception):
    """A kernel did what it must not do.

    Attributes:
        kind: one of the names below.
    """

    def __init__(self, kind: str, text: str):
        super().__init__(f"{kind}: {text}")
        self.kind = kind


OUT_OF_BOUNDS = "out of bounds"
MISALIGNED = "misaligned"
FREED = "freed memory"
UNWRITTEN = "reads what nobody wrote"
RACE = "race"
BLOCK_CONFLICT = "blocks conflict"
IN_FLIGHT = "asynchronous copy in flight"
BARRIER_DIVERGED = "barrier"
WARP_DIVERGED = "warp not converged"
ENDLESS = "too many steps"
TRAP = "trap"


class Accesses:
    """Who accessed which granule of a memory: stamps, 0 for nobody. Pages of it exist once they are touched."""

    def __init__(self, nbytes: int, granule: int):
        self.shift = granule.bit_length() - 1
        granules = (nbytes >> self.shift) + 1
        self.writes = np.zeros(granules, np.int64)
        self.reads = np.zeros(granules, np.int64)
        self.other_reads = np.zeros(granules, np.int64)

    def read(self, index, position, width: int, stamps, flags: int = 0) -> tuple[int, int]:
        """Records a load; (which of `index` races, the stamp it races with), or (-1, 0)."""
        count = max(1, width >> self.shift)
        return record_reads(
            index, position, self.shift, count, stamps, flags, self.writes, self.reads, self.other_reads
        )

    def write(self, index, position, width: int, stamps, flags: int = 0) -> tuple[int, int]:
        """Records a store."""
        count = max(1, width >> self.shift)
        return record_writes(
            index, position, self.shift, count, stamps, flags, self.writes, self.reads, self.other_reads
        )

    def written_in_launch(self, position, width: int) -> tuple[int, int]:
        """Like `read` for an access that no write at all may precede (ld.global.nc)."""
        return first_written(position, self.shift, max(1, width >> self.shift), self.writes)


@njit(cache=True, nogil=True, inline="always")
def conflict(earlier, now):
    """True if two accesses, of which one at least is a write, are a race."""
    difference = earlier ^ now
    if earlier == 0 or difference & (BLOCK | THREAD) == 0:
        return False
    if earlier & now & ATOMIC:
        return False
    if difference & BLOCK:
        return True
    if difference & BARRIER:
        return False
    return bool(difference & WARP) or difference & WARP_SYNC == 0


@njit(cache=True, nogil=True, inline="always")
def worth(earlier, now):
    """How much an earlier read tells, next to one that is made now: the further away its thread, the more."""
    difference = earlier ^ now
    if earlier == 0:
        return 0
    if difference & BLOCK:
        return 3
    if difference & BARRIER:
        return 0  # the barrier orders it before all that follows
    if difference & WARP:
        return 2
    return 1 if difference & THREAD else 0


@njit(cache=True, nogil=True)
def record_reads(index, position, shift, count, stamps, flags, writes, reads, other_reads):
    """Every granule of every thread: is its last write a race? Then notes the reader."""
    for k in range(index.size):
        now = stamps[index[k]] | flags
        granule = position[k] >> shift
        for g in range(granule, granule + count):
            if conflict(writes[g], now):
                return k, writes[g]
            last, other = reads[g], other_reads[g]
            if last == now or (
                (last ^ now | other ^ now) & (BLOCK | BARRIER | ATOMIC) == 0 and (last ^ other) & WARP != 0
            ):
                continue  # nothing to add: any writer meets a reader of another warp already
            if worth(last, now) >= worth(other_reads[g], now):
                other_reads[g] = last
            reads[g] = now
    return -1, 0


@njit(cache=True, nogil=True)
def record_writes(index, position, shift, count, stamps, flags, writes, reads, other_reads):
    """Every granule of every thread: is its last write, or one of the reads kept, a race? Then notes the writer."""
    for k in range(index.size):
        now = stamps[index[k]] | flags
        granule = position[k] >> shift
        for g in range(granule, granule + count):
            if conflict(writes[g], now):
                return k, writes[g]
            if conflict(reads[g], now):
                return k, reads[g]
            if conflict(other_reads[g], now):
                return k, other_reads[g]
            writes[g] = now
    return -1, 0


def first_stamps(block_numbers: np.ndarray, threads: int) -> np.ndarray:
    """The stamps of all threads of some blocks before any barrier."""
    if block_numbers.size and int(block_numbers[-1]) >> BLOCK_BITS:
        raise ValueError(f"more than {1 << BLOCK_BITS} blocks: run without checks")
    block = np.repeat(block_numbers.astype(np.int64), threads) << BLOCK_SHIFT
    return block | np.tile(np.arange(threads), len(block_numbers)) | PRESENT


@njit(cache=True, nogil=True)
def first_written(position, shift, count, writes):
    """Which position someone wrote in this launch, and the stamp; or (-1, 0)."""
    for k in range(position.size):
        granule = position[k] >> shift
        for g in range(granule, granule + count):
            if writes[g]:
                return k, writes[g]
    return -1, 0
