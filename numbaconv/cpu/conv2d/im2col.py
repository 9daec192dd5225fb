"""Small convolutions, in one kernel that takes everything as it lies: nothing is packed, no layout is changed.

Patches of x become rows in the order of a filter's elements (im2col), and each result is the dot product of a patch
and a filter. A call of a tenth of a million multiply-adds takes 15 us this way; packing the filters alone takes 30.
"""

from __future__ import annotations

import functools

import numpy as np

from ...jit import helper, kernel
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem
from ..correlate import lowest
from ..dot_tile import dot_tile
from ..layout import CHANNELS_FIRST, empty, flat, flat_contiguous, layout_of
from ..local_array import local_array
from ..packing import Packed
from .algorithm import Algorithm

MOST_MULTIPLY_ADDS = 1 << 17
_MOST_SUPPORTED = 1 << 24  # of a forced choice: patches of one image are all in memory
_MOST_TERMS = 2048  # 512 a lane of the narrowest vectors


def supports(problem: Conv2dProblem) -> str:
    terms = problem.weight_shape[1] * problem.weight_shape[2] * problem.weight_shape[3]
    if terms > _MOST_TERMS:
        return f"{terms} terms, more than {_MOST_TERMS}"
    return _too_many(problem, _MOST_SUPPORTED)


def pays(problem: Conv2dProblem, direction: str) -> str:
    return _too_many(problem, MOST_MULTIPLY_ADDS)


def _too_many(problem: Conv2dProblem, most: int) -> str:
    count = problem.multiply_adds
    return f"{count} multiply-adds, more than {most}" if count > most else ""


def pack_weight(problem: Conv2dProblem, weight: np.ndarray, bias: np.ndarray | None, kept: bool) -> Packed:
    """As they are, in C order."""
    weight = flat_contiguous(weight)
    return Packed(weight, weight[:0] if bias is None else flat_contiguous(bias))


@functools.lru_cache(maxsize=1024)
def _sizes(problem: Conv2dProblem, layout: str) -> np.ndarray:
    """What the kernel unpacks; as an array, which costs a call less than a tuple of as many numbers."""
    _, c, h, w = problem.input_shape
    k, depth, r, s = problem.weight_shape
    _, _, p, q = problem.output_shape
    top, _, left, _ = problem.padding
    first = layout == CHANNELS_FIRST
    x_strides = (c * h * w, h * w, w, 1) if first else (c * h * w, 1, w * c, c)
    out_strides = (k * p * q, p * q, 1) if first else (k * p * q, 1, k)  # of image, channel, pixel
    geometry = *problem.stride, *problem.dilation, top, left
    sizes = depth, h, w, r, s, p, q, problem.groups, k // problem.groups
    return np.array((*sizes, *geometry, *x_strides, *out_strides), np.int64)


def forward(problem: Conv2dProblem, x: np.ndarray, packed: Packed, relu: bool) -> np.ndarray:
    """(N, K, P, Q) in the layout of x."""
    layout = layout_of(x)
    out = empty(problem.output_shape, x.dtype, layout)
    args = flat(x), packed.weight, packed.bias, flat(out), _sizes(problem, layout), lowest(relu, x.dtype)
    launch(_convolve, x.shape[0], problem.multiply_adds * 0.3, *args)
    return out


@kernel
def _convolve(first, end, x, weight, bias, out, sizes, floor):
    """Task: one image."""
    if on_threads_flushing():
        return
    channels, height, width, filter_height, filter_width = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]
    out_height, out_width, groups, columns = sizes[5], sizes[6], sizes[7], sizes[8]
    stride_h, stride_w, dilation_h, dilation_w, top, left = (
        sizes[9],
        sizes[10],
        sizes[11],
        sizes[12],
        sizes[13],
        sizes[14],
    )
    n_stride, c_stride, h_stride, w_stride = sizes[15], sizes[16], sizes[17], sizes[18]
    image, channel, pixel_stride = sizes[19], sizes[20], sizes[21]
    pixels, terms = out_height * out_width, channels * filter_height * filter_width
    patches = local_array(pixels * terms, x.dtype)
    for n in range(first, end):
        for group in range(groups):
            source = n * n_stride + group * channels * c_stride
            i = 0
            for p in range(out_height):
                for q in range(out_width):
                    for c in range(channels):
                        for r in range(filter_height):
                            h = p * stride_h - top + r * dilation_h
                            row = source + c * c_stride + h * h_stride
                            w = q * stride_w - left
                            for _ in range(filter_width):
                                inside = 0 <= h < height and 0 <= w < width
                                patches[i] = x[row + w * w_stride] if inside else 0
                                i += 1
                                w += dilation_w
            column = group * columns
            start = n * image + column * channel
            a, a_start, rows, b, b_start, across, pitch = (
                patches,
                0,
                pixels,
                weight,
                column * terms,
                columns,
                pixel_stride,
            )
            if pixel_stride == 1:  # channels-first: the rows of the result are filters
                a, a_start, rows, b, b_start, across, pitch = b, b_start, across, a, a_start, rows, channel
            _products(a, a_start, rows, b, b_start, across, terms, out, start, pitch)
        for k in range(groups * columns):
            start = n * image + k * channel
            value = bias[k] if bias.size > 0 else out.dtype.type(0)
            for pixel in range(pixels):
                total = out[start + pixel * pixel_stride] + value
                out[start + pixel * pixel_stride] = floor if total < floor else total


@helper
def _products(a, a_start, rows, b, b_start, columns, terms, out, out_start, out_row):
    """out[m][k] = dot product of row m of a and row k of b."""
    m = 0
    while m < rows:
        height = 4 if m + 4 <= rows else 1
        k = 0
        while k < columns:
            width = 2 if height == 4 and k + 2 <= columns else 4 if height == 1 and k + 4 <= columns else 1
            x, y, to = a_start + m * terms, b_start + k * terms, out_start + m * out_row + k
            if height == 4 and width == 2:
                dot_tile(a, x, terms, b, y, terms, terms, out, to, out_row, True, 4, 2)
            elif height == 4:
                dot_tile(a, x, terms, b, y, terms, terms, out, to, out_row, True, 4, 1)
            elif width == 4:
                dot_tile(a, x, terms, b, y, terms, terms, out, to, out_row, True, 1, 4)
            else:
                dot_tile(a, x, terms, b, y, terms, terms, out, to, out_row, True, 1, 1)
            k += width
        m += height


ALGORITHM = Algorithm(
    name="im2col",
    supports=supports,
    pack_weight=pack_weight,
    forward=forward,
    backward_input=None,
    backward_weight=None,
    pays=pays,
)
