"""What stands behind every launch, copy and allocation: one object, the runtime.

Four do the same job: the driver (a GPU), numba's simulator, and in the tests a PTX interpreter and a recorder. All
else in this package asks `runtime()` and does not know which one it has. Addresses and streams are ints; stream 0 is
the default one of a device, as in CUDA, and 1 and 2 are nobody's. Events and graphs are objects of the runtime's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numba_cuda  # noqa: F401 - first: without it `numba.cuda` is numba's own, an older one
import numpy as np
from numba.cuda.core import config


class Runtime(Protocol):
    """Owns the memory of devices, and executes kernels on it.

    Devices are numbers from 0. Any thread may call any method. Copies and launches are queued on a stream of `device`,
    in order; only `synchronize`, `wait_on_host`, and `copy_to_host` into memory that is not pinned, wait.
    """

    caches: bool  # whether memory.py may keep freed memory; where bounds are checked, sizes must be exact

    def device_count(self) -> int:
        """Number of devices.

        Raises:
            DeviceError: no driver, or one that is too old.
        """

    def compute_capability(self, device: int) -> tuple[int, int]:
        """(major, minor).

        Raises:
            DeviceError: no such device, or one below 7.5.
        """

    def multiprocessors(self, device: int) -> int:
        """How many blocks run at once, at least."""

    def memory_info(self, device: int) -> tuple[int, int]:
        """(free, total) bytes of the device."""

    def allocate(self, device: int, nbytes: int) -> int:
        """The address of uninitialised memory, aligned to 256 bytes.

        Raises:
            MemoryError: there is not that much left.
        """

    def free(self, device: int, address: int) -> None:
        """Gives memory back, once all that is queued is done with it."""

    def adopt(self, address: int, nbytes: int) -> int:
        """Memory of another library is going to be used; the number of the device it is on."""

    def disown(self, address: int) -> None:
        """It is not used any more."""

    def copy_to_device(self, device: int, address: int, source: np.ndarray, stream: int) -> None:
        """Queues a copy of a C-contiguous host array, which must stay as it is until then if it is pinned."""

    def copy_to_host(self, device: int, target: np.ndarray, address: int, stream: int) -> None:
        """Queues a copy into a C-contiguous host array."""

    def copy(self, device: int, to: int, source: int, nbytes: int, stream: int) -> None:
        """Queues a copy on the device; `source` may be another device's address."""

    def clear(self, device: int, address: int, nbytes: int, stream: int) -> None:
        """Queues zeros."""

    def launch(
        self,
        device: int,
        kernel: Any,
        grid: tuple[int, int, int],
        shared: int,
        stream: int,
        args: Sequence[int | float],
    ) -> None:
        """Queues a kernel, a `launch.Specialised`: blocks, bytes of dynamic shared memory, arguments."""

    def create_stream(self, device: int) -> int:
        """A new stream that does not wait for the default one."""

    def create_event(self, device: int) -> Any:
        """A new event."""

    def record(self, device: int, event: Any, stream: int) -> None:
        """The event is reached when all that is queued on the stream so far is done."""

    def wait(self, device: int, stream: int, event: Any) -> None:
        """What is queued on the stream from now on starts after the event."""

    def finished(self, device: int, event: Any) -> bool:
        """Whether a recorded event has been reached."""

    def wait_on_host(self, device: int, event: Any) -> None:
        """Returns when a recorded event has been reached."""

    def synchronize(self, device: int, stream: int | None = None) -> None:
        """Returns when the stream (None: all of the device) has done all that is queued."""

    def pinned_empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Host memory that the device copies to and from by itself, while the host goes on."""

    def begin_capture(self, device: int, stream: int) -> None:
        """From now on what this thread queues on the stream is not done but written down.

        Raises:
            DeviceError: the runtime cannot do this; says why.
        """

    def end_capture(self, device: int, stream: int) -> Any:
        """Ends that; a graph of what was queued. The memory it uses must stay allocated as long as it is replayed."""

    def replay(self, device: int, graph: Any, stream: int) -> None:
        """Queues all of a graph."""


_forced: list[Runtime] = []
_default: list[Runtime] = []


def runtime() -> Runtime:
    """The runtime in use: that of `use`, else the simulator if numba runs as one, else the driver."""
    if _forced:
        return _forced[-1]
    if not _default:
        _default.append(_choose())
    return _default[0]


def simulated() -> bool:
    """Whether NUMBA_ENABLE_CUDASIM makes `numba.cuda` a simulator in this process."""
    return bool(config.ENABLE_CUDASIM)


def _choose() -> Runtime:
    if simulated():
        from .simulator import Simulator

        return Simulator()
    from .driver import Driver

    return Driver()


@contextlib.contextmanager
def use(other: Runtime) -> Iterator[Runtime]:
    """While entered, everything goes to another runtime. For tests: arrays of one runtime are nothing in another."""
    _forced.append(other)
    try:
        yield other
    finally:
        _forced.remove(other)
