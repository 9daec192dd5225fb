"""Pooling: maxima and means of windows.

Both memory orders are one loop nest over (outer, H, W, inner) (`layout.planes`): channels_first is (N * C, H, W, 1),
channels_last (N, H, W, C). The innermost loops run over neighbours in memory, so that they vectorise: over the
channels of a pixel, or where a pixel has but one, along a row.

Which windows reach where is worked out in Python, once per problem, as small tables: kernels hold no rule about
padding, dilation, ceil_mode or adaptive windows. Tasks are blocks of output rows times blocks of channels, and each
writes its own part of the result.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ..arguments import Pair
from ..errors import ArgumentError, message
from ..jit import inline, kernel, launch, never_inline, parallel_kernel, prange
from ..shapes import Pool2dProblem
from .layout import dense, empty, flat, layout_of, match, planes

LANES = 64  # channels of a task
_TASK_ELEMENTS = 16384  # elements a task reads, where one row has fewer

# Indices into arrays are cast to unsigned: numba wraps a negative index around, and that test keeps a loop whose
# bounds it cannot see through from vectorising (5 times slower, measured).
_at = np.uint64


def _tasks(rows: int, row_elements: int, inner: int) -> tuple[int, int]:
    """(number of tasks, output rows of each); `row_elements`: what one output row reads, all channels."""
    blocks = max(-(-inner // LANES), 1)
    rows_per_task = max(_TASK_ELEMENTS * blocks // max(row_elements, 1), 1)
    return -(-rows // rows_per_task) * blocks, rows_per_task


@inline
def _task_bounds(task, rows_per_task, rows, inner):
    """(first row, end row, first channel, channels) of a task."""
    blocks = -(-inner // LANES)
    row = task // blocks * rows_per_task
    lane = task % blocks * LANES
    return row, min(row + rows_per_task, rows), lane, min(LANES, inner - lane)


@inline
def _fill(out, start, pixels, lanes, inner, value):
    """Some channels of consecutive pixels; in one run where those are all channels."""
    runs, count = (1, pixels * inner) if lanes == inner else (pixels, lanes)
    for run in range(runs):
        for i in range(count):
            out[_at(start + run * inner + i)] = value


# --- maximum ----------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def _tap_tables(problem: Pool2dProblem) -> tuple[np.ndarray, np.ndarray]:
    """For rows and for columns."""
    sizes = problem.input_shape[2:], problem.output_shape[2:]
    axes = *sizes, problem.kernel_size, problem.stride, problem.padding, problem.dilation
    rows, columns = (_tap_table(*axis) for axis in zip(*axes, strict=True))
    return rows, columns


def _tap_table(size: int, output_size: int, kernel_size: int, stride: int, padding: int, dilation: int) -> np.ndarray:
    """Per tap: the first and the end output whose tap lies inside the input, and its offset from output * stride."""
    table = np.empty((3, kernel_size), np.int64)
    for tap in range(kernel_size):
        offset = tap * dilation - padding
        first = max(-(offset // stride), 0)
        table[:, tap] = first, min(-((offset - size) // stride), output_size), offset
    return table


def max_pool2d(problem: Pool2dProblem, x, return_indices):
    x = dense(x)
    outer, inner = planes(x)
    (_, _, h, w), (_, _, p, q) = problem.input_shape, problem.output_shape
    row_taps, column_taps = _tap_tables(problem)
    out = empty(problem.output_shape, x.dtype, layout_of(x))
    indices = empty(problem.output_shape if return_indices else (0,), np.dtype(np.int32), layout_of(x))
    taps = problem.kernel_size[0] * problem.kernel_size[1]
    tasks, rows_per_task = _tasks(outer * p, q * inner * taps, inner)
    launch(
        _max_pool2d, _max_pool2d_parallel, tasks, out.size * taps * 0.7, flat(x), flat(out), flat(indices),
        return_indices, rows_per_task, (h, w, p, q), inner, problem.stride, row_taps, column_taps,
    )  # fmt: skip
    return out, indices if return_indices else None


@kernel
def _max_pool2d(
    first, end, x, out, indices, with_indices, rows_per_task, sizes, inner, stride, row_taps, column_taps
):  # fmt: skip
    """Taps outermost, over one row of outputs, which stays in the first-level cache."""
    never_inline()
    height, width, out_height, out_width = sizes
    rows = out.size // (out_width * inner)
    for task in range(first, end):
        row_first, row_end, lane, lanes = _task_bounds(task, rows_per_task, rows, inner)
        for row in range(row_first, row_end):
            plane, p = row // out_height, row % out_height
            out_row = row * out_width * inner + lane
            _fill(out, out_row, out_width, lanes, inner, -np.inf)
            if with_indices:
                _fill(indices, out_row, out_width, lanes, inner, -1)
            for r in range(row_taps.shape[1]):
                if p < row_taps[0, r] or p >= row_taps[1, r]:
                    continue
                h = p * stride[0] + row_taps[2, r]
                for s in range(column_taps.shape[1]):
                    q, columns = column_taps[0, s], column_taps[1, s] - column_taps[0, s]
                    position = h * width + q * stride[1] + column_taps[2, s]
                    runs, count, step = columns, lanes, 1
                    if inner == 1:
                        runs, count, step = 1, columns, stride[1]
                    for run in range(runs):
                        target = out_row + (q + run) * inner
                        place = position + run * stride[1]
                        source = (plane * height * width + place) * inner + lane
                        if with_indices:
                            place_step = step if inner == 1 else 0
                            _take_larger_at(x, source, step, out, indices, target, count, place, place_step)
                        else:
                            _take_larger(x, source, step, out, target, count)


@inline
def _take_larger(x, source, step, out, target, count):
    """out[target + i] = the larger of itself and x[source + i * step]; a NaN is larger than any number."""
    for i in range(count):
        value, best = x[_at(source + i * step)], out[_at(target + i)]
        out[_at(target + i)] = value if (value > best or value != value) else best


@inline
def _take_larger_at(x, source, step, out, indices, target, count, place, place_step):
    """`_take_larger` that also keeps where the value is; -1 stands for nowhere yet."""
    for i in range(count):
        value, best, index = x[_at(source + i * step)], out[_at(target + i)], indices[_at(target + i)]
        larger = value > best or value != value or index < 0
        out[_at(target + i)] = value if larger else best
        indices[_at(target + i)] = np.int32(place + i * place_step) if larger else index


@parallel_kernel
def _max_pool2d_parallel(
    first, end, x, out, indices, with_indices, rows_per_task, sizes, inner, stride, row_taps, column_taps
):  # fmt: skip
    for task in prange(first, end):
        _max_pool2d(
            task, task + 1, x, out, indices, with_indices, rows_per_task, sizes, inner, stride, row_taps, column_taps
        )


def max_pool2d_backward(problem: Pool2dProblem, grad_output, indices):
    grad_output = dense(grad_output)
    outer, inner = planes(grad_output)
    pixels = problem.input_shape[2] * problem.input_shape[3]
    indices = match(_checked(indices, pixels), grad_output)
    out = empty(problem.input_shape, grad_output.dtype, layout_of(grad_output))
    tasks = outer * -(-inner // _SCATTER_LANES)
    arrays = flat(grad_output), flat(indices), flat(out)
    work = grad_output.size * 1.5 + out.size * 0.2
    launch(_max_pool2d_backward, _max_pool2d_backward_parallel, tasks, work, *arrays, pixels, inner)
    return out


def _checked(indices: np.ndarray, pixels: int) -> np.ndarray:
    """`indices` as int32. The scatter writes where they say, so each must be a pixel."""
    if indices.size and (indices.min() < 0 or indices.max() >= pixels):
        raise ArgumentError(
            message(
                "max_pool2d_backward",
                f"indices must be from 0 to H * W - 1 = {pixels - 1}",
                "Pass what max_pool2d returned for this input_shape.",
                smallest=int(indices.min()),
                largest=int(indices.max()),
            )
        )
    return indices.astype(np.int32, copy=False)


_SCATTER_LANES = 16  # one cache line of float32


@kernel
def _max_pool2d_backward(first, end, grad_output, indices, out, pixels, inner):
    """Each task scatters into planes of its own, in the order of the outputs."""
    never_inline()
    blocks = -(-inner // _SCATTER_LANES)
    outputs = grad_output.size // (out.size // pixels)  # of a plane
    for task in range(first, end):
        plane, lane = task // blocks, task % blocks * _SCATTER_LANES
        lanes = min(_SCATTER_LANES, inner - lane)
        target = plane * pixels * inner + lane
        _fill(out, target, pixels, lanes, inner, 0)
        source = plane * outputs * inner + lane
        if inner == 1:
            for i in range(source, source + outputs):
                out[_at(target + indices[_at(i)])] += grad_output[_at(i)]
        else:
            for j in range(outputs):
                for c in range(lanes):
                    i = source + j * inner + c
                    out[_at(target + indices[_at(i)] * inner + c)] += grad_output[_at(i)]


@parallel_kernel
def _max_pool2d_backward_parallel(first, end, grad_output, indices, out, pixels, inner):
    for task in prange(first, end):
        _max_pool2d_backward(task, task + 1, grad_output, indices, out, pixels, inner)


# --- mean -------------------------------------------------------------------------------------------------


class _Axis(NamedTuple):
    """How sums along one axis are taken: out[i] = sum of weights[j] * x[j] over the window of i / divisors[i]."""

    windows: np.ndarray  # int64 (2, outputs): the first and the end input of each
    weights: np.ndarray  # float64 (inputs,)
    divisors: np.ndarray  # float64 (outputs,)


def _pool_axis(
    size: int, output_size: int, kernel_size: int, stride: int, padding: int, count_include_pad: bool
) -> _Axis:
    """Windows of `avg_pool2d`. What ceil_mode lets hang over the padding is not counted, as in PyTorch."""
    start = np.arange(output_size) * stride - padding
    end = np.minimum(start + kernel_size, size + padding)
    windows = np.stack([np.maximum(start, 0), np.minimum(end, size)])
    lengths = end - start if count_include_pad else windows[1] - windows[0]
    return _Axis(windows, np.ones(size), lengths.astype(np.float64))


def _adaptive_axis(size: int, output_size: int) -> _Axis:
    """Windows from floor(i * size / output_size) to ceil((i + 1) * size / output_size)."""
    i = np.arange(output_size)
    windows = np.stack([i * size // output_size, -(-(i + 1) * size // output_size)])
    return _Axis(windows, np.ones(size), (windows[1] - windows[0]).astype(np.float64))


def _transposed(axis: _Axis) -> _Axis:
    """The backward of a mean is such a sum too: over the outputs whose window holds an input.

    Starts and ends of windows never decrease, so those outputs are neighbours.
    """
    inputs = np.arange(axis.weights.size)
    first = np.searchsorted(axis.windows[1], inputs, side="right")  # windows before it end at or before the input
    end = np.searchsorted(axis.windows[0], inputs, side="right")  # windows from it on start after the input
    return _Axis(np.stack([first, end]), 1 / axis.divisors, np.ones(inputs.size))


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
    taps = -(-h // p)  # rows that a window reads, roughly: windows may overlap
    tasks, rows_per_task = _tasks(outer * p, (w * taps + q) * inner, inner)
    work = outer * p * (w * taps * 0.3 + q * 3.0) * inner
    launch(
        _sum_windows, _sum_windows_parallel, tasks, work, flat(x), flat(out),
        rows_per_task, (h, w, p, q), inner, *rows, *columns,
    )  # fmt: skip
    return out


@kernel
def _sum_windows(
    first, end, x, out, rows_per_task, sizes, inner,
    row_windows, row_weights, row_divisors, column_windows, column_weights, column_divisors,
):  # fmt: skip
    """Per output row: down the columns into one row of float64 sums, then along it.

    So a k x k window costs k + k additions, most of them in long contiguous loops, and both memory orders add in
    one order.
    """
    never_inline()
    height, width, out_height, out_width = sizes
    rows = out.size // (out_width * inner)
    sums = np.empty(width * min(inner, LANES), np.float64)
    totals = np.empty(min(inner, LANES), np.float64)
    for task in range(first, end):
        row_first, row_end, lane, lanes = _task_bounds(task, rows_per_task, rows, inner)
        runs, count = (1, width * inner) if lanes == inner else (width, lanes)
        for row in range(row_first, row_end):
            plane, p = row // out_height, row % out_height
            for i in range(width * lanes):
                sums[_at(i)] = 0
            for h in range(row_windows[0, p], row_windows[1, p]):
                source = (plane * height + h) * width * inner + lane
                for run in range(runs):
                    for i in range(count):
                        sums[_at(run * lanes + i)] += row_weights[_at(h)] * x[_at(source + run * inner + i)]
            for q in range(out_width):
                divisor = row_divisors[p] * column_divisors[q]
                target = (row * out_width + q) * inner + lane
                if inner == 1:
                    total = 0.0
                    for w in range(column_windows[0, q], column_windows[1, q]):
                        total += column_weights[_at(w)] * sums[_at(w)]
                    out[_at(target)] = total / divisor
                    continue
                for c in range(lanes):
                    totals[_at(c)] = 0
                for w in range(column_windows[0, q], column_windows[1, q]):
                    for c in range(lanes):
                        totals[_at(c)] += column_weights[_at(w)] * sums[_at(w * lanes + c)]
                for c in range(lanes):
                    out[_at(target + c)] = totals[_at(c)] / divisor


@parallel_kernel
def _sum_windows_parallel(
    first, end, x, out, rows_per_task, sizes, inner,
    row_windows, row_weights, row_divisors, column_windows, column_weights, column_divisors,
):  # fmt: skip
    for task in prange(first, end):
        _sum_windows(
            task, task + 1, x, out, rows_per_task, sizes, inner,
            row_windows, row_weights, row_divisors, column_windows, column_weights, column_divisors,
        )  # fmt: skip
