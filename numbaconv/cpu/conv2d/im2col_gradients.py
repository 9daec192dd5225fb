"""The gradients of small convolutions, each in one kernel that takes everything as it lies (see `im2col`).

Weight-gradient: the gradient, its pixels and channels exchanged, times the patches of x. Input-gradient: the gradient
times the filters gives the gradients of the patches, which are added where they came from (col2im). Both are products
of the register tile, whose rows of b are padded to whole vectors.
"""

from __future__ import annotations

import numpy as np

from ...jit import helper, kernel
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem
from ..correlate import TERMS
from ..layout import empty, flat, flat_contiguous, layout_of
from ..local_array import local_array, zeroed_local_array
from ..register_tile import WIDE_ROWS, WIDE_VECTORS, multiply_panel
from ..simd import VECTOR_BYTES
from ..sizes import unpack
from .im2col_patches import Sizes, add_patches, copy_patches, patch_offsets, sizes_for

_RUN = 128  # pixels whose patches are in memory at a time


def backward_input(
    problem: Conv2dProblem, grad_output: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> np.ndarray:
    """(N, C, H, W) in the layout of grad_output."""
    layout = layout_of(grad_output)
    out = empty(problem.input_shape, grad_output.dtype, layout)
    weight = flat_contiguous(weight)
    first = weight[:0] if bias is None else flat_contiguous(bias)
    args = flat(grad_output), weight, first, flat(out), sizes_for(problem, layout, layout)
    launch(_input_gradient, problem.input_shape[0], problem.multiply_adds * 0.3, *args)
    return out


def backward_weight(problem: Conv2dProblem, grad_output: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(K, C // groups, R, S), C-contiguous."""
    out = empty(problem.weight_shape, x.dtype)
    sizes = sizes_for(problem, layout_of(x), layout_of(grad_output))
    args = flat(grad_output), flat(x), out.ravel(), problem.input_shape[0], sizes
    launch(_weight_gradient, problem.groups, problem.multiply_adds * 0.3, *args)
    return out


@helper
def _product(a, a_start, a_row, a_step, b, b_start, pitch, out, rows, terms, first):
    """out[m][v] = (0 if first else itself) + sum of a[a_start + m * a_row + j * a_step] * b[b_start + j * pitch + v].

    Rows of b and of out are `pitch` apart, whole vectors.
    """
    lanes = VECTOR_BYTES // out.itemsize
    v = 0
    while v < pitch:
        wide = v + WIDE_VECTORS * lanes <= pitch
        m = 0
        while m < rows:
            tall = m + WIDE_ROWS <= rows
            at, to = a_start + m * a_row, m * pitch + v
            if wide and tall:
                multiply_panel(a, at, a_row, a_step, b, b_start + v, pitch, out, to, pitch, terms, first,
                               WIDE_ROWS, WIDE_VECTORS)  # fmt: skip
            elif wide:
                multiply_panel(a, at, a_row, a_step, b, b_start + v, pitch, out, to, pitch, terms, first,
                               1, WIDE_VECTORS)  # fmt: skip
            elif tall:
                multiply_panel(a, at, a_row, a_step, b, b_start + v, pitch, out, to, pitch, terms, first,
                               WIDE_ROWS, 1)  # fmt: skip
            else:
                multiply_panel(a, at, a_row, a_step, b, b_start + v, pitch, out, to, pitch, terms, first, 1, 1)
            m += WIDE_ROWS if tall else 1
        v += WIDE_VECTORS * lanes if wide else lanes


@kernel
def _input_gradient(first, end, grad, weight, bias, out, sizes):
    """Task: one image."""
    if on_threads_flushing():
        return
    z = unpack(sizes, Sizes)
    lanes = VECTOR_BYTES // out.itemsize
    terms = z.channels * z.filter_height * z.filter_width
    pitch = (terms + lanes - 1) // lanes * lanes
    pixels = z.out_height * z.out_width
    offsets = local_array(terms, np.int64)
    patch_offsets(z, offsets)
    filters = zeroed_local_array(z.columns * pitch, out.dtype)
    patches = local_array(min(pixels, _RUN) * pitch, out.dtype)
    for n in range(first, end):
        out[n * z.x_image : (n + 1) * z.x_image] = 0
        for c in range(bias.size):
            for h in range(z.height):
                for w in range(z.width):
                    out[n * z.x_image + c * z.x_channel + h * z.x_row + w * z.x_pixel] = bias[c]
        for group in range(z.groups):
            for k in range(z.columns):
                row = filters[k * pitch :][:terms]
                values = weight[(group * z.columns + k) * terms :][:terms]
                for t in range(terms):
                    row[t] = values[t]
            start = n * z.out_image + group * z.columns * z.out_channel
            for pixel in range(0, pixels, _RUN):
                count = min(_RUN, pixels - pixel)
                at = start + pixel * z.out_pixel
                for k in range(0, z.columns, TERMS):
                    _product(grad, at + k * z.out_channel, z.out_pixel, z.out_channel, filters, k * pitch, pitch,
                             patches, count, min(TERMS, z.columns - k), k == 0)  # fmt: skip
                add_patches(
                    patches, pitch, pixel, count, z, offsets, out, n * z.x_image + group * z.channels * z.x_channel
                )


@kernel
def _weight_gradient(first, end, grad, x, out, images, sizes):
    """Task: one group."""
    if on_threads_flushing():
        return
    z = unpack(sizes, Sizes)
    lanes = VECTOR_BYTES // out.itemsize
    terms = z.channels * z.filter_height * z.filter_width
    pitch = (terms + lanes - 1) // lanes * lanes
    pixels = z.out_height * z.out_width
    offsets = local_array(terms, np.int64)
    patch_offsets(z, offsets)
    patches = zeroed_local_array(min(pixels, _RUN) * pitch, out.dtype)
    sums = local_array(z.columns * pitch, out.dtype)
    beginning = np.int64(0)  # a literal would be a type of its own
    for group in range(first, end):
        if images * pixels == 0:
            sums[:] = 0
        for n in range(images):
            source = n * z.x_image + group * z.channels * z.x_channel
            start = n * z.out_image + group * z.columns * z.out_channel
            for pixel in range(0, pixels, _RUN):
                count = min(_RUN, pixels - pixel)
                copy_patches(x, source, pixel, count, z, offsets, patches, pitch)
                _product(grad, start + pixel * z.out_pixel, z.out_channel, z.out_pixel, patches, beginning, pitch, sums,
                         z.columns, count, n == 0 and pixel == 0)  # fmt: skip
        for k in range(z.columns):
            row = out[(group * z.columns + k) * terms :][:terms]
            values = sums[k * pitch :][:terms]
            for t in range(terms):
                row[t] = values[t]
