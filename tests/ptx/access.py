"""Compiled loops of loads and stores: one pass over the active threads each.

`index` lists the active threads in rising order. A `position` is a byte in the array behind a memory space. The
`locate` functions turn addresses into positions and say which is the first bad one.
"""

from __future__ import annotations

from numba import njit

from .memory import FIRST_WINDOW, FREED, INSIDE_WINDOW, WINDOW_BITS

FINE, OUT_OF_BOUNDS, MISALIGNED, FREED_MEMORY = 0, 1, 2, 3


@njit(cache=True, nogil=True)
def locate_device(index, address, offset, width, align, start, size, windows, position):
    """Positions in device memory of `width` bytes each; (problem, which of `index`)."""
    for k in range(index.size):
        at = address[index[k]] + offset
        window = at >> WINDOW_BITS
        if window < FIRST_WINDOW or window >= windows:
            return OUT_OF_BOUNDS, k
        inside = at & INSIDE_WINDOW
        if size[window] == FREED:
            return FREED_MEMORY, k
        if inside + width > size[window]:
            return OUT_OF_BOUNDS, k
        if inside & (align - 1):
            return MISALIGNED, k
        position[k] = start[window] + inside
    return FINE, 0


@njit(cache=True, nogil=True)
def locate_private(index, address, offset, width, align, base, limit, position):
    """The same in memory that begins at `base[thread]` and has `limit` bytes: a block's shared, a thread's local."""
    for k in range(index.size):
        thread = index[k]
        at = address[thread] + offset
        if at < 0 or at + width > limit:
            return OUT_OF_BOUNDS, k
        if at & (align - 1):
            return MISALIGNED, k
        position[k] = base[thread] + at
    return FINE, 0


@njit(cache=True, nogil=True)
def gather(index, position, skip, shift, data, out):
    """out[thread] = the element at its position, `skip` elements on. 1 << shift is an element's size."""
    for k in range(index.size):
        out[index[k]] = data[(position[k] >> shift) + skip]


@njit(cache=True, nogil=True)
def scatter(index, position, skip, shift, data, values):
    """The element at a thread's position, `skip` elements on, = values[thread]."""
    for k in range(index.size):
        data[(position[k] >> shift) + skip] = values[index[k]]


@njit(cache=True, nogil=True)
def gather2(index, position, shift, data, out0, out1):
    """Two elements at once."""
    for k in range(index.size):
        thread, at = index[k], position[k] >> shift
        out0[thread], out1[thread] = data[at], data[at + 1]


@njit(cache=True, nogil=True)
def gather4(index, position, shift, data, out0, out1, out2, out3):
    """Four elements at once."""
    for k in range(index.size):
        thread, at = index[k], position[k] >> shift
        out0[thread], out1[thread], out2[thread], out3[thread] = data[at], data[at + 1], data[at + 2], data[at + 3]


@njit(cache=True, nogil=True)
def first_unlike(position, count, shift, flags, wanted):
    """Which position has flags (of any of `count` elements) that are not as wanted, or -1."""
    for k in range(position.size):
        at = position[k] >> shift
        for q in range(count):
            if flags[at + q] != wanted:
                return k
    return -1


@njit(cache=True, nogil=True)
def mark_written(position, count, shift, flags, written):
    """Sets the flags of `count` elements at each position."""
    for k in range(position.size):
        at = position[k] >> shift
        for q in range(count):
            flags[at + q] = written
