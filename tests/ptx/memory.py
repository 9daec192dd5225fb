"""Device memory: allocations with virtual addresses.

Every allocation has a window of 2**40 addresses of its own, so that an index that runs over its end meets no
neighbour, and a freed window is never given out again. Behind the windows lies one array of bytes, and one of flags:
has anyone written this byte since it was allocated?
"""

from __future__ import annotations

import numpy as np

from .types import POISON_BYTES

WINDOW_BITS = 40
INSIDE_WINDOW = (1 << WINDOW_BITS) - 1
# Windows of the generic address space that are no allocations: shared and local memory of whoever uses the address.
SHARED_WINDOW, LOCAL_WINDOW, FIRST_WINDOW = 1, 2, 16
ALIGNMENT = 256
FREED = -1


def _rounded(nbytes: int) -> int:
    return max(ALIGNMENT, -(-nbytes // ALIGNMENT) * ALIGNMENT)


class HostAccessError(Exception):
    """The host touched device memory it has no right to."""


class DeviceMemory:
    """Allocations, and what the host does with them."""

    def __init__(self) -> None:
        self.data = np.zeros(0, np.uint8)
        self.written = np.zeros(0, np.uint8)
        self.used = 0  # bytes of `data` that some allocation has had
        # By window: where in `data` it begins, and its size.
        self.start = np.zeros(FIRST_WINDOW, np.int64)
        self.size = np.full(FIRST_WINDOW, FREED, np.int64)
        self.windows = FIRST_WINDOW
        self.reusable: dict[int, list[int]] = {}  # rounded size -> places in `data`

    def allocate(self, nbytes: int) -> int:
        """An address, at a multiple of 256. The bytes are poison until someone writes them."""
        rounded = _rounded(nbytes)
        places = self.reusable.get(rounded)
        place = places.pop() if places else self._extend(rounded)
        if self.windows == len(self.start):
            self.start = np.concatenate([self.start, np.zeros_like(self.start)])
            self.size = np.concatenate([self.size, np.full_like(self.size, FREED)])
        window, self.windows = self.windows, self.windows + 1
        self.start[window], self.size[window] = place, nbytes
        self._poison(place, rounded)
        return window << WINDOW_BITS

    def free(self, address: int) -> None:
        """Ends an allocation; using its addresses is an error from now on."""
        window = self._window(address)
        if address & INSIDE_WINDOW:
            raise HostAccessError(f"free: {address:#x} is inside of an allocation, not its beginning")
        self.reusable.setdefault(_rounded(int(self.size[window])), []).append(int(self.start[window]))
        self.size[window] = FREED

    def copied(self) -> DeviceMemory:
        """The allocations there are, at the same addresses, in as little memory as they need."""
        other = DeviceMemory()
        other.start, other.size, other.windows = self.start.copy(), self.size.copy(), self.windows
        live = np.flatnonzero(self.size[: self.windows] != FREED)
        sizes = [_rounded(int(size)) for size in self.size[live]]
        other.data, other.written = (np.zeros(sum(sizes), np.uint8) for _ in range(2))
        for window, size in zip(live, sizes, strict=True):
            place, source = other.used, int(self.start[window])
            other.start[window], other.used = place, place + size
            other.data[place : other.used] = self.data[source : source + size]
            other.written[place : other.used] = self.written[source : source + size]
        return other

    def clone(self) -> DeviceMemory:
        """All of it once more, of a memory that nothing is to be freed in."""
        other = DeviceMemory()
        other.data, other.written, other.used = self.data.copy(), self.written.copy(), self.used
        other.start, other.size, other.windows = self.start.copy(), self.size.copy(), self.windows
        return other

    def poison(self, address: int, nbytes: int) -> None:
        """As if these bytes were newly allocated."""
        self._poison(self.place(address, nbytes), nbytes)

    def write(self, address: int, values: np.ndarray) -> None:
        """Host -> device. The array must be contiguous."""
        raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        place = self.place(address, raw.size)
        self.data[place : place + raw.size] = raw
        self.written[place : place + raw.size] = 1

    def read(self, address: int, out: np.ndarray) -> None:
        """Device -> host, into a contiguous array. Bytes that nobody wrote arrive as poison."""
        raw = out.reshape(-1).view(np.uint8)
        place = self.place(address, raw.size)
        raw[:] = self.data[place : place + raw.size]

    def copy(self, to: int, source: int, nbytes: int) -> None:
        """Device -> device. What nobody wrote stays unwritten."""
        here, there = self.place(source, nbytes), self.place(to, nbytes)
        for array in (self.data, self.written):
            array[there : there + nbytes] = array[here : here + nbytes].copy()

    def clear(self, address: int, nbytes: int) -> None:
        """Zero bytes."""
        place = self.place(address, nbytes)
        self.data[place : place + nbytes] = 0
        self.written[place : place + nbytes] = 1

    def unwritten(self, address: int, nbytes: int) -> int:
        """How many of these bytes nobody has written."""
        place = self.place(address, nbytes)
        return int(nbytes - np.count_nonzero(self.written[place : place + nbytes]))

    def place(self, address: int, nbytes: int) -> int:
        """Where in `data` these bytes are."""
        if nbytes == 0:
            return 0
        window, inside = self._window(address), address & INSIDE_WINDOW
        if inside + nbytes > self.size[window]:
            raise HostAccessError(f"{nbytes} bytes at {address:#x} are not inside of {describe(self, address)}")
        return int(self.start[window]) + inside

    def _window(self, address: int) -> int:
        window = address >> WINDOW_BITS
        if not FIRST_WINDOW <= window < self.windows or self.size[window] == FREED:
            raise HostAccessError(f"{address:#x} is {describe(self, address)}")
        return window

    def _extend(self, nbytes: int) -> int:
        place, self.used = self.used, self.used + nbytes
        if self.used > self.data.size:
            capacity = max(2 * self.data.size, self.used, 1 << 16)
            for name in ("data", "written"):
                grown = np.zeros(capacity, np.uint8)
                grown[:place] = getattr(self, name)[:place]
                setattr(self, name, grown)
        return place

    def _poison(self, place: int, nbytes: int) -> None:
        self.data[place : place + nbytes] = np.frombuffer(POISON_BYTES * (nbytes // 4 + 1), np.uint8)[:nbytes]
        self.written[place : place + nbytes] = 0


def describe(memory: DeviceMemory, address: int) -> str:
    """An address in words."""
    window, inside = address >> WINDOW_BITS, address & INSIDE_WINDOW
    if not FIRST_WINDOW <= window < memory.windows:
        return f"address {address:#x}, which belongs to no allocation"
    if memory.size[window] == FREED:
        return f"byte {inside} of a freed allocation (number {window - FIRST_WINDOW})"
    size = int(memory.size[window])
    # A small negative index ends up at the top of the window before.
    return f"byte {inside} of an allocation of {size} bytes (number {window - FIRST_WINDOW})"
