"""From arrays of any strides to the one normalised form that kernels take.

numba compiles a kernel anew for every array type: C order, Fortran order, any order, read-only, unaligned. So
kernels take flat arrays only (1-D, C-contiguous, writable, aligned) with the sizes beside them, and these helpers
make them: views wherever strides allow, else one copy.

Two dense memory orders are native: ``channels_first`` (C order) and ``channels_last`` (N, H, W, C in memory).
"""

from __future__ import annotations

import ctypes
import functools
import math

import numpy as np

from . import convert, memory

CHANNELS_FIRST, CHANNELS_LAST = "channels_first", "channels_last"


def is_channels_last(x: np.ndarray) -> bool:
    """Whether (N, C, H, W) is dense with C innermost."""
    if x.ndim != 4:
        return False
    _, c, h, w = x.shape
    pixel = c * x.itemsize
    # The usual case first, a third of the time; strides along an axis of one element may be any.
    usual = (h * w * pixel, x.itemsize, w * pixel, pixel)
    return x.strides == usual or x.transpose(0, 2, 3, 1).flags.c_contiguous


def layout_of(x: np.ndarray) -> str:
    """C-contiguous wins ties; anything else follows the stride of C.

    One channel is one memory order and two layouts. Its stride, which addresses nothing, says which is meant: NumPy
    gives H * W elements, `channels_last` gives 1, and so a one-channel image does not turn a channels-last network
    into a channels-first one.
    """
    shape = x.shape
    if len(shape) != 4:
        return CHANNELS_FIRST
    if x.flags.c_contiguous:
        return CHANNELS_LAST if shape[1] == 1 and _marked_channels_last(x) else CHANNELS_FIRST
    _, c, h, w = x.strides
    inner = shape[1] > 1 and (shape[2] < 2 or abs(c) < abs(h)) and (shape[3] < 2 or abs(c) < abs(w))
    return CHANNELS_LAST if inner else CHANNELS_FIRST


def _marked_channels_last(x: np.ndarray) -> bool:
    return x.shape[1] == 1 and x.strides[1] == x.itemsize and x.shape[2] * x.shape[3] > 1


def empty(shape: tuple[int, ...], dtype: np.dtype, layout: str = CHANNELS_FIRST) -> np.ndarray:
    """An uninitialised result of logical `shape` in one of the two dense orders."""
    if layout == CHANNELS_LAST and len(shape) == 4:
        n, c, h, w = shape
        return memory.empty((n, h, w, c), dtype).transpose(0, 3, 1, 2)
    return memory.empty(shape, dtype)


def dense(x: np.ndarray) -> np.ndarray:
    """`x` itself if it is dense in either order, else a copy in the order of `layout_of(x)`."""
    if x.flags.c_contiguous or is_channels_last(x):
        return x
    return in_layout(x, layout_of(x))


def dense_in(x: np.ndarray) -> tuple[np.ndarray, str]:
    """``dense(x), layout_of(x)`` of a 4-D array, in the usual cases in half the time."""
    if x.shape[1] != 1:
        if x.flags.c_contiguous:
            return x, CHANNELS_FIRST
        if is_channels_last(x):
            return x, CHANNELS_LAST
    return dense(x), layout_of(x)


def in_layout(x: np.ndarray, layout: str) -> np.ndarray:
    """`x` itself if it is dense in `layout`, else a copy that is."""
    if layout == CHANNELS_LAST and x.ndim == 4:
        return channels_last(x)
    return contiguous(x)


def contiguous(x: np.ndarray) -> np.ndarray:
    """`x` in C order; itself if it is so already."""
    if x.flags.c_contiguous:
        return x.reshape(-1).reshape(x.shape) if x.ndim == 4 and _marked_channels_last(x) else x
    out = memory.empty(x.shape, x.dtype)
    if x.size > convert.SMALL and is_channels_last(x):
        convert.reorder(flat(x), element_strides(x), flat(out), element_strides(out), x.shape)
    else:
        np.copyto(out, x)
    return out


def channels_last(x: np.ndarray) -> np.ndarray:
    """(N, C, H, W) with C innermost in memory; itself (as a view) if it is so already."""
    if is_channels_last(x):
        if x.shape[1] != 1 or _marked_channels_last(x):
            return x
        n, _, h, w = x.shape
        return x.reshape(n, h, w, 1).transpose(0, 3, 1, 2)
    out = empty(x.shape, x.dtype, CHANNELS_LAST)
    if x.size > convert.SMALL and x.flags.c_contiguous:
        convert.reorder(flat(x), element_strides(x), flat(out), element_strides(out), x.shape)
    else:
        np.copyto(out, x)
    return out


def padded_channels_last(x: np.ndarray, padding: tuple[int, int, int, int], name: str) -> np.ndarray:
    """Scratch `name`: flat (N, H + top + bottom, W + left + right, C) with zeros around a copy of dense `x`.

    `x` itself, flat, where it is channels_last and there is nothing to add.
    """
    if not any(padding) and is_channels_last(x):
        return flat(x)
    n, c, h, w = x.shape
    top, bottom, left, right = padding
    rows, columns = h + top + bottom, w + left + right
    out = memory.scratch(name, n * rows * columns * c, x.dtype)
    image = out.reshape(n, rows, columns, c)
    image[:, :top] = image[:, rows - bottom :] = 0
    inside = image[:, top : top + h]
    inside[:, :, :left] = inside[:, :, columns - right :] = 0
    if x.size > convert.SMALL:
        strides = rows * columns * c, 1, columns * c, c
        convert.reorder(flat(x), element_strides(x), out, strides, x.shape, (top * columns + left) * c)
    else:
        inside[:, :, left : left + w] = x.transpose(0, 2, 3, 1)
    return out


def element_strides(x: np.ndarray) -> tuple[int, int, int, int]:
    """Strides of a 4-D array in elements instead of bytes."""
    n, c, h, w = (stride // x.itemsize for stride in x.strides)
    return n, c, h, w


def empty_like(x: np.ndarray) -> np.ndarray:
    """An uninitialised result of the shape, dtype and order of a `dense` array."""
    return empty(x.shape, x.dtype, layout_of(x))


def with_result(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``x``, dense; an `empty_like` of it; and that one's elements as `flat` gives them."""
    if x.flags.c_contiguous and (x.ndim != 4 or x.shape[1] != 1):  # the usual case in half the time
        out = memory.empty(x.shape, x.dtype)
        return x, out, out.ravel()
    x = dense(x)
    out = empty_like(x)
    return x, out, flat(out)


def match(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`x` in the memory order of `like`, which is dense: their flat forms then run in step."""
    if like.flags.c_contiguous:
        return contiguous(x)
    return channels_last(x)


def flat(x: np.ndarray) -> np.ndarray:
    """The elements of a dense array in memory order: 1-D, a view, typed writable (kernels do not write inputs)."""
    if x.flags.carray:  # in C order, aligned and writable: the usual case in half the time
        return x.ravel()
    view = x.ravel("K")
    return view if view.flags.writeable else _writable(view)


def flat_contiguous(x: np.ndarray) -> np.ndarray:
    """``flat(contiguous(x))``, quickly where `x` is in C order."""
    return x.ravel() if x.flags.carray else flat(contiguous(x))


def _writable(view: np.ndarray) -> np.ndarray:
    """The same memory without the read-only flag, so that it does not cost a second compilation.

    The result does not keep `view` alive: the caller does, for the call.
    """
    if view.size == 0:
        return np.empty(view.shape, view.dtype)
    buffer = (ctypes.c_char * view.nbytes).from_address(view.__array_interface__["data"][0])
    return np.frombuffer(buffer, view.dtype)


def planes(x: np.ndarray) -> tuple[int, int]:
    """(outer, inner) of a dense (N, C, H, W) array seen as (outer, H, W, inner): both orders are one loop nest.

    channels_first is (N * C, H, W, 1), channels_last (N, H, W, C).
    """
    n, c = x.shape[:2]
    return (n * c, 1) if x.flags.c_contiguous else (n, c)


def around_axis(x: np.ndarray, axis: int) -> tuple[int, int]:
    """(outer, inner) of a dense array seen as (outer, size of `axis`, inner)."""
    return _around_axis(x.shape, axis, x.flags.c_contiguous)


@functools.lru_cache(maxsize=4096)
def _around_axis(shape: tuple[int, ...], axis: int, in_order: bool) -> tuple[int, int]:
    order = range(len(shape)) if in_order else (0, 2, 3, 1)
    sizes = [shape[a] for a in order]
    position = list(order).index(axis)
    return math.prod(sizes[:position]), math.prod(sizes[position + 1 :])
