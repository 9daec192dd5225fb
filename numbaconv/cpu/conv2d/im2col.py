"""Small convolutions, in one kernel that takes everything as it lies: nothing is packed, no layout is changed.

Patches of x become rows in the order of a filter's elements (im2col), and each result is the dot product of a patch
and a filter. A call of a tenth of a million multiply-adds takes 15 us this way, and so does each of its gradients
(`im2col_gradients`); packing the filters alone takes 30.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...jit import helper, kernel
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem, Shape4
from .. import memory
from ..correlate import lowest
from ..dot_tile import dot_tile
from ..layout import CHANNELS_FIRST, flat, flat_contiguous, layout_of
from ..local_array import local_array
from ..packing import Packed
from ..sizes import unpack
from . import im2col_patches
from .algorithm import Algorithm
from .im2col_gradients import backward_input, backward_weight
from .im2col_patches import Sizes, copy_patches, patch_offsets, pays, sizes_for

_MOST_TERMS = 2048  # 512 a lane of the narrowest vectors


class _Plan(NamedTuple):
    sizes: np.ndarray
    out_shape: Shape4  # as it lies in memory
    work_ns: float


@functools.lru_cache(maxsize=4096)
def _plan(problem: Conv2dProblem, layout: str) -> _Plan:
    n, k, p, q = problem.output_shape
    out_shape = (n, k, p, q) if layout == CHANNELS_FIRST else (n, p, q, k)
    return _Plan(sizes_for(problem, layout, layout), out_shape, problem.multiply_adds * 0.3)


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
    plan = _plan(problem, layout)
    out = memory.empty(plan.out_shape, x.dtype)
    args = flat(x), packed.weight, packed.bias, out.ravel(), plan.sizes, lowest(relu, x.dtype)
    launch(_convolve, x.shape[0], plan.work_ns, *args)
    return out if layout == CHANNELS_FIRST else out.transpose(0, 3, 1, 2)


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
    channels = z.groups * z.columns
    for n in range(first, end):
        image = n * z.out_image  # the products are added to the bias
        if z.out_pixel == 1:
            for k in range(channels):
                plane = out[image + k * pixels :][:pixels]
                for pixel in range(pixels):
                    plane[pixel] = bias[k] if bias.size > 0 else 0
        else:
            for pixel in range(pixels):
                results = out[image + pixel * channels :][:channels]
                for k in range(channels):
                    results[k] = bias[k] if bias.size > 0 else 0
        for group in range(z.groups):
            copy_patches(
                x, n * z.x_image + group * z.channels * z.x_channel, beginning, pixels, z, offsets, patches, terms
            )
            column = group * z.columns
            start = image + column * z.out_channel
            filters = column * terms
            if z.out_pixel == 1:  # channels-first: the rows of the result are filters
                _products(weight, filters, z.columns, patches, beginning, pixels, terms, out, start, z.out_channel)
            else:
                _products(patches, beginning, pixels, weight, filters, z.columns, terms, out, start, z.out_pixel)
        if floor > -np.inf:
            for i in range(image, image + z.out_image):
                out[i] = floor if out[i] < floor else out[i]


@helper
def _products(a, a_start, rows, b, b_start, columns, terms, out, out_start, out_row):
    """out[m][k] += dot product of row m of a and row k of b."""
    m = 0
    while m < rows:
        height = 4 if m + 4 <= rows else 1
        k = 0
        while k < columns:
            width = 2 if height == 4 and k + 2 <= columns else 4 if height == 1 and k + 4 <= columns else 1
            x, y, to = a_start + m * terms, b_start + k * terms, out_start + m * out_row + k
            if height == 4 and width == 2:
                dot_tile(a, x, terms, b, y, terms, terms, out, to, out_row, False, 4, 2)
            elif height == 4:
                dot_tile(a, x, terms, b, y, terms, terms, out, to, out_row, False, 4, 1)
            elif width == 4:
                dot_tile(a, x, terms, b, y, terms, terms, out, to, out_row, False, 1, 4)
            else:
                dot_tile(a, x, terms, b, y, terms, terms, out, to, out_row, False, 1, 1)
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
    keeps_layout=True,
)
