"""Sums per channel, in a fixed order: bias gradients.

A dense array is (outer, channels, inner); each task sums its share of `outer` into float64, and the shares are then
added in order. Bytes: one read.
"""

from __future__ import annotations

import numpy as np

from ..jit import kernel
from ..parallel import launch, on_threads
from .layout import around_axis, empty, flat
from .memory import scratch

_TASKS = 16
_CHANNELS = 128
_SMALL = 4096  # elements: NumPy's sum takes less time than launching a kernel


def channel_sums(x: np.ndarray) -> np.ndarray:
    """(C,): the sum of a dense (N, C, ...) array over everything else."""
    if x.size < _SMALL:
        axes = (0, *range(2, x.ndim))
        with np.errstate(all="ignore"):
            return np.add.reduce(x, axes, np.float64).astype(x.dtype)
    outer, inner = around_axis(x, 1)
    channels = x.shape[1]
    together = 1
    if inner == 1:
        # Few channels side by side are less than a vector: some pixels are summed as if they were one with more.
        while 2 * together * channels <= _CHANNELS and outer % (2 * together) == 0:
            together *= 2
    outer, channels = outer // together, channels * together
    partial = scratch("channel sums", _TASKS * channels, np.dtype(np.float64))
    launch(_channel_sums, _TASKS, x.size * 0.3, flat(x), partial, outer, channels, inner)
    out = empty((x.shape[1],), x.dtype)
    with np.errstate(all="ignore"):
        out[:] = partial.reshape(_TASKS * together, x.shape[1]).sum(axis=0)
    return out


@kernel
def _channel_sums(first, end, x, partial, outer, channels, inner):
    if on_threads():
        return
    for task in range(first, end):
        sums = partial[task * channels : (task + 1) * channels]
        sums[:] = 0
        for i in range(outer * task // _TASKS, outer * (task + 1) // _TASKS):
            rows = x[i * channels * inner : (i + 1) * channels * inner]
            if inner == 1:
                for c in range(channels):
                    sums[c] += rows[c]
            else:
                for c in range(channels):
                    total = 0.0
                    for j in range(inner):
                        total += rows[c * inner + j]
                    sums[c] += total
