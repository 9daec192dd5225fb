"""Sums per channel, in a fixed order: bias gradients.

A dense array is (outer, channels, inner); each task sums its share of `outer` into float64, and the shares are then
added in order. Bytes: one read.
"""

from __future__ import annotations

import numpy as np

from ..jit import inline, kernel
from ..parallel import launch, on_threads
from .layout import around_axis, empty, flat
from .line_tile import sum_columns, sum_wide
from .memory import scratch
from .simd import VECTOR_BYTES

_TASKS = 16
_CHANNELS = 128
_SMALL = 1 << 17  # elements: one task, which writes the result itself
_BLOCK = 4096  # elements read for all columns, from a first-level cache


def channel_sums(x: np.ndarray) -> np.ndarray:
    """(C,): the sum of a dense (N, C, ...) array over everything else."""
    out = empty((x.shape[1],), x.dtype)
    if x.size == 0:
        out[:] = 0
        return out
    outer, inner = around_axis(x, 1)
    channels, tasks, together = x.shape[1], 1 if x.size < _SMALL else _TASKS, 1
    if inner == 1:
        # Few channels side by side are less than a vector: some pixels are summed as if they were one with more.
        while 2 * together * channels <= _CHANNELS and outer % (2 * together) == 0:
            together *= 2
    partial = scratch("channel sums", tasks * together * channels, np.dtype(np.float64))
    sizes = outer // together, channels * together, inner
    launch(_channel_sums, tasks, x.size * 0.15 if tasks > 1 else 0, flat(x), partial, out, tasks, *sizes)
    if tasks > 1:
        with np.errstate(all="ignore"):
            out[:] = partial.reshape(tasks * together, channels).sum(axis=0)
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
def _channel_sums(first, end, x, partial, out, tasks, outer, channels, inner):
    """The channels of `out` stand several times side by side where there are few."""
    if on_threads():
        return
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
        if tasks == 1:
            for c in range(out.size):
                total = 0.0
                for v in range(c, channels, out.size):
                    total += partial[v]
                out[c] = total
