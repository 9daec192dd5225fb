"""The input-gradient of few channels: the gradient times all filters at once, then sums over taps (col2im).

The gradient of a pixel times the filters is what it gives to each element of its patch: a product with R * S * C
columns, which fill vectors whatever C is, and no multiply-add is spent on padding. One row of the gradient at a time,
whose products stay in the first-level cache, with pixels of zeros on both sides. Then each pixel of the R image rows
that it reaches adds up what its S taps gave it. These sums wait in a ring of image rows, whose pixels are padded to
whole vectors: vectors of neighbours that overlap would wait for each other, a load for what two stores have just
written. (Products of many rows, and all taps of a pixel in one sum, came from the second-level cache: half as fast.)

Cost, for a pixel of the gradient: 2 * K * R * S * C flops; for one of the image R * (S + 1) loads of a vector, S adds.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...jit import inline, kernel
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem
from ..correlate import TERMS, zeros
from ..layout import CHANNELS_LAST, channels_last, empty, flat, flat_contiguous, in_layout, layout_of
from ..local_array import local_array, zeroed_local_array
from ..memory import temporaries
from ..packing import columns_for
from ..pixel_sums import add_pixels, pack_pixels
from ..register_tile import WIDE_ROWS, WIDE_VECTORS, multiply_near_panel
from ..simd import VECTOR_BYTES
from ..sizes import sizes_of, unpack
from . import planes
from .algorithm import Algorithm

_MOST_BYTES = 1 << 18  # of the filters, and of a row of products: a part of the second-level cache
_FEWEST_TASKS = 8  # enough to balance a few threads
_TOGETHER = 8  # pixels whose sums run beside each other


class Sizes(NamedTuple):
    """Of one input-gradient; strides and steps are in elements."""

    height: int  # of the image
    width: int
    channels: int
    rows: int  # of the gradient
    columns: int
    depth: int  # channels of the gradient
    filter_rows: int
    filter_columns: int
    row_dilation: int
    column_dilation: int
    top: int
    left: int
    task_rows: int  # of the image
    pixel: int  # elements of a sum: the channels, to whole vectors or a half or quarter of one


def pays(problem: Conv2dProblem, direction: str) -> str:
    """Empty where the register tile over channels, or over pixels, would take longer."""
    k, c, r, s = problem.weight_shape
    filters, row = k * c * r * s * 4, problem.output_shape[3] * c * r * s * 4
    if max(filters, row) > _MOST_BYTES:
        return f"{max(filters, row)} bytes of filters or products, more than {_MOST_BYTES}"
    there = columns_for(c, 4).cost
    if not planes.pays(problem, direction):
        pitch = (problem.input_shape[3] + (s - 1) * problem.dilation[1]) / problem.input_shape[3]
        there = min(there, planes.columns(problem, direction) * pitch / 1.1)  # that much is in the measured number
    here = _columns(problem)
    return "" if here < there else f"it takes as long as {here:.1f} channels would, others as {there:.1f}"


def _columns(problem: Conv2dProblem) -> float:
    """Its time by that of a multiply-add of the tile over channels, for each term and pixel of the image (measured)."""
    _, c, h, w = problem.input_shape
    k, _, r, s = problem.weight_shape
    q = problem.output_shape[3]
    lanes = VECTOR_BYTES // 4
    rows, tasks = _cut(problem)
    rows = min(tasks * (rows + (r - 1) * problem.dilation[0]), tasks * problem.output_shape[2])
    products = -(-r * s * c // lanes) * lanes * rows * (-(-q // WIDE_ROWS) * WIDE_ROWS) * (1 + 3 / k)
    sums = h * w * 2 * lanes * -(-c // lanes) * (1.2 * r * (0.5 * s + 1) + 3) / k
    return (0.7 if c <= lanes else 1.0) * (products + sums) / (r * s * h * w)


def _cut(problem: Conv2dProblem) -> tuple[int, int]:
    """Rows of a task, and tasks of an image: what two tasks read, both multiply."""
    n, _, h, _ = problem.input_shape
    reach = (problem.weight_shape[2] - 1) * problem.dilation[0]
    tasks = max(1, min(-(-_FEWEST_TASKS // max(n, 1)), h // max(3 * reach, 1)))
    rows = -(-h // tasks)
    return rows, -(-h // rows)


@functools.lru_cache(maxsize=1024)
def _plan(problem: Conv2dProblem, itemsize: int) -> tuple[Sizes, int, float]:
    """The sizes; tasks of an image, nanoseconds of an image."""
    _, c, h, w = problem.input_shape
    k, _, r, s = problem.weight_shape
    _, _, p, q = problem.output_shape
    top, _, left, _ = problem.padding
    lanes = VECTOR_BYTES // itemsize
    pitch = -(-r * s * c // lanes) * lanes
    task_rows, tasks = _cut(problem)
    pixel = next((part for part in (lanes // 4, lanes // 2) if part >= c), -(-c // lanes) * lanes)
    sizes = Sizes(h, w, c, p, q, k, r, s, *problem.dilation, top, left, task_rows, pixel)
    work_ns = p * q * pitch / lanes * (k * 0.2 + 1) + h * w * (r * s * 0.3 + 3)
    return sizes, tasks, work_ns


def backward_input(
    problem: Conv2dProblem, grad_output: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> np.ndarray:
    """(N, C, H, W) in the layout of grad_output."""
    layout = layout_of(grad_output)
    if layout == CHANNELS_LAST:
        return _backward_input(problem, grad_output, weight, bias)
    with temporaries():
        out = _backward_input(problem, channels_last(grad_output), weight, bias)
    return in_layout(out, layout)


def _backward_input(
    problem: Conv2dProblem, grad_output: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> np.ndarray:
    sizes, tasks, work_ns = _plan(problem, grad_output.itemsize)
    images = grad_output.shape[0]
    out = empty(problem.input_shape, grad_output.dtype, CHANNELS_LAST)
    bias = zeros(out.shape[1], out.dtype) if bias is None else flat_contiguous(bias)
    args = flat(grad_output), flat_contiguous(weight), bias, flat(out), sizes_of(sizes)
    launch(_input_gradient, images * tasks, images * work_ns, *args)
    return out


@inline
def _turn(weight, depth, channels, taps, filters, pitch):
    """filters[k * pitch + tap * channels + c] = weight[k][c][tap]."""
    for k in range(depth):
        row = filters[k * pitch :][: taps * channels]
        for c in range(channels):
            values = weight[(k * channels + c) * taps :][:taps]
            for tap in range(taps):
                row[tap * channels + c] = values[tap]


@inline
def _products(grad, at, count, depth, filters, pitch, products, to):
    """products[to + m * pitch + v] = sum over k of grad[at + m * depth + k] * filters[k * pitch + v], m < count."""
    lanes = VECTOR_BYTES // products.itemsize
    v = 0
    while v < pitch:
        left = (pitch - v) // lanes
        vectors = WIDE_VECTORS if left >= WIDE_VECTORS else min(left, 2)
        m = 0
        while m < count:
            tall = count >= WIDE_ROWS
            row = min(m, count - WIDE_ROWS) if tall else m  # the last ones overlap those before
            for k in range(0, depth, TERMS):
                terms = min(TERMS, depth - k)
                a, b, out = at + row * depth + k, k * pitch + v, to + row * pitch + v
                if tall and vectors == WIDE_VECTORS:
                    multiply_near_panel(grad, a, depth, 1, filters, b, pitch, products, out, pitch, terms, k == 0,
                                        WIDE_ROWS, WIDE_VECTORS)  # fmt: skip
                elif tall and vectors == 2:
                    multiply_near_panel(grad, a, depth, 1, filters, b, pitch, products, out, pitch, terms, k == 0,
                                        WIDE_ROWS, 2)  # fmt: skip
                elif tall:
                    multiply_near_panel(grad, a, depth, 1, filters, b, pitch, products, out, pitch, terms, k == 0,
                                        WIDE_ROWS, 1)  # fmt: skip
                else:
                    for i in range(vectors):
                        multiply_near_panel(grad, a, depth, 1, filters, b + i * lanes, pitch, products, out + i * lanes,
                                            pitch, terms, k == 0, 1, 1)  # fmt: skip
            m += WIDE_ROWS if tall else 1
        v += vectors * lanes


@inline
def _add_taps(products, at, pitch, z, sums, to, width):
    """To a row of sums, what a row of products gives it by a row of taps, whose first is at `at`."""
    lanes = VECTOR_BYTES // sums.itemsize
    step = z.channels - z.column_dilation * pitch
    for w in range(0, width, _TOGETHER):
        here, there = at + w * pitch, to + w * z.pixel
        if z.pixel * 4 <= lanes:
            add_pixels(products, here, pitch, step, z.filter_columns, sums, there, z.pixel, _TOGETHER, 4)
        elif z.pixel * 2 <= lanes:
            add_pixels(products, here, pitch, step, z.filter_columns, sums, there, z.pixel, _TOGETHER, 2)
        else:
            for c in range(0, z.channels, lanes):
                add_pixels(products, here + c, pitch, step, z.filter_columns, sums, there + c, z.pixel, _TOGETHER, 1)


@inline
def _finish(sums, at, z, initial, line, out, to):
    """A row of sums into the image; it begins anew."""
    lanes = VECTOR_BYTES // sums.itemsize
    if z.pixel * 4 <= lanes:
        pack_pixels(sums, at, z.pixel, line, z.channels, z.width, initial, 4)
    elif z.pixel * 2 <= lanes:
        pack_pixels(sums, at, z.pixel, line, z.channels, z.width, initial, 2)
    elif z.pixel == lanes:
        pack_pixels(sums, at, z.pixel, line, z.channels, z.width, initial, 1)
    else:
        for w in range(z.width):
            values, pixel = sums[at + w * z.pixel :][: z.channels], line[w * z.channels :][: z.channels]
            for c in range(z.channels):
                pixel[c] = values[c]
                values[c] = initial[c]
    count = z.width * z.channels
    row = out[to:][:count]
    for i in range(count):
        row[i] = line[i]


@kernel
def _input_gradient(first, end, grad, weight, bias, out, sizes):
    """Task: some rows of an image."""
    if on_threads_flushing():
        return
    z = unpack(sizes, Sizes)
    lanes = VECTOR_BYTES // out.itemsize
    taps = z.filter_rows * z.filter_columns
    pitch = (taps * z.channels + lanes - 1) // lanes * lanes
    filters = zeroed_local_array(z.depth * pitch, out.dtype)
    _turn(weight, z.depth, z.channels, taps, filters, pitch)
    # Column w reaches from gradient column w + left, by tap 0, to the one `reach` to the left of it, by the last.
    reach = (z.filter_columns - 1) * z.column_dilation
    width = (z.width + _TOGETHER - 1) // _TOGETHER * _TOGETHER
    before, after = max(0, reach - z.left), max(0, width + z.left - z.columns)
    products = zeroed_local_array((before + z.columns + after) * pitch + lanes, out.dtype)
    line = local_array(z.width * z.channels + lanes, out.dtype)
    row_reach = (z.filter_rows - 1) * z.row_dilation
    ring, row = row_reach + 1, width * z.pixel
    sums = local_array(ring * row, out.dtype)
    initial = zeroed_local_array(z.pixel, out.dtype)
    for c in range(z.channels):
        initial[c] = bias[c]
    for i in range(ring * width):
        for c in range(z.pixel):
            sums[i * z.pixel + c] = initial[c]
    tasks = (z.height + z.task_rows - 1) // z.task_rows
    for task in range(first, end):
        image = task // tasks
        start = (task - image * tasks) * z.task_rows
        stop = min(z.height, start + z.task_rows)
        for h in range(start - row_reach, stop):  # the image row that is complete with gradient row p
            p = h + z.top
            if 0 <= p < z.rows:
                at = (image * z.rows + p) * z.columns * z.depth
                _products(grad, at, z.columns, z.depth, filters, pitch, products, before * pitch)
                for r in range(z.filter_rows):
                    to = h + r * z.row_dilation
                    if start <= to < stop:
                        first_tap = (before + z.left) * pitch + r * z.filter_columns * z.channels
                        _add_taps(products, first_tap, pitch, z, sums, to % ring * row, width)
            if h >= start:
                to = (image * z.height + h) * z.width * z.channels
                _finish(sums, h % ring * row, z, initial, line, out, to)


ALGORITHM = Algorithm(
    name="col2im",
    supports=planes.supports,
    pack_weight=None,
    forward=None,
    backward_input=backward_input,
    backward_weight=None,
    pays=pays,
)
