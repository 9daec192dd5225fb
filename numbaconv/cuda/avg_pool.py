"""Average pooling, adaptive and global, and its gradients, which are sums of windows too.

As in max_pool.py a thread makes one element of the result, or `VECTOR` channels of it, and gradients are gathered. Sums
run along the rows of a window, and over these: short sums in the element's type. The mean of a whole channels-first
plane is made by a warp. Bytes: the input and the output once.

(Loops over windows are written with `while`: of a range numba counts the
turns down, and looks at the count in each of four unrolled ones.)
"""

from __future__ import annotations

import math

from numba import int32

from ..shapes import Pool2dProblem
from .array import DeviceArray
from .indexing import blocks_for, divided, divisor, quotient, thread_number
from .intrinsics import load_lanes, map_vector, store_lanes
from .lanes import Twin
from .launch import T, inline, kernel, launch
from .layout import dense, empty, layout_of, planes
from .limits import require_32_bit
from .reduce import WARP, lane_number, warp_number, warp_sum

_WITHOUT_PADDING, _WITH_PADDING, _ADAPTIVE = 0, 1, 2  # what of a window is counted; the adaptive have no padding
_ADAPTIVE_WINDOWS = ((0, 0), (1, 1), (0, 0), _ADAPTIVE)  # kernel_size, stride, padding, kind


def avg_pool2d(problem: Pool2dProblem, x):
    return _means(x, problem.output_shape[2:], _windows(problem))


def avg_pool2d_backward(problem: Pool2dProblem, grad_output):
    return _gradients(grad_output, problem.input_shape, _windows(problem))


def adaptive_avg_pool2d(x, output_size):
    require_32_bit("adaptive_avg_pool2d", x.shape[2] * output_size[0], x.shape[3] * output_size[1])
    return _means(x, output_size, _ADAPTIVE_WINDOWS)


def adaptive_avg_pool2d_backward(grad_output, input_shape):
    sizes = zip(input_shape[2:], grad_output.shape[2:], strict=True)
    require_32_bit("adaptive_avg_pool2d_backward", *(size * outputs for size, outputs in sizes))
    return _gradients(grad_output, input_shape, _ADAPTIVE_WINDOWS)


def _windows(problem: Pool2dProblem):
    kind = _WITH_PADDING if problem.count_include_pad else _WITHOUT_PADDING
    return problem.kernel_size, problem.stride, problem.padding, kind


def _means(x: DeviceArray, output_size, windows) -> DeviceArray:
    x = dense(x, any_address=True)
    outer, inner = planes(x)
    n, c, h, w = x.shape
    (p, q), (reach, stride, padding, kind) = output_size, windows
    out = empty((n, c, p, q), x.dtype, x.device, layout_of(x))
    require_32_bit("avg_pool2d", x, out)
    if inner == 1 and (p, q) == (1, 1) and padding == (0, 0) and reach in ((0, 0), (h, w)):
        launch(_plane_means, x.dtype, blocks_for(outer * WARP, _plane_means), x, out, outer, h * w)
        return out
    run, lanes = _MEAN.chosen(inner, x)
    size = out.size // lanes
    launch(run, x.dtype, blocks_for(size, run), x, out, size, *divisor(inner // lanes), *divisor(q), *divisor(p), h, w,
           *reach, *stride, *padding, kind)  # fmt: skip
    return out


@inline
def _window(i, size, outputs, kind, reach, stride, padding):
    """(first, end, elements with padding) of window i. What ceil_mode lets hang over the padding is not counted."""
    if kind == _ADAPTIVE:
        first, end = quotient(i * size, outputs), quotient((i + 1) * size + outputs - 1, outputs)
        span = int32(end - first)
    else:
        start = int32(i * stride - padding)
        stop = int32(min(start + reach, size + padding))
        first, end, span = int32(max(start, 0)), int32(min(stop, size)), int32(stop - start)
    return first, end, span


@inline
def _count(rows, columns, p_first, p_end, q_first, q_end, kind):
    """What a window's sum is divided by."""
    if kind == _WITHOUT_PADDING:
        rows, columns = int32(p_end - p_first), int32(q_end - q_first)
    return T(rows) * T(columns)


@inline
def _zero(like):
    return T(0)


@inline
def _sum(a, b):
    return a + b


@inline
def _sum_of_product(a, b, factor):
    return a + b * factor


@inline
def _ratio(a, b):
    return a / b


def _mean(like, name):
    @kernel(threads=256, blocks_per_sm=4, name=name)
    def run(
        x: "T*", out: "T*", size: "i32",
        inner: "i32", inner_multiplier: "u32", inner_shift: "u32",
        out_width: "i32", width_multiplier: "u32", width_shift: "u32",
        out_height: "i32", height_multiplier: "u32", height_shift: "u32",
        height: "i32", width: "i32", reach_h: "i32", reach_w: "i32", stride_h: "i32", stride_w: "i32",
        padding_h: "i32", padding_w: "i32", kind: "i32",
    ):  # fmt: skip
        i = thread_number()
        if i < size:
            pixel, lane = divided(i, inner, inner_multiplier, inner_shift)
            row, q = divided(pixel, out_width, width_multiplier, width_shift)
            plane, p = divided(row, out_height, height_multiplier, height_shift)
            h_first, h_end, rows = _window(p, height, out_height, kind, reach_h, stride_h, padding_h)
            w_first, w_end, columns = _window(q, width, out_width, kind, reach_w, stride_w, padding_w)
            total = map_vector(_zero, (like,))
            h = h_first
            while h < h_end:
                of_row = map_vector(_zero, (like,))
                w = w_first
                while w < w_end:
                    at = int32(((plane * height + h) * width + w) * inner + lane) * len(like)
                    of_row = map_vector(_sum, (of_row, load_lanes(x, at, like)))
                    w = int32(w + 1)
                total = map_vector(_sum, (total, of_row))
                h = int32(h + 1)
            count = _count(rows, columns, h_first, h_end, w_first, w_end, kind)
            store_lanes(out, i * len(like), map_vector(_ratio, (total, count)))

    return run


_MEAN = Twin(_mean)


@kernel(threads=256)
def _plane_means(x: "T*", out: "T*", planes: "i32", size: "i32"):
    """A warp for each plane."""
    plane = warp_number()
    if plane < planes:
        total = T(0)
        i = lane_number()
        while i < size:
            total += x[plane * size + i]
            i = int32(i + WARP)
        total = warp_sum(total)
        if lane_number() == 0:
            out[plane] = total / T(size)


def _gradients(grad_output: DeviceArray, input_shape, windows) -> DeviceArray:
    grad_output = dense(grad_output, any_address=True)
    _, inner = planes(grad_output)
    (h, w), (p, q) = input_shape[2:], grad_output.shape[2:]
    reach, stride, padding, kind = windows
    require_32_bit("avg_pool2d_backward", math.prod(input_shape), grad_output)
    out = empty(input_shape, grad_output.dtype, grad_output.device, layout_of(grad_output))
    run, lanes = _MEAN_BACKWARD.chosen(inner, grad_output)
    size = out.size // lanes
    launch(run, out.dtype, blocks_for(size, run), grad_output, out, size, *divisor(inner // lanes), *divisor(w),
           *divisor(h), p, q, *reach, *stride, *padding, kind)  # fmt: skip
    return out


@inline
def _windows_over(place, size, outputs, kind, reach, stride, padding):
    """(first, end) of the windows that a place is in."""
    if kind == _ADAPTIVE:
        first, end = quotient(place * outputs, size), quotient((place + 1) * outputs + size - 1, size)
    else:
        first = int32(0)
        if place + padding >= reach:
            first = int32(quotient(place + padding - reach, stride) + 1)
        end = int32(min(quotient(place + padding, stride) + 1, outputs))
    return first, end


def _mean_backward(like, name):
    # (With a fourth block on a multiprocessor, a division in float64 spills.)
    @kernel(threads=256, blocks_per_sm=3, name=name)
    def run(
        grad_output: "T*", out: "T*", size: "i32",
        inner: "i32", inner_multiplier: "u32", inner_shift: "u32",
        width: "i32", width_multiplier: "u32", width_shift: "u32",
        height: "i32", height_multiplier: "u32", height_shift: "u32",
        out_height: "i32", out_width: "i32", reach_h: "i32", reach_w: "i32", stride_h: "i32", stride_w: "i32",
        padding_h: "i32", padding_w: "i32", kind: "i32",
    ):  # fmt: skip
        i = thread_number()
        if i < size:
            pixel, lane = divided(i, inner, inner_multiplier, inner_shift)
            row, w = divided(pixel, width, width_multiplier, width_shift)
            plane, h = divided(row, height, height_multiplier, height_shift)
            p_first, p_end = _windows_over(h, height, out_height, kind, reach_h, stride_h, padding_h)
            q_first, q_end = _windows_over(w, width, out_width, kind, reach_w, stride_w, padding_w)
            total = map_vector(_zero, (like,))
            p = p_first
            while p < p_end:
                h_first, h_end, rows = _window(p, height, out_height, kind, reach_h, stride_h, padding_h)
                of_row = map_vector(_zero, (like,))
                for q in range(q_first, q_end):  # (with `while`, a vector's kernel spills on sm_120)
                    w_first, w_end, columns = _window(q, width, out_width, kind, reach_w, stride_w, padding_w)
                    share = T(1) / _count(rows, columns, h_first, h_end, w_first, w_end, kind)
                    at = int32(((plane * out_height + p) * out_width + q) * inner + lane) * len(like)
                    of_row = map_vector(_sum_of_product, (of_row, load_lanes(grad_output, at, like), share))
                total = map_vector(_sum, (total, of_row))
                p = int32(p + 1)
            store_lanes(out, i * len(like), total)

    return run


_MEAN_BACKWARD = Twin(_mean_backward)
