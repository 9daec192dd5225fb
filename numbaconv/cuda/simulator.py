"""The simulator: a runtime for NUMBA_ENABLE_CUDASIM=1, whose device memory is the host's.

Every access is checked against the end of its allocation, and fresh memory is full of NaN. Kernels run as Python
(`simulated_block`): slow, and nothing of the compiled code is seen.
"""

from __future__ import annotations

import bisect
import ctypes
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba.cuda.np import numpy_support

from ..errors import DeviceError, message
from .simulated_block import Pointer, run_grid

_POISON = 0xFF  # as float32 or float64: NaN


class Simulator:
    """The runtime that executes kernels as Python."""

    caches = False

    def __init__(self) -> None:
        self._allocations: dict[int, np.ndarray] = {}
        self._addresses: list[int] = []
        self._adopted: dict[int, int] = {}
        self._streams = itertools.count(16)

    def device_count(self) -> int:
        return 1

    def compute_capability(self, device: int) -> tuple[int, int]:
        if device != 0:
            raise DeviceError(message("simulator", "there is one simulated device, cuda:0", device=device))
        return 8, 0

    def multiprocessors(self, device: int) -> int:
        return 4

    def memory_info(self, device: int) -> tuple[int, int]:
        return 1 << 32, 1 << 33

    # --- memory ---------------------------------------------------------------------------------------------

    def allocate(self, device: int, nbytes: int) -> int:
        raw = np.full(nbytes + 256, _POISON, np.uint8)
        start = -raw.ctypes.data % 256
        memory = raw[start : start + nbytes]
        address = int(memory.ctypes.data)
        self._allocations[address] = memory
        bisect.insort(self._addresses, address)
        return address

    def free(self, device: int, address: int) -> None:
        del self._allocations[address]
        self._addresses.remove(address)

    def adopt(self, address: int, nbytes: int) -> int:
        start = self._start(address)
        if start is not None and start not in self._adopted:  # our own, back from another library
            return 0
        self._adopted[address] = self._adopted.get(address, 0) + 1
        known = self._allocations.get(address)
        if known is None:
            bisect.insort(self._addresses, address)
        if known is None or known.size < nbytes:
            pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8))
            self._allocations[address] = np.ctypeslib.as_array(pointer, (nbytes,))
        return 0

    def disown(self, address: int) -> None:
        if address in self._adopted:
            self._adopted[address] -= 1
            if not self._adopted[address]:
                del self._adopted[address]
                self.free(0, address)

    def _start(self, address: int) -> int | None:
        """Start of the allocation an address is in."""
        place = bisect.bisect_right(self._addresses, address) - 1
        if place < 0:
            return None
        start = self._addresses[place]
        return start if address - start <= self._allocations[start].size else None

    def bytes_at(self, address: int) -> np.ndarray:
        """The bytes from an address to the end of its allocation."""
        start = self._start(address)
        if start is None:
            raise IndexError(f"address {address:#x} is in no allocation")
        return self._allocations[start][address - start :]

    def pointer(self, address: int, dtype: Any) -> Pointer:
        """A pointer to elements of a dtype."""
        dtype = np.dtype(dtype)
        if address % dtype.itemsize:
            raise IndexError(f"address {address:#x} is not aligned to {dtype}")
        memory = self.bytes_at(address)
        return Pointer(memory[: memory.size - memory.size % dtype.itemsize].view(dtype), address)

    def copy_to_device(self, device: int, address: int, source: np.ndarray, stream: int) -> None:
        self.bytes_at(address)[: source.nbytes] = source.reshape(-1).view(np.uint8)

    def copy_to_host(self, device: int, target: np.ndarray, address: int, stream: int) -> None:
        target.reshape(-1).view(np.uint8)[:] = self.bytes_at(address)[: target.nbytes]

    def copy(self, device: int, to: int, source: int, nbytes: int, stream: int) -> None:
        self.bytes_at(to)[:nbytes] = self.bytes_at(source)[:nbytes]

    def clear(self, device: int, address: int, nbytes: int, stream: int) -> None:
        self.bytes_at(address)[:nbytes] = 0

    def pinned_empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return np.empty(shape, dtype)

    # --- order: everything is done when its call returns -----------------------------------------------------

    def create_stream(self, device: int) -> int:
        return next(self._streams)

    def create_event(self, device: int) -> Any:
        return object()

    def record(self, device: int, event: Any, stream: int) -> None:
        pass

    def wait(self, device: int, stream: int, event: Any) -> None:
        pass

    def finished(self, device: int, event: Any) -> bool:
        return True

    def wait_on_host(self, device: int, event: Any) -> None:
        pass

    def synchronize(self, device: int, stream: int | None = None) -> None:
        pass

    def begin_capture(self, device: int, stream: int) -> None:
        raise DeviceError(message("capture", "the simulator cannot capture: it runs kernels at once"))

    def end_capture(self, device: int, stream: int) -> Any:
        raise DeviceError(message("capture", "nothing is being captured"))

    def replay(self, device: int, graph: Any, stream: int) -> None:
        raise DeviceError(message("capture", "nothing was captured"))

    # --- kernels --------------------------------------------------------------------------------------------

    def launch(
        self,
        device: int,
        kernel: Any,
        grid: tuple[int, int, int],
        shared: int,
        stream: int,
        args: Sequence[int | float],
    ) -> None:
        values = [self._value(p, a) for p, a in zip(kernel.parameters, args, strict=True)]
        run_grid(kernel, grid, shared, values)

    def _value(self, parameter: Any, arg: Any) -> Any:
        dtype = numpy_support.as_dtype(parameter.type)
        return self.pointer(arg, dtype) if parameter.pointer else dtype.type(arg)
