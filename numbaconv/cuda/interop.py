"""Arrays of other libraries (PyTorch, CuPy, numba, RMM, JAX) in and out, without a copy and in the right order.

Two protocols say where an array is: DLPack, in which the consumer names its stream and the producer makes that wait;
and ``__cuda_array_interface__``, version 3, in which the producer names its stream and the consumer waits. DLPack is
asked first: PyTorch's tensors name no stream in the other one.

What we queued on a foreign array may still run when the last of our arrays on it is gone: the foreign object is kept
until that is done.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DTypeError, NumbaconvError, message
from . import dlpack, memory
from .array import DeviceArray, contiguous_strides
from .runtime import runtime
from .streams import current_stream, order, protocol_number, stream_value


def as_device_array(op: str, name: str, x: Any) -> DeviceArray:
    """Any array on a GPU as ours, without a copy; itself if it is one.

    Raises:
        DTypeError: it cannot be taken, or holds something else than numbers.
    """
    if type(x) is DeviceArray:
        return x
    memory.collect()
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
    return _foreign(tensor, tensor.address, tensor.shape, tensor.dtype, tensor.strides, device)


def _from_interface(x: Any) -> DeviceArray:
    interface = x.__cuda_array_interface__
    dtype = np.dtype(interface["typestr"])
    if interface.get("mask") is not None:
        raise ValueError("it has a mask")
    address, shape = int(interface["data"][0] or 0), tuple(interface["shape"])
    array = _foreign(x, address, shape, dtype, interface.get("strides"), 0)
    if interface.get("stream") is not None:
        order(array.device, stream_value(interface["stream"]), current_stream(array.device))
    return array


def _foreign(
    keeper: Any, address: int, shape: tuple[int, ...], dtype: np.dtype, strides: tuple[int, ...] | None, device: int
) -> DeviceArray:
    if 0 in shape:  # there is no memory
        return memory.empty(shape, dtype, device)
    if address % dtype.itemsize:
        raise ValueError(f"its address is not a multiple of {dtype.itemsize}")
    strides = contiguous_strides(shape, dtype.itemsize) if strides is None else tuple(strides)
    reach = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
    before = sum(min(r, 0) for r in reach)
    nbytes = sum(max(r, 0) for r in reach) - before + dtype.itemsize
    owner = memory.Foreign(runtime(), keeper, address + before, nbytes)
    return DeviceArray(address, shape, dtype, owner.device, owner, strides)
