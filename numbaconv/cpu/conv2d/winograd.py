"""Winograd convolution: m x m results of an r x s filter from (m + r - 1) x (m + s - 1) products, at stride 1.

F(4x4, 3x3) takes 36 multiply-adds for 16 results, where direct takes 144; F(2x2, 3x3) 16 for 36; F(2x2, 5x5) 36 for
100; a 1x3 filter is the one-dimensional F(4, 3), 6 for 12. With A, B, G of `winograd_points`:

    Y = A^T [ (G g G^T) * (B^T d B) ] A,    summed over channels between the brackets

so that there is one matrix product [tile][channel] x [channel][column] for each of the points. The input-gradient is
the same with the filter flipped and its channels exchanged. A dilated filter sees every dilation-th pixel: its tiles
lie within one residue class of rows and columns.

Where the transformed filters fit the second-level cache, a task is a run of tiles and does everything for it
("fused"). Where they do not, a run must be long enough to read them seldom: patches are transformed first, some
megabytes at a time, and a task is then a run of them and one block of columns.

Cost per tile, points P: 2 P C K flops in the products; P * 4 bytes a channel written and read for the patches.
Rounding grows with the transforms' constants: relative L2 error 2e-6 to 5e-6 in float32 where direct has 4e-7. An Inf
or NaN in the input spreads over the results of its tiles; one in a filter over that output channel.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...jit import helper, inline, kernel, never_inline
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem, Pair, Shape4
from ..correlate import TERMS, lowest, zeros
from ..layout import CHANNELS_LAST, channels_last, empty, flat, in_layout, layout_of
from ..local_array import local_array, zeroed_local_array
from ..memory import scratch
from ..packing import WIDE_AND_NARROW, Columns, Packed, columns_for
from ..simd import NARROW_ROWS, NARROW_VECTORS, VECTOR_BYTES, WIDE_ROWS, WIDE_VECTORS, multiply_panel
from ..sizes import sizes_of, unpack
from .winograd_points import PAIRS
from .winograd_tile import transform_patch, transform_products

FEWEST_CHANNELS = 16  # of a group, in and out: transforms take whole vectors
_FUSED_FILTER_BYTES = 800_000  # most of a second-level cache
_RUN_BYTES = 400_000  # patches and products of a fused task
_CHUNK_BYTES = 8_000_000  # patches transformed at a time where not fused
_RUN_TILES = 96
# Elements between the values of one point and the next: at a distance of a power of two, 36 points share a cache set.
PITCH_PADDING = 16


class Tiling(NamedTuple):
    """The sizes of one Winograd convolution, for the kernels."""

    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    out_channels: int
    top: int
    left: int
    dilation_h: int
    dilation_w: int
    tile_rows: int  # of one image and residue class
    tile_columns: int
    groups: int
    depth: int  # channels of a group
    columns: int  # output channels of a group
    blocks: int  # of a group
    block: int
    run: int  # tiles of a task
    filter_pitch: int = 0  # from one point's filters to the next's


class Shape(NamedTuple):
    """A variant for the compiler: tuples whose lengths are numbers of points, results and taps (winograd_tile.py)."""

    points_h: tuple[int, ...]
    points_w: tuple[int, ...]
    results_h: tuple[int, ...]
    results_w: tuple[int, ...]


class _Plan(NamedTuple):
    wide: bool
    tiling: Tiling
    tiles: int
    chunk: int  # tiles transformed at a time; 0: fused
    shape: Shape
    out_shape: Shape4


def axis_results(results: int, taps: int) -> int:
    """Results of a tile along an axis: a filter of one tap needs no transform."""
    return 1 if taps == 1 else results


def supports(results: int, problem: Conv2dProblem) -> str:
    """Empty for a filter at stride 1 whose number of points has a transform."""
    _, c, r, s = problem.weight_shape
    if problem.stride != (1, 1):
        return f"the stride is {problem.stride}, not 1"
    if (r, s) == (1, 1) or any(axis_results(results, taps) + taps - 1 not in PAIRS for taps in (r, s)):
        return f"there are no transforms for {results} results of {r}x{s} taps"
    if min(c, problem.weight_shape[0] // problem.groups) < FEWEST_CHANNELS:
        return f"fewer than {FEWEST_CHANNELS} channels a group"
    return ""


def shape_of(results: int, taps: Pair) -> Shape:
    """The variant for `results` and a filter of `taps`."""
    m = tuple(axis_results(results, t) for t in taps)
    h, w = ((0,) * (m[i] + taps[i] - 1) for i in (0, 1))
    return Shape(h, w, (0,) * m[0], (0,) * m[1])


def tiles_along(size: int, dilation: int, results: int) -> int:
    """Tiles that cover one residue class of an axis."""
    class_size = -(-size // dilation)
    return -(-class_size // results)


@functools.lru_cache(maxsize=1024)
def _plan(
    results: int,
    source: Shape4,
    out_shape: Shape4,
    taps: Pair,
    corner: Pair,
    dilation: Pair,
    groups: int,
    itemsize: int,
) -> _Plan:
    """`corner`: padding at the top and left."""
    n, c, h, w = source
    _, k, p, q = out_shape
    shape = shape_of(results, taps)
    cut = columns_for(k // groups, itemsize, WIDE_AND_NARROW)
    points = len(shape.points_h) * len(shape.points_w)
    tile_rows = tiles_along(p, dilation[0], len(shape.results_h))
    tile_columns = tiles_along(q, dilation[1], len(shape.results_w))
    tiles = n * dilation[0] * dilation[1] * tile_rows * tile_columns
    patch = points * c * itemsize
    filter_bytes = points * (c // groups) * groups * cut.blocks * cut.block * itemsize
    fused_run = _RUN_BYTES // (patch + points * cut.block * itemsize) // cut.rows * cut.rows
    fused = filter_bytes <= _FUSED_FILTER_BYTES and fused_run > 0 and tiles >= 8 * fused_run
    chunk = 0 if fused else max(_RUN_TILES, min(tiles, _CHUNK_BYTES // patch))
    run = _even_run(tiles, fused_run, cut) if fused else _even_run(min(chunk, tiles), _RUN_TILES, cut)
    tiling = Tiling(
        h, w, c, p, q, k, *corner, *dilation, tile_rows, tile_columns,
        groups, c // groups, k // groups, cut.blocks, cut.block, run,
        filter_pitch(groups * cut.blocks, c // groups, cut.block),
    )  # fmt: skip
    return _Plan(cut.wide, tiling, tiles, chunk, shape, out_shape)


def filter_pitch(blocks: int, depth: int, block: int) -> int:
    """Elements from one point's filters to the next's."""
    return blocks * depth * block + PITCH_PADDING


def _even_run(tiles: int, most: int, cut: Columns) -> int:
    """Runs of about equal length, at most `most` and whole register tiles."""
    run = -(-tiles // max(1, -(-tiles // most)))
    return -(-run // cut.rows) * cut.rows


def forward(results: int, problem: Conv2dProblem, x: np.ndarray, packed: Packed, relu: bool) -> np.ndarray:
    top, _, left, _ = problem.padding
    taps = problem.weight_shape[2], problem.weight_shape[3]
    plan = _plan(
        results, problem.input_shape, problem.output_shape, taps, (top, left), problem.dilation, problem.groups,
        x.itemsize,
    )  # fmt: skip
    return _run(plan, x, packed, relu)


def backward_input(results: int, problem: Conv2dProblem, grad_output: np.ndarray, packed: Packed) -> np.ndarray:
    """`packed`: the filters flipped, their channels exchanged."""
    top, _, left, _ = problem.padding
    _, _, r, s = problem.weight_shape
    corner = (r - 1) * problem.dilation[0] - top, (s - 1) * problem.dilation[1] - left
    plan = _plan(
        results, problem.output_shape, problem.input_shape, (r, s), corner, problem.dilation, problem.groups,
        grad_output.itemsize,
    )  # fmt: skip
    return in_layout(_run(plan, grad_output, packed, False), layout_of(grad_output))


def _run(plan: _Plan, source: np.ndarray, packed: Packed, relu: bool) -> np.ndarray:
    tiling, shape = plan.tiling, plan.shape
    out = empty(plan.out_shape, source.dtype, CHANNELS_LAST)
    if out.size:
        points = len(shape.points_h) * len(shape.points_w)
        x = flat(channels_last(source))
        page = zeros(tiling.channels, source.dtype)
        distance = (page.__array_interface__["data"][0] - x.__array_interface__["data"][0]) // source.itemsize
        lanes = VECTOR_BYTES // source.itemsize
        tile_ns = points * tiling.depth * tiling.groups * tiling.blocks * tiling.block / lanes * 0.2
        results = *packed, flat(out), sizes_of(tiling), plan.wide, lowest(relu, out.dtype), *shape
        if not plan.chunk:
            launch(_fused, -(-plan.tiles // tiling.run), plan.tiles * tile_ns, x, distance, plan.tiles, *results)
            return out
        pitch = (plan.chunk + WIDE_ROWS + NARROW_ROWS) * tiling.channels + PITCH_PADDING
        patches = scratch("patches", points * pitch, source.dtype)
        for first in range(0, plan.tiles, plan.chunk):
            tiles = min(plan.chunk, plan.tiles - first)
            args = x, distance, patches, pitch, first, tiles, sizes_of(tiling), *shape
            launch(_transform, -(-tiles // _TILES), tiles * points * tiling.channels * 0.1, *args)
            tasks = -(-tiles // tiling.run) * tiling.groups * tiling.blocks
            launch(_multiply, tasks, tiles * tile_ns, patches, pitch, first, tiles, *results)
    return out


_TILES = 8  # of a task that only transforms


@inline
def place(tile, tiling, results_h, results_w):
    """Image, first row and first column of a tile's results."""
    across = tile // tiling.tile_columns
    column = tile - across * tiling.tile_columns
    down = across // tiling.tile_rows
    row = across - down * tiling.tile_rows
    right = down // tiling.dilation_w
    n = right // tiling.dilation_h
    p = (right - n * tiling.dilation_h) + tiling.dilation_h * results_h * row
    q = (down - right * tiling.dilation_w) + tiling.dilation_w * results_w * column
    return n, p, q


@helper
def transform_run(x, zeros, patches, start, pitch, first_tile, tiles, tiling, points_h, points_w, results_h, results_w):
    """patches: [point][tile][channel], `pitch` from point to point."""
    never_inline()
    offsets = local_array(len(points_h) * len(points_w), np.int64)
    for t in range(tiles):
        n, p, q = place(first_tile + t, tiling, len(results_h), len(results_w))
        for i in range(len(points_h)):
            h = p - tiling.top + i * tiling.dilation_h
            for j in range(len(points_w)):
                w = q - tiling.left + j * tiling.dilation_w
                inside = 0 <= h < tiling.height and 0 <= w < tiling.width
                at = ((n * tiling.height + h) * tiling.width + w) * tiling.channels
                offsets[i * len(points_w) + j] = at if inside else zeros
        transform_patch(x, offsets, tiling.channels, patches, start + t * tiling.channels, pitch, points_h, points_w)


@kernel
def _transform(
    first, end, x, zeros, patches, pitch, first_tile, tiles, sizes, points_h, points_w, results_h, results_w
):
    if on_threads_flushing():
        return
    tiling = unpack(sizes, Tiling)
    for task in range(first, end):
        t = task * _TILES
        transform_run(x, zeros, patches, t * tiling.channels, pitch, first_tile + t, min(_TILES, tiles - t), tiling,
                      points_h, points_w, results_h, results_w)  # fmt: skip


@inline
def _panel(wide, a, a_start, a_row, b, b_start, block, out, out_start, terms, first):
    if wide:
        multiply_panel(a, a_start, a_row, 1, b, b_start, block, out, out_start, block, terms, first,
                       WIDE_ROWS, WIDE_VECTORS)  # fmt: skip
    else:
        multiply_panel(a, a_start, a_row, 1, b, b_start, block, out, out_start, block, terms, first,
                       NARROW_ROWS, NARROW_VECTORS)  # fmt: skip


@helper
def _products(patches, start, pitch, filters, products, product_pitch, block, tiles, points, tiling, wide):
    """products[point][tile][column] of one block of columns."""
    never_inline()
    rows = WIDE_ROWS if wide else NARROW_ROWS
    panel = tiling.depth * tiling.block
    start += block // tiling.blocks * tiling.depth
    for e in range(points):
        b_start = e * tiling.filter_pitch + block * panel
        for t in range(0, tiles, rows):
            for c in range(0, tiling.depth, TERMS):
                _panel(wide, patches, start + e * pitch + t * tiling.channels + c, tiling.channels,
                       filters, b_start + c * tiling.block, tiling.block,
                       products, e * product_pitch + t * tiling.block, min(TERMS, tiling.depth - c),
                       c == 0)  # fmt: skip


@helper
def _store(
    products, pitch, bias, out, first_tile, tiles, block, tiling, floor, points_h, points_w, results_h, results_w
):
    """Results of a run of tiles and one block of columns. Those outside the image go to the end of `products`."""
    never_inline()
    group = block // tiling.blocks
    column = (block - group * tiling.blocks) * tiling.block
    count = min(tiling.block, tiling.columns - column)
    column += group * tiling.columns
    distance = (np.int64(products.ctypes.data) - np.int64(out.ctypes.data)) // products.itemsize
    outside = distance + products.size - tiling.block
    offsets = local_array(len(results_h) * len(results_w), np.int64)
    for t in range(tiles):
        n, p, q = place(first_tile + t, tiling, len(results_h), len(results_w))
        for i in range(len(results_h)):
            row = p + i * tiling.dilation_h
            for j in range(len(results_w)):
                w = q + j * tiling.dilation_w
                at = ((n * tiling.out_height + row) * tiling.out_width + w) * tiling.out_channels + column
                offsets[i * len(results_w) + j] = at if row < tiling.out_height and w < tiling.out_width else outside
        transform_products(products, t * tiling.block, pitch, bias, block * tiling.block, count, floor, out, offsets,
                           points_h, points_w, results_h, results_w)  # fmt: skip


@kernel
def _fused(
    first, end, x, zeros, tiles, filters, bias, out, sizes, wide, floor, points_h, points_w, results_h, results_w
):
    """Task: a run of tiles, all columns."""
    if on_threads_flushing():
        return
    tiling = unpack(sizes, Tiling)
    points = len(points_h) * len(points_w)
    product_pitch = tiling.run * tiling.block + PITCH_PADDING
    products = local_array(points * product_pitch + tiling.block, x.dtype)
    pitch = tiling.run * tiling.channels + PITCH_PADDING
    patches = zeroed_local_array(points * pitch, x.dtype)
    for task in range(first, end):
        t = task * tiling.run
        count = min(tiling.run, tiles - t)
        transform_run(x, zeros, patches, 0, pitch, t, count, tiling, points_h, points_w, results_h, results_w)
        for block in range(tiling.groups * tiling.blocks):
            _products(patches, 0, pitch, filters, products, product_pitch, block, count, points, tiling, wide)
            _store(products, product_pitch, bias, out, t, count, block, tiling, floor,
                   points_h, points_w, results_h, results_w)  # fmt: skip


@kernel
def _multiply(
    first, end, patches, pitch, first_tile, tiles, filters, bias, out, sizes, wide, floor,
    points_h, points_w, results_h, results_w,
):  # fmt: skip
    """Task: a run of tiles that are transformed already, one block of columns."""
    if on_threads_flushing():
        return
    tiling = unpack(sizes, Tiling)
    points = len(points_h) * len(points_w)
    product_pitch = tiling.run * tiling.block + PITCH_PADDING
    products = local_array(points * product_pitch + tiling.block, out.dtype)
    blocks = tiling.groups * tiling.blocks
    for task in range(first, end):
        run = task // blocks
        block = task - run * blocks
        t = run * tiling.run
        count = min(tiling.run, tiles - t)
        _products(patches, t * tiling.channels, pitch, filters, products, product_pitch, block, count, points, tiling,
                  wide)  # fmt: skip
        _store(products, product_pitch, bias, out, first_tile + t, count, block, tiling, floor,
               points_h, points_w, results_h, results_w)  # fmt: skip
