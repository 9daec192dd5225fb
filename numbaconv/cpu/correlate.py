"""Correlation of a channels-last source with packed weights: the kernel of conv2d forward and of its input-gradient.

A *grid* of result pixels shares one list of *taps*: result (i, j) sums, over the taps, the dot products of
source pixel (i * row_step + tap row, j * column_step + tap column) with that tap's weights. The forward pass is one
grid with all taps. The input-gradient is one grid per residue class of the stride, each with the taps that reach it:
dense work, no scatter (Zhang et al. 2018, "High Performance Zero-Memory Overhead Direct Convolutions").

Loop order: task (an image, a run of pixels, a block of columns) > tile of 6 or 12 pixels > segments of at most
`TERMS` terms (taps, then depth) > the register tile. A pixel that falls in the padding is read from a page of zeros,
found by its distance from the source, so that no padded copy is made and the inner loop has no branch. The blocks of
columns of one run of pixels follow each other, so that its part of the source is fetched once (with all pixels of a
block first, 1x1 layers read the source from memory once per block: 55 to 70 % of peak instead of 85 to 95).

With few channels a tap of one pixel is a handful of terms: there the taps of a filter row, S * C neighbours in memory,
are one tap of a source with the padding copied around it. To copy the patch of each pixel to a panel first, for one
long loop, took 1.2 times as long.

Cost: 2 * pixels * columns * taps * depth flops. Per multiply-add the wide tile loads 10/24 values, all from the first
two cache levels; the weights of one block (taps * depth * 64 values) are read once per tile of pixels.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from ..jit import inline, kernel
from ..parallel import launch, on_threads_flushing
from .local_array import local_array
from .register_tile import (
    MIDDLE_ROWS,
    MIDDLE_VECTORS,
    NARROW_ROWS,
    NARROW_VECTORS,
    WIDE_ROWS,
    WIDE_VECTORS,
    multiply_tile,
)
from .simd import VECTOR_BYTES
from .sizes import sizes_of, unpack

# Sequential float32 sums lose: 1.2e-6 relative over 4,608 terms. After this many the accumulators are spilled into
# the result, an outer sum.
TERMS = 512

# Pixels of a task: enough work to be worth a task, few enough that its part of the source stays in cache.
CHUNK = 192


class Grid(NamedTuple):
    """One grid of result pixels. Pitches are in elements."""

    images: int
    rows: int
    columns: int
    row_step: int
    column_step: int
    source_height: int
    source_width: int
    source_pixel: int  # pitch from one source pixel to the next
    out_start: int
    out_image: int
    out_row: int
    out_column: int
    groups: int
    depth: int  # terms of one tap
    group_depth: int  # source elements from one group to the next
    width: int  # result columns of one group
    blocks: int
    block: int
    weight_block: int  # packed weight elements from one block to the next
    chunk: int  # pixels of a task


def chunk_size(pixels: int, tile_rows: int) -> int:
    """Pixels of a task: near `CHUNK`, equal chunks, whole tiles."""
    chunks = max(1, round(pixels / CHUNK))
    return -(-pixels // (chunks * tile_rows)) * tile_rows


def correlate(
    grid: Grid, taps: np.ndarray, source: np.ndarray, weight: np.ndarray, bias: np.ndarray, out: np.ndarray,
    tile: tuple[int, ...], relu: bool = False,
) -> None:  # fmt: skip
    """Computes one grid.

    Args:
        taps: (taps, 3) int64: source row and column of result (0, 0), and the tap's place in the packed weight.
        source: flat channels-last.
        weight, bias: packed.
        out: flat channels-last; written where the grid's pixels are.
        tile: which register tile, see `packing.Columns`.
        relu: whether max(result, 0) is stored.
    """
    tasks, work_ns = _effort(grid, len(taps), out.itemsize)
    page = zeros(grid.depth, source.dtype)
    args = source, page, weight, bias, out, sizes_of(grid), taps, tile, lowest(relu, out.dtype)
    launch(_correlate, tasks, work_ns, *args)


@functools.lru_cache(maxsize=4096)
def _effort(grid: Grid, taps: int, itemsize: int) -> tuple[int, float]:
    """Tasks, and nanoseconds of them all on one thread."""
    chunks = -(-grid.rows * grid.columns // grid.chunk)
    values = grid.images * grid.rows * grid.columns * grid.groups * grid.blocks * grid.block
    work_ns = values * (taps * grid.depth + 4) / (VECTOR_BYTES // itemsize) * 0.4
    return grid.groups * grid.blocks * grid.images * chunks, work_ns


@functools.cache
def lowest(relu: bool, dtype: np.dtype) -> np.floating:
    """The least value that a kernel's epilogue lets through: of ReLU 0, of none -inf."""
    return dtype.type(0.0 if relu else -math.inf)


_zeros: dict[np.dtype, np.ndarray] = {}


def zeros(size: int, dtype: np.dtype) -> np.ndarray:
    """A page of at least `size` zeros that nobody writes."""
    page = _zeros.get(dtype)
    if page is None or page.size < size:
        page = _zeros[dtype] = np.zeros(max(size, 4096), dtype)
    return page


@inline
def rows_of(tile):
    return WIDE_ROWS if len(tile) == 1 else MIDDLE_ROWS if len(tile) == 2 else NARROW_ROWS


@inline
def multiply(tile, source, a_start, a_offsets, a_table, weight, b_start, b_offsets, b_table, block, out, out_start,
             out_offsets, bias, bias_start, count, outer, inner, first, floor, spills):  # fmt: skip
    if len(tile) == 1:
        lanes = block // WIDE_VECTORS
        if count > (WIDE_VECTORS - 1) * lanes:
            multiply_tile(source, a_start, a_offsets, a_table, 1, weight, b_start, b_offsets, b_table, block, out,
                          out_start, out_offsets, bias, bias_start, count, outer, inner, first, floor, spills,
                          WIDE_ROWS, WIDE_VECTORS)  # fmt: skip
        elif WIDE_VECTORS > 3 and count > 2 * lanes:
            multiply_tile(source, a_start, a_offsets, a_table, 1, weight, b_start, b_offsets, b_table, block, out,
                          out_start, out_offsets, bias, bias_start, count, outer, inner, first, floor, spills,
                          WIDE_ROWS, 3)  # fmt: skip
        elif WIDE_VECTORS > 2 and count > lanes:
            multiply_tile(source, a_start, a_offsets, a_table, 1, weight, b_start, b_offsets, b_table, block, out,
                          out_start, out_offsets, bias, bias_start, count, outer, inner, first, floor, spills,
                          WIDE_ROWS, 2)  # fmt: skip
        else:
            multiply_tile(source, a_start, a_offsets, a_table, 1, weight, b_start, b_offsets, b_table, block, out,
                          out_start, out_offsets, bias, bias_start, count, outer, inner, first, floor, spills,
                          WIDE_ROWS, 1)  # fmt: skip
    elif len(tile) == 2:
        multiply_tile(source, a_start, a_offsets, a_table, 1, weight, b_start, b_offsets, b_table, block, out,
                      out_start, out_offsets, bias, bias_start, count, outer, inner, first, floor, spills,
                      MIDDLE_ROWS, MIDDLE_VECTORS)  # fmt: skip
    else:
        multiply_tile(source, a_start, a_offsets, a_table, 1, weight, b_start, b_offsets, b_table, block, out,
                      out_start, out_offsets, bias, bias_start, count, outer, inner, first, floor, spills,
                      NARROW_ROWS, NARROW_VECTORS)  # fmt: skip


@kernel
def _correlate(first, end, source, page, weight, bias, out, sizes, taps, tile, floor):
    if on_threads_flushing():
        return
    grid = unpack(sizes, Grid)
    zeros = (np.int64(page.ctypes.data) - np.int64(source.ctypes.data)) // source.itemsize
    tap_count = taps.shape[0]
    rows = rows_of(tile)
    source_offsets = local_array(tap_count * rows, np.int64)
    weight_offsets = local_array(tap_count, np.int64)
    out_offsets = local_array(rows, np.int64)
    blocks = grid.groups * grid.blocks
    tap_offsets = local_array(tap_count, np.int64)
    h_first, h_end, w_first, w_end = np.int64(0), grid.source_height, np.int64(0), grid.source_width
    for tap in range(tap_count):
        tap_offsets[tap] = (taps[tap, 0] * grid.source_width + taps[tap, 1]) * grid.source_pixel
        # Pixels from here to there touch no padding.
        h_first, h_end = max(h_first, -taps[tap, 0]), min(h_end, grid.source_height - taps[tap, 0])
        w_first, w_end = max(w_first, -taps[tap, 1]), min(w_end, grid.source_width - taps[tap, 1])
    no_padding = h_first == w_first == 0
    no_padding = (
        no_padding and (grid.rows - 1) * grid.row_step < h_end and (grid.columns - 1) * grid.column_step < w_end
    )
    pitch = grid.column_step * grid.source_pixel
    # Full vectors may be written over the columns of the next pixel, which is written next; not over those of more.
    spills = grid.block <= 2 * grid.width and blocks == 1
    spills = spills and grid.out_column == grid.width and grid.out_row == grid.columns * grid.width
    pixels = grid.rows * grid.columns
    chunks = (pixels + grid.chunk - 1) // grid.chunk
    per_call = max(1, TERMS // grid.depth)
    none = out.dtype.type(-np.inf)
    for task in range(first, end):
        place = task // blocks
        block = task - place * blocks  # over groups and their blocks
        image = place // chunks
        chunk = place - image * chunks
        group = block // grid.blocks
        column = (block - group * grid.blocks) * grid.block
        count = min(grid.block, grid.width - column)
        source_image = image * grid.source_height * grid.source_width * grid.source_pixel + group * grid.group_depth
        out_start = grid.out_start + image * grid.out_image + group * grid.width + column
        for tap in range(tap_count):
            weight_offsets[tap] = block * grid.weight_block + taps[tap, 2] * grid.depth * grid.block
        last = min(pixels, (chunk + 1) * grid.chunk) - 1
        pixel = chunk * grid.chunk
        i = pixel // grid.columns
        j = pixel - i * grid.columns
        for start in range(pixel, last + 1, rows):
            top, left = i * grid.row_step, j * grid.column_step
            right = left + (rows - 1) * grid.column_step
            inside = h_first <= top < h_end and w_first <= left and right < w_end
            if inside and start + rows <= last + 1 and j + rows <= grid.columns:  # the usual case, in less time
                at = source_image + (top * grid.source_width + left) * grid.source_pixel
                to = i * grid.out_row + j * grid.out_column
                for m in range(rows):
                    out_offsets[m] = to + m * grid.out_column
                for tap in range(tap_count):
                    for m in range(rows):
                        source_offsets[tap * rows + m] = at + tap_offsets[tap] + m * pitch
                j += rows
                if j == grid.columns:
                    i, j = i + 1, 0
            else:
                for m in range(rows):
                    out_offsets[m] = i * grid.out_row + j * grid.out_column
                    top, left = i * grid.row_step, j * grid.column_step
                    at = source_image + (top * grid.source_width + left) * grid.source_pixel
                    if no_padding or (h_first <= top < h_end and w_first <= left < w_end):
                        for tap in range(tap_count):
                            source_offsets[tap * rows + m] = at + tap_offsets[tap]
                    else:
                        for tap in range(tap_count):
                            h, w = top + taps[tap, 0], left + taps[tap, 1]
                            there = 0 <= h < grid.source_height and 0 <= w < grid.source_width
                            source_offsets[tap * rows + m] = at + tap_offsets[tap] if there else zeros
                    if start + m < last:  # those beyond repeat it
                        j += 1
                        if j == grid.columns:
                            i, j = i + 1, 0
            tap = 0
            while tap < tap_count:
                outer = min(per_call, tap_count - tap)
                for d in range(0, grid.depth, TERMS):
                    last_segment = tap + outer >= tap_count and d + TERMS >= grid.depth
                    multiply(tile, source, d, source_offsets, tap * rows, weight, d * grid.block, weight_offsets, tap,
                          grid.block, out, out_start, out_offsets, bias, block * grid.block, count, outer,
                          min(TERMS, grid.depth - d), tap == 0 and d == 0,
                             floor if last_segment else none, spills and start + rows <= last + 1)  # fmt: skip
                tap += outer
