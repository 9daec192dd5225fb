"""Depthwise convolution: one filter per channel, so nothing is summed over channels and the tile has no use.

Channels-last, with channels as the inner, vectorised loop. Forward and input-gradient build one row of the result
at a time: a row of W * C values stays in cache while the R * S taps add to it. 2 * R * S flops per element against
8 bytes of traffic: bound by the cache, not by arithmetic.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from ...jit import inline, kernel, launch, never_inline, parallel_kernel, prange
from ...shapes import Conv2dProblem, Shape4
from ..layout import CHANNELS_LAST, channels_last, empty, flat, in_layout, layout_of
from ..memory import buffer, scratch
from ..packing import Packed
from .algorithm import Algorithm

_SPLITS = 16  # of the weight-gradient's lines


class _Window(NamedTuple):
    """The sizes of one depthwise convolution, for the kernels."""

    channels: int
    height: int
    width: int
    out_height: int
    out_width: int
    filter_height: int
    filter_width: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    top: int
    left: int


def supports(problem: Conv2dProblem) -> str:
    """Empty for as many groups as input and output channels."""
    channels = problem.input_shape[1]
    if problem.groups != channels or problem.weight_shape[0] != channels:
        return f"groups={problem.groups}, not one per input and output channel"
    return "with one channel it is an ordinary convolution" if channels == 1 else ""


@functools.lru_cache(maxsize=1024)
def _window(problem: Conv2dProblem) -> _Window:
    return _Window(
        problem.input_shape[1], *problem.input_shape[2:], *problem.output_shape[2:], *problem.weight_shape[2:],
        *problem.stride, *problem.dilation, problem.padding[0], problem.padding[2],
    )  # fmt: skip


def _work_ns(problem: Conv2dProblem) -> float:
    return problem.multiply_adds * 0.1


@inline
def _multiply_add(out, to, a, a_at, b, b_at, count):
    """out[to + c] += a[a_at + c] * b[b_at + c]. Slices, since LLVM sees that their indices do not wrap around."""
    sums, left, right = out[to : to + count], a[a_at : a_at + count], b[b_at : b_at + count]
    for c in range(count):
        sums[c] += left[c] * right[c]


@inline
def _fill(row, bias):
    for start in range(0, row.size, bias.size):
        row[start : start + bias.size] = bias


def pack_weight(problem: Conv2dProblem, weight: np.ndarray, bias: np.ndarray | None, kept: bool) -> Packed:
    """Each tap's weights as a vector: (C, 1, R, S) as flat (R * S, C)."""
    channels = weight.shape[0]
    packed = Packed(
        buffer("packed weight", weight.size, weight.dtype, kept), buffer("packed bias", channels, weight.dtype, kept)
    )
    packed.weight.reshape(-1, channels)[...] = weight.reshape(channels, -1).T
    packed.bias[:] = 0 if bias is None else bias
    return packed


def forward(problem: Conv2dProblem, x: np.ndarray, packed: Packed, relu: bool) -> np.ndarray:
    return _by_rows(_forward, _forward_parallel, problem, problem.output_shape, x, packed, relu)


def backward_input(
    problem: Conv2dProblem, grad_output: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> np.ndarray:
    packed = pack_weight(problem, weight, bias, False)
    args = problem, problem.input_shape, grad_output, packed, False
    return in_layout(_by_rows(_backward_input, _backward_input_parallel, *args), layout_of(grad_output))


def _by_rows(
    body: Any, parallel: Any, problem: Conv2dProblem, out_shape: Shape4,
    source: np.ndarray, packed: Packed, relu: bool,
) -> np.ndarray:  # fmt: skip
    """Runs a kernel whose tasks are the rows of its result."""
    n, _, rows, _ = out_shape
    out = empty(out_shape, source.dtype, CHANNELS_LAST)
    args = flat(channels_last(source)), *packed, flat(out), _window(problem)
    launch(body, parallel, n * rows, _work_ns(problem), *args)
    if relu:
        np.maximum(out, 0, out=out)
    return out


@kernel
def _forward(first, end, x, weight, bias, out, z):
    """Task: one output row."""
    never_inline()
    for task in range(first, end):
        image = task // z.out_height
        p = task - image * z.out_height
        row = out[task * z.out_width * z.channels : (task + 1) * z.out_width * z.channels]
        _fill(row, bias)
        for r in range(z.filter_height):
            h = p * z.stride_h - z.top + r * z.dilation_h
            if h < 0 or h >= z.height:
                continue
            for s in range(z.filter_width):
                tap = (r * z.filter_width + s) * z.channels
                for q in range(z.out_width):
                    w = q * z.stride_w - z.left + s * z.dilation_w
                    if w < 0 or w >= z.width:
                        continue
                    at = ((image * z.height + h) * z.width + w) * z.channels
                    _multiply_add(row, q * z.channels, x, at, weight, tap, z.channels)


@parallel_kernel
def _forward_parallel(first, end, x, weight, bias, out, z):
    for task in prange(first, end):
        _forward(task, task + 1, x, weight, bias, out, z)


@kernel
def _backward_input(first, end, grad_output, weight, bias, out, z):
    """Task: one input row; it gathers from the output rows it took part in."""
    never_inline()
    for task in range(first, end):
        image = task // z.height
        h = task - image * z.height
        row = out[task * z.width * z.channels : (task + 1) * z.width * z.channels]
        _fill(row, bias)
        for r in range(z.filter_height):
            reach = h + z.top - r * z.dilation_h
            p = reach // z.stride_h
            if reach < 0 or p * z.stride_h != reach or p >= z.out_height:
                continue
            for s in range(z.filter_width):
                tap = (r * z.filter_width + s) * z.channels
                for q in range(z.out_width):
                    w = q * z.stride_w - z.left + s * z.dilation_w
                    if w < 0 or w >= z.width:
                        continue
                    at = ((image * z.out_height + p) * z.out_width + q) * z.channels
                    _multiply_add(row, w * z.channels, grad_output, at, weight, tap, z.channels)


@parallel_kernel
def _backward_input_parallel(first, end, grad_output, weight, bias, out, z):
    for task in prange(first, end):
        _backward_input(task, task + 1, grad_output, weight, bias, out, z)


def backward_weight(problem: Conv2dProblem, grad_output: np.ndarray, x: np.ndarray) -> np.ndarray:
    n, k, p, _ = problem.output_shape
    _, _, r, s = problem.weight_shape
    size = k * r * s
    partial = scratch("partial weight gradient", 2 * _SPLITS * size, x.dtype)
    args = flat(channels_last(grad_output)), flat(channels_last(x)), partial, n * p, _window(problem)
    launch(_backward_weight, _backward_weight_parallel, _SPLITS, _work_ns(problem), *args)
    out = empty(problem.weight_shape, x.dtype)
    total = partial.reshape(_SPLITS, 2, r * s, k)[:, 0].sum(axis=0)  # in the order of the splits
    out.reshape(k, r * s)[...] = total.T
    return out


@kernel
def _backward_weight(first, end, grad_output, x, partial, lines, z):
    """Task: a run of output rows. Each row is summed by itself, then added: short sums lose less."""
    never_inline()
    size = z.filter_height * z.filter_width * z.channels
    for task in range(first, end):
        total = 2 * task * size
        line_sum = total + size
        for i in range(total, line_sum):
            partial[i] = 0
        for line in range(lines * task // _SPLITS, lines * (task + 1) // _SPLITS):
            image = line // z.out_height
            p = line - image * z.out_height
            for i in range(line_sum, line_sum + size):
                partial[i] = 0
            for r in range(z.filter_height):
                h = p * z.stride_h - z.top + r * z.dilation_h
                if h < 0 or h >= z.height:
                    continue
                for s in range(z.filter_width):
                    to = line_sum + (r * z.filter_width + s) * z.channels
                    for q in range(z.out_width):
                        w = q * z.stride_w - z.left + s * z.dilation_w
                        if w < 0 or w >= z.width:
                            continue
                        at = ((image * z.height + h) * z.width + w) * z.channels
                        grad = (line * z.out_width + q) * z.channels
                        _multiply_add(partial, to, x, at, grad_output, grad, z.channels)
            for i in range(size):
                partial[total + i] += partial[line_sum + i]


@parallel_kernel
def _backward_weight_parallel(first, end, grad_output, x, partial, lines, z):
    for task in prange(first, end):
        _backward_weight(task, task + 1, grad_output, x, partial, lines, z)


ALGORITHM = Algorithm(
    name="depthwise",
    supports=supports,
    pack_weight=pack_weight,
    forward=forward,
    backward_input=backward_input,
    backward_weight=backward_weight,
)
