"""Sums per channel, in a fixed order: bias gradients.

A dense array is (outer, channels, inner); each task sums its share of `outer` into float64, and the shares are then
added in order. Bytes: one read.
"""

from __future__ import annotations

import functools

import numpy as np

from ..jit import inline, kernel
from ..parallel import launch, on_threads
from .layout import around_axis, empty, flat
from .line_tile import sum_columns, sum_wide
from .local_array import local_array
from .memory import scratch
from .simd import VECTOR_BYTES

_TASKS = 16
_CHANNELS = 128
_SMALL = 1 << 17  # elements: one task, which writes the result itself
_BLOCK = 4096  # elements read for all columns, from a first-level cache
_NO_SHARES = np.empty(0)


@functools.lru_cache(maxsize=4096)
def _sizes(channels: int, outer: int, inner: int) -> tuple[int, int, int]:
    """(outer, channels, inner) for the kernel: some pixels may be summed as if they were one with more channels."""
    together = 1
    if inner == 1:
        # Few channels side by side are less than a vector.
        while 2 * together * channels <= _CHANNELS and outer % (2 * together) == 0:
            together *= 2
    return outer // together, channels * together, inner


def channel_sums(x: np.ndarray) -> np.ndarray:
    """(C,): the sum of a dense (N, C, ...) array over everything else."""
    channels = x.shape[1]
    out = empty((channels,), x.dtype)
    if x.size == 0:
        out[:] = 0
        return out
    sizes = _sizes(channels, *around_axis(x, 1))
    if x.size < _SMALL:  # one task: `launch` would take as long
        _channel_sums(-1, 1, flat(x), _NO_SHARES, out, *sizes)
    else:
        shares = scratch("channel sums", _TASKS * sizes[1], np.dtype(np.float64))
        launch(_channel_sums, _TASKS, x.size * 0.15, flat(x), shares, out, *sizes)
        with np.errstate(all="ignore"):
            out[:] = shares.reshape(-1, channels).sum(axis=0)
    return out


@inline
def _add_columns(x, begin, stop, channels, sums, at):
    """Rows of channels side by side, a block at a time for all columns."""
    lanes = VECTOR_BYTES // x.itemsize
    rows = max(8, _BLOCK // channels)
    for first in range(begin, stop, rows):
        count = min(rows, stop - first)
        start = first * channels
        c = 0
        while c + 4 * lanes <= channels:
            sum_columns(x, start + c, channels, count, sums, at + c, 4)
            c += 4 * lanes
        while c + lanes <= channels:
            sum_columns(x, start + c, channels, count, sums, at + c, 1)
            c += lanes
        for i in range(count if c < channels else 0):
            for v in range(c, channels):
                sums[at + v] += x[start + i * channels + v]


@kernel
def _channel_sums(first, end, x, shares, out, outer, channels, inner):
    """Each task's share of the sums; without room for shares there is one task, which adds them up, too.

    The channels of `out` stand several times side by side where there are few.
    """
    if on_threads():
        return
    alone = shares.size == 0
    partial = local_array(channels) if alone else shares
    tasks = 1 if alone else shares.size // channels
    for task in range(first, end):
        begin, stop = outer * task // tasks, outer * (task + 1) // tasks
        sums = task * channels
        partial[sums : sums + channels] = 0
        if inner == 1:
            _add_columns(x, begin, stop, channels, partial, sums)
        else:
            for c in range(channels):
                for i in range(begin, stop):
                    partial[sums + c] += sum_wide(x, (i * channels + c) * inner, inner)
        if alone:
            for c in range(out.size):
                total = 0.0
                for v in range(c, channels, out.size):
                    total += partial[v]
                out[c] = total
