"""Winograd convolution F(4x4, 3x3): 36 multiply-adds for 16 results of a 3x3 filter, where direct takes 144.

A 6x6 patch of the input (tiles overlap by 2) and the filter are transformed, multiplied element by element, summed
over channels (36 independent matrix products, on the register tile), and transformed back to a 4x4 patch of the result:

    Y = A^T [ (G g G^T) * (B^T d B) ] A

The input-gradient of a 3x3 stride-1 layer is the same with the filter flipped and its channels exchanged.

Task: a run of tiles, and of column blocks where tiles are few. Its transformed input (36 * tiles * C values) stays in
the second-level cache while the transformed filters stream by, one block of columns at a time. Transforms cost about
(12 C + 10 K) * 36 / 16 flops a result, against 2 C K * 36 / 16 in the products.

Rounding grows with the transforms' constants: relative L2 error about 2e-6 in float32 where direct has 4e-7. An Inf or
NaN in the input spreads over the 4x4 results of its tiles; one in a filter over that output channel.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...jit import inline, kernel, launch, never_inline, parallel_kernel, prange
from ...shapes import Conv2dProblem, Shape4
from ..correlate import TERMS, zeros
from ..layout import CHANNELS_LAST, channels_last, contiguous, empty, flat, in_layout, layout_of
from ..memory import buffer
from ..packing import Columns, Packed, columns_for, pack_bias
from ..simd import NARROW_ROWS, NARROW_VECTORS, VECTOR_BYTES, WIDE_ROWS, WIDE_VECTORS, multiply_tile
from .algorithm import Algorithm

FEWEST_CHANNELS = 32  # of input and output
FEWEST_TILES = 32
_PATCH_BYTES = 640_000  # of a task's transformed input: most of a second-level cache
_TASKS = 8
_CHANNELS = 64  # transformed at a time, so that a patch stays in the first-level cache


class _Tiling(NamedTuple):
    """The sizes of one Winograd convolution, for the kernels."""

    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    out_channels: int
    top: int
    left: int
    tile_rows: int  # of one image
    tile_columns: int
    tiles: int  # of all images
    run: int  # tiles of a task
    blocks: int
    block: int
    splits: int  # of the column blocks

    @property
    def tasks(self) -> int:
        return -(-self.tiles // self.run) * self.splits


class _Plan(NamedTuple):
    columns: Columns
    tiling: _Tiling
    out_shape: Shape4


def supports(problem: Conv2dProblem) -> str:
    """Empty for 3x3 at stride 1."""
    if problem.weight_shape[2:] != (3, 3):
        return f"the kernel is {problem.weight_shape[2]}x{problem.weight_shape[3]}, not 3x3"
    if problem.stride != (1, 1) or problem.dilation != (1, 1) or problem.groups != 1:
        return "stride, dilation and groups must be 1"
    return "padding of more than 2" if max(problem.padding) > 2 else ""


def pays(problem: Conv2dProblem) -> str:
    """Empty where the products save more than the transforms cost.

    Rows: 32 channels at 32x32, N=64: 1.6x direct. VGG 5_2, 16 tiles: 0.8x, most of it the filters' transform;
    VGG 4_2, 49 tiles: 1.7x.
    """
    if min(problem.weight_shape[:2]) < FEWEST_CHANNELS:
        return f"fewer than {FEWEST_CHANNELS} channels"
    n, _, p, q = problem.output_shape
    tiles = n * -(-p // 4) * -(-q // 4)
    return f"{tiles} tiles, fewer than {FEWEST_TILES}" if tiles < FEWEST_TILES else ""


@functools.lru_cache(maxsize=1024)
def _plan(source: Shape4, out_shape: Shape4, top: int, left: int, itemsize: int) -> _Plan:
    n, c, h, w = source
    _, k, p, q = out_shape
    columns = columns_for(k, itemsize)
    tile_rows, tile_columns = -(-p // 4), -(-q // 4)
    tiles = n * tile_rows * tile_columns
    run = max(2, min(16, _PATCH_BYTES // (36 * c * itemsize) // columns.rows)) * columns.rows
    runs = max(1, -(-tiles // run))
    run = -(-tiles // runs)
    splits = min(columns.blocks, max(1, _TASKS // runs))
    tiling = _Tiling(
        h, w, c, p, q, k, top, left, tile_rows, tile_columns, tiles, run, columns.blocks, columns.block, splits
    )
    return _Plan(columns, tiling, out_shape)


def pack_weight(problem: Conv2dProblem, weight: np.ndarray, bias: np.ndarray | None, kept: bool) -> Packed:
    k, c, _, _ = problem.weight_shape
    return _pack(k, c, weight, (c * 9, 9, 1), bias, kept)


def forward(problem: Conv2dProblem, x: np.ndarray, packed: Packed, relu: bool) -> np.ndarray:
    top, _, left, _ = problem.padding
    return _run(_plan(problem.input_shape, problem.output_shape, top, left, x.itemsize), x, packed, relu)


def backward_input(
    problem: Conv2dProblem, grad_output: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> np.ndarray:
    top, _, left, _ = problem.padding
    plan = _plan(problem.output_shape, problem.input_shape, 2 - top, 2 - left, grad_output.itemsize)
    k, c, _, _ = problem.weight_shape
    return _run(plan, grad_output, _pack(c, k, weight, (9, c * 9, -1), bias, False), False)


def _pack(
    out_channels: int, channels: int, weight: np.ndarray, strides: tuple[int, int, int], bias: np.ndarray | None,
    kept: bool,
) -> Packed:  # fmt: skip
    """`strides`: in the weight, from output to output channel, input to input channel, and filter tap to tap."""
    columns = columns_for(out_channels, weight.itemsize)
    size = 36 * columns.blocks * columns.block * channels
    filters = buffer("packed weight", size, weight.dtype, kept)
    args = flat(contiguous(weight)), filters, (columns.blocks, columns.block, channels, out_channels), strides
    launch(_transform_filters, _transform_filters_parallel, columns.blocks, size * 1.0, *args)
    return Packed(filters, pack_bias(bias, 1, columns, out_channels, weight.dtype, kept))


def _run(plan: _Plan, source: np.ndarray, packed: Packed, relu: bool) -> np.ndarray:
    tiling, columns = plan.tiling, plan.columns
    out = empty(plan.out_shape, source.dtype, CHANNELS_LAST)
    if out.size:
        lanes = VECTOR_BYTES // source.itemsize
        padding = zeros(max(tiling.channels, columns.block), source.dtype)
        work_ns = tiling.tiles * 36 * tiling.channels * columns.blocks * columns.block / lanes * 0.4
        launch(
            _convolve, _convolve_parallel, tiling.tasks, work_ns,
            flat(channels_last(source)), *packed, flat(out), padding, tiling, columns.wide,
        )  # fmt: skip
        if relu:
            np.maximum(out, 0, out=out)
    return in_layout(out, layout_of(source))


@inline
def _transform_three(a, b, c, o0, o1, o2, o3, o4, o5):
    """G of three vectors, into six."""
    for i in range(a.size):
        g0, g1, g2 = a[i], b[i], c[i]
        even, odd = (g0 + g2) * (1.0 / 6.0), g1 * (1.0 / 6.0)
        o0[i] = g0 * 0.25
        o1[i] = -even - odd
        o2[i] = odd - even
        even, odd = g0 * (1.0 / 24.0) + g2 * (1.0 / 6.0), g1 * (1.0 / 12.0)
        o3[i] = even + odd
        o4[i] = even - odd
        o5[i] = g2


@kernel
def _transform_filters(first, end, weight, filters, sizes, strides):
    """G g G^T of every filter, in float64. Task: a block of columns. filters: [36][block][channel][column]."""
    never_inline()
    k_stride, c_stride, tap_stride = strides
    blocks, block, channels, out_channels = sizes
    taps, half = np.zeros((9, block)), np.empty((18, block))
    step = blocks * channels * block
    for task in range(first, end):
        count = min(block, out_channels - task * block)
        taps[:, count:] = 0
        for c in range(channels):
            for v in range(count):
                at = (task * block + v) * k_stride + c * c_stride + (8 if tap_stride < 0 else 0)
                for tap in range(9):
                    taps[tap, v] = weight[at + tap * tap_stride]
            for s in range(3):
                _transform_three(
                    taps[s], taps[3 + s], taps[6 + s],
                    half[s], half[3 + s], half[6 + s], half[9 + s], half[12 + s], half[15 + s],
                )  # fmt: skip
            to = (task * channels + c) * block
            for i in range(6):
                row = filters[i * 6 * step + to :]
                _transform_three(
                    half[3 * i], half[3 * i + 1], half[3 * i + 2],
                    row[:block], row[step : step + block], row[2 * step : 2 * step + block],
                    row[3 * step : 3 * step + block], row[4 * step : 4 * step + block],
                    row[5 * step : 5 * step + block],
                )  # fmt: skip


@parallel_kernel
def _transform_filters_parallel(first, end, weight, filters, sizes, strides):
    for task in prange(first, end):
        _transform_filters(task, task + 1, weight, filters, sizes, strides)


@inline
def _transform_six(a, b, c, d, e, f, o0, o1, o2, o3, o4, o5):
    """B^T of six vectors, into six."""
    two, four, five = a.dtype.type(2), a.dtype.type(4), a.dtype.type(5)
    for i in range(a.size):
        d0, d1, d2, d3, d4, d5 = a[i], b[i], c[i], d[i], e[i], f[i]
        even, odd = d4 - four * d2, d3 - four * d1
        o0[i] = four * d0 - five * d2 + d4
        o1[i] = even + odd
        o2[i] = even - odd
        even, odd = d4 - d2, two * (d3 - d1)
        o3[i] = even + odd
        o4[i] = even - odd
        o5[i] = four * d1 - five * d3 + d5


@inline
def _pixel(x, zeros, n, h, w, c, count, tiling):
    """Channels c to c + count of a pixel; zeros outside the image."""
    if h < 0 or h >= tiling.height or w < 0 or w >= tiling.width:
        return zeros[:count]
    at = ((n * tiling.height + h) * tiling.width + w) * tiling.channels + c
    return x[at : at + count]


@kernel
def _transform_patches(x, zeros, patches, first_tile, tiles, tiling):
    """B^T d B of a run of tiles. patches: [36][tile][channel]."""
    never_inline()
    half = np.empty(36 * _CHANNELS, x.dtype)
    size = tiles * tiling.channels
    for t in range(tiles):
        n = (first_tile + t) // (tiling.tile_rows * tiling.tile_columns)
        place = (first_tile + t) - n * tiling.tile_rows * tiling.tile_columns
        tile_row = place // tiling.tile_columns
        h = tile_row * 4 - tiling.top
        w = (place - tile_row * tiling.tile_columns) * 4 - tiling.left
        for c in range(0, tiling.channels, _CHANNELS):
            count = min(_CHANNELS, tiling.channels - c)
            for j in range(6):
                a = _pixel(x, zeros, n, h, w + j, c, count, tiling)
                b = _pixel(x, zeros, n, h + 1, w + j, c, count, tiling)
                d = _pixel(x, zeros, n, h + 2, w + j, c, count, tiling)
                e = _pixel(x, zeros, n, h + 3, w + j, c, count, tiling)
                f = _pixel(x, zeros, n, h + 4, w + j, c, count, tiling)
                g = _pixel(x, zeros, n, h + 5, w + j, c, count, tiling)
                at = j * _CHANNELS
                pitch = 6 * _CHANNELS
                _transform_six(
                    a, b, d, e, f, g,
                    half[at : at + count], half[pitch + at : pitch + at + count],
                    half[2 * pitch + at : 2 * pitch + at + count], half[3 * pitch + at : 3 * pitch + at + count],
                    half[4 * pitch + at : 4 * pitch + at + count], half[5 * pitch + at : 5 * pitch + at + count],
                )  # fmt: skip
            for i in range(6):
                at = i * 6 * _CHANNELS
                to = i * 6 * size + t * tiling.channels + c
                _transform_six(
                    half[at : at + count], half[at + _CHANNELS : at + _CHANNELS + count],
                    half[at + 2 * _CHANNELS : at + 2 * _CHANNELS + count],
                    half[at + 3 * _CHANNELS : at + 3 * _CHANNELS + count],
                    half[at + 4 * _CHANNELS : at + 4 * _CHANNELS + count],
                    half[at + 5 * _CHANNELS : at + 5 * _CHANNELS + count],
                    patches[to : to + count], patches[to + size : to + size + count],
                    patches[to + 2 * size : to + 2 * size + count], patches[to + 3 * size : to + 3 * size + count],
                    patches[to + 4 * size : to + 4 * size + count], patches[to + 5 * size : to + 5 * size + count],
                )  # fmt: skip


@kernel
def _transform_results(products, bias, out, first_tile, tiles, block, tiling):
    """A^T m A of a run of tiles and one block of columns, plus the bias. products: [36][tile][column]."""
    never_inline()
    two, four, eight = out.dtype.type(2), out.dtype.type(4), out.dtype.type(8)
    half = np.empty(24 * tiling.block, out.dtype)
    column = block * tiling.block
    count = min(tiling.block, tiling.out_channels - column)
    start = bias[column : column + count]
    size = tiles * tiling.block
    for t in range(tiles):
        n = (first_tile + t) // (tiling.tile_rows * tiling.tile_columns)
        place = (first_tile + t) - n * tiling.tile_rows * tiling.tile_columns
        tile_row = place // tiling.tile_columns
        p = tile_row * 4
        q = (place - tile_row * tiling.tile_columns) * 4
        for j in range(6):
            at = j * size + t * tiling.block
            m0, m1 = products[at : at + count], products[at + 6 * size : at + 6 * size + count]
            m2, m3 = products[at + 12 * size :][:count], products[at + 18 * size :][:count]
            m4, m5 = products[at + 24 * size :][:count], products[at + 30 * size :][:count]
            to = j * tiling.block
            h0, h1 = half[to:][:count], half[to + 6 * tiling.block :][:count]
            h2, h3 = half[to + 12 * tiling.block :][:count], half[to + 18 * tiling.block :][:count]
            for v in range(count):
                a, b, c, d = m1[v] + m2[v], m1[v] - m2[v], m3[v] + m4[v], m3[v] - m4[v]
                h0[v] = m0[v] + a + c
                h1[v] = b + two * d
                h2[v] = a + four * c
                h3[v] = b + eight * d + m5[v]
        for i in range(min(4, tiling.out_height - p)):
            at = i * 6 * tiling.block
            m0, m1, m2 = half[at:][:count], half[at + tiling.block :][:count], half[at + 2 * tiling.block :][:count]
            m3, m4 = half[at + 3 * tiling.block :][:count], half[at + 4 * tiling.block :][:count]
            m5 = half[at + 5 * tiling.block :][:count]
            to = ((n * tiling.out_height + p + i) * tiling.out_width + q) * tiling.out_channels + column
            inside = tiling.out_width - q
            # Results beyond the right edge go where the next one overwrites them: the row is written right to left.
            o3 = out[to + min(3, inside - 1) * tiling.out_channels :][:count]
            o2 = out[to + min(2, inside - 1) * tiling.out_channels :][:count]
            o1 = out[to + min(1, inside - 1) * tiling.out_channels :][:count]
            o0 = out[to:][:count]
            for v in range(count):
                o3[v] = start[v] + (m1[v] - m2[v]) + eight * (m3[v] - m4[v]) + m5[v]
            for v in range(count):
                o2[v] = start[v] + (m1[v] + m2[v]) + four * (m3[v] + m4[v])
            for v in range(count):
                o1[v] = start[v] + (m1[v] - m2[v]) + two * (m3[v] - m4[v])
            for v in range(count):
                o0[v] = start[v] + m0[v] + (m1[v] + m2[v]) + (m3[v] + m4[v])


@inline
def _tile(wide, patches, a_start, a_offsets, filters, b_start, b_offsets, products, out_start, out_offsets, zeros,
          block, depth, first):  # fmt: skip
    if wide:
        multiply_tile(patches, a_start, a_offsets, 0, 1, filters, b_start, b_offsets, 0, block, products, out_start,
                      out_offsets, zeros, 0, block, 1, depth, first, -np.inf, WIDE_ROWS, WIDE_VECTORS)  # fmt: skip
    else:
        multiply_tile(patches, a_start, a_offsets, 0, 1, filters, b_start, b_offsets, 0, block, products, out_start,
                      out_offsets, zeros, 0, block, 1, depth, first, -np.inf, NARROW_ROWS, NARROW_VECTORS)  # fmt: skip


@kernel
def _multiply(patches, filters, products, zeros, block, tiles, tiling, wide):
    """The 36 products [tile][channel] x [channel][column] of one block of columns."""
    never_inline()
    rows = WIDE_ROWS if wide else NARROW_ROWS
    patch_offsets, product_offsets = np.empty(rows, np.int64), np.empty(rows, np.int64)
    filter_offsets = np.zeros(1, np.int64)
    for e in range(36):
        filter_start = (e * tiling.blocks + block) * tiling.channels * tiling.block
        for t in range(0, tiles, rows):
            for m in range(rows):
                row = min(t + m, tiles - 1)
                patch_offsets[m] = row * tiling.channels
                product_offsets[m] = row * tiling.block
            for c in range(0, tiling.channels, TERMS):
                _tile(wide, patches, e * tiles * tiling.channels + c, patch_offsets, filters,
                      filter_start + c * tiling.block, filter_offsets, products, e * tiles * tiling.block,
                      product_offsets, zeros, tiling.block, min(TERMS, tiling.channels - c), c == 0)  # fmt: skip


@kernel
def _convolve(first, end, x, filters, bias, out, zeros, tiling, wide):
    never_inline()
    patches = np.empty(36 * tiling.run * tiling.channels, x.dtype)
    products = np.empty(36 * tiling.run * tiling.block, x.dtype)
    for task in range(first, end):
        run = task // tiling.splits
        split = task - run * tiling.splits
        first_tile = run * tiling.run
        tiles = min(tiling.run, tiling.tiles - first_tile)
        _transform_patches(x, zeros, patches, first_tile, tiles, tiling)
        for block in range(tiling.blocks * split // tiling.splits, tiling.blocks * (split + 1) // tiling.splits):
            _multiply(patches, filters, products, zeros, block, tiles, tiling, wide)
            _transform_results(products, bias, out, first_tile, tiles, block, tiling)


@parallel_kernel
def _convolve_parallel(first, end, x, filters, bias, out, zeros, tiling, wide):
    for task in prange(first, end):
        _convolve(task, task + 1, x, filters, bias, out, zeros, tiling, wide)


ALGORITHM = Algorithm(
    name="winograd",
    supports=supports,
    pack_weight=pack_weight,
    forward=forward,
    backward_input=backward_input,
    backward_weight=None,
    pays=pays,
)
