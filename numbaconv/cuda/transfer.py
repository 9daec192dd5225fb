"""Copies between NumPy's memory and a device's.

The device copies pageable memory only while the host waits. So arrays go through two pinned buffers in turn: while
one is copied by the device, the host fills (or empties) the other. `to_device` returns when the last piece is in its
buffer, and the array may be changed at once.

The memory order is kept: a channels-last array is one on the other side too.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np

from ..errors import DTypeError, message
from . import errorword, memory
from .array import DeviceArray, contiguous_strides
from .runtime import Runtime, runtime
from .streams import current_stream

_PIECE = 1 << 22  # bytes of a buffer: 0.2 ms on PCIe 4.0 x16 (25 GB/s), long beside the 10 us of a copy's call
_KINDS = "fiub"


class _Staging:
    """Two pinned buffers of a device, each with the event after which it is free."""

    def __init__(self, device: int) -> None:
        self.device = device
        self.lock = threading.Lock()
        self._buffers = [runtime().pinned_empty((_PIECE,), np.dtype(np.uint8)) for _ in range(2)]
        self._events: list[Any] = [None, None]
        self._turn = 0

    def next(self) -> np.ndarray:
        """The other buffer, when the device is done with it."""
        self._turn = 1 - self._turn
        if self._events[self._turn] is not None:
            runtime().wait_on_host(self.device, self._events[self._turn])
        return self._buffers[self._turn]

    def queued(self, stream: int) -> Any:
        """A copy of the buffer was queued: it is free after the event that is returned."""
        if self._events[self._turn] is None:
            self._events[self._turn] = runtime().create_event(self.device)
        runtime().record(self.device, self._events[self._turn], stream)
        return self._events[self._turn]


_stagings: weakref.WeakKeyDictionary[Runtime, dict[int, _Staging]] = weakref.WeakKeyDictionary()


def _staging(device: int) -> _Staging:
    devices = _stagings.setdefault(runtime(), {})
    if device not in devices:
        devices[device] = _Staging(device)
    return devices[device]


def to_device(x: np.ndarray, index: int) -> DeviceArray:
    """A copy of a NumPy array on device number `index`, queued on its current stream.

    Raises:
        DTypeError: elements that are no numbers.
    """
    if x.dtype.kind not in _KINDS or not x.dtype.isnative:
        raise DTypeError(message("to_device", "x must hold numbers in the machine's byte order", x__dtype=str(x.dtype)))
    ordered = x.transpose(_memory_order(x.strides))
    dense = ordered.flags.c_contiguous
    out = memory.empty((x.size,), x.dtype, index)
    if x.size:
        _upload((ordered if dense else x).reshape(-1), out, current_stream(index))
    return out.view(x.shape, x.strides if dense else contiguous_strides(x.shape, x.itemsize))


def _upload(source: np.ndarray, out: DeviceArray, stream: int) -> None:
    step = _PIECE // source.itemsize
    staging = _staging(out.device)
    with staging.lock:
        for start in range(0, source.size, step):
            piece = source[start : start + step]
            buffer = staging.next()[: piece.nbytes].view(source.dtype)
            np.copyto(buffer, piece)
            runtime().copy_to_device(out.device, out.address + start * source.itemsize, buffer, stream)
            staging.queued(stream)


def to_host(x: DeviceArray) -> np.ndarray:
    """A copy as a NumPy array, when all that makes `x` is done.

    Raises:
        LabelError: a call queued before got a label out of range.
    """
    x.owner.used_on(current_stream(x.device))
    if x.size == 0:
        host = np.empty(x.shape, x.dtype)
    elif x.transpose(_memory_order(x.strides)).c_contiguous:
        host = np.ndarray(x.shape, x.dtype, _download(x.device, x.address, x.size, x.dtype), strides=x.strides)
    else:
        host = _download_view(x)
    errorword.check(x.device)
    return host


def _download_view(x: DeviceArray) -> np.ndarray:
    """All memory from a view's first element in memory to its last, then the view of that."""
    steps = [(size - 1) * stride for size, stride in zip(x.shape, x.strides, strict=True)]
    before = sum(min(step, 0) for step in steps)
    span = sum(max(step, 0) for step in steps) - before + x.itemsize
    raw = _download(x.device, x.address + before, span // x.itemsize, x.dtype)
    view = np.lib.stride_tricks.as_strided(raw[-before // x.itemsize :], x.shape, x.strides, writeable=False)
    return view.copy()


def _download(device: int, address: int, size: int, dtype: np.dtype) -> np.ndarray:
    """Elements one after the other in memory."""
    stream = current_stream(device)
    out = np.empty(size, dtype)
    staging = _staging(device)
    step = _PIECE // dtype.itemsize
    waiting: tuple[np.ndarray, np.ndarray, Any] | None = None
    with staging.lock:
        for start in range(0, size, step):
            piece = out[start : start + step]
            buffer = staging.next()[: piece.nbytes].view(dtype)
            runtime().copy_to_host(device, buffer, address + start * dtype.itemsize, stream)
            event = staging.queued(stream)
            if waiting is not None:
                _take(device, *waiting)
            waiting = piece, buffer, event
        if waiting is not None:
            _take(device, *waiting)
    return out


def _take(device: int, piece: np.ndarray, buffer: np.ndarray, event: Any) -> None:
    runtime().wait_on_host(device, event)
    np.copyto(piece, buffer)


def _memory_order(strides: tuple[int, ...]) -> tuple[int, ...]:
    """Axes from the largest stride to the smallest."""
    return tuple(sorted(range(len(strides)), key=lambda axis: -strides[axis]))
