"""The memory spaces of a batch of blocks: an access is located, checked and recorded here."""

from __future__ import annotations

import numpy as np

from . import access, checks
from .checks import Accesses, Violation
from .memory import DeviceMemory, describe
from .types import POISON_BYTES, UNSIGNED

READ, WRITE, ATOMIC_UPDATE, READ_ONLY, STRONG_READ, STRONG_WRITE, COPY_START = range(7)
READS = (READ, ATOMIC_UPDATE, READ_ONLY, STRONG_READ)
WRITES = (WRITE, ATOMIC_UPDATE, STRONG_WRITE, COPY_START)
# Volatile, relaxed and atomic accesses do not race with each other.
FLAGS = {ATOMIC_UPDATE: checks.ATOMIC, STRONG_READ: checks.ATOMIC, STRONG_WRITE: checks.ATOMIC}
PROBLEMS = {
    access.OUT_OF_BOUNDS: checks.OUT_OF_BOUNDS,
    access.MISALIGNED: checks.MISALIGNED,
    access.FREED_MEMORY: checks.FREED,
}


class Elements(dict):
    """Bytes seen as unsigned numbers, by their size."""

    def __init__(self, raw: np.ndarray):
        super().__init__()
        self.raw = raw

    def __missing__(self, size: int) -> np.ndarray:
        self[size] = self.raw.view(UNSIGNED[size])
        return self[size]


# A flag for each byte of an element, seen as one number of its size.
ALL_WRITTEN = {size: dtype.type(0x0101010101010101 & (1 << 8 * size) - 1) for size, dtype in UNSIGNED.items()}
NONE_WRITTEN = {size: dtype.type(0) for size, dtype in UNSIGNED.items()}


class Space:
    """What the three spaces have in common.

    Attributes:
        data: all bytes of the space; `elements`: the same as numbers.
        written: one flag per byte; `flags`: the same, those of an element at a time.
        record: who accessed what, or None for memory that threads do not share, and without checks.
        in_flight: shared memory's bytes that an asynchronous copy is on its way to.
    """

    name = ""
    record: Accesses | None = None
    in_flight: np.ndarray | None = None

    def __init__(self, batch, data: np.ndarray, written: np.ndarray):
        self.batch = batch
        self.check = batch.check
        self.data, self.written = data, written
        self.elements, self.flags = Elements(data), Elements(written)

    def locate(self, index, address, offset, width, align, position) -> tuple[int, int]:
        """Fills in positions; (problem, which of `index`)."""
        raise NotImplementedError

    def describe(self, address: int) -> str:
        """An address in words."""
        raise NotImplementedError

    def access(
        self, lanes, instruction, address, offset: int, size: int, count: int, mode: int, align: int = 0
    ) -> np.ndarray:
        """The positions of `count` elements of `size` bytes for each active thread, checked."""
        index, width = lanes.index, size * count
        position = np.empty(index.size, np.int64)
        problem, which = self.locate(index, address, offset, width, align or width, position)
        if problem:
            at = int(address[index[which]]) + offset
            self.fail(PROBLEMS[problem], instruction, index[which], f"{width} bytes at {self.describe(at)}")
        if self.batch.statistics:
            self.batch.statistics.access(self, instruction, lanes, position, width)
        if self.check:
            self.check_access(instruction, index, position, size, count, mode)
        if mode in (WRITE, STRONG_WRITE):
            self.mark(position, size, count)
        return position

    def mark(self, position, size: int, count: int) -> None:
        """Notes that these bytes have been written."""
        access.mark_written(position, count, size.bit_length() - 1, self.flags[size], ALL_WRITTEN[size])

    def check_access(self, instruction, index, position, size: int, count: int, mode: int) -> None:
        """Uninitialised bytes, copies in flight, races."""
        shift = size.bit_length() - 1
        if self.in_flight is not None and self.batch.copies:
            flags = self.in_flight.view(UNSIGNED[size])
            which = access.first_unlike(position, count, shift, flags, NONE_WRITTEN[size])
            if which >= 0:
                self.fail(checks.IN_FLIGHT, instruction, index[which], "a cp.async to it has not been waited for")
        if mode in READS:
            which = access.first_unlike(position, count, shift, self.flags[size], ALL_WRITTEN[size])
            if which >= 0:
                where = self.describe_position(index[which], position[which])
                self.fail(checks.UNWRITTEN, instruction, index[which], f"{size * count} bytes at {where}")
        if self.record is None:
            return
        stamps, flags = self.batch.stamps, FLAGS.get(mode, 0)
        note = self.record.write if mode in WRITES else self.record.read
        which, stamp = note(index, position, size * count, stamps, flags)
        if mode == READ_ONLY and which < 0:
            which, stamp = self.record.written_in_launch(position, size * count)
        if which >= 0:
            self.race(instruction, index[which], position[which], stamp)

    def race(self, instruction, thread: int, position: int, stamp: int) -> None:
        """Two threads, one address, no order."""
        other_block = (stamp & checks.BLOCK) >> checks.BLOCK_SHIFT
        kind = checks.RACE if other_block == self.batch.block_number(thread) else checks.BLOCK_CONFLICT
        who = self.batch.who(other_block, stamp & checks.THREAD)
        self.fail(kind, instruction, thread, f"with {who}, over {self.describe_position(thread, position)}")

    def describe_position(self, thread: int, position: int) -> str:
        """A byte of `data` in words."""
        raise NotImplementedError

    def fail(self, kind: str, instruction, thread: int, text: str) -> None:
        """Raises the violation."""
        raise Violation(kind, f"{text}; {self.batch.where(instruction, thread)}")


class Device(Space):
    """Global and constant memory: that of the whole device."""

    name = "global"

    def __init__(self, batch, memory: DeviceMemory, record: Accesses | None):
        super().__init__(batch, memory.data, memory.written)
        self.memory = memory
        self.record = record

    def locate(self, index, address, offset, width, align, position):
        """By the table of allocations."""
        memory = self.memory
        return access.locate_device(
            index, address, offset, width, align, memory.start, memory.size, memory.windows, position
        )

    def describe(self, address: int) -> str:
        """By its allocation."""
        return describe(self.memory, address)

    def describe_position(self, thread: int, position: int) -> str:
        """By its allocation."""
        starts = self.memory.start[: self.memory.windows]
        live = (starts <= position) & (position < starts + self.memory.size[: self.memory.windows])
        window = int(np.flatnonzero(live)[0])
        return describe(self.memory, (window << 40) + int(position - starts[window]))


class Private(Space):
    """Memory with one part per block (shared) or per thread (local)."""

    def __init__(self, batch, name: str, parts: int, part_bytes: int, owner: np.ndarray, shared_by_threads: bool):
        super().__init__(batch, np.empty(parts * part_bytes, np.uint8), np.empty(parts * part_bytes, np.uint8))
        self.name = name
        self.limit = part_bytes
        self.base = owner * part_bytes
        self.shared_by_threads = shared_by_threads
        if shared_by_threads:
            self.in_flight = np.zeros(parts * part_bytes, np.uint8)

    def clear(self) -> None:
        """Poison, which nobody has written."""
        self.data.view(np.uint32)[:] = int.from_bytes(POISON_BYTES, "little")
        self.written[:] = 0
        if self.shared_by_threads:
            self.in_flight[:] = 0
            self.record = Accesses(self.data.size, self.batch.granule) if self.check else None

    def locate(self, index, address, offset, width, align, position):
        """From the thread's or its block's first byte."""
        return access.locate_private(index, address, offset, width, align, self.base, self.limit, position)

    def describe(self, address: int) -> str:
        """By its number."""
        return f"byte {address} of {self.limit} of {self.name} memory"

    def describe_position(self, thread: int, position: int) -> str:
        """By its number."""
        return self.describe(int(position - self.base[thread]))
