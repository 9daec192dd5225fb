"""Correlation of a source of few channels: the patch of each pixel is copied out first, then multiplied.

With few channels a tap's inner loop is a handful of terms, and looking its pixels up takes longer than multiplying
them. Here the rows of a filter, S * C neighbours in memory, are copied in whole vectors to a panel [pixel][term], of
one tile of pixels at a time; all blocks of columns then multiply it in one long loop. (Tap by tap, a LeNet-5 first
layer took three times as long.)

Cost: as in `correlate`, and S * R * C elements copied a pixel, in a first-level cache.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ..jit import kernel
from ..parallel import launch, on_threads_flushing
from .correlate import TERMS, Grid, lowest, multiply, rows_of
from .local_array import local_array
from .simd import VECTOR_BYTES, Vectors
from .sizes import sizes_of, unpack


@intrinsic
def _copy_vectors(typing_context: Any, source: Any, start: Any, out: Any, out_start: Any, vectors: Any) -> Any:
    signature = types.void(source, types.intp, out, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = signature.args[0].dtype
        vec = Vectors(builder, context.get_data_type(element), element.bitwidth // 8, VECTOR_BYTES)
        source, out = (context.make_array(signature.args[p])(context, builder, args[p]).data for p in (0, 2))
        with cgutils.for_range(builder, args[4]) as loop:
            at = builder.mul(loop.index, ir.Constant(ir.IntType(64), vec.lanes))
            value = vec.load(source, builder.add(args[1], at))
            builder.store(value, vec.at(out, builder.add(args[3], at)), align=vec.itemsize)
        return context.get_dummy_value()

    return signature, codegen


# copy_vectors(source, start, out, out_start, vectors): that many whole vectors.
copy_vectors: Any = _copy_vectors


def correlate_patches(
    grid: Grid, taps: np.ndarray, source: np.ndarray, weight: np.ndarray, bias: np.ndarray, out: np.ndarray,
    tile: tuple[int, ...], relu: bool = False,
) -> None:  # fmt: skip
    """Computes one grid; arguments as for `correlate`. Every tap of every pixel must be inside the source."""
    tasks, work_ns = _effort(grid, len(taps), out.itemsize)
    args = source, weight, bias, out, sizes_of(grid), taps, tile, lowest(relu, out.dtype)
    launch(_correlate, tasks, work_ns, *args)


@functools.lru_cache(maxsize=4096)
def _effort(grid: Grid, taps: int, itemsize: int) -> tuple[int, float]:
    """Tasks, and nanoseconds of them all on one thread."""
    pixels = grid.images * grid.rows * grid.columns
    work_ns = pixels * (taps * grid.depth + 4) * (grid.blocks * grid.block * 0.4 + 1) / (VECTOR_BYTES // itemsize)
    return grid.images * -(-grid.rows * grid.columns // grid.chunk), work_ns


@kernel
def _correlate(first, end, source, weight, bias, out, sizes, taps, tile, floor):
    """Task: an image and a run of its pixels."""
    if on_threads_flushing():
        return
    grid = unpack(sizes, Grid)
    lanes = VECTOR_BYTES // source.itemsize
    rows = rows_of(tile)
    tap_count = taps.shape[0]
    terms = tap_count * grid.depth
    vectors = (grid.depth + lanes - 1) // lanes
    pitch = terms + lanes  # what the last copy spills; rows at one distance, of which few share a cache set
    panel = local_array(rows * pitch, source.dtype)
    panel_rows, out_offsets = local_array(rows, np.int64), local_array(rows, np.int64)
    for m in range(rows):
        panel_rows[m] = m * pitch
    zero, tap_offsets = local_array(1, np.int64), local_array(tap_count, np.int64)
    zero[0] = 0
    for tap in range(tap_count):
        tap_offsets[tap] = (taps[tap, 0] * grid.source_width + taps[tap, 1]) * grid.source_pixel
    reach = tap_offsets[tap_count - 1] + vectors * lanes  # of the last tap, the farthest
    pixels = grid.rows * grid.columns
    chunks = (pixels + grid.chunk - 1) // grid.chunk
    none = out.dtype.type(-np.inf)
    # Full vectors may be written over the columns of the next pixel, which is written next; not over those of more.
    spills = grid.block <= 2 * grid.width and grid.blocks == 1
    spills = spills and grid.out_column == grid.width and grid.out_row == grid.columns * grid.width
    for task in range(first, end):
        image = task // chunks
        chunk = task - image * chunks
        source_image = image * grid.source_height * grid.source_width * grid.source_pixel
        last = min(pixels, (chunk + 1) * grid.chunk) - 1
        pixel = chunk * grid.chunk
        i = pixel // grid.columns
        j = pixel - i * grid.columns
        for start in range(pixel, last + 1, rows):
            for m in range(rows):
                out_offsets[m] = i * grid.out_row + j * grid.out_column
                at = source_image + (i * grid.row_step * grid.source_width + j * grid.column_step) * grid.source_pixel
                to = m * pitch
                if at + reach > source.size:
                    for tap in range(tap_count):
                        for t in range(grid.depth):
                            panel[to + tap * grid.depth + t] = source[at + tap_offsets[tap] + t]
                elif vectors == 1:
                    for tap in range(tap_count):
                        copy_vectors(source, at + tap_offsets[tap], panel, to + tap * grid.depth, 1)
                else:
                    for tap in range(tap_count):
                        copy_vectors(source, at + tap_offsets[tap], panel, to + tap * grid.depth, vectors)
                if pixel < last:  # those beyond repeat it
                    pixel += 1
                    j += 1
                    if j == grid.columns:
                        i, j = i + 1, 0
            for block in range(grid.blocks):
                column = block * grid.block
                count = min(grid.block, grid.width - column)
                out_start = grid.out_start + image * grid.out_image + column
                for d in range(0, terms, TERMS):
                    multiply(tile, panel, d, panel_rows, 0, weight, block * grid.weight_block + d * grid.block, zero, 0,
                             grid.block, out, out_start, out_offsets, bias, column, count, 1, min(TERMS, terms - d),
                             d == 0, floor if d + TERMS >= terms else none,
                             spills and start + rows <= last + 1)  # fmt: skip
