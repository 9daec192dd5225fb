"""Fully connected layers of some samples: a task packs the block of outputs that it computes.

To pack all of the weight first, in a launch of its own, takes as long as to multiply it: 64 samples, 120 to 84, 35 us;
so, 19. (Dot products of unpacked rows, which load a value for every multiply-add, 27; PyTorch 16.)
"""

from __future__ import annotations

import functools

import numpy as np

from ..jit import kernel
from ..parallel import launch, on_threads_flushing
from .correlate import lowest, multiply
from .layout import empty, flat_contiguous
from .local_array import local_array
from .packing import Columns, columns_for, read_columns
from .register_tile import NARROW_ROWS, WIDE_ROWS
from .simd import VECTOR_BYTES

MOST = 1 << 28  # multiply-adds: with more, packing once for all tasks is quicker
_SAMPLES = 192  # of a task
_TERMS = 128  # of a sum before it joins the outer one: dot products, of fewer samples, have 16 to 64 sums each
_ROWS = NARROW_ROWS  # a narrow tile, or wide ones
_FEWEST_TASKS, _MUCH = 2, 1 << 16  # of so many samples times inputs
_WIDE, _NARROW = (0,), (0, 0, 0)  # as `Columns.tile`; the kernel has both


@functools.lru_cache(maxsize=1024)
def _cut(samples: int, outputs: int, inputs: int, itemsize: int) -> tuple[Columns, int, int, float]:
    """The blocks of outputs; samples of a task, tasks, nanoseconds of all."""
    cut = columns_for(outputs, itemsize, (1,))
    lanes = VECTOR_BYTES // itemsize
    parts = -(-samples // _SAMPLES)
    if cut.blocks * parts < _FEWEST_TASKS and samples * inputs >= _MUCH:
        parts = max(1, min(_FEWEST_TASKS, samples // (2 * _ROWS)))  # to pack twice takes less than to wait
    run = -(-samples // (parts * _ROWS)) * _ROWS
    parts = -(-samples // run)
    work_ns = cut.blocks * cut.block * (samples * (inputs + 8) / lanes * 0.4 + parts * inputs * 0.2)
    return cut, run, parts * cut.blocks, work_ns


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, relu: bool) -> np.ndarray:
    outputs, inputs = weight.shape
    out = empty((x.shape[0], outputs), x.dtype)
    cut, run, tasks, work_ns = _cut(x.shape[0], outputs, inputs, x.itemsize)
    first = out if bias is None else bias
    arrays = flat_contiguous(x), flat_contiguous(weight), flat_contiguous(first), out.reshape(-1)
    sizes = outputs, inputs, cut.blocks, cut.block, run
    launch(_blocks, tasks, work_ns, *arrays, bias is not None, lowest(relu, x.dtype), sizes)
    return out


@kernel
def _blocks(first, end, x, weight, bias, out, has_bias, floor, sizes):
    """Task: a run of samples, a block of outputs."""
    if on_threads_flushing():
        return
    outputs, inputs, blocks, block, run = sizes
    lanes = VECTOR_BYTES // x.itemsize
    samples = out.size // outputs
    panel = local_array((min(inputs, _TERMS) + lanes) * block, x.dtype)
    initial = local_array(block, x.dtype)
    start, x_offsets, out_offsets = local_array(1, np.int64), local_array(_ROWS, np.int64), local_array(_ROWS, np.int64)
    start[0] = 0
    none = out.dtype.type(-np.inf)
    for task in range(first, end):
        column = task % blocks * block
        sample = task // blocks * run
        count = min(block, outputs - column)
        width = (count + lanes - 1) // lanes * lanes
        for v in range(block):
            initial[v] = bias[column + v] if has_bias and v < count else 0
        for i in range(0, max(inputs, 1), _TERMS):
            terms = min(_TERMS, inputs - i)
            read_columns(weight, column * inputs + i, inputs, count, terms, panel, width)
            stop = min(sample + run, samples)
            least = floor if i + _TERMS >= inputs else none
            for row in range(sample, stop, _ROWS):
                for m in range(_ROWS):  # those beyond the last repeat it
                    here = min(row + m, stop - 1)
                    x_offsets[m] = here * inputs
                    out_offsets[m] = here * outputs + column
                if count <= lanes:
                    multiply(_NARROW, x, i, x_offsets, 0, panel, 0, start, 0, width, out, 0, out_offsets, initial, 0,
                             count, 1, terms, i == 0, least, False)  # fmt: skip
                    continue
                for m in range(0, min(_ROWS, stop - row), WIDE_ROWS):
                    multiply(_WIDE, x, i, x_offsets, m, panel, 0, start, 0, width, out, 0, out_offsets[m:], initial, 0,
                             count, 1, terms, i == 0, least, False)  # fmt: skip
