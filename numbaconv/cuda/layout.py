"""From arrays of any strides to the two dense orders that kernels take: C order and channels-last."""

from __future__ import annotations

import math

import numpy as np

from . import memory
from .array import DeviceArray
from .convert import copy

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


def aligned(*arrays: DeviceArray) -> bool:
    """Whether 128-bit accesses may be made."""
    return not any(x.address % ALIGNMENT for x in arrays)


def dense(x: DeviceArray, any_address: bool = False) -> DeviceArray:
    """`x` itself if it is dense in either order, and aligned unless it may be at any address.

    Else a copy in the order of `layout_of(x)`.
    """
    if (any_address or aligned(x)) and (x.c_contiguous or is_channels_last(x)):
        return x
    return _copied(x, layout_of(x))


def match(x: DeviceArray, like: DeviceArray, any_address: bool = False) -> DeviceArray:
    """`x` in the memory order of `like`, which is dense: their memory then runs in step."""
    if (any_address or aligned(x)) and (x.c_contiguous if like.c_contiguous else is_channels_last(x)):
        return x
    return _copied(x, CHANNELS_FIRST if like.c_contiguous else CHANNELS_LAST)


def in_layout(x: DeviceArray, layout: str) -> DeviceArray:
    """`x` itself if it is dense in `layout`, else a copy that is."""
    if layout == CHANNELS_LAST and x.ndim == 4:
        return channels_last(x)
    return contiguous(x)


def contiguous(x: DeviceArray) -> DeviceArray:
    """`x` in C order; itself if it is so already."""
    if x.c_contiguous:
        return x.reshape(x.shape) if x.ndim == 4 and _marked_channels_last(x) else x
    return _copied(x, CHANNELS_FIRST)


def channels_last(x: DeviceArray) -> DeviceArray:
    """(N, C, H, W) with C innermost in memory; itself (as a view) if it is so already."""
    if is_channels_last(x):
        if x.shape[1] != 1 or _marked_channels_last(x):
            return x
        n, _, h, w = x.shape
        return x.reshape(n, h, w, 1).transpose(0, 3, 1, 2)
    return _copied(x, CHANNELS_LAST)


def _copied(x: DeviceArray, layout: str) -> DeviceArray:
    out = empty(x.shape, x.dtype, x.device, layout)
    copy(x, out)
    return out


def planes(x: DeviceArray) -> tuple[int, int]:
    """(outer, inner) of a dense (N, C, H, W) array seen as (outer, H, W, inner): both orders are one loop nest.

    channels_first is (N * C, H, W, 1), channels_last (N, H, W, C).
    """
    n, c = x.shape[:2]
    return (n * c, 1) if x.c_contiguous else (n, c)


def around_axis(x: DeviceArray, axis: int) -> tuple[int, int]:
    """(outer, inner) of a dense array seen as (outer, size of `axis`, inner)."""
    if x.c_contiguous:
        return math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    order = (0, 2, 3, 1)
    position = order.index(axis)
    sizes = [x.shape[a] for a in order]
    return math.prod(sizes[:position]), math.prod(sizes[position + 1 :])
