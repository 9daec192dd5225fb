"""The gradients of small convolutions, in one kernel that takes everything as it lies (see `im2col`).

Weight-gradient: the gradient, its pixels and channels exchanged, times the patches of x. Input-gradient: the gradient
times the filters gives the gradients of the patches, which are added where they came from (col2im). Both are products
of the register tile, whose rows of b are padded to whole vectors.

Of the smallest ones a call takes longer than what it computes, so all three are one: 64 filters of 8 channels on 5x5
pixels, channels-last, take 13.5 us, 19.5 in three.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from ...jit import helper, kernel, machine_code
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem, Shape4
from .. import memory
from ..correlate import TERMS
from ..layout import CHANNELS_FIRST, dense_in, flat, flat_contiguous
from ..line_tile import sum_wide
from ..local_array import local_array, zeroed_local_array
from ..register_tile import WIDE_ROWS, WIDE_VECTORS, multiply_panel
from ..simd import VECTOR_BYTES
from ..sizes import unpack
from .im2col_patches import Sizes, add_patches, copy_patches, patch_offsets, sizes_for

_RUN = 128  # pixels whose patches are in memory at a time
_Gradients = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]


class _Plan(NamedTuple):
    code: Any  # the machine code of `_gradients`
    nothing: np.ndarray
    input_sizes: np.ndarray
    weight_sizes: np.ndarray
    input_shape: Shape4  # as it lies in memory
    channels_first: bool
    work_ns: float  # of the input-gradient, or the weight-gradient


@functools.lru_cache(maxsize=4096)
def _plan(problem: Conv2dProblem, layout: str, x_layout: str, dtype: np.dtype) -> _Plan:
    """`layout` of the output's gradient, and so of the input's."""
    n, c, h, w = problem.input_shape
    channels_first = layout == CHANNELS_FIRST
    input_sizes, weight_sizes = sizes_for(problem, layout, layout), sizes_for(problem, x_layout, layout)
    nothing = np.empty(0, dtype)
    code = machine_code(_gradients, 0, 0, *[nothing] * 7, input_sizes, weight_sizes)
    input_shape = (n, c, h, w) if channels_first else (n, h, w, c)
    return _Plan(code, nothing, input_sizes, weight_sizes, input_shape, channels_first, problem.multiply_adds * 0.3)


def gradients(
    problem: Conv2dProblem, grad_output: np.ndarray, x: np.ndarray, weight: np.ndarray, needs: tuple[bool, bool, bool]
) -> _Gradients:
    """All that are needed, of any arrays; shapes and layouts as below, and (K,)."""
    grad_output, layout = dense_in(grad_output)
    x, x_layout = dense_in(x)
    plan = _plan(problem, layout, x_layout, grad_output.dtype)
    return _run(plan, problem, flat(grad_output), flat(x), flat_contiguous(weight), plan.nothing, needs)


def backward_input(
    problem: Conv2dProblem, grad_output: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> np.ndarray | None:
    """(N, C, H, W) in the layout of grad_output."""
    grad_output, layout = dense_in(grad_output)
    plan = _plan(problem, layout, layout, grad_output.dtype)
    first = plan.nothing if bias is None else flat_contiguous(bias)
    needs = True, False, False
    return _run(plan, problem, flat(grad_output), plan.nothing, flat_contiguous(weight), first, needs)[0]


def backward_weight(problem: Conv2dProblem, grad_output: np.ndarray, x: np.ndarray) -> np.ndarray | None:
    """(K, C // groups, R, S), C-contiguous."""
    grad_output, layout = dense_in(grad_output)
    x, x_layout = dense_in(x)
    plan = _plan(problem, layout, x_layout, grad_output.dtype)
    needs = False, True, False
    return _run(plan, problem, flat(grad_output), flat(x), plan.nothing, plan.nothing, needs)[1]


def _run(
    plan: _Plan, problem: Conv2dProblem, grad: np.ndarray, x: np.ndarray, weight: np.ndarray, first: np.ndarray,
    needs: tuple[bool, bool, bool],
) -> _Gradients:  # fmt: skip
    code, nothing, input_sizes, weight_sizes, input_shape, channels_first, work_ns = plan
    grad_input = memory.empty(input_shape, grad.dtype) if needs[0] else None
    grad_weight = memory.empty(problem.weight_shape, grad.dtype) if needs[1] else None
    grad_bias = memory.empty(problem.weight_shape[:1], grad.dtype) if needs[2] else None
    of_input = nothing if grad_input is None else grad_input.ravel()
    of_weight = nothing if grad_weight is None else grad_weight.ravel()
    of_bias = nothing if grad_bias is None else grad_bias
    tasks = input_shape[0] * needs[0] + problem.groups * needs[1] + needs[2]
    work_ns *= needs[0] + needs[1]
    launch(code, tasks, work_ns, grad, x, weight, first, of_input, of_weight, of_bias, input_sizes, weight_sizes)
    if grad_input is not None and not channels_first:
        grad_input = grad_input.transpose(0, 3, 1, 2)
    return grad_input, grad_weight, grad_bias


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
def _gradients(first, end, grad, x, weight, bias, grad_input, grad_weight, grad_bias, input_sizes, weight_sizes):
    """Task: the input-gradient of an image, then the weight-gradient of a group; the last one is the bias-gradient.

    A result without elements has no task.
    """
    if on_threads_flushing():
        return
    z = unpack(weight_sizes, Sizes)
    images = grad.size // z.out_image
    inputs = images if grad_input.size > 0 else 0
    weights = inputs + (z.groups if grad_weight.size > 0 else 0)
    if first < inputs:
        _input_gradient(first, min(end, inputs), grad, weight, bias, grad_input, unpack(input_sizes, Sizes))
    if first < weights and end > inputs:
        _weight_gradient(max(first, inputs) - inputs, min(end, weights) - inputs, grad, x, grad_weight, images, z)
    if end > weights:
        _bias_gradient(grad, grad_bias, images, z)


@helper
def _bias_gradient(grad, out, images, z):
    """The sums of a channel are doubles."""
    pixels = z.out_height * z.out_width
    if z.out_pixel == 1:
        for k in range(out.size):
            total = 0.0
            for n in range(images):
                total += sum_wide(grad, n * z.out_image + k * pixels, pixels)
            out[k] = total
        return
    sums = zeroed_local_array(out.size, np.float64)
    for pixel in range(images * pixels):
        values = grad[pixel * out.size :][: out.size]
        for k in range(out.size):
            sums[k] += values[k]
    for k in range(out.size):
        out[k] = sums[k]


@helper
def _input_gradient(first, end, grad, weight, bias, out, z):
    """Of some images."""
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


@helper
def _weight_gradient(first, end, grad, x, out, images, z):
    """Of some groups."""
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
