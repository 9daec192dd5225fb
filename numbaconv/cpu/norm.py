"""Batch normalisation of an array seen as (outer, channels, inner), which both dense layouts are.

channels_first is (N, C, H * W): a channel's elements are runs, so sums run in `LANES` columns. channels_last is
(N * H * W, C, 1): the loop over channels is the vector loop. Bytes: the statistics read x, the output reads and
writes it once more; the backward reads two arrays twice and writes one.

A mean and a variance come from one pass of float64 sums over x - shift, where shift is an element of the channel.
The variance is at least (mean - shift)^2 / n, so that the subtraction in mean((x - shift)^2) - mean(x - shift)^2
loses at most log10(n) of 16 digits, however large the mean.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..contract import BatchNormResult
from ..jit import inline, kernel
from ..parallel import launch, on_threads
from . import memory
from .layout import around_axis, dense, empty_like, flat, match
from .moment_sums import LANES, add_rows
from .sizes import sizes_of, unpack

TASK = 65536  # elements of a task, about: 256 KB of float32
_ROWS = 16  # added at once: more are further apart in memory than what is fetched ahead


class Grid(NamedTuple):
    """How (outer, channels, inner) is cut into tasks of `rows` x `block` x `segment`, in memory order."""

    outer: int
    channels: int
    inner: int
    rows: int
    block: int
    segment: int

    @property
    def groups(self) -> int:
        """Tasks that add to one channel."""
        return -(-self.outer // self.rows) * -(-self.inner // self.segment)

    @property
    def tasks(self) -> int:
        return self.groups * -(-self.channels // self.block)


def _grid(x: np.ndarray) -> Grid:
    outer, inner = around_axis(x, 1)
    channels = x.shape[1]
    segment = min(inner, TASK)
    block = min(channels, max(TASK // segment, 1))
    return Grid(outer, channels, inner, max(TASK // (block * segment), 1), block, segment)


@inline
def task_ranges(task, grid):
    """Of a task: its group, then begin and end on each of the three axes."""
    segments, blocks = -(-grid.inner // grid.segment), -(-grid.channels // grid.block)
    o = task // (segments * blocks) * grid.rows
    c = task // segments % blocks * grid.block
    i = task % segments * grid.segment
    group = task // (segments * blocks) * segments + task % segments
    o_end, c_end, i_end = (
        min(o + grid.rows, grid.outer),
        min(c + grid.block, grid.channels),
        min(i + grid.segment, grid.inner),
    )
    return group, o, o_end, c, c_end, i, i_end


def batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps):
    x = dense(x)
    channels = x.shape[1]
    if x.size == 0:
        nothing = np.zeros(channels)
        return BatchNormResult(empty_like(x), _copy(running_mean), _copy(running_var), nothing, nothing.copy())
    with np.errstate(all="ignore"):
        if training:
            mean, variance = _statistics(x)
            unbiased = variance * (x.size / max(x.size - channels, 1))
            running_mean = _moved(running_mean, mean, momentum)
            running_var = _moved(running_var, unbiased, momentum)
        else:
            mean, variance = running_mean.astype(np.float64), running_var.astype(np.float64)
            running_mean, running_var = _copy(running_mean), _copy(running_var)
        inverse_std = 1 / np.sqrt(variance + eps)
        scale = inverse_std if weight is None else inverse_std * weight
    output = _normalised(x, mean, scale, np.zeros(channels) if bias is None else bias)
    return BatchNormResult(output, running_mean, running_var, mean, inverse_std)


def batch_norm_backward(grad_output, x, weight, mean, inverse_std, training):
    x = dense(x)
    grad_output = match(grad_output, x)
    channels, dtype = x.shape[1], x.dtype
    if x.size == 0:
        return empty_like(x), np.zeros(channels, dtype), np.zeros(channels, dtype)
    mean, inverse_std = mean.astype(np.float64), inverse_std.astype(np.float64)
    grad_sum, product_sum = _channel_sums(grad_output, x, mean)
    with np.errstate(all="ignore"):
        scale = inverse_std if weight is None else inverse_std * weight
        grad_weight, grad_bias = (product_sum * inverse_std).astype(dtype), grad_sum.astype(dtype)
    if not training:  # the statistics were constants
        return _normalised(grad_output, np.zeros(channels), scale, np.zeros(channels)), grad_weight, grad_bias

    # scale * (g - mean(g) - x_hat * mean(g * x_hat)), as one line in g and x - mean per channel
    count = x.size // channels
    with np.errstate(all="ignore"):
        offset = -scale * grad_sum / count
        slope = -scale * inverse_std**2 * product_sum / count
        coefficients = np.stack([*_split(mean, dtype), scale, slope, offset]).astype(dtype)
    out, grid = empty_like(x), _grid(x)
    arrays = flat(grad_output), flat(x), flat(out), flat(coefficients)
    launch(_input_gradient, grid.tasks, x.size * 0.5, *arrays, sizes_of(grid))
    return out, grad_weight, grad_bias


def _copy(x: np.ndarray | None) -> np.ndarray | None:
    return None if x is None else x.copy()


def _moved(running: np.ndarray | None, value: np.ndarray, momentum: float) -> np.ndarray | None:
    """The exponential average after one more value, in its own dtype."""
    if running is None:
        return None
    return ((1 - momentum) * running.astype(np.float64) + momentum * value).astype(running.dtype)


def _split(mean: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """A float64 mean as high + low in `dtype`: (x - high) - low has no rounding error worth the name."""
    high = mean.astype(dtype)
    return high, np.where(np.isfinite(high), mean - high, 0)


def _statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of each channel, float64."""
    grid = _grid(x)
    shift = flat(x)[: grid.channels * grid.inner : grid.inner].astype(np.float64)
    shift[~np.isfinite(shift)] = 0  # the mean of a channel that holds inf is inf, not NaN
    sums, squares = _channel_sums(x, x, shift, square=True)
    count = x.size // grid.channels
    deviation = sums / count
    return shift + deviation, np.maximum(squares / count - deviation * deviation, 0)


def _channel_sums(a: np.ndarray, b: np.ndarray, shift: np.ndarray, square: bool = False) -> np.ndarray:
    """(2, C) float64: the sums over each channel of a and of a * (b - shift); if `square`, of a - shift and its square.

    (Not where a is b: a gradient may be the input itself.)
    """
    grid = _grid(a)
    partial = memory.scratch("norm.partial", grid.groups * 2 * grid.channels, np.dtype(np.float64))
    lanes = memory.scratch("norm.lanes", grid.tasks * 3 * LANES, np.dtype(np.float64))
    arrays = flat(a), flat(b), shift, partial, lanes
    launch(_sums, grid.tasks, a.size * 0.3, *arrays, square, sizes_of(grid))
    # Group by group in order: the same bits whichever thread did which.
    with np.errstate(all="ignore"):
        return partial.reshape(grid.groups, 2, grid.channels).sum(axis=0)


@kernel
def _sums(first, end, a, b, shift, partial, lanes, square, sizes):
    """`partial`: (groups, 2, channels) sums, and sums of products. `lanes`: (tasks, 3, LANES) work space."""
    if on_threads():
        return
    grid = unpack(sizes, Grid)
    channels, inner = grid.channels, grid.inner
    for task in range(first, end):
        group, o, o_end, c, c_end, i, i_end = task_ranges(task, grid)
        sums = partial[2 * group * channels : (2 * group + 1) * channels]
        products = partial[(2 * group + 1) * channels : (2 * group + 2) * channels]
        if inner == 1:
            sums[c:c_end] = 0.0
            products[c:c_end] = 0.0
            for row in range(o, o_end, _ROWS):
                rows = min(_ROWS, o_end - row)
                for k in range(c, c_end, LANES):
                    at, columns = row * channels + k, min(LANES, c_end - k)
                    _add(a, b, at, channels, rows, shift, k, sums, products, k, columns, square)
        else:
            mine = lanes[task * 3 * LANES : (task + 1) * 3 * LANES]
            for channel in range(c, c_end):
                _sum_runs(a, b, shift, sums, products, mine, o, o_end, channel, channels, inner, i, i_end, square)


@inline
def _add(a, b, at, pitch, rows, shifts, shift, sums, products, to, columns, square):
    if square:
        add_rows(a, at, a, at, pitch, rows, shifts, shift, sums, products, to, columns, 1)
    else:
        add_rows(a, at, b, at, pitch, rows, shifts, shift, sums, products, to, columns, 0)


@inline
def _sum_runs(a, b, shift, sums, products, lanes, o, o_end, c, channels, inner, i, i_end, square):
    """channels_first: adds the runs of one channel, LANES elements at a time."""
    u_lanes, v_lanes, shifts = lanes[:LANES], lanes[LANES : 2 * LANES], lanes[2 * LANES :]
    lanes[: 2 * LANES] = 0.0
    shifts[:] = shift[c]
    whole = (i_end - i) // LANES
    left = i_end - i - whole * LANES
    for row in range(o, o_end):
        base = (row * channels + c) * inner + i
        _add(a, b, base, LANES, whole, shifts, 0, u_lanes, v_lanes, 0, LANES, square)
        if left > 0:
            _add(a, b, base + whole * LANES, LANES, 1, shifts, 0, u_lanes, v_lanes, 0, left, square)
    u_sum, v_sum = 0.0, 0.0
    for lane in range(min(LANES, i_end - i)):
        u_sum += u_lanes[lane]
        v_sum += v_lanes[lane]
    sums[c], products[c] = u_sum, v_sum


def _normalised(x: np.ndarray, mean: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(x - mean) * scale + bias, each per channel."""
    with np.errstate(all="ignore"):
        coefficients = np.stack([*_split(mean, x.dtype), scale, bias]).astype(x.dtype)
    out, grid = empty_like(x), _grid(x)
    launch(_affine, grid.tasks, x.size * 0.4, flat(x), flat(out), flat(coefficients), sizes_of(grid))
    return out


@kernel
def _affine(first, end, x, out, coefficients, sizes):
    """`coefficients`: (4, channels) of high and low mean, scale, bias."""
    if on_threads():
        return
    grid = unpack(sizes, Grid)
    channels, inner = grid.channels, grid.inner
    for task in range(end - 1, first - 1, -1):  # the last ones' elements are in the caches since they were added up
        _, o, o_end, c, c_end, i, i_end = task_ranges(task, grid)
        high, low = coefficients[c:c_end], coefficients[channels + c : channels + c_end]
        scale = coefficients[2 * channels + c : 2 * channels + c_end]
        bias = coefficients[3 * channels + c : 3 * channels + c_end]
        for row in range(o * channels, o_end * channels, channels):
            if inner == 1:
                x_run, run = x[row + c : row + c_end], out[row + c : row + c_end]
                for k in range(c_end - c):
                    run[k] = (x_run[k] - high[k] - low[k]) * scale[k] + bias[k]
            else:
                for k in range(c_end - c):
                    start, stop = (row + c + k) * inner + i, (row + c + k) * inner + i_end
                    x_run, run = x[start:stop], out[start:stop]
                    mean, rest, s, b = high[k], low[k], scale[k], bias[k]
                    for j in range(stop - start):
                        run[j] = (x_run[j] - mean - rest) * s + b


@kernel
def _input_gradient(first, end, grad_output, x, out, coefficients, sizes):
    """`coefficients`: (5, channels) of high and low mean, scale, slope, offset."""
    if on_threads():
        return
    grid = unpack(sizes, Grid)
    channels, inner = grid.channels, grid.inner
    for task in range(end - 1, first - 1, -1):  # the last ones' elements are in the caches since they were added up
        _, o, o_end, c, c_end, i, i_end = task_ranges(task, grid)
        high, low = coefficients[c:c_end], coefficients[channels + c : channels + c_end]
        scale = coefficients[2 * channels + c : 2 * channels + c_end]
        slope = coefficients[3 * channels + c : 3 * channels + c_end]
        offset = coefficients[4 * channels + c : 4 * channels + c_end]
        for row in range(o * channels, o_end * channels, channels):
            if inner == 1:
                start, stop = row + c, row + c_end
                g_run, x_run, run = grad_output[start:stop], x[start:stop], out[start:stop]
                for k in range(c_end - c):
                    run[k] = g_run[k] * scale[k] + (x_run[k] - high[k] - low[k]) * slope[k] + offset[k]
            else:
                for k in range(c_end - c):
                    start, stop = (row + c + k) * inner + i, (row + c + k) * inner + i_end
                    g_run, x_run, run = grad_output[start:stop], x[start:stop], out[start:stop]
                    mean, rest, s, m, b = high[k], low[k], scale[k], slope[k], offset[k]
                    for j in range(stop - start):
                        run[j] = g_run[j] * s + (x_run[j] - mean - rest) * m + b
