"""Arrays of other libraries (PyTorch, CuPy, numba, RMM, JAX) in and out, without a copy and in the right order.

Two protocols say where an array is: DLPack, in which the consumer names its stream and the producer makes that wait;
and ``__cuda_array_interface__``, version 3, in which the producer names its stream and the consumer waits. DLPack is
asked first: PyTorch's tensors name no stream in the other one.

What we queued on a foreign array may still run when the last of our arrays on it is gone: the foreign object is kept
until that is done.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np

from ..errors import DTypeError, NumbaconvError, message
from . import dlpack
from .array import DeviceArray, contiguous_strides
from .memory import Memory
from .runtime import Runtime, runtime
from .streams import current_stream, order, protocol_number, stream_value


class Foreign(Memory):
    """Memory of another library, kept by an object of that library."""

    __slots__ = ("address", "keeper")

    def __init__(self, keeper: Any, address: int, nbytes: int) -> None:
        owner = runtime()
        super().__init__(owner, owner.adopt(address, nbytes) if address else 0, None)
        self.keeper, self.address = keeper, address

    def __del__(self) -> None:
        if self.address:
            self.runtime.disown(self.address)
        if self.others:
            _release_later(self.runtime, self.device, self.keeper, self.others)


class _Waiting:
    """Foreign objects that the device may still be using."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.items: list[tuple[int, list[Any], Any]] = []


_waiting: weakref.WeakKeyDictionary[Runtime, _Waiting] = weakref.WeakKeyDictionary()


def _release_later(owner: Runtime, device: int, keeper: Any, streams: set[int]) -> None:
    events = []
    for stream in streams:
        event = owner.create_event(device)
        owner.record(device, event, stream)
        events.append(event)
    waiting = _waiting.setdefault(owner, _Waiting())
    with waiting.lock:
        waiting.items.append((device, events, keeper))
    release_finished(owner)


def release_finished(owner: Runtime) -> None:
    """Lets go of foreign objects that the device is done with."""
    waiting = _waiting.get(owner)
    if waiting is None:
        return
    with waiting.lock:
        waiting.items = [item for item in waiting.items if not all(owner.finished(item[0], event) for event in item[1])]


def as_device_array(op: str, name: str, x: Any) -> DeviceArray:
    """Any array on a GPU as ours, without a copy; itself if it is one.

    Raises:
        DTypeError: it cannot be taken, or holds something else than numbers.
    """
    if type(x) is DeviceArray:
        return x
    release_finished(runtime())
    try:
        if hasattr(x, "__dlpack__") and x.__dlpack_device__()[0] == dlpack.CUDA:
            return _from_dlpack(x)
        return _from_interface(x)
    except NumbaconvError:
        raise
    except (BufferError, RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise DTypeError(
            message(
                op,
                f"{name} could not be taken as an array on a GPU",
                "A PyTorch tensor that requires grad: x.detach().",
                **{f"type({name})": type(x).__name__, "reason": str(error)},
            )
        ) from None


def _from_dlpack(x: Any) -> DeviceArray:
    device = x.__dlpack_device__()[1]
    stream = current_stream(device)
    tensor = dlpack.read(x.__dlpack__(stream=protocol_number(stream)))
    return _foreign(tensor, tensor.address, tensor.shape, tensor.dtype, tensor.strides)


def _from_interface(x: Any) -> DeviceArray:
    interface = x.__cuda_array_interface__
    dtype = np.dtype(interface["typestr"])
    if interface.get("mask") is not None:
        raise ValueError("it has a mask")
    address, shape = int(interface["data"][0] or 0), tuple(interface["shape"])
    array = _foreign(x, address, shape, dtype, interface.get("strides"))
    if interface.get("stream") is not None:
        order(array.device, stream_value(interface["stream"]), current_stream(array.device))
    return array


def _foreign(
    keeper: Any, address: int, shape: tuple[int, ...], dtype: np.dtype, strides: tuple[int, ...] | None
) -> DeviceArray:
    if address % dtype.itemsize:
        raise ValueError(f"its address is not a multiple of {dtype.itemsize}")
    strides = contiguous_strides(shape, dtype.itemsize) if strides is None else tuple(strides)
    reach = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
    empty = 0 in shape
    before = 0 if empty else sum(min(r, 0) for r in reach)
    nbytes = 0 if empty else sum(max(r, 0) for r in reach) - before + dtype.itemsize
    memory = Foreign(keeper, address + before if nbytes else 0, nbytes)
    return DeviceArray(address, shape, dtype, memory.device, memory, strides)
