"""The weight-gradient of depthwise and narrow grouped convolution.

Of one filter row and one vector of channels, the sums of all taps stay in registers over a row of pixels: one load of
grad_output and one of x per tap. Each row's sums are then added to those of its split, and the splits in order.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...jit import kernel
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem
from ..correlate import zeros
from ..layout import channels_last, empty, flat
from ..local_array import local_array
from ..memory import address_of, scratch
from ..simd import VECTOR_BYTES
from .depthwise_tile import group_taps

MOST_SUMS = 24  # of a filter row: they stay in registers
_SPLITS = 16  # of the rows of pixels
# Elements of a row that leaves nothing else in the first-level cache: such rows are fetched into the second. 3x3 takes
# half the time that way; with shorter rows it took up to 1.2 times as long.
LONG_ROW = 6144


class _Window(NamedTuple):
    """The sizes of one convolution."""

    channels: int
    height: int
    width: int
    out_height: int
    out_width: int
    filter_height: int
    stride: int
    column_stride: int
    dilation: int
    top: int
    lines: int
    inside_first: int  # pixels of a row from here ...
    inside_end: int  # ... to before here touch no border
    tap_step: int  # elements of x from tap to tap


@functools.lru_cache(maxsize=1024)
def _plan(problem: Conv2dProblem) -> tuple[_Window, np.ndarray]:
    """The sizes, and [pixel][tap]: the offset in a row of x, or -1 outside."""
    n, c, h, w = problem.input_shape
    _, _, p, q = problem.output_shape
    _, _, r, s = problem.weight_shape
    (sh, sw), (dh, dw), (top, _, left, _) = problem.stride, problem.dilation, problem.padding
    read = [j * sw - left + tap * dw for j in range(q) for tap in range(s)]
    offsets = np.array([column * c if 0 <= column < w else -1 for column in read], np.int64)
    end = min(q, (w - 1 + left - (s - 1) * dw) // sw + 1)
    return _Window(c, h, w, p, q, r, sh, sw, dh, top, n * p, min(-(-left // sw), q), end, dw * c), offsets


def backward_weight(problem: Conv2dProblem, grad_output: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(K, g, R, S), C-contiguous."""
    window, offsets = _plan(problem)
    k, group, r, s = problem.weight_shape
    size = k * group * r * s
    source = flat(channels_last(x))
    page = zeros(window.channels, x.dtype)
    distance = (address_of(page) - address_of(source)) // x.itemsize
    sums = scratch("sums", _SPLITS * size, x.dtype)
    strided = () if window.column_stride * window.channels == window.tap_step else (0,)
    args = flat(channels_last(grad_output)), source, distance, sums, offsets, window, (0,) * s, (0,) * group, strided
    launch(_accumulate, _SPLITS, problem.multiply_adds * 0.03, *args)
    out = empty(problem.weight_shape, x.dtype)
    with np.errstate(all="ignore"):
        total = sums.reshape(_SPLITS, r, s, group, k).sum(axis=0)  # in the order of the splits
    out[...] = total.transpose(3, 2, 0, 1)
    return out


@kernel
def _accumulate(first, end, grad, x, zeros, sums, offsets, z, taps, group, strided):
    """Task: a run of rows of pixels. sums: [split][r][s][channel of its group][k]."""
    if on_threads_flushing():
        return
    lanes = VECTOR_BYTES // x.itemsize
    row_sums = len(taps) * len(group)
    size = z.filter_height * row_sums * z.channels
    rest = z.channels % lanes
    tail = local_array(row_sums * lanes, x.dtype)
    source_row = z.width * z.channels
    fetches = source_row >= LONG_ROW
    below = z.stride * source_row
    ahead = z.out_width * z.channels, below, below - z.channels if z.column_stride > 1 else below
    inside, steps = (z.inside_first, z.inside_end), (z.column_stride * z.channels, z.tap_step)
    for task in range(first, end):
        total = sums[task * size : (task + 1) * size]
        total[:] = 0
        for line in range(z.lines * task // _SPLITS, z.lines * (task + 1) // _SPLITS):
            image = line // z.out_height
            p = line - image * z.out_height
            grad_start = line * z.out_width * z.channels
            for r in range(z.filter_height):
                h = p * z.stride - z.top + r * z.dilation
                if h < 0 or h >= z.height:
                    continue
                row = (image * z.height + h) * z.width * z.channels
                to = r * row_sums * z.channels
                # The next row of pixels is the first to read what lies `stride` rows below these.
                if fetches and r + z.stride >= z.filter_height:
                    for c in range(0, z.channels - lanes + 1, lanes):
                        group_taps(x, zeros, row, offsets, inside, steps, grad, grad_start, z.channels, z.out_width,
                                   total, to + c, z.channels, c, ahead, taps, group, strided, 1)  # fmt: skip
                else:
                    for c in range(0, z.channels - lanes + 1, lanes):
                        group_taps(x, zeros, row, offsets, inside, steps, grad, grad_start, z.channels, z.out_width,
                                   total, to + c, z.channels, c, ahead, taps, group, strided, 0)  # fmt: skip
                if rest > 0:
                    # A vector that overlaps the last whole one; of its sums, those behind that are added.
                    tail[:] = 0
                    group_taps(x, zeros, row, offsets, inside, steps, grad, grad_start, z.channels, z.out_width,
                               tail, 0, lanes, z.channels - lanes, ahead, taps, group, strided, 0)  # fmt: skip
                    for s in range(row_sums):
                        for lane in range(lanes - rest, lanes):
                            total[to + s * z.channels + z.channels - lanes + lane] += tail[s * lanes + lane]
