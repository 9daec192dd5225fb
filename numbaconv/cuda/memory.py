"""Device memory for results and scratch: kept when an array on it is gone, and lent again.

Asking the driver for memory stops the device, so a training step must not. Freed blocks wait in the pool of their
device and stream, by size; sizes are rounded up to an eighth of a power of two, so that nearly equal shapes share.
A block taken again on the same stream needs no wait: the kernels that used it before were queued before. If it was
used on other streams too, the stream that takes it waits for these, on the device.

Memory comes from numba's memory manager where one is set (RMM), see driver.py; it goes back with `empty_cache`, and
when the device has no more.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..errors import DeviceMemoryError, message
from .array import DeviceArray
from .runtime import Runtime, runtime
from .streams import current_stream

_SMALLEST = 512  # bytes: the driver's own granularity


class Memory:
    """What an array lies on. `stream` is where it may be used without ado; `others` are where it was used as well."""

    __slots__ = ("__weakref__", "address", "device", "others", "runtime", "stream")

    def __init__(self, owner: Runtime, device: int, stream: int | None, address: int) -> None:
        self.runtime, self.device, self.stream, self.address = owner, device, stream, address
        self.others: set[int] = set()

    def used_on(self, stream: int) -> None:
        """Work with it was queued on a stream."""
        if stream != self.stream:
            self.others.add(stream)


class Block(Memory):
    """Memory of a pool; it goes back there when the last array on it is gone."""

    __slots__ = ("nbytes",)

    def __init__(self, owner: Runtime, device: int, stream: int, address: int, nbytes: int) -> None:
        super().__init__(owner, device, stream, address)
        self.nbytes = nbytes

    def __del__(self, process_ends: Any = sys.is_finalizing) -> None:
        # Only noted: this may run anywhere, in the garbage collector too. The next allocation does the rest.
        pools = None if process_ends() else _pools.get(self.runtime)
        if pools is not None:
            pools.returned.append(Returned(self.device, self.others, None, self.stream, self.address, self.nbytes))


class Foreign(Memory):
    """Memory of another library, whose `keeper` is let go when the device is done with what was queued here."""

    __slots__ = ("keeper",)

    def __init__(self, owner: Runtime, keeper: Any, address: int, nbytes: int) -> None:
        device = owner.adopt(address, nbytes)
        super().__init__(owner, device, None, address)
        self.keeper = keeper

    def __del__(self, process_ends: Any = sys.is_finalizing) -> None:
        if hasattr(self, "keeper") and not process_ends():
            pools = _pools_of(self.runtime)
            pools.returned.append(Returned(self.device, self.others, self.keeper, None, self.address, 0))


class Returned(NamedTuple):
    """Memory on which there is no array any more."""

    device: int
    others: set[int]
    keeper: Any  # of another library's memory; None: it is a pool's
    stream: int | None
    address: int
    nbytes: int


class _Pools:
    """All memory of one runtime."""

    def __init__(self, owner: Runtime) -> None:
        self.runtime = weakref.proxy(owner)
        self.lock = threading.RLock()
        self.returned: deque[Returned] = deque()
        self.free: dict[tuple[int, Any], dict[int, list[tuple[int, list[Any]]]]] = {}
        self.lingering: list[tuple[int, list[Any], Returned]] = []  # foreign, with the events it waits for
        self.kept: set[tuple[int, int]] = set()
        self.held: list[Returned] = []  # used on a stream whose work is going to be done again
        self.used: dict[int, Counts] = {}

    def take(self, device: int, nbytes: int, stream: int) -> tuple[int, int]:
        """(address, size) of a block of at least `nbytes`."""
        size = _size_class(nbytes) if self.runtime.caches else max(nbytes, 1)
        with self.lock:
            self.collect()
            counts = self.counts(device)
            blocks = self.free.get((device, stream), {}).get(size)
            if blocks:
                address, events = blocks.pop()
                for event in events:
                    self.runtime.wait(device, stream, event)
            else:
                address = self._allocate(device, size)
                counts.reserved += size
                counts.allocations += 1
            counts.allocated += size
            if counts.allocated > counts.peak:
                counts.peak = counts.allocated
            return address, size

    def _allocate(self, device: int, size: int) -> int:
        try:
            return self.runtime.allocate(device, size)
        except MemoryError:
            self.empty(device)
        try:
            return self.runtime.allocate(device, size)
        except MemoryError:
            free, total = self.runtime.memory_info(device)
            raise DeviceMemoryError(
                message(
                    "allocate",
                    "the device must have enough memory",
                    "Smaller batches need less; numbaconv.cuda.memory_stats() shows what arrays hold.",
                    device=f"cuda:{device}",
                    wanted=_readable(size),
                    in_arrays=_readable(self.counts(device).allocated),
                    free=_readable(free),
                    total=_readable(total),
                )
            ) from None

    def counts(self, device: int) -> Counts:
        counts = self.used.get(device)
        if counts is None:
            counts = self.used[device] = Counts()
        return counts

    def collect(self) -> None:
        """Takes back the memory whose arrays are gone."""
        while self.returned:
            item = self.returned.popleft()
            if any((item.device, stream) in self.kept for stream in item.others):
                self.held.append(item)
            elif item.keeper is not None:
                self.lingering.append((item.device, self._events(item), item))
            else:
                self._give_back(item)
        if self.lingering:
            self.lingering = [item for item in self.lingering if not self._let_go(*item)]

    def _give_back(self, item: Returned) -> None:
        counts = self.counts(item.device)
        counts.allocated -= item.nbytes
        if self.runtime.caches:
            sizes = self.free.setdefault((item.device, item.stream), {})
            sizes.setdefault(item.nbytes, []).append((item.address, self._events(item)))
        else:
            self.runtime.free(item.device, item.address)
            counts.reserved -= item.nbytes

    def _let_go(self, device: int, events: list[Any], item: Returned) -> bool:
        if not all(self.runtime.finished(device, event) for event in events):
            return False
        self.runtime.disown(item.address)
        return True

    def _events(self, item: Returned) -> list[Any]:
        """Events after which the streams that used it are done with it."""
        events = []
        for stream in item.others:
            event = self.runtime.create_event(item.device)
            self.runtime.record(item.device, event, stream)
            events.append(event)
        return events

    def empty(self, device: int) -> None:
        """Gives the blocks nobody uses back to the runtime."""
        with self.lock:
            self.collect()
            self.runtime.synchronize(device)  # a kernel that is still queued may use one
            for pool in [p for p in self.free if p[0] == device and p not in self.kept]:
                for size, blocks in self.free.pop(pool).items():
                    for address, _ in blocks:
                        self.runtime.free(device, address)
                    self.counts(device).reserved -= size * len(blocks)


class Counts:
    """Bytes of one device, and how often the runtime was asked for memory."""

    def __init__(self) -> None:
        self.allocated = self.peak = self.reserved = self.allocations = 0


_pools: weakref.WeakKeyDictionary[Runtime, _Pools] = weakref.WeakKeyDictionary()


def _pools_of(owner: Runtime) -> _Pools:
    pools = _pools.get(owner)
    if pools is None:
        pools = _pools.setdefault(owner, _Pools(owner))
    return pools


def _size_class(nbytes: int) -> int:
    """Rounded up to an eighth of its power of two, and to whole granules."""
    step = max(1 << max((nbytes - 1).bit_length() - 4, 0), _SMALLEST)
    return -(-max(nbytes, 1) // step) * step


def _readable(nbytes: int) -> str:
    return f"{nbytes / 2**20:,.1f} MiB"


# --- what the rest of the package uses ----------------------------------------------------------------------


def empty(shape: tuple[int, ...], dtype: np.dtype, device: int) -> DeviceArray:
    """An uninitialised array in C order, aligned to 256 bytes.

    Raises:
        DeviceMemoryError: the device is full.
    """
    owner, stream = runtime(), current_stream(device)
    address, size = _pools_of(owner).take(device, math.prod(shape) * dtype.itemsize, stream)
    return DeviceArray(address, shape, dtype, device, Block(owner, device, stream, address, size))


def zeros(shape: tuple[int, ...], dtype: np.dtype, device: int) -> DeviceArray:
    """An array of zeros in C order."""
    out = empty(shape, dtype, device)
    if out.size:
        runtime().clear(device, out.address, out.nbytes, current_stream(device))
    return out


def keep(device: int, stream: int, kept: bool = True) -> None:
    """Whether memory that a stream's work uses is left alone, for a graph is going to use it again."""
    pools = _pools_of(runtime())
    with pools.lock:
        pools.collect()
        if kept:
            pools.kept.add((device, stream))
        else:
            pools.kept.discard((device, stream))
            pools.returned.extend(pools.held)
            pools.held.clear()


def settle(device: int, stream: int) -> None:
    """The stream waits now for all who used blocks of its pool, so that taking one needs no wait."""
    pools = _pools_of(runtime())
    with pools.lock:
        pools.collect()
        for blocks in pools.free.get((device, stream), {}).values():
            for _, events in blocks:
                for event in events:
                    pools.runtime.wait(device, stream, event)
                events.clear()


def collect() -> None:
    """Lets go of other libraries' memory that the device is done with."""
    pools = _pools_of(runtime())
    with pools.lock:
        pools.collect()


@contextlib.contextmanager
def reuse_buffers() -> Iterator[None]:
    """Nothing to do here: memory is always kept and lent again."""
    yield


# --- for users ----------------------------------------------------------------------------------------------


def memory_stats(device: int = 0) -> dict[str, int]:
    """What the allocator holds on a GPU.

    Returns:
        allocated: bytes that arrays lie on, rounded up as they are allocated.
        peak: the most there were at once.
        reserved: bytes taken from the driver, in use or kept for reuse.
        allocations: how often the driver was asked.
    """
    pools = _pools_of(runtime())
    with pools.lock:
        pools.collect()
        counts = pools.counts(device)
        return {
            "allocated": counts.allocated,
            "peak": counts.peak,
            "reserved": counts.reserved,
            "allocations": counts.allocations,
        }


def empty_cache(device: int = 0) -> None:
    """Gives memory that no array uses back to the driver, for other programs. Waits for the device."""
    _pools_of(runtime()).empty(device)
