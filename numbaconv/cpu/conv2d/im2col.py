"""Small convolutions, in one kernel that takes everything as it lies: nothing is packed, no layout is changed.

Patches of x become rows in the order of a filter's elements (im2col), and each result is the dot product of a patch
and a filter. A call of a tenth of a million multiply-adds takes 15 us this way, and so does each of its gradients
(`im2col_gradients`); packing the filters alone takes 30.
"""

from __future__ import annotations

import numpy as np

from ...jit import helper, kernel
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem
from ..correlate import lowest
from ..dot_tile import dot_tile
from ..layout import empty, flat, flat_contiguous, layout_of
from ..local_array import local_array
from ..packing import Packed
from ..sizes import unpack
from . import im2col_patches
from .algorithm import Algorithm
from .im2col_gradients import backward_input, backward_weight
from .im2col_patches import Sizes, copy_patches, patch_offsets, pays, sizes_for

_MOST_TERMS = 2048  # 512 a lane of the narrowest vectors


def supports(problem: Conv2dProblem) -> str:
    terms = problem.weight_shape[1] * problem.weight_shape[2] * problem.weight_shape[3]
    return f"{terms} terms, more than {_MOST_TERMS}" if terms > _MOST_TERMS else im2col_patches.supports(problem)


def pack_weight(problem: Conv2dProblem, weight: np.ndarray, bias: np.ndarray | None, kept: bool) -> Packed:
    """As they are, in C order."""
    weight = flat_contiguous(weight)
    return Packed(weight, weight[:0] if bias is None else flat_contiguous(bias))


def forward(problem: Conv2dProblem, x: np.ndarray, packed: Packed, relu: bool) -> np.ndarray:
    """(N, K, P, Q) in the layout of x."""
    layout = layout_of(x)
    out = empty(problem.output_shape, x.dtype, layout)
    args = flat(x), packed.weight, packed.bias, flat(out), sizes_for(problem, layout, layout), lowest(relu, x.dtype)
    launch(_convolve, x.shape[0], problem.multiply_adds * 0.3, *args)
    return out


@kernel
def _convolve(first, end, x, weight, bias, out, sizes, floor):
    """Task: one image."""
    if on_threads_flushing():
        return
    z = unpack(sizes, Sizes)
    pixels, terms = z.out_height * z.out_width, z.channels * z.filter_height * z.filter_width
    patches, offsets = local_array(pixels * terms, x.dtype), local_array(terms, np.int64)
    patch_offsets(z, offsets)
    beginning = np.int64(0)  # a literal would be a type of its own
    for n in range(first, end):
        for group in range(z.groups):
            copy_patches(
                x, n * z.x_image + group * z.channels * z.x_channel, beginning, pixels, z, offsets, patches, terms
            )
            column = group * z.columns
            start = n * z.out_image + column * z.out_channel
            filters = column * terms
            if z.out_pixel == 1:  # channels-first: the rows of the result are filters
                _products(weight, filters, z.columns, patches, beginning, pixels, terms, out, start, z.out_channel)
            else:
                _products(patches, beginning, pixels, weight, filters, z.columns, terms, out, start, z.out_pixel)
        for k in range(z.groups * z.columns):
            start = n * z.out_image + k * z.out_channel
            value = bias[k] if bias.size > 0 else out.dtype.type(0)
            for pixel in range(pixels):
                total = out[start + pixel * z.out_pixel] + value
                out[start + pixel * z.out_pixel] = floor if total < floor else total


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
    backward_input=backward_input,
    backward_weight=backward_weight,
    pays=pays,
)
