"""Batch normalisation of an array seen as (outer, channels, inner), which both dense layouts are.

Training reads x for the statistics (see moments.py), then reads and writes it once more; the backward reads two arrays
twice and writes one. Between them one warp for each channel does what is done once for it, in float64. The last pass
is a line for each channel, y = (x - high) * scale + bias, where the mean is high + low and low goes into the bias. It
does `VECTOR` elements a thread, of one channel or of as many, where sizes allow it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float64, int32

from ..contract import BatchNormResult
from . import memory
from .array import DeviceArray
from .convert import copy
from .functions import sqrt
from .indexing import blocks_for, divided, divisor, thread_number
from .intrinsics import load_lanes, map_vector, store_lanes
from .lanes import ONE, SOME
from .launch import VECTOR, Kernel, T, inline, kernel, launch
from .layout import aligned, contiguous, dense, empty_like, match
from .limits import require_32_bit
from .moments import THREADS, Grid, finite, grid_of, merge, merge_lanes, moments, products, split
from .reduce import WARP, lane_number, warp_number, warp_sum

_FLOAT64 = np.dtype(np.float64)
_COEFFICIENTS = 4  # of a channel, at most


def batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps):
    x = dense(x, any_address=True)
    require_32_bit("batch_norm", x)
    channels, grid = x.shape[1], grid_of(x)
    mean, inverse_std = (memory.empty((channels,), _FLOAT64, x.device) for _ in range(2))
    new_mean, new_var = (None if r is None else memory.empty((channels,), x.dtype, x.device)
                         for r in (running_mean, running_var))  # fmt: skip
    if x.size == 0:
        nothing = (memory.zeros((channels,), _FLOAT64, x.device) for _ in range(2))
        return BatchNormResult(empty_like(x), _copied(running_mean), _copied(running_var), *nothing)
    partial = memory.empty((grid.groups * 3 * channels if training else 0,), x.dtype, x.device)
    if training:
        launch(moments, x.dtype, grid.blocks, x, partial, *grid.arguments())
    coefficients = memory.empty((_COEFFICIENTS, channels), x.dtype, x.device)
    given = [arg for a in (weight, bias, running_mean, running_var) for arg in _given(a, partial)]
    launch(_statistics, x.dtype, blocks_for(channels * WARP, _statistics), x, partial, *given,
           mean, inverse_std, new_mean or partial, new_var or partial, coefficients,
           channels, grid.inner, grid.groups, grid.per_channel, int(training), momentum, eps)  # fmt: skip
    return BatchNormResult(_lines(_LINE, (x,), coefficients, grid), new_mean, new_var, mean, inverse_std)


def _copied(x: DeviceArray | None) -> DeviceArray | None:
    if x is None:
        return None
    out = memory.empty(x.shape, x.dtype, x.device)
    copy(x, out)
    return out


def _given(array: DeviceArray | None, otherwise: DeviceArray) -> tuple[DeviceArray, int]:
    """An array that may be missing, as two arguments: dense, and whether it is there."""
    return (otherwise, 0) if array is None else (contiguous(array), 1)


@kernel(threads=THREADS)
def _statistics(
    x: "T*", partial: "T*", weight: "T*", has_weight: "i32", bias: "T*", has_bias: "i32",
    running_mean: "T*", has_mean: "i32", running_var: "T*", has_var: "i32",
    mean: "f64*", inverse_std: "f64*", new_mean: "T*", new_var: "T*", coefficients: "T*",
    channels: "i32", inner: "i32", groups: "i32", count: "i32", training: "i32", momentum: "f64", eps: "f64",
):  # fmt: skip
    """A warp for each channel."""
    c, lane = warp_number(), lane_number()
    if c < channels:
        n, s, m2 = float64(0), float64(0), float64(0)
        if training != 0:
            for group in range(lane, groups, WARP):
                at = group * 3 * channels + c
                n, s, m2 = merge(
                    n, s, m2, float64(partial[at]), float64(partial[at + channels]), float64(partial[at + 2 * channels])
                )
            n, s, m2 = merge_lanes(n, s, m2)
        if lane == 0:
            if training != 0:
                share = float64(1 / count)
                average, variance = float64(finite(x[c * inner])) + s * share, m2 * share
            else:
                average, variance = float64(running_mean[c]), float64(running_var[c])
            if has_mean != 0:
                old, keep = float64(running_mean[c]), float64(1) - momentum
                new_mean[c] = T(keep * old + momentum * average) if training != 0 else running_mean[c]
            if has_var != 0:
                unbiased = variance * (float64(count) / float64(max(count - 1, 1)))
                old, keep = float64(running_var[c]), float64(1) - momentum
                new_var[c] = T(keep * old + momentum * unbiased) if training != 0 else running_var[c]
            inverse = float64(1) / sqrt(variance + eps)
            mean[c], inverse_std[c] = average, inverse
            scale = inverse * float64(weight[c]) if has_weight != 0 else inverse
            high, low = split(average)
            offset = float64(bias[c]) if has_bias != 0 else float64(0)
            coefficients[c] = high
            coefficients[c + channels] = T(scale)
            coefficients[c + 2 * channels] = T(offset - float64(low) * scale)


# --- backward ---------------------------------------------------------------------------------------------


def batch_norm_backward(grad_output, x, weight, mean, inverse_std, training):
    x = dense(x, any_address=True)
    require_32_bit("batch_norm_backward", x)
    grad_output = match(grad_output, x, any_address=True)
    channels, grid = x.shape[1], grid_of(x)
    if x.size == 0:
        nothing = (memory.zeros((channels,), x.dtype, x.device) for _ in range(2))
        return empty_like(x), *nothing
    mean, inverse_std = _float64(mean), _float64(inverse_std)
    partial = memory.empty((grid.groups * 2 * channels,), x.dtype, x.device)
    launch(products, x.dtype, grid.blocks, grad_output, x, mean, partial, *grid.arguments())
    coefficients = memory.empty((_COEFFICIENTS, channels), x.dtype, x.device)
    grad_weight, grad_bias = (memory.empty((channels,), x.dtype, x.device) for _ in range(2))
    launch(_gradients, x.dtype, blocks_for(channels * WARP, _gradients), partial, *_given(weight, partial),
           mean, inverse_std, grad_weight, grad_bias, coefficients, channels, grid.groups, grid.per_channel,
           int(training))  # fmt: skip
    # In evaluation the statistics were constants, and x does not enter: 0 * inf would be NaN.
    lines, arrays = (_PLANE, (grad_output, x)) if training else (_LINE, (grad_output,))
    return _lines(lines, arrays, coefficients, grid), grad_weight, grad_bias


def _float64(x: DeviceArray) -> DeviceArray:
    if x.dtype == _FLOAT64:
        return contiguous(x)
    out = memory.empty(x.shape, _FLOAT64, x.device)
    launch(_widen, x.dtype, blocks_for(x.size, _widen), contiguous(x), out, x.size)
    return out


@kernel(threads=THREADS, dtypes=("float32",))
def _widen(x: "T*", out: "f64*", size: "i32"):
    i = thread_number()
    if i < size:
        out[i] = float64(x[i])


@kernel(threads=THREADS)
def _gradients(
    partial: "T*", weight: "T*", has_weight: "i32", mean: "f64*", inverse_std: "f64*",
    grad_weight: "T*", grad_bias: "T*", coefficients: "T*",
    channels: "i32", groups: "i32", count: "i32", training: "i32",
):  # fmt: skip
    """A warp for each channel. grad_input = scale * (g - mean(g) - x_hat * mean(g * x_hat)), as a line in g and x."""
    c, lane = warp_number(), lane_number()
    if c < channels:
        total, product = float64(0), float64(0)
        for group in range(lane, groups, WARP):
            total += float64(partial[group * 2 * channels + c])
            product += float64(partial[(group * 2 + 1) * channels + c])
        total, product = warp_sum(total), warp_sum(product)
        if lane == 0:
            inverse = inverse_std[c]
            grad_weight[c], grad_bias[c] = T(product * inverse), T(total)
            scale = inverse * float64(weight[c]) if has_weight != 0 else inverse
            if training != 0:
                slope = -scale * inverse * inverse * product / float64(count)
                high, low = split(mean[c])
                coefficients[c] = high
                coefficients[c + channels] = T(scale)
                coefficients[c + 2 * channels] = T(-scale * total / float64(count) - float64(low) * slope)
                coefficients[c + 3 * channels] = T(slope)
            else:
                coefficients[c] = T(0)
                coefficients[c + channels] = T(scale)
                coefficients[c + 2 * channels] = T(0)


# --- the last pass ----------------------------------------------------------------------------------------


@inline
def _line(value, high, scale, bias):
    return (value - high) * scale + bias


@inline
def _plane(grad, value, high, scale, bias, slope):
    return grad * scale + (value - high) * slope + bias


@inline
def _number(array, at, like):
    return array[at]


def _line_kernel(like, fetch, name):
    @kernel(threads=256, name=f"line_{name}")
    def run(
        x: "T*", out: "T*", coefficients: "T*", size: "i32", channels: "i32", channels_multiplier: "u32",
        channels_shift: "u32", inner: "i32", inner_multiplier: "u32", inner_shift: "u32",
    ):  # fmt: skip
        i = thread_number()
        if i < size:
            at = int32(i * len(like))
            row, _ = divided(at, inner, inner_multiplier, inner_shift)
            _, c = divided(row, channels, channels_multiplier, channels_shift)
            high, scale = fetch(coefficients, c, like), fetch(coefficients, c + channels, like)
            bias = fetch(coefficients, c + 2 * channels, like)
            store_lanes(out, at, map_vector(_line, (load_lanes(x, at, like), high, scale, bias)))

    return run


def _plane_kernel(like, fetch, name):
    @kernel(threads=256, name=f"plane_{name}")
    def run(
        grad: "T*", x: "T*", out: "T*", coefficients: "T*", size: "i32", channels: "i32", channels_multiplier: "u32",
        channels_shift: "u32", inner: "i32", inner_multiplier: "u32", inner_shift: "u32",
    ):  # fmt: skip
        i = thread_number()
        if i < size:
            at = int32(i * len(like))
            row, _ = divided(at, inner, inner_multiplier, inner_shift)
            _, c = divided(row, channels, channels_multiplier, channels_shift)
            high, scale = fetch(coefficients, c, like), fetch(coefficients, c + channels, like)
            bias, slope = fetch(coefficients, c + 2 * channels, like), fetch(coefficients, c + 3 * channels, like)
            vectors = load_lanes(grad, at, like), load_lanes(x, at, like), high, scale, bias, slope
            store_lanes(out, at, map_vector(_plane, vectors))

    return run


class _Lines:
    """Kernels of one element a thread, of several of one channel, and of one each of several channels."""

    def __init__(self, make: Any) -> None:
        self.single = make(ONE, _number, "single")
        self.of_channel = make(SOME, _number, "of_channel")
        self.of_channels = make(SOME, load_lanes, "of_channels")

    def chosen(self, grid: Grid, *arrays: DeviceArray) -> tuple[Kernel, int]:
        """The kernel, and how many elements a thread does."""
        lanes = VECTOR.values_by_type[arrays[0].dtype]
        if aligned(*arrays) and grid.inner % lanes == 0:
            return self.of_channel, lanes
        if aligned(*arrays) and grid.inner == 1 and grid.channels % lanes == 0:
            return self.of_channels, lanes
        return self.single, 1


_LINE, _PLANE = _Lines(_line_kernel), _Lines(_plane_kernel)


def _lines(kernels: _Lines, arrays: tuple[DeviceArray, ...], coefficients: DeviceArray, grid: Grid) -> DeviceArray:
    out = empty_like(arrays[0])
    run, lanes = kernels.chosen(grid, *arrays)
    size = out.size // lanes
    launch(run, out.dtype, blocks_for(size, run), *arrays, out, coefficients, size, *divisor(grid.channels),
           *divisor(grid.inner))  # fmt: skip
    return out
