"""From arrays of any strides to the two dense orders that kernels take: C order and channels-last."""

from __future__ import annotations

import numpy as np

from . import memory
from .array import DeviceArray

CHANNELS_FIRST, CHANNELS_LAST = "channels_first", "channels_last"
ALIGNMENT = 16  # bytes: what a 128-bit access wants


def is_channels_last(x: DeviceArray) -> bool:
    """Whether (N, C, H, W) is dense with C innermost."""
    return x.ndim == 4 and x.transpose(0, 2, 3, 1).c_contiguous


def layout_of(x: DeviceArray) -> str:
    """C order wins ties; anything else follows the stride of C, as on the CPU."""
    shape = x.shape
    if len(shape) != 4:
        return CHANNELS_FIRST
    if x.c_contiguous:
        return CHANNELS_LAST if shape[1] == 1 and _marked_channels_last(x) else CHANNELS_FIRST
    _, c, h, w = x.strides
    inner = shape[1] > 1 and (shape[2] < 2 or abs(c) < abs(h)) and (shape[3] < 2 or abs(c) < abs(w))
    return CHANNELS_LAST if inner else CHANNELS_FIRST


def _marked_channels_last(x: DeviceArray) -> bool:
    return x.shape[1] == 1 and x.strides[1] == x.itemsize and x.shape[2] * x.shape[3] > 1


def empty(shape: tuple[int, ...], dtype: np.dtype, device: int, layout: str = CHANNELS_FIRST) -> DeviceArray:
    """An uninitialised result of logical `shape` in one of the two dense orders."""
    if layout == CHANNELS_LAST and len(shape) == 4:
        n, c, h, w = shape
        return memory.empty((n, h, w, c), dtype, device).transpose(0, 3, 1, 2)
    return memory.empty(shape, dtype, device)


def empty_like(x: DeviceArray) -> DeviceArray:
    """An uninitialised result of the shape, dtype and order of a `dense` array."""
    return empty(x.shape, x.dtype, x.device, layout_of(x))


def dense(x: DeviceArray) -> DeviceArray:
    """`x` itself if it is dense in either order and aligned, else a copy in the order of `layout_of(x)`."""
    if x.address % ALIGNMENT == 0 and (x.c_contiguous or is_channels_last(x)):
        return x
    raise NotImplementedError


def match(x: DeviceArray, like: DeviceArray) -> DeviceArray:
    """`x` in the memory order of `like`, which is dense: their memory then runs in step."""
    if x.address % ALIGNMENT == 0 and (x.c_contiguous if like.c_contiguous else is_channels_last(x)):
        return x
    raise NotImplementedError
