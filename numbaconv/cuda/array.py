"""Arrays on a GPU: an address, a shape, strides, and what keeps the memory alive. No arithmetic.

Views by `reshape`, `transpose` and basic slices share the memory, as NumPy's do.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import DeviceError, ShapeError, message
from . import dlpack
from .streams import current_stream, order, protocol_number, stream_value


def contiguous_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides of C order, bytes."""
    strides, step = [], itemsize
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


class DeviceArray:
    """An array in a device's memory.

    Attributes:
        address: of the first element.
        shape, strides: as NumPy's; strides in bytes.
        dtype: a NumPy dtype.
        device: number of the device.
        owner: the `memory.Memory` it lies on, kept alive.
    """

    __slots__ = ("__weakref__", "address", "device", "dtype", "ndim", "owner", "shape", "size", "strides")

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        dtype: np.dtype,
        device: int,
        owner: Any,
        strides: tuple[int, ...] | None = None,
    ) -> None:
        self.address, self.shape, self.dtype, self.device, self.owner = address, shape, dtype, device, owner
        self.strides = contiguous_strides(shape, dtype.itemsize) if strides is None else strides
        self.ndim, self.size = len(shape), math.prod(shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def c_contiguous(self) -> bool:
        """Whether it is dense in C order; the stride of an axis of one element addresses nothing."""
        step = self.dtype.itemsize
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1:
                if stride != step and self.size:
                    return False
                step *= size
        return True

    @property
    def T(self) -> DeviceArray:
        return self.transpose()

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without axes")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device='cuda:{self.device}')"

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise DeviceError(
            message(
                "numpy.asarray",
                "an array on a GPU is not turned into a NumPy array in passing",
                "Copy it: numbaconv.to_host(x).",
                x__shape=self.shape,
                device=f"cuda:{self.device}",
            )
        )

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "strides": None if self.c_contiguous else self.strides,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "version": 3,
            "stream": protocol_number(current_stream(self.device)),
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule; `stream` is the consumer's, which is made to wait for what is queued here (-1: it is not)."""
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("an array on a GPU is lent where it is, without a copy")
        if stream != -1:
            consumer = 0 if stream is None else stream_value(stream)
            order(self.device, current_stream(self.device), consumer)
            self.owner.used_on(consumer)
        return dlpack.write(self)

    # --- views ----------------------------------------------------------------------------------------------

    def view(self, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> DeviceArray:
        """Other axes over the same memory; `offset` in bytes from the first element."""
        return DeviceArray(self.address + offset, shape, self.dtype, self.device, self.owner, strides)

    def transpose(self, *axes: Any) -> DeviceArray:
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        order = tuple(order or range(self.ndim)[::-1])
        if sorted(order) != list(range(self.ndim)):
            raise ShapeError(message("transpose", "axes must be a permutation", axes=order, x__shape=self.shape))
        return self.view(tuple(self.shape[a] for a in order), tuple(self.strides[a] for a in order))

    def reshape(self, *shape: Any) -> DeviceArray:
        """The same elements with other axes, where strides allow it without a copy."""
        sizes = list(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
        if -1 in sizes:
            known = math.prod(s for s in sizes if s != -1)
            sizes[sizes.index(-1)] = self.size // known if known else 0
        if math.prod(sizes) != self.size:
            raise ShapeError(message("reshape", "sizes must match", x__shape=self.shape, shape=shape))
        strides = _reshaped(self.shape, self.strides, tuple(sizes), self.itemsize)
        if strides is None:
            rule = "strides must allow it without a copy"
            raise ShapeError(message("reshape", rule, x__shape=self.shape, x__strides=self.strides, shape=tuple(sizes)))
        return self.view(tuple(sizes), strides)

    def __getitem__(self, key: Any) -> DeviceArray:
        """A view: integers, slices, ``...`` and None only."""
        keys = list(key) if isinstance(key, tuple) else [key]
        given = sum(k is not None for k in keys if k is not ...)
        if given > self.ndim:
            raise IndexError(f"{given} indices for an array of {self.ndim} axes")
        at = next((place for place, k in enumerate(keys) if k is ...), None)
        rest = [slice(None)] * (self.ndim - given)
        keys = keys + rest if at is None else keys[:at] + rest + keys[at + 1 :]
        shape, strides, offset = [], [], 0
        axes = zip(self.shape, self.strides, strict=True)
        for k in keys:
            if k is None:
                shape.append(1)
                strides.append(0)
                continue
            size, stride = next(axes)
            if isinstance(k, slice):
                start, stop, step = k.indices(size)
                length = len(range(start, stop, step))
                offset += start * stride if length else 0
                shape.append(length)
                strides.append(stride * step)
            else:
                index = range(size)[k]
                offset += index * stride
        return self.view(tuple(shape), tuple(strides), offset)

    # --- copies ---------------------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any]) -> DeviceArray:
        """A copy on the same device; dense where this one is, in the same order."""
        from . import convert, memory

        order = sorted(range(self.ndim), key=lambda axis: -abs(self.strides[axis]))
        inverse = [order.index(axis) for axis in range(self.ndim)]
        out = memory.empty(tuple(self.shape[a] for a in order), self.dtype, self.device).transpose(inverse)
        convert.copy(self, out)
        return out

    def __copy__(self) -> DeviceArray:
        return self.__deepcopy__({})

    def __reduce__(self) -> Any:
        raise TypeError(message("DeviceArray", "an array on a GPU cannot be pickled", "Pickle numbaconv.to_host(x)."))

    # --- to other memory ------------------------------------------------------------------------------------

    def copy_to_host(self) -> np.ndarray:
        """A copy as a NumPy array; waits for all that makes this one."""
        from . import transfer

        return transfer.to_host(self)


def _reshaped(
    shape: tuple[int, ...], strides: tuple[int, ...], new: tuple[int, ...], itemsize: int
) -> tuple[int, ...] | None:
    """Strides of other axes over the same elements in the same order; None where there are none.

    Axes from both shapes are taken together until their sizes agree. The old ones of such a group must run on in each
    other's steps; the new ones then do.
    """
    if 0 in new:
        return contiguous_strides(new, itemsize)
    old = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size != 1]
    result: list[int] = []
    position = 0
    while position < len(old):
        group, (size, step) = [position], old[position]
        sizes: list[int] = []
        while not sizes or math.prod(sizes) != size:
            if math.prod(sizes) < size:
                sizes.append(new[len(result) + len(sizes)])
            else:
                group.append(group[-1] + 1)
                size, outer = size * old[group[-1]][0], step
                step = old[group[-1]][1]
                if outer != old[group[-1]][0] * step:
                    return None
        result += contiguous_strides(tuple(sizes), step)
        position = group[-1] + 1
    return tuple(result + [itemsize] * (len(new) - len(result)))
