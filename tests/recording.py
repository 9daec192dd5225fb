"""A device that watches what the host asks of it: the order between streams, the life of memory, and how often.

`Recorder` stands behind `numbaconv.cuda` like the driver (see `numbaconv/cuda/runtime.py`). Alone it computes nothing;
around another runtime (simulator, PTX interpreter) it also lets that one execute. It raises `RecordingError` where two
streams touch the same bytes and nothing says which comes first, where memory is used after it was freed or freed
twice, where a copy reads bytes nobody wrote, and where the host changes pinned memory under a copy.

Order is kept in vector clocks. Every stream counts what is queued on it, and knows of every other stream how far that
one had come at the last event it waited for; the host knows what it waited for. Something is ordered after an access if
its clock has reached the access's count. A kernel may read and write all of a block that one of its pointers, or an
address in a table of addresses, points into: which of its bytes, nobody tells.

What the host may not look at yet, it finds spoilt: a copy to pinned memory arrives when the host has waited for it.
"""

from __future__ import annotations

import bisect
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

Stream = tuple[int, int]  # of a device
Clock = dict[Stream, int]

_SPOILT = 0xFF  # as float32 or float64: NaN
_FIRST_ADDRESS = 0x7000_0000_0000
_LARGEST_TABLE = 1 << 16  # bytes, of a table of addresses


class RecordingError(AssertionError):
    """What a GPU would not tell."""


class Access(NamedTuple):
    """One use of bytes [start, end) of an allocation: the `count`-th thing queued on a stream."""

    start: int
    end: int
    stream: Stream
    count: int
    what: str
    writes: bool


class Allocation:
    """Device memory, and what was done with it since every order was certain."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.address, self.nbytes = address, nbytes
        self.freed = False
        self.accesses: list[Access] = []
        self.written = np.zeros(nbytes, bool)
        self.table: np.ndarray | None = None  # what the host last copied here, if it may be a table of addresses


class Event:
    """What a stream had done when it was recorded; None: never."""

    def __init__(self) -> None:
        self.clock: Clock | None = None
        self.polled = False


class _HostCopy(NamedTuple):
    """A copy from or to pinned memory that the host has not waited for."""

    stream: Stream
    count: int
    host: np.ndarray  # its bytes
    content: np.ndarray  # what a copy to the device found there; what a copy from it is going to bring
    to_device: bool


class Graph:
    """What was queued on a stream while it was captured."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.steps: list[Callable[[Stream], None]] = []


def _merge(clock: Clock, other: Clock) -> None:
    for stream, count in other.items():
        clock[stream] = max(clock.get(stream, 0), count)


class Recorder:
    """The runtime that watches.

    Attributes:
        counts: of launches, allocations, frees, copies by direction, clears, replays, and host waits.
        launches: names of the kernels, in order.
    """

    caches = True

    def __init__(self, inner: Any = None, devices: int = 1, bytes_per_device: int = 1 << 34) -> None:
        self.inner = inner
        self.counts: Counter[str] = Counter()
        self.launches: list[str] = []
        self._devices, self._total = devices, bytes_per_device
        self._next = _FIRST_ADDRESS
        self._allocations: dict[int, Allocation] = {}
        self._addresses: list[int] = []
        self._adopted: Counter[int] = Counter()  # address -> how often another library's memory is in use
        self._clocks: dict[Stream, Clock] = {}
        self._host: Clock = {}
        self._streams = 16
        self._pinned: list[np.ndarray] = []
        self._pending: list[_HostCopy] = []
        self._capture: Graph | None = None

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """A Counter that holds, at the end, what was done inside."""
        before, inside = self.counts.copy(), Counter()
        yield inside
        inside.update({name: n - before[name] for name, n in self.counts.items() if n != before[name]})

    # --- devices --------------------------------------------------------------------------------------------

    def device_count(self) -> int:
        return self._devices

    def compute_capability(self, device: int) -> tuple[int, int]:
        return (8, 0) if self.inner is None else self.inner.compute_capability(device)

    def multiprocessors(self, device: int) -> int:
        return 4 if self.inner is None else self.inner.multiprocessors(device)

    def memory_info(self, device: int) -> tuple[int, int]:
        return self._total - self._in_use(), self._total

    def _in_use(self) -> int:
        return sum(a.nbytes for a in self._allocations.values() if not a.freed)

    # --- memory ---------------------------------------------------------------------------------------------

    def allocate(self, device: int, nbytes: int) -> int:
        if self._in_use() + nbytes > self._total:
            raise MemoryError
        self.counts["allocations"] += 1
        if self.inner is not None:
            address = self.inner.allocate(device, nbytes)
        else:
            address, self._next = self._next, self._next + -(-nbytes // 256) * 256 + 256  # never the same one again
        self._enter(address, nbytes)
        return address

    def _enter(self, address: int, nbytes: int) -> None:
        self._allocations[address] = Allocation(address, nbytes)
        place = bisect.bisect_left(self._addresses, address)
        if place == len(self._addresses) or self._addresses[place] != address:
            self._addresses.insert(place, address)

    def free(self, device: int, address: int) -> None:
        self.counts["frees"] += 1
        allocation = self._allocations.get(address)
        if allocation is None:
            raise RecordingError(f"{address:#x} is freed and was never allocated")
        if allocation.freed:
            raise RecordingError(f"{address:#x} is freed twice")
        allocation.freed = True
        if self.inner is not None:
            self.inner.free(device, address)

    def pointer(self, address: int, dtype: Any) -> Any:
        """The simulator's, for kernels that read addresses from a table."""
        return self.inner.pointer(address, dtype)

    def adopt(self, address: int, nbytes: int) -> int:
        """Another library's memory: it is full of its values."""
        if self.inner is not None:
            self.inner.adopt(address, nbytes)
        self._adopted[address] += 1
        known = self._allocations.get(address)
        if known is None or known.freed or known.nbytes < nbytes:
            self._enter(address, nbytes)
            self._allocations[address].written[:] = True
        return 0

    def disown(self, address: int) -> None:
        self._adopted[address] -= 1
        self._allocations[address].freed = not self._adopted[address]
        if self.inner is not None:
            self.inner.disown(address)

    def _at(self, address: int, what: str) -> Allocation:
        """The allocation that holds an address."""
        place = bisect.bisect_right(self._addresses, address) - 1
        found = self._allocations[self._addresses[place]] if place >= 0 else None
        if found is None or address >= found.address + max(found.nbytes, 1):
            raise RecordingError(f"{what}: {address:#x} is in no allocation")
        if found.freed:
            raise RecordingError(f"{what}: {address:#x} was freed")
        return found

    # --- what is queued -------------------------------------------------------------------------------------

    def _queue(self, stream: Stream, what: str, do: Callable[[Stream, int], None]) -> None:
        """Does something in the order of a stream; while that is captured, writes it down."""
        if self._capture is not None and self._capture.stream == stream:
            self._capture.steps.append(lambda now: do(now, self._tick(now)))
        else:
            do(stream, self._tick(stream))

    def _tick(self, stream: Stream) -> int:
        clock = self._clocks.setdefault(stream, {})
        _merge(clock, self._host)
        clock[stream] = clock.get(stream, 0) + 1
        return clock[stream]

    def _access(
        self, address: int, nbytes: int | None, stream: Stream, count: int, what: str, *, reads: bool, writes: bool
    ) -> None:
        """Uses bytes from an address on (None: to the end of the allocation), after all that touched them before."""
        if nbytes == 0:
            return
        allocation = self._at(address, what)
        start = address - allocation.address
        end = allocation.nbytes if nbytes is None else start + nbytes
        if end > allocation.nbytes:
            raise RecordingError(f"{what}: {end - allocation.nbytes} bytes past the end of {allocation.address:#x}")
        if nbytes is not None and reads and not allocation.written[start:end].all():
            first = start + int(np.argmin(allocation.written[start:end]))
            raise RecordingError(f"{what}: reads byte {first} of {allocation.address:#x}, which nobody wrote")
        clock, unordered = self._clocks[stream], []
        for old in allocation.accesses:
            overlaps = old.start < end and start < old.end
            if overlaps and (writes or old.writes) and clock.get(old.stream, 0) < old.count:
                unordered.append(old)
        if unordered:
            raise RecordingError(
                f"{what} on stream {stream[1]} and {unordered[0].what} on stream {unordered[0].stream[1]} touch "
                f"bytes of {allocation.address:#x}, and nothing says which comes first"
            )
        if writes:
            allocation.written[start:end] = True
            allocation.table = None
            # Whatever is ordered after this is ordered after those too.
            allocation.accesses = [a for a in allocation.accesses if not (start <= a.start and a.end <= end)]
        allocation.accesses.append(Access(start, end, stream, count, what, writes))

    def launch(self, device: int, kernel: Any, grid: Any, shared: int, stream: int, args: Any) -> None:
        args = list(args)

        def do(now: Stream, count: int) -> None:
            self.counts["launches"] += 1
            self.launches.append(kernel.name)
            for address in self._pointed_to(kernel, args):
                self._access(address, None, now, count, kernel.name, reads=True, writes=True)
            if self.inner is not None:
                self.inner.launch(device, kernel, grid, shared, 0, args)

        self._queue((device, stream), kernel.name, do)

    def _pointed_to(self, kernel: Any, args: list[Any]) -> list[int]:
        """Addresses of a launch: its pointers that are not null, and those in tables of addresses."""
        found = [a for parameter, a in zip(kernel.parameters, args, strict=True) if parameter.pointer and a]
        for address in list(found):
            allocation = self._at(address, kernel.name)
            if allocation.table is not None:
                known = {allocation.address for allocation in self._allocations.values()}
                found += [int(value) for value in allocation.table if int(value) in known]
        return list(dict.fromkeys(found))

    def copy_to_device(self, device: int, address: int, source: np.ndarray, stream: int) -> None:
        pinned = self._is_pinned(source)
        if self._capture is not None and not pinned:
            raise RecordingError("a copy from memory that is not pinned cannot be captured")
        content = None if pinned else source.copy()  # the driver copies before it returns

        def do(now: Stream, count: int) -> None:
            self.counts["copies to device"] += 1
            given = source if content is None else content
            self._access(address, given.nbytes, now, count, "copy to device", reads=False, writes=True)
            values = given.reshape(-1).view(np.uint8)
            if pinned:
                self._pending.append(_HostCopy(now, count, values, values.copy(), True))
            allocation = self._at(address, "copy to device")
            if address == allocation.address and given.dtype == np.int64 and given.nbytes <= _LARGEST_TABLE:
                allocation.table = given.reshape(-1).copy()
            if self.inner is not None:
                self.inner.copy_to_device(device, address, given, 0)

        self._queue((device, stream), "copy to device", do)

    def copy_to_host(self, device: int, target: np.ndarray, address: int, stream: int) -> None:
        def do(now: Stream, count: int) -> None:
            self.counts["copies to host"] += 1
            self._access(address, target.nbytes, now, count, "copy to host", reads=True, writes=False)
            content = np.zeros_like(target)
            if self.inner is not None:
                self.inner.copy_to_host(device, content, address, 0)
            values = target.reshape(-1).view(np.uint8)
            values[:] = _SPOILT
            copy = _HostCopy(now, count, values, content.reshape(-1).view(np.uint8), False)
            self._pending.append(copy)
            if not self._is_pinned(target):  # the driver waits
                self._learn({now: count})

        self._queue((device, stream), "copy to host", do)

    def copy(self, device: int, to: int, source: int, nbytes: int, stream: int) -> None:
        def do(now: Stream, count: int) -> None:
            self.counts["copies on device"] += 1
            self._access(source, nbytes, now, count, "copy", reads=True, writes=False)
            self._access(to, nbytes, now, count, "copy", reads=False, writes=True)
            if self.inner is not None:
                self.inner.copy(device, to, source, nbytes, 0)

        self._queue((device, stream), "copy", do)

    def clear(self, device: int, address: int, nbytes: int, stream: int) -> None:
        def do(now: Stream, count: int) -> None:
            self.counts["clears"] += 1
            self._access(address, nbytes, now, count, "clear", reads=False, writes=True)
            if self.inner is not None:
                self.inner.clear(device, address, nbytes, 0)

        self._queue((device, stream), "clear", do)

    # --- the host's memory ----------------------------------------------------------------------------------

    def pinned_empty(self, shape: Any, dtype: Any) -> np.ndarray:
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[:] = _SPOILT
        self._pinned.append(array.reshape(-1).view(np.uint8))
        self.counts["pinned allocations"] += 1
        return array

    def _is_pinned(self, array: np.ndarray) -> bool:
        return any(np.may_share_memory(array, pinned) for pinned in self._pinned)

    def _learn(self, clock: Clock) -> None:
        """The host has waited until here: copies of that time are over."""
        _merge(self._host, clock)
        still = []
        for copy in self._pending:
            if self._host.get(copy.stream, 0) < copy.count:
                still.append(copy)
            elif not copy.to_device:
                copy.host[:] = copy.content
            elif not np.array_equal(copy.host, copy.content):
                raise RecordingError("the host changed pinned memory while a copy from it was under way")
        self._pending = still

    # --- order ----------------------------------------------------------------------------------------------

    def create_stream(self, device: int) -> int:
        self._streams += 1
        self.counts["streams"] += 1
        return self._streams

    def create_event(self, device: int) -> Event:
        return Event()

    def record(self, device: int, event: Event, stream: int) -> None:
        self._require_no_capture(device, stream)
        self._tick((device, stream))
        event.clock, event.polled = dict(self._clocks[device, stream]), False

    def wait(self, device: int, stream: int, event: Event) -> None:
        self._require_no_capture(device, stream)
        self._tick((device, stream))
        if event.clock is not None:
            _merge(self._clocks[device, stream], event.clock)

    def finished(self, device: int, event: Event) -> bool:
        """Not the first time it is asked, unless the host knows better: who asks must bear a no."""
        clock = event.clock or {}
        if not event.polled and any(self._host.get(s, 0) < count for s, count in clock.items()):
            event.polled = True
            return False
        self._learn(clock)
        return True

    def wait_on_host(self, device: int, event: Event) -> None:
        self.counts["waits for an event"] += 1
        self._learn(event.clock or {})

    def synchronize(self, device: int, stream: int | None = None) -> None:
        if self._capture is not None and stream in (None, self._capture.stream[1]):
            raise RecordingError("a stream that is captured cannot be waited for")
        self.counts["waits for a stream" if stream is not None else "waits for the device"] += 1
        for known, clock in list(self._clocks.items()):
            if known[0] == device and stream in (None, known[1]):
                self._learn(clock)

    def _require_no_capture(self, device: int, stream: int) -> None:
        if self._capture is not None and self._capture.stream == (device, stream):
            raise RecordingError("events of a stream that is captured are not supported here")

    # --- graphs ---------------------------------------------------------------------------------------------

    def begin_capture(self, device: int, stream: int) -> None:
        if stream == 0:
            raise RecordingError("the default stream cannot be captured")
        if self._capture is not None:
            raise RecordingError("a capture is under way")
        self._capture = Graph((device, stream))

    def end_capture(self, device: int, stream: int) -> Graph:
        graph, self._capture = self._capture, None
        if graph is None or graph.stream != (device, stream):
            raise RecordingError("no capture of this stream is under way")
        return graph

    def replay(self, device: int, graph: Graph, stream: int) -> None:
        """One launch of everything in it; the kernels inside are counted apart."""
        kernels = self.counts["launches"]
        for step in graph.steps:
            step((device, stream))
        self.counts["kernels in replays"] += self.counts["launches"] - kernels
        self.counts["launches"] = kernels
        self.counts["replays"] += 1
