"""Winograd convolution: m x m results of an r x s filter from (m + r - 1) x (m + s - 1) products, at stride 1.

F(4x4, 3x3) takes 36 multiply-adds for 16 results, where direct takes 144; F(2x2, 3x3) 16 for 36; F(2x2, 5x5) 36 for
100; a 1x3 filter is the one-dimensional F(4, 3), 6 for 12. With A, B, G of `winograd_points`:

    Y = A^T [ (G g G^T) * (B^T d B) ] A,    summed over channels between the brackets

so that there is one matrix product [tile][channel] x [channel][column] for each of the points. The input-gradient is
the same with the filter flipped and its channels exchanged. A dilated filter sees every dilation-th pixel: its tiles
lie within one residue class of rows and columns.

Where the transformed filters are few, a task is a run of tiles and does everything for it ("fused"). Where they are
many, patches are transformed first, some megabytes at a time, and a task is then a run of them and one block of
columns. Where its filters would not be read often, they are not transformed beforehand either: the task does so itself,
for a segment of channels at a time. (Transformed they are P / (r s), for 3x3 four times as much to write and to read
again: 0.6 of 2.4 ms with 512 channels and 14x14 pixels.)

Cost per tile, points P: 2 P C K flops in the products; P * 4 bytes a channel written and read for the patches.
Rounding grows with the transforms' constants: relative L2 error 2e-6 to 5e-6 in float32 where direct has 4e-7. An Inf
or NaN in the input spreads over the results of its tiles; one in a filter over that output channel.
"""

from __future__ import annotations

import numpy as np

from ...jit import helper, inline, kernel, never_inline
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem
from ..correlate import TERMS, lowest, zeros
from ..layout import CHANNELS_LAST, channels_last, empty, flat, in_layout, layout_of
from ..local_array import local_array, zeroed_local_array
from ..memory import address_of, scratch
from ..register_tile import (
    MIDDLE_ROWS,
    MIDDLE_VECTORS,
    NARROW_ROWS,
    NARROW_VECTORS,
    WIDE_ROWS,
    WIDE_VECTORS,
    multiply_near_panel,
    multiply_panel,
)
from ..simd import VECTOR_BYTES
from ..sizes import sizes_of, unpack
from .winograd_filters import (
    TRANSFORMED,
    Filters,
    FilterStrides,
    lines_for,
    pack_filters,
    transform_filters,
)
from .winograd_plan import Plan, plan_for, plan_of_filters
from .winograd_points import has_transforms
from .winograd_tile import transform_products
from .winograd_tiling import (
    PITCH_PADDING,
    Tiling,
    axis_results,
    block_of,
    filters_along,
    place,
    run_of,
    tile_of,
    transform_run,
)

FEWEST_CHANNELS = 16  # of a group, in and out: transforms take whole vectors
_NEAR_BYTES = 16384  # filters of one point that stay in the first-level cache


def supports(results: int, problem: Conv2dProblem) -> str:
    """Empty for a filter at stride 1 whose number of points has a transform."""
    _, c, r, s = problem.weight_shape
    if problem.stride != (1, 1):
        return f"the stride is {problem.stride}, not 1"
    if (r, s) == (1, 1) or not all(has_transforms(axis_results(results, taps), taps) for taps in (r, s)):
        return f"there are no transforms for {results} results of {r}x{s} taps"
    if min(c, problem.weight_shape[0] // problem.groups) < FEWEST_CHANNELS:
        return f"fewer than {FEWEST_CHANNELS} channels a group"
    return ""


def pack_weight(
    results: int, problem: Conv2dProblem, weight: np.ndarray, bias: np.ndarray | None, kept: bool
) -> Filters:
    plan = plan_of_filters(results, problem, False, kept, weight.itemsize)
    return pack_filters(problem, plan.shape, False, weight, bias, plan.transformed, kept)


def forward(results: int, problem: Conv2dProblem, x: np.ndarray, filters: Filters, relu: bool) -> np.ndarray:
    return _run(plan_for(results, problem, False, filters.strides is None, x.itemsize), x, filters, relu)


def backward_input(
    results: int, problem: Conv2dProblem, grad_output: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> np.ndarray:
    plan = plan_of_filters(results, problem, True, False, grad_output.itemsize)
    filters = pack_filters(problem, plan.shape, True, weight, bias, plan.transformed, False)
    return in_layout(_run(plan, grad_output, filters, False), layout_of(grad_output))


def _run(plan: Plan, source: np.ndarray, filters: Filters, relu: bool) -> np.ndarray:
    tiling, shape = plan.tiling, plan.shape
    out = empty(plan.out_shape, source.dtype, CHANNELS_LAST)
    if not out.size:
        return out
    x = flat(channels_last(source))
    page = zeros(tiling.channels, source.dtype)
    distance = (address_of(page) - address_of(x)) // source.itemsize
    lanes = VECTOR_BYTES // source.itemsize
    tile_ns = shape.points * tiling.depth * tiling.groups * tiling.blocks * tiling.block / lanes * 0.2
    sizes = sizes_of(tiling)
    results = filters.bias, flat(out), sizes, lowest(relu, out.dtype), *shape
    strides = sizes_of(filters.strides or TRANSFORMED)
    taps_h, taps_w = ((0,) * (len(p) - len(m) + 1) for p, m in zip(shape[:2], shape[2:], strict=True))
    if not plan.chunk:
        args = x, distance, plan.tiles, filters.weight, strides, *results, taps_h, taps_w
        launch(_fused, tiling.runs, plan.tiles * tile_ns, *args)
        return out
    pitch = (plan.chunk + WIDE_ROWS + NARROW_ROWS) * tiling.segment + PITCH_PADDING
    segments = tiling.groups * -(-tiling.depth // tiling.segment)
    patches = scratch("patches", segments * shape.points * pitch, source.dtype)
    for first in range(0, plan.tiles, plan.chunk):
        tiles = min(plan.chunk, plan.tiles - first)
        chunk = patches, pitch, first, tiles
        work_ns = tiles * shape.points * tiling.channels * 0.1
        launch(_transform, -(-tiles // _TILES), work_ns, x, distance, *chunk, sizes, *shape)
        tasks = tiling.runs * tiling.groups * tiling.blocks
        launch(_multiply, tasks, tiles * tile_ns, *chunk, filters.weight, strides, *results, taps_h, taps_w)
    return out


_TILES = 8  # of a task that only transforms


@kernel
def _transform(
    first, end, x, zeros, patches, pitch, first_tile, tiles, sizes, points_h, points_w, results_h, results_w
):
    if on_threads_flushing():
        return
    tiling = unpack(sizes, Tiling)
    for task in range(first, end):
        t = task * _TILES
        transform_run(x, zeros, patches, t * tiling.segment, pitch, first_tile + t, min(_TILES, tiles - t),
                      tiling.groups, tiling.segment, tiling, tiling.top, tiling.left,
                      points_h, points_w, results_h, results_w)  # fmt: skip


@inline
def _panel(vectors, near, a, a_start, a_row, b, b_start, block, out, out_start, terms, first):
    if vectors == WIDE_VECTORS:
        if near:
            multiply_near_panel(a, a_start, a_row, 1, b, b_start, block, out, out_start, block, terms, first,
                                WIDE_ROWS, WIDE_VECTORS)  # fmt: skip
        else:
            multiply_panel(a, a_start, a_row, 1, b, b_start, block, out, out_start, block, terms, first,
                           WIDE_ROWS, WIDE_VECTORS)  # fmt: skip
    elif WIDE_VECTORS > 3 and vectors == 3:
        multiply_panel(a, a_start, a_row, 1, b, b_start, block, out, out_start, block, terms, first,
                       WIDE_ROWS, 3)  # fmt: skip
    elif vectors == MIDDLE_VECTORS:
        multiply_near_panel(a, a_start, a_row, 1, b, b_start, block, out, out_start, block, terms, first,
                            MIDDLE_ROWS, MIDDLE_VECTORS)  # fmt: skip
    else:
        multiply_near_panel(a, a_start, a_row, 1, b, b_start, block, out, out_start, block, terms, first,
                            NARROW_ROWS, NARROW_VECTORS)  # fmt: skip


@helper
def _products(
    patches, start, pitch, row, filters, filter_start, filter_pitch, width, terms, products, product_pitch,
    tiles, first, points, across, filters_h, filters_w,
):  # fmt: skip
    """products[point][tile][column] of one block of columns, or more terms of them; `row`: from tile to tile.

    Points lie in rows of `across`, filters in rows of `filters_w`.
    """
    never_inline()
    rows, vectors = tile_of(width, filters.itemsize)
    near = terms * width * filters.itemsize <= _NEAR_BYTES
    for e in range(points):
        i = e // across
        f = min(i, filters_h - 1) * filters_w + min(e - i * across, filters_w - 1)
        for t in range(0, tiles, rows):
            _panel(vectors, near, patches, start + e * pitch + t * row, row,
                   filters, filter_start + f * filter_pitch, width,
                   products, e * product_pitch + t * width, terms, first)  # fmt: skip


@helper
def _store(
    products, pitch, bias, out, first_tile, tiles, block, tiling, down, right, floor,
    points_h, points_w, results_h, results_w, added,
):  # fmt: skip
    """Results of a run of tiles and one block of columns. Those outside the image go to the end of `products`."""
    never_inline()
    group, column, count, width = block_of(block, tiling.blocks, tiling.block, tiling.columns, products.itemsize)
    column += group * tiling.columns
    distance = (np.int64(products.ctypes.data) - np.int64(out.ctypes.data)) // products.itemsize
    outside = distance + products.size - tiling.block
    offsets = local_array(len(results_h) * len(results_w), np.int64)
    for t in range(tiles):
        n, p, q = place(first_tile + t, tiling, len(results_h), len(results_w))
        for i in range(len(results_h)):
            row = (p + i * tiling.dilation_h) * tiling.out_step + down
            for j in range(len(results_w)):
                w = (q + j * tiling.dilation_w) * tiling.out_step + right
                at = ((n * tiling.out_height + row) * tiling.out_width + w) * tiling.out_channels + column
                offsets[i * len(results_w) + j] = at if row < tiling.out_height and w < tiling.out_width else outside
        transform_products(products, t * width, pitch, bias, block * tiling.block, count, floor, out, offsets,
                           points_h, points_w, results_h, results_w, added)  # fmt: skip


@helper
def multiply_run(
    x, zeros, patches, pitch, first_tile, tiles, first_block, last_block, tiling, place_in, place_out,
    filters, filter_start, filter_pitch, bias, products, out, floor,
    points_h, points_w, results_h, results_w, added,
):  # fmt: skip
    """A run of tiles and all their products, some blocks of columns. Scratch: patches, products."""
    never_inline()
    transform_run(x, zeros, patches, 0, pitch, first_tile, tiles, 1, tiling.channels, tiling, *place_in,
                  points_h, points_w, results_h, results_w)  # fmt: skip
    for block in range(first_block, last_block):
        group, _, _, width = block_of(block, tiling.blocks, tiling.block, tiling.columns, x.itemsize)
        product_pitch = tiling.run * width + PITCH_PADDING
        panel = filter_start + block * tiling.depth * tiling.block
        for c in range(0, tiling.depth, TERMS):
            _products(patches, group * tiling.depth + c, pitch, tiling.channels, filters,
                      panel + c * width, filter_pitch, width,
                      min(TERMS, tiling.depth - c), products, product_pitch, tiles, c == 0,
                      len(points_h) * len(points_w), len(points_w),
                      filters_along(points_h, results_h), filters_along(points_w, results_w))  # fmt: skip
        _store(products, product_pitch, bias, out, first_tile, tiles, block, tiling, *place_out, floor,
               points_h, points_w, results_h, results_w, added)  # fmt: skip


@kernel
def _fused(
    first, end, x, zeros, tiles, weight, strides, bias, out, sizes, floor,
    points_h, points_w, results_h, results_w, taps_h, taps_w,
):  # fmt: skip
    """Task: a run of tiles, all columns.

    Each thread transforms the filters for itself. Memory that two threads have read is slow to write for either: with
    64 channels (9,200 cache lines) 28 us for filters that one thread reads, 86 for those that two do.
    """
    if on_threads_flushing():
        return
    tiling = unpack(sizes, Tiling)
    strides = unpack(strides, FilterStrides)
    points, taps = len(points_h) * len(points_w), len(taps_h) * len(taps_w)
    blocks = tiling.groups * tiling.blocks
    filter_pitch = blocks * tiling.depth * tiling.block + PITCH_PADDING
    transformed = strides.column == 0
    filters = weight if transformed else local_array(points * filter_pitch, out.dtype)
    if not transformed:
        lines = lines_for(weight, taps, tiling.block)
        offsets = local_array(taps, np.int64)
        for place in range(blocks):
            group, column, columns, width = block_of(place, tiling.blocks, tiling.block, tiling.columns, out.itemsize)
            transform_filters(weight, strides, group, column, columns, width, 0, tiling.depth, lines, offsets,
                              filters, place * tiling.depth * tiling.block, filter_pitch,
                              points_h, points_w, taps_h, taps_w)  # fmt: skip
    products = local_array(points * (tiling.run * tiling.block + PITCH_PADDING) + tiling.block, x.dtype)
    pitch = tiling.run * tiling.channels + PITCH_PADDING
    patches = zeroed_local_array(points * pitch, x.dtype)
    for task in range(first, end):
        t, count = run_of(task, tiling, tiles)
        multiply_run(x, zeros, patches, pitch, t, count, 0, blocks, tiling,
                     (tiling.top, tiling.left), (0, 0), filters, 0, filter_pitch, bias, products, out, floor,
                     points_h, points_w, results_h, results_w, ())  # fmt: skip


@kernel
def _multiply(
    first, end, patches, patch_pitch, first_tile, tiles, weight, strides, bias, out, sizes, floor,
    points_h, points_w, results_h, results_w, taps_h, taps_w,
):  # fmt: skip
    """Task: a run of tiles that are transformed already, one block of columns."""
    if on_threads_flushing():
        return
    tiling = unpack(sizes, Tiling)
    strides = unpack(strides, FilterStrides)
    points, taps = len(points_h) * len(points_w), len(taps_h) * len(taps_w)
    products = local_array(points * (tiling.run * tiling.block + PITCH_PADDING) + tiling.block, out.dtype)
    transformed = strides.column == 0
    blocks = tiling.groups * tiling.blocks
    filter_pitch = (blocks * tiling.depth if transformed else tiling.segment) * tiling.block + PITCH_PADDING
    filters = weight if transformed else local_array(points * filter_pitch, out.dtype)
    lines = lines_for(weight, taps, tiling.block)
    offsets = local_array(taps, np.int64)
    segments = (tiling.depth + tiling.segment - 1) // tiling.segment
    for task in range(first, end):
        run = task // blocks
        place = task - run * blocks
        t, count = run_of(run, tiling, tiles)
        group, column, columns, width = block_of(place, tiling.blocks, tiling.block, tiling.columns, out.itemsize)
        product_pitch = tiling.run * width + PITCH_PADDING
        for segment in range(segments):
            c = segment * tiling.segment
            terms = min(tiling.segment, tiling.depth - c)
            if not transformed:
                transform_filters(weight, strides, group, column, columns, width, c, terms, lines, offsets,
                                  filters, 0, filter_pitch,
                                  points_h, points_w, taps_h, taps_w)  # fmt: skip
            panel = place * tiling.depth * tiling.block + c * width if transformed else 0
            start = (group * segments + segment) * points * patch_pitch + t * tiling.segment
            _products(patches, start, patch_pitch, tiling.segment, filters, panel, filter_pitch, width, terms,
                      products, product_pitch, count, segment == 0,
                      points, len(points_w), len(points_h), len(points_w))  # fmt: skip
        _store(products, product_pitch, bias, out, first_tile + t, count, place, tiling, 0, 0, floor,
               points_h, points_w, results_h, results_w, ())  # fmt: skip
