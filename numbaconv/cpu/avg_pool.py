"""Average pooling, adaptive and global, and its gradients, which are sums of windows too."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ..arguments import Pair
from ..jit import kernel
from ..parallel import launch, on_threads
from ..shapes import Pool2dProblem
from .layout import dense, empty, flat, layout_of, planes
from .line_tile import mean_lines, sum_line
from .local_array import local_array
from .pool_tasks import LANES, at, task_bounds, tasks_of
from .pool_tile import scale_vector, window_sum
from .simd import VECTOR_BYTES

# Vectors of channels in registers. With 4, of channels that are 2,048 a pixel, a mean over 7x7 took four times as long:
# each pixel is a page of its own.
_UNROLLED = 8
_MOST_TERMS = 256  # of a window, or a part of a plane, whose sums run in its own dtype
_FEWEST_CHANNELS = 3  # of a pixel that is summed as a vector, the next pixels' channels with it


class _Axis(NamedTuple):
    """How sums along one axis are taken: out[i] = sum of weights[j] * x[j] over the window of i / divisors[i]."""

    windows: np.ndarray  # int64 (2, outputs): the first and the end input of each
    weights: np.ndarray  # float64 (inputs,)
    divisors: np.ndarray  # float64 (outputs,)
    weights_float32: np.ndarray
    longest: int  # inputs of the longest window
    sums: bool  # whether inputs are added as they are, and only then divided
    divides: bool  # whether they are then divided by anything but 1
    spreads: bool  # whether, of one input, every output is that input times its weight: its window may be empty, too

    def weights_of(self, dtype: np.dtype) -> np.ndarray:
        return self.weights if dtype == np.float64 else self.weights_float32


def _axis(windows: np.ndarray, weights: np.ndarray, divisors: np.ndarray) -> _Axis:
    lengths = windows[1] - windows[0]
    longest = int(np.max(lengths, initial=0))
    divides = bool(np.any(divisors != 1))
    spreads = bool(np.all(lengths > 0)) and not divides
    sums = bool(np.all(weights == 1))
    return _Axis(windows, weights, divisors, weights.astype(np.float32), longest, sums, divides, spreads)


def _pool_axis(
    size: int, output_size: int, kernel_size: int, stride: int, padding: int, count_include_pad: bool
) -> _Axis:
    """Windows of `avg_pool2d`. What ceil_mode lets hang over the padding is not counted, as in PyTorch."""
    start = np.arange(output_size) * stride - padding
    end = np.minimum(start + kernel_size, size + padding)
    windows = np.stack([np.maximum(start, 0), np.minimum(end, size)])
    lengths = end - start if count_include_pad else windows[1] - windows[0]
    return _axis(windows, np.ones(size), lengths.astype(np.float64))


def _adaptive_axis(size: int, output_size: int) -> _Axis:
    """Windows from floor(i * size / output_size) to ceil((i + 1) * size / output_size)."""
    i = np.arange(output_size)
    windows = np.stack([i * size // output_size, -(-(i + 1) * size // output_size)])
    return _axis(windows, np.ones(size), (windows[1] - windows[0]).astype(np.float64))


def _transposed(axis: _Axis) -> _Axis:
    """The backward of a mean is such a sum too: over the outputs whose window holds an input.

    Starts and ends of windows never decrease, so those outputs are neighbours.
    """
    inputs = np.arange(axis.weights.size)
    first = np.searchsorted(axis.windows[1], inputs, side="right")  # windows before it end at or before the input
    end = np.searchsorted(axis.windows[0], inputs, side="right")  # windows from it on start after the input
    return _axis(np.stack([first, end]), 1 / axis.divisors, np.ones(inputs.size))


@functools.lru_cache(maxsize=1024)
def _pool_axes(problem: Pool2dProblem, backward: bool) -> tuple[_Axis, ...]:
    """Of the rows and of the columns."""
    sizes = problem.input_shape[2:], problem.output_shape[2:]
    axes = zip(*sizes, problem.kernel_size, problem.stride, problem.padding, strict=True)
    forward = (_pool_axis(*axis, problem.count_include_pad) for axis in axes)
    return tuple(_transposed(axis) if backward else axis for axis in forward)


@functools.lru_cache(maxsize=1024)
def _adaptive_axes(size: Pair, output_size: Pair, backward: bool) -> tuple[_Axis, ...]:
    forward = map(_adaptive_axis, size, output_size)
    return tuple(_transposed(axis) if backward else axis for axis in forward)


def avg_pool2d(problem: Pool2dProblem, x):
    return _window_sums(x, *_pool_axes(problem, False))


def avg_pool2d_backward(problem: Pool2dProblem, grad_output):
    return _window_sums(grad_output, *_pool_axes(problem, True))


def adaptive_avg_pool2d(x, output_size):
    return _window_sums(x, *_adaptive_axes(x.shape[2:], output_size, False))


def adaptive_avg_pool2d_backward(grad_output, input_shape):
    return _window_sums(grad_output, *_adaptive_axes(input_shape[2:], grad_output.shape[2:], True))


def _window_sums(x: np.ndarray, rows: _Axis, columns: _Axis) -> np.ndarray:
    """Sums of the windows of (N, C, H, W), as `_Axis` says: every mean pooling, forward and backward."""
    x = dense(x)
    outer, inner = planes(x)
    n, c, h, w = x.shape
    p, q = rows.divisors.size, columns.divisors.size
    out = empty((n, c, p, q), x.dtype, layout_of(x))
    lanes = VECTOR_BYTES // x.itemsize
    copies = rows.longest <= 1 and columns.longest <= 1 and not (rows.divides or columns.divides)
    if copies and inner < lanes and (h, w) != (1, 1):
        launch(
            _spread_windows, outer * p, out.size * 0.5, flat(x), flat(out), (h, w, p, q, inner),
            rows.windows, rows.weights, columns.windows, columns.weights,
        )  # fmt: skip
    elif inner >= _FEWEST_CHANNELS and rows.longest * columns.longest <= _MOST_TERMS:
        work = out.size * (0.5 + 0.1 * rows.longest * columns.longest)
        launch(
            _sum_channels, outer * p, work, flat(x), flat(out), (h, w, p, q, inner),
            rows.windows, rows.weights_of(x.dtype), rows.divisors,
            columns.windows, columns.weights_of(x.dtype), columns.divisors,
        )  # fmt: skip
    elif inner == 1 and (p, q) == (1, 1) and rows.longest == h and columns.longest == w and rows.sums and columns.sums:
        launch(
            _sum_planes, -(-outer // _PLANES), x.size * 0.3, flat(x), flat(out), outer,
            rows.divisors[0] * columns.divisors[0],
        )  # fmt: skip
    elif inner == 1 and (h, w) == (1, 1) and rows.spreads and columns.spreads:
        factor = x.dtype.type(rows.weights[0] * columns.weights[0])
        launch(
            _spread_planes, -(-outer // _PLANES), out.size * 0.3, flat(x), flat(out), outer,
            factor,
        )  # fmt: skip
    else:
        taps = -(-h // p)  # rows that a window reads, roughly: windows may overlap
        tasks, rows_per_task = tasks_of(outer * p, (w * taps + q) * inner, inner)
        work = outer * p * (w * taps * 0.3 + q * 3.0) * inner
        launch(
            _sum_windows, tasks, work, flat(x), flat(out), rows_per_task, (h, w, p, q), inner,
            rows.windows, rows.weights, rows.divisors, columns.windows, columns.weights, columns.divisors,
        )  # fmt: skip
    return out


@kernel
def _sum_channels(
    first, end, x, out, sizes,
    row_windows, row_weights, row_divisors, column_windows, column_weights, column_divisors,
):  # fmt: skip
    """Channels-last. Task: one row of outputs."""
    if on_threads():
        return
    height, width, out_height, out_width, channels = sizes
    lanes = VECTOR_BYTES // x.itemsize
    row_pitch = width * channels
    for task in range(first, end):
        n = task // out_height
        p = task - n * out_height
        h, rows = row_windows[0, p], row_windows[1, p] - row_windows[0, p]
        for q in range(out_width):
            w, columns = column_windows[0, q], column_windows[1, q] - column_windows[0, q]
            divisor = x.dtype.type(row_divisors[p] * column_divisors[q])
            start = ((n * height + h) * width + w) * channels
            to = (task * out_width + q) * channels
            if channels < lanes:
                # A whole vector, whose end is of other pixels, unless that is beyond the arrays, or another task's.
                last = start + (rows - 1) * row_pitch + columns * channels + lanes
                if last <= x.size and to + lanes <= (task + 1) * out_width * channels:
                    window_sum(x, start, rows, row_pitch, columns, channels, row_weights, h, column_weights, w,
                               divisor, out, to, 1)  # fmt: skip
                else:
                    for c in range(channels):
                        total = x.dtype.type(0)
                        for i in range(rows):
                            line = x.dtype.type(0)
                            for j in range(columns):
                                line += x[start + i * row_pitch + j * channels + c] * column_weights[w + j]
                            total += line * row_weights[h + i]
                        out[to + c] = total / divisor
                continue
            c = 0
            while c < channels:
                if c + 4 * lanes <= channels < c + _UNROLLED * lanes:
                    window_sum(x, start + c, rows, row_pitch, columns, channels, row_weights, h, column_weights, w,
                               divisor, out, to + c, 4)  # fmt: skip
                    c += 4 * lanes
                    continue
                if c + _UNROLLED * lanes <= channels:
                    window_sum(x, start + c, rows, row_pitch, columns, channels, row_weights, h, column_weights, w,
                               divisor, out, to + c, _UNROLLED)  # fmt: skip
                    c += _UNROLLED * lanes
                    continue
                last = min(c, channels - lanes)  # the last vector overlaps the one before
                window_sum(x, start + last, rows, row_pitch, columns, channels, row_weights, h, column_weights, w,
                           divisor, out, to + last, 1)  # fmt: skip
                c += lanes


_PLANES = 64  # of a task


@kernel
def _sum_planes(first, end, x, out, planes, divisor):
    """Channels-first, one window: the mean of each plane."""
    if on_threads():
        return
    size = x.size // planes
    lanes = VECTOR_BYTES // x.itemsize
    plane, last = first * _PLANES, min(end * _PLANES, planes)
    while size <= 4 * lanes and plane + lanes <= last:
        mean_lines(x, plane * size, size, x.dtype.type(divisor), out, plane)
        plane += lanes
    for rest in range(plane, last):
        total = 0.0
        for i in range(0, size, _MOST_TERMS):
            total += sum_line(x, rest * size + i, min(_MOST_TERMS, size - i))
        out[rest] = total / divisor


@kernel
def _spread_planes(first, end, x, out, planes, factor):
    """Its gradient: each plane filled with one value."""
    if on_threads():
        return
    size = out.size // planes
    for plane in range(first * _PLANES, min(end * _PLANES, planes)):
        value = x[plane] * factor
        part = out[plane * size : (plane + 1) * size]
        for i in range(size):
            part[i] = value


@kernel
def _spread_windows(first, end, x, out, sizes, row_windows, row_weights, column_windows, column_weights):
    """Windows of at most one pixel, of less than a vector of channels: the gradient of means over tiles.

    Task: a row of outputs. With several channels a whole vector is written for each pixel, over the next ones, which
    come later; not over the next row.
    """
    if on_threads():
        return
    height, width, out_height, out_width, channels = sizes
    lanes = VECTOR_BYTES // x.itemsize
    size = out_width * channels
    nothing = x.dtype.type(0)
    for task in range(first, end):
        plane = task // out_height
        p = task - plane * out_height
        results = out[task * size : (task + 1) * size]
        h = row_windows[0, p]
        if row_windows[1, p] == h:
            for i in range(size):
                results[i] = 0
            continue
        start = (plane * height + h) * width * channels
        values = x[start : start + width * channels]
        for q in range(out_width):
            w = min(column_windows[0, q], width - 1)  # beyond the last window there may be none
            factor = x.dtype.type(row_weights[h] * column_weights[at(w)])
            covered = column_windows[1, q] > column_windows[0, q]
            if channels == 1:
                value = values[at(w)] * factor
                results[q] = value if covered else nothing
            elif covered and q * channels + lanes <= size and start + w * channels + lanes <= x.size:
                scale_vector(x, start + w * channels, factor, out, task * size + q * channels)
            else:
                for c in range(channels):
                    value = values[at(w * channels + c)] * factor
                    results[q * channels + c] = value if covered else nothing


@kernel
def _sum_windows(
    first, end, x, out, rows_per_task, sizes, inner,
    row_windows, row_weights, row_divisors, column_windows, column_weights, column_divisors,
):  # fmt: skip
    """Per output row: down the columns into one row of float64 sums, then along it.

    So a k x k window costs k + k additions, most of them in long contiguous loops, and both memory orders add in
    one order.
    """
    if on_threads():
        return
    height, width, out_height, out_width = sizes
    rows = out.size // (out_width * inner)
    sums = local_array(width * min(inner, LANES), np.float64)
    totals = local_array(min(inner, LANES), np.float64)
    for task in range(first, end):
        row_first, row_end, lane, lanes = task_bounds(task, rows_per_task, rows, inner)
        runs, count = (1, width * inner) if lanes == inner else (width, lanes)
        for row in range(row_first, row_end):
            plane, p = row // out_height, row % out_height
            for i in range(width * lanes):
                sums[at(i)] = 0
            for h in range(row_windows[0, p], row_windows[1, p]):
                source = (plane * height + h) * width * inner + lane
                for run in range(runs):
                    for i in range(count):
                        sums[at(run * lanes + i)] += row_weights[at(h)] * x[at(source + run * inner + i)]
            for q in range(out_width):
                divisor = row_divisors[p] * column_divisors[q]
                target = (row * out_width + q) * inner + lane
                if inner == 1:
                    total = 0.0
                    for w in range(column_windows[0, q], column_windows[1, q]):
                        total += column_weights[at(w)] * sums[at(w)]
                    out[at(target)] = total / divisor
                    continue
                for c in range(lanes):
                    totals[at(c)] = 0
                for w in range(column_windows[0, q], column_windows[1, q]):
                    for c in range(lanes):
                        totals[at(c)] += column_weights[at(w)] * sums[at(w * lanes + c)]
                for c in range(lanes):
                    out[at(target + c)] = totals[at(c)] / divisor
