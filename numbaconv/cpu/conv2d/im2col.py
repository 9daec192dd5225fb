"""Small convolutions, in one kernel that takes everything as it lies: nothing is packed, no layout is changed.

Patches of x become rows in the order of a filter's elements (im2col), and each result is the dot product of a patch
and a filter. A call of a tenth of a million multiply-adds (two images of 64 channels, 7x7 pixels, 16 filters of 1x1)
takes 10 us this way, its gradients (`im2col_gradients`) 15 and 11; `direct`, which packs the filters, 23, 26 and 29.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...jit import helper, kernel, machine_code
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem, Shape4
from .. import memory
from ..correlate import lowest
from ..dot_tile import DOT_COLUMNS, dot_tile
from ..layout import CHANNELS_FIRST, flat, flat_contiguous, layout_of
from ..local_array import local_array
from ..sizes import unpack
from . import im2col_patches
from .algorithm import Algorithm
from .im2col_gradients import backward_input, backward_weight, gradients
from .im2col_patches import Sizes, copy_patches, patch_offsets, pays, sizes_for

_MOST_TERMS = 2048  # 512 a lane of the narrowest vectors


class _Plan(NamedTuple):
    code: Any  # the machine code of `_convolve`
    empty: Any  # makes the result
    sizes: np.ndarray
    out_shape: Shape4  # as it lies in memory
    channels_first: bool
    work_ns: float
    floors: tuple[np.floating, np.floating]  # without ReLU, and with it


@functools.lru_cache(maxsize=4096)
def _plan(problem: Conv2dProblem, layout: str, dtype: np.dtype) -> _Plan:
    n, k, p, q = problem.output_shape
    channels_first = layout == CHANNELS_FIRST
    out_shape = (n, k, p, q) if channels_first else (n, p, q, k)
    sizes = sizes_for(problem, layout, layout)
    floors = lowest(False, dtype), lowest(True, dtype)
    code = machine_code(_convolve, 0, 0, *[np.empty(0, dtype)] * 4, sizes, floors[0])
    empty = memory.empty_for(out_shape, dtype)
    return _Plan(code, empty, sizes, out_shape, channels_first, problem.multiply_adds * 0.3, floors)


def supports(problem: Conv2dProblem) -> str:
    terms = problem.weight_shape[1] * problem.weight_shape[2] * problem.weight_shape[3]
    return f"{terms} terms, more than {_MOST_TERMS}" if terms > _MOST_TERMS else im2col_patches.supports(problem)


def pack_weight(
    problem: Conv2dProblem, weight: np.ndarray, bias: np.ndarray | None, kept: bool
) -> tuple[np.ndarray, np.ndarray]:
    """As they are, in C order; an empty bias is none."""
    weight = weight.ravel() if weight.flags.carray else flat_contiguous(weight)
    return weight, weight[:0] if bias is None else bias if bias.flags.carray else flat_contiguous(bias)


def forward(
    problem: Conv2dProblem, x: np.ndarray, packed: tuple[np.ndarray, np.ndarray], relu: bool, layout: str = ""
) -> np.ndarray:
    """(N, K, P, Q) in the layout of x, which is `layout` where that is known."""
    return _run(_plan(problem, layout or layout_of(x), x.dtype), packed, relu, x)


def bind(
    problem: Conv2dProblem, packed: tuple[np.ndarray, np.ndarray], relu: bool, layout: str, dtype: np.dtype
) -> Callable[[np.ndarray], np.ndarray]:
    """`forward` for arrays of one layout and dtype."""
    return functools.partial(_run, _plan(problem, layout, dtype), packed, relu)


def _run(plan: _Plan, packed: tuple[np.ndarray, np.ndarray], relu: bool, x: np.ndarray) -> np.ndarray:
    code, empty, sizes, out_shape, channels_first, work_ns, floors = plan
    weight, bias = packed
    out = empty(out_shape, x.dtype)
    if out_shape[0] == 1:  # one task: to ask `launch` takes longer than it may
        code(-1, 1, flat(x), weight, bias, out.ravel(), sizes, floors[relu])
    else:
        launch(code, out_shape[0], work_ns, flat(x), weight, bias, out.ravel(), sizes, floors[relu])
    return out if channels_first else out.transpose(0, 3, 1, 2)


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
            together = DOT_COLUMNS if height == 4 else 4
            width = together if k + together <= columns else 1
            x, y, to = a_start + m * terms, b_start + k * terms, out_start + m * out_row + k
            if height == 4 and width > 1:
                dot_tile(a, x, terms, b, y, terms, terms, out, to, out_row, False, 4, DOT_COLUMNS)
            elif height == 4:
                dot_tile(a, x, terms, b, y, terms, terms, out, to, out_row, False, 4, 1)
            elif width > 1:
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
    bind=bind,
    gradients=gradients,
)
