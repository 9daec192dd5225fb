"""How pooling is cut into tasks, for both kinds of it.

Both memory orders are one loop nest over (outer, H, W, inner) (`layout.planes`): channels_first is (N * C, H, W, 1),
channels_last (N, H, W, C). Channels-last with at least a vector of channels has kernels of its own, in explicit SIMD
(`pool_tile`); the others are plain loops, whose innermost run over neighbours in memory, so that they vectorise.

Which windows reach where is worked out in Python, once per problem, as small tables: kernels hold no rule about
padding, dilation, ceil_mode or adaptive windows.
"""

from __future__ import annotations

import numpy as np

from ..jit import inline
from .simd import VECTOR_BYTES

LANES = 64  # channels of a task
UNROLLED = 4  # vectors of channels in registers
_TASK_ELEMENTS = 16384  # elements a task reads, where one row has fewer

# Indices into arrays are cast to unsigned: numba wraps a negative index around, and that test keeps a loop whose
# bounds it cannot see through from vectorising (5 times slower, measured).
at = np.uint64


def has_vectors(x: np.ndarray, inner: int) -> bool:
    """Whether a pixel of (outer, H, W, inner) has a vector of channels."""
    return inner >= VECTOR_BYTES // x.itemsize


def tasks_of(rows: int, row_elements: int, inner: int) -> tuple[int, int]:
    """(number of tasks, output rows of each); `row_elements`: what one output row reads, all channels."""
    blocks = max(-(-inner // LANES), 1)
    rows_per_task = max(_TASK_ELEMENTS * blocks // max(row_elements, 1), 1)
    return -(-rows // rows_per_task) * blocks, rows_per_task


@inline
def task_bounds(task, rows_per_task, rows, inner):
    """(first row, end row, first channel, channels) of a task."""
    blocks = -(-inner // LANES)
    row = task // blocks * rows_per_task
    lane = task % blocks * LANES
    return row, min(row + rows_per_task, rows), lane, min(LANES, inner - lane)


@inline
def fill(out, start, pixels, lanes, inner, value):
    """Some channels of consecutive pixels; in one run where those are all channels."""
    runs, count = (1, pixels * inner) if lanes == inner else (pixels, lanes)
    for run in range(runs):
        for i in range(count):
            out[at(start + run * inner + i)] = value
