"""Device memory for results and scratch."""

from __future__ import annotations

import math

import numpy as np

from .array import DeviceArray
from .runtime import Runtime, runtime
from .streams import current_stream


class Block:
    """Memory of a device; given back when the last array on it is gone."""

    __slots__ = ("address", "device", "runtime")

    def __init__(self, owner: Runtime, device: int, nbytes: int) -> None:
        self.runtime, self.device = owner, device
        self.address = owner.allocate(device, nbytes)

    def __del__(self) -> None:
        if hasattr(self, "address"):
            self.runtime.free(self.device, self.address)


def empty(shape: tuple[int, ...], dtype: np.dtype, device: int) -> DeviceArray:
    """An uninitialised array in C order, aligned to 256 bytes."""
    block = Block(runtime(), device, max(math.prod(shape) * dtype.itemsize, 1))
    return DeviceArray(block.address, shape, dtype, device, block)


def zeros(shape: tuple[int, ...], dtype: np.dtype, device: int) -> DeviceArray:
    """An array of zeros in C order."""
    out = empty(shape, dtype, device)
    if out.size:
        runtime().clear(device, out.address, out.nbytes, current_stream(device))
    return out


def from_host(x: np.ndarray, device: int) -> DeviceArray:
    """A copy of a NumPy array, in C order."""
    out = empty(x.shape, x.dtype, device)
    if out.size:
        runtime().copy_to_device(device, out.address, np.ascontiguousarray(x), current_stream(device))
    return out
