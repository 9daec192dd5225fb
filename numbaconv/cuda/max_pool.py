"""Maximum pooling, and the gradient that follows its indices: each thread makes elements of the result.

Both memory orders are (outer, H, W, inner) with inner = 1 (channels-first) or C (channels-last). There a thread makes
`VECTOR` channels where their number allows it, with 128-bit accesses; the windows' overlap is met in the caches.

The gradient is gathered: an input pixel adds up the gradients of the windows over it that point to it, so that nothing
is added by two threads. Only indices that `max_pool2d` made itself are sure to point into their own windows; others
are scattered, by one thread for each channel of an image, slowly. Bytes: the input and the output once, and 4 for each
index.
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np
from numba import int32

from ..errors import ArgumentError, message
from ..shapes import Pool2dProblem
from . import errorword, memory
from .array import DeviceArray
from .convert import to_int32
from .errorword import report
from .indexing import blocks_for, divided, divisor, thread_number
from .intrinsics import load_lanes, map_vector, store_lanes
from .lanes import Twin
from .launch import T, inline, kernel, launch
from .layout import dense, empty, layout_of, match, planes
from .limits import require_32_bit

_INT32 = np.dtype(np.int32)
_LOWEST = -math.inf
_WITH_INDICES, _RELU = 1, 2

# Indices by the memory they lie on: (problem, address, strides).
_made: weakref.WeakKeyDictionary[Any, tuple[Any, ...]] = weakref.WeakKeyDictionary()


def max_pool2d(problem: Pool2dProblem, x, return_indices, relu=False):
    x = dense(x, any_address=True)
    _, inner = planes(x)
    (_, _, h, w), (_, _, p, q) = problem.input_shape, problem.output_shape
    out = empty(problem.output_shape, x.dtype, x.device, layout_of(x))
    indices = empty(problem.output_shape, _INT32, x.device, layout_of(x)) if return_indices else None
    require_32_bit("max_pool2d", x, out)
    run, lanes = _MAXIMUM.chosen(inner, x)
    size = out.size // lanes
    flags = (_WITH_INDICES if return_indices else 0) | (_RELU if relu else 0)
    launch(run, x.dtype, blocks_for(size, run), x, out, indices or out, flags, size,
           *divisor(inner // lanes), *divisor(q), *divisor(p), h, w, *problem.kernel_size, *problem.stride,
           *problem.padding, *problem.dilation)  # fmt: skip
    if indices is not None:
        _made[indices.owner] = problem, indices.address, indices.strides
    return out, indices


@inline
def _lowest(like):
    return T(_LOWEST)


@inline
def _nowhere(like):
    return int32(-1)


@inline
def _larger(value, best):
    return value if value > best or value != value else best  # a NaN is larger than any number


@inline
def _place_of_larger(value, best, here, place):
    return int32(here) if value > best or value != value or place < 0 else place


@inline
def _positive(best):
    return T(0) if best <= T(0) else best  # NaN <= 0 is False: NaN passes


@inline
def _place_if_positive(place, best):
    return int32(-1) if best <= T(0) else place


def _maximum(like, name):
    @kernel(threads=256, blocks_per_sm=4, name=name)
    def run(
        x: "T*", out: "T*", indices: "i32*", flags: "i32", size: "i32",
        inner: "i32", inner_multiplier: "u32", inner_shift: "u32",
        out_width: "i32", width_multiplier: "u32", width_shift: "u32",
        out_height: "i32", height_multiplier: "u32", height_shift: "u32",
        height: "i32", width: "i32", rows: "i32", columns: "i32", stride_h: "i32", stride_w: "i32",
        padding_h: "i32", padding_w: "i32", dilation_h: "i32", dilation_w: "i32",
    ):  # fmt: skip
        i = thread_number()
        if i < size:
            pixel, lane = divided(i, inner, inner_multiplier, inner_shift)
            row, q = divided(pixel, out_width, width_multiplier, width_shift)
            plane, p = divided(row, out_height, height_multiplier, height_shift)
            first_h, first_w = int32(p * stride_h - padding_h), int32(q * stride_w - padding_w)
            best, place = map_vector(_lowest, (like,)), map_vector(_nowhere, (like,))
            for r in range(rows):
                h = int32(first_h + r * dilation_h)
                if 0 <= h < height:
                    for s in range(columns):
                        w = int32(first_w + s * dilation_w)
                        if 0 <= w < width:
                            here = int32(h * width + w)
                            at = int32((plane * height * width + here) * inner + lane) * len(like)
                            value = load_lanes(x, at, like)
                            place = map_vector(_place_of_larger, (value, best, here, place))
                            best = map_vector(_larger, (value, best))
            if flags & _RELU:
                place, best = map_vector(_place_if_positive, (place, best)), map_vector(_positive, (best,))
            store_lanes(out, i * len(like), best)
            if flags & _WITH_INDICES:
                store_lanes(indices, i * len(like), place)

    return run


_MAXIMUM = Twin(_maximum)


def max_pool2d_backward(problem: Pool2dProblem, grad_output, indices, relu=False):
    grad_output = dense(grad_output, any_address=True)
    _, inner = planes(grad_output)
    (_, _, h, w), (_, _, p, q) = problem.input_shape, problem.output_shape
    require_32_bit("max_pool2d_backward", math.prod(problem.input_shape), grad_output)
    if _made.get(indices.owner) != (problem, indices.address, indices.strides):
        return _scattered(problem, grad_output, indices, relu)
    indices = match(indices, grad_output, any_address=True)
    out = empty(problem.input_shape, grad_output.dtype, grad_output.device, layout_of(grad_output))
    run, lanes = _MAXIMUM_BACKWARD.chosen(inner, grad_output)
    size = out.size // lanes
    reach = (d * (k - 1) + 1 for d, k in zip(problem.dilation, problem.kernel_size, strict=True))
    strides = (number for stride in problem.stride for number in divisor(stride))
    launch(run, out.dtype, blocks_for(size, run), grad_output, indices, out, size,
           *divisor(inner // lanes), *divisor(w), *divisor(h), p, q, *reach, *strides, *problem.padding)  # fmt: skip
    return out


@inline
def _zero(like):
    return T(0)


@inline
def _sum(a, b):
    return a + b


@inline
def _sum_if_here(total, grad, index, here):
    return total + grad if index == here else total


@inline
def windows_over(place, outputs, reach, stride, multiplier, shift):
    """(first, end): the windows of `reach` elements over a place, counted from the start of the padding."""
    last, _ = divided(place, stride, multiplier, shift)
    before = int32(-1)
    if place >= reach:
        before, _ = divided(place - reach, stride, multiplier, shift)
    return int32(before + 1), int32(min(last + 1, outputs))


def _maximum_backward(like, name):
    @kernel(threads=256, blocks_per_sm=4, name=name)
    def run(
        grad_output: "T*", indices: "i32*", out: "T*", size: "i32",
        inner: "i32", inner_multiplier: "u32", inner_shift: "u32",
        width: "i32", width_multiplier: "u32", width_shift: "u32",
        height: "i32", height_multiplier: "u32", height_shift: "u32",
        out_height: "i32", out_width: "i32", reach_h: "i32", reach_w: "i32",
        stride_h: "i32", stride_h_multiplier: "u32", stride_h_shift: "u32",
        stride_w: "i32", stride_w_multiplier: "u32", stride_w_shift: "u32", padding_h: "i32", padding_w: "i32",
    ):  # fmt: skip
        i = thread_number()
        if i < size:
            pixel, lane = divided(i, inner, inner_multiplier, inner_shift)
            row, w = divided(pixel, width, width_multiplier, width_shift)
            plane, h = divided(row, height, height_multiplier, height_shift)
            here = int32(h * width + w)
            p_first, p_end = windows_over(
                int32(h + padding_h), out_height, reach_h, stride_h, stride_h_multiplier, stride_h_shift
            )
            q_first, q_end = windows_over(
                int32(w + padding_w), out_width, reach_w, stride_w, stride_w_multiplier, stride_w_shift
            )
            total = map_vector(_zero, (like,))
            p = p_first
            while p < p_end:  # (see avg_pool.py)
                of_row = map_vector(_zero, (like,))
                q = q_first
                while q < q_end:
                    at = int32(((plane * out_height + p) * out_width + q) * inner + lane) * len(like)
                    grad, index = load_lanes(grad_output, at, like), load_lanes(indices, at, like)
                    of_row = map_vector(_sum_if_here, (of_row, grad, index, here))
                    q = int32(q + 1)
                total = map_vector(_sum, (total, of_row))
                p = int32(p + 1)
            store_lanes(out, i * len(like), total)

    return run


_MAXIMUM_BACKWARD = Twin(_maximum_backward)


# --- indices of others ------------------------------------------------------------------------------------


def _scattered(problem: Pool2dProblem, grad_output: DeviceArray, indices: DeviceArray, relu: bool) -> DeviceArray:
    n, c, h, w = problem.input_shape
    device = grad_output.device
    if grad_output.c_contiguous:
        out = memory.zeros((n, c, h, w), grad_output.dtype, device)
    else:
        out = memory.zeros((n, h, w, c), grad_output.dtype, device).transpose(0, 3, 1, 2)
    outer, inner = planes(grad_output)
    outputs = problem.output_shape[2] * problem.output_shape[3]

    def describe(position: int, value: int) -> Exception:
        where = ", ".join(map(str, np.unravel_index(position, problem.output_shape)))
        return ArgumentError(
            message(
                "max_pool2d_backward",
                f"indices must be from {-1 if relu else 0} to H * W - 1 = {h * w - 1}",
                "Pass what max_pool2d returned for this input_shape.",
                **{f"indices[{where}]": value},
            )
        )

    if grad_output.size:
        indices, threads = match(to_int32(indices), grad_output, any_address=True), outer * inner
        errors = errorword.words(device), errorword.expect(device, describe)
        launch(_scatter, out.dtype, blocks_for(threads, _scatter), grad_output, indices, out, threads,
               *divisor(inner), outputs, h * w, -1 if relu else 0, *errors)  # fmt: skip
    return out


@kernel(threads=64)
def _scatter(
    grad_output: "T*", indices: "i32*", out: "T*", size: "i32",
    inner: "i32", inner_multiplier: "u32", inner_shift: "u32", outputs: "i32", pixels: "i32", least: "i32",
    errors: "i64*", slot: "i32",
):  # fmt: skip
    """One channel of one image, in the order of the outputs."""
    i = thread_number()
    if i < size:
        plane, lane = divided(i, inner, inner_multiplier, inner_shift)
        for j in range(outputs):
            at = int32((plane * outputs + j) * inner + lane)
            index = indices[at]
            if 0 <= index < pixels:
                to = int32((plane * pixels + index) * inner + lane)
                out[to] += grad_output[at]
            elif index != least:  # -1, if that may be; else it is a position, and not here
                report(errors, slot, i * outputs + j, index)
