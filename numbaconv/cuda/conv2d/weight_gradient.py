"""The weight-gradient of a convolution, and of a linear layer.

grad_weight[k, tap, c] sums grad_output[pixel, k] * x[window of that pixel, tap, c] over all pixels: a matrix product
whose rows are output channels, whose columns are (tap, input channel), and whose terms are pixels. Both operands are
read as they lie in channels-last memory: rows and columns follow each other there, so they need no transposing. A
thread's columns are the same for the whole loop; where the window of its next pixel begins comes from two divisions
by multiplication a stage (with one image row after the other, and no division, an eighth of the stages of 14 x 14
images would be empty).

A last column of ones makes a sum over pixels, grad_bias, wherever a tile has room for it.

There are few tiles and many terms, so terms are split; each split is summed into a part of its own, and the parts are
then added in order and brought into the order of the weight. The cut depends on the problem only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import cuda, int32

from ...shapes import Conv2dProblem
from .. import memory
from ..array import DeviceArray
from ..indexing import blocks_for, divided, divisor, quotient, thread_number
from ..launch import T, inline, kernel, launch
from ..layout import channels_last
from ..limits import require_32_bit
from . import operands
from .epilogue import make_epilogue
from .operands import (
    COLUMN_STEP,
    COLUMNS,
    END,
    HEIGHT,
    INDEX,
    LINES,
    ONES,
    ROW_STEP,
    ROWS,
    SHIFTS,
    STAGE_STEP,
    VECTOR_STEP,
    WIDTH,
    WINDOW,
    WINDOWS,
)  # fmt: skip
from .tile import DEPTH, LARGE, MEDIUM, SEGMENT, SMALL, Tile, columns_begin, make_corner, make_multiply, stage_size
from .tiling import choose_tiling

_NOWHERE = -(1 << 30)  # a shift that leaves every image


class Reduction(NamedTuple):
    """The parameters of the kernel, after its arrays. Pitches are in elements."""

    windows: int  # pixels of grad_output
    height: int  # of x
    width: int  # of x: elements of a row
    rows: int  # of grad_output, and its divisor
    rows_multiplier: int
    rows_shift: int
    columns: int
    columns_multiplier: int
    columns_shift: int
    row_step: int
    column_step: int  # elements
    top: int
    left: int
    row_dilation: int
    column_dilation: int
    pixel: int  # elements of a pixel of x
    depth: int  # of these in a group
    filter_columns: int
    sums: int  # columns of the product: taps times depth
    ones: int  # whether there is a column of ones after them
    groups: int
    out_channels: int
    group_channels: int  # of out_channels
    out_row: int  # elements from one row of the product to the next
    splits: int
    split_stages: int


def make_weight_gradient(tile: Tile, vectors: bool) -> Any:
    """Makes the kernel for a tile; with `vectors`, the channels of both arrays are whole vectors."""
    a, b = operands.along(tile, True, vectors), operands.windows(tile, vectors)
    multiply, corner = make_multiply(tile, a, b), make_corner(tile)
    store_results = make_epilogue(tile, vectors=True).store
    ROW_STAGED, ROW_STATE, ROW_VECTOR_STEP = a.STAGED, a.STATE, a.STEP
    COLUMN_STAGED, COLUMN_STATE = b.STAGED, b.STATE
    first_row, row_place, fetch_rows, store_rows = a.first, a.place, a.fetch, a.store
    first_column, column_place, fetch_columns, store_columns = b.first, b.place, b.fetch, b.store
    TILE_ROWS, TILE_COLUMNS = tile.constant(lambda s, v: s.rows), tile.constant(lambda s, v: s.columns)
    STAGE, SHARED = tile.constant(stage_size), tile.constant(lambda s, v: 2 * stage_size(s, v))
    RESULTS = tile.constant(lambda s, v: s.thread_rows * s.thread_columns)
    THREAD_COLUMNS = tile.constant(lambda s, v: s.thread_columns)
    COLUMNS_BEGIN = tile.constant(columns_begin)
    SHIFTED = tile.constant(lambda s, v: 1 if vectors else v)

    @inline
    def start_window(
        state, k, column, sums, depth, filter_columns, pixel, row_dilation, column_dilation, top, left, first_channel
    ):
        """Where column number `column` reads a window."""
        tap = quotient(column, depth)
        r = quotient(tap, filter_columns)
        s = int32(tap - r * filter_columns)
        shift = int32((s * column_dilation - left) * pixel + first_channel + column - tap * depth)
        state[SHIFTS + 2 * k] = int32(r * row_dilation - top) if column < sums else int32(_NOWHERE)
        state[SHIFTS + 2 * k + 1] = shift

    name = f"{tile.name}_{'vectors' if vectors else 'scalars'}"

    @kernel(tile.threads, tile.blocks_per_sm if vectors else 4, tile.dtypes, name)
    def weight_gradient(
        grad_output: "T*", x: "T*", out: "T*",
        windows: "i32", height: "i32", width: "i32", rows: "i32", rows_multiplier: "u32", rows_shift: "u32",
        columns: "i32", columns_multiplier: "u32", columns_shift: "u32", row_step: "i32", column_step: "i32",
        top: "i32", left: "i32", row_dilation: "i32", column_dilation: "i32", pixel: "i32", depth: "i32",
        filter_columns: "i32", sums: "i32", ones: "i32", groups: "i32", out_channels: "i32", group_channels: "i32",
        out_row: "i32", splits: "i32", split_stages: "i32",
    ):  # fmt: skip
        shared = cuda.shared.array(SHARED, T, alignment=16)
        block_rows = cuda.shared.array(TILE_ROWS, int32)
        results = cuda.local.array(RESULTS, T)
        row_staged, row_state = cuda.local.array(ROW_STAGED, T), cuda.local.array(ROW_STATE, int32)
        column_staged, column_state = cuda.local.array(COLUMN_STAGED, T), cuda.local.array(COLUMN_STATE, int32)
        places = cuda.local.array(6, int32)
        thread = int32(cuda.threadIdx.x)
        row_tiles = quotient(int32(group_channels + TILE_ROWS - 1), int32(TILE_ROWS))
        part = quotient(int32(cuda.blockIdx.x), row_tiles)
        split = quotient(part, groups)
        group = int32(part - split * groups)
        tile_row = int32((cuda.blockIdx.x - part * row_tiles) * TILE_ROWS)
        tile_column = int32(cuda.blockIdx.y * TILE_COLUMNS)
        if thread < TILE_ROWS:
            k = int32(tile_row + thread)
            block_rows[thread] = int32((part * group_channels + k) * out_row) if k < group_channels else int32(-1)
        first = int32(split * split_stages * DEPTH)
        end = min(int32(first + split_stages * DEPTH), windows)
        stages = quotient(int32(max(int32(end - first), int32(0)) + DEPTH - 1), int32(DEPTH))

        line, term = first_row(thread)
        places[2] = row_place(line, term)
        k = int32(tile_row + line)
        row_state[INDEX] = int32((first + term) * out_channels + group * group_channels + k)
        row_state[END] = int32(end * out_channels) if k < group_channels else int32(0)
        row_state[LINES] = int32(group_channels - k)
        row_state[STAGE_STEP] = int32(DEPTH * out_channels)
        row_state[VECTOR_STEP] = int32(ROW_VECTOR_STEP * out_channels)

        line, term = first_column(thread)
        places[3] = column_place(line, term)
        column_state[WINDOW], column_state[WINDOWS] = int32(first + term), end
        column_state[ROWS], column_state[COLUMNS] = rows, columns
        column_state[ROWS + 1], column_state[ROWS + 2] = int32(rows_multiplier), int32(rows_shift)
        column_state[COLUMNS + 1], column_state[COLUMNS + 2] = int32(columns_multiplier), int32(columns_shift)
        column_state[ROW_STEP], column_state[COLUMN_STEP] = row_step, column_step
        column_state[HEIGHT], column_state[WIDTH] = height, width
        for k in range(SHIFTED):
            start_window(
                column_state, k, int32(tile_column + line + k), sums, depth, filter_columns, pixel,
                row_dilation, column_dilation, top, left, int32(group * depth),
            )  # fmt: skip
        column_state[ONES] = int32(sums - tile_column - line)  # which of its elements is the column of ones
        if ones == 0:
            column_state[ONES] = int32(-1)

        row, column = corner(thread)
        places[0], places[1] = row_place(row, int32(0)), column_place(column, int32(0))
        places[4], places[5] = int32(0), int32(STAGE)
        for i in range(RESULTS):
            results[i] = T(0)
        fetch_rows(grad_output, row_state, row_staged)
        fetch_columns(x, column_state, column_staged)
        store_rows(row_staged, shared, places[2])
        store_columns(column_staged, shared, places[3])
        cuda.syncthreads()
        add = False
        while True:
            count = min(stages, int32(SEGMENT))
            multiply(count, grad_output, row_state, row_staged, x, column_state, column_staged, shared, results, places)
            stages = int32(stages - count)
            no_bias = cuda.local.array(THREAD_COLUMNS, T)
            for j in range(THREAD_COLUMNS):
                no_bias[j] = T(0)
            first_sum = int32(places[1] - COLUMNS_BEGIN + cuda.blockIdx.y * TILE_COLUMNS)
            store_results(results, no_bias, out, block_rows, places[0], first_sum, out_row, add, False)
            if stages == 0:
                break
            for i in range(RESULTS):
                results[i] = T(0)
            add = True

    return weight_gradient


KERNELS = {
    (LARGE, True): make_weight_gradient(LARGE, True),
    (MEDIUM, True): make_weight_gradient(MEDIUM, True),
    (SMALL, True): make_weight_gradient(SMALL, True),
    (MEDIUM, False): make_weight_gradient(MEDIUM, False),
}


def backward_weight(
    problem: Conv2dProblem, grad_output: DeviceArray, x: DeviceArray, needs_bias: bool = False
) -> tuple[DeviceArray, DeviceArray | None]:
    """(grad_weight, C-contiguous; grad_bias if it is wanted and costs nothing here, else None)."""
    out = memory.empty(problem.weight_shape, x.dtype, x.device)
    grad_output, x = channels_last(grad_output), channels_last(x)
    require_32_bit("conv2d_backward_weight", grad_output, x)
    n, c, h, w = x.shape
    _, k, p, q = grad_output.shape
    _, depth, r, s = problem.weight_shape
    groups, vector = problem.groups, 16 // x.itemsize
    (sh, sw), (dh, dw), (top, _, left, _) = problem.stride, problem.dilation, problem.padding
    vectors = not (c % vector or depth % vector or k % vector or k // groups % vector)
    tiles = tuple(t for t, v in KERNELS if v == vectors and str(x.dtype) in t.dtypes)
    sums, windows = r * s * depth, n * p * q
    tiling = choose_tiling(tiles, k // groups, sums, groups, -(-windows // DEPTH), x.itemsize)
    shape = tiling.tile.shape(x.itemsize)
    ones = needs_bias and sums % shape.columns != 0
    columns = sums + ones
    out_row = -(-columns // vector) * vector
    parts = memory.empty((tiling.splits, k * out_row), x.dtype, x.device)
    require_32_bit("conv2d_backward_weight", parts)
    arguments = Reduction(
        windows, h, w * c, *divisor(p), *divisor(q), sh, sw * c, top, left, dh, dw, c, depth, s, sums, int(ones),
        groups, k, k // groups, out_row, tiling.splits, tiling.split_stages,
    )  # fmt: skip
    grid = -(-k // groups // shape.rows) * groups * tiling.splits, -(-columns // shape.columns)
    launch(KERNELS[tiling.tile, vectors], x.dtype, grid, grad_output, x, parts, *arguments)
    grad_bias = memory.empty((k,), x.dtype, x.device) if ones else None
    gather(parts, tiling.splits, out, grad_bias, out_row)
    return out, grad_bias


def gather(parts: DeviceArray, splits: int, out: DeviceArray, grad_bias: DeviceArray | None, row: int) -> None:
    """Adds parts (out channel, tap, channel) of sums in order, into `out` (out channel, channel, tap).

    Args:
        row: elements of one output channel in the parts: sums, then, if it is wanted, that for `grad_bias`, then none.
    """
    k, depth, r, s = out.shape
    size, sums = k * row, depth * r * s
    launch(
        _gather, out.dtype, blocks_for(size, _gather), parts, out, out if grad_bias is None else grad_bias, size,
        splits,
        *divisor(row), *divisor(depth), sums, r * s, int(grad_bias is not None),
    )  # fmt: skip


@kernel(threads=256, name="gather")
def _gather(
    parts: "T*", out: "T*", grad_bias: "T*", size: "i32", splits: "i32",
    row: "i32", row_multiplier: "u32", row_shift: "u32", depth: "i32", depth_multiplier: "u32", depth_shift: "u32",
    sums: "i32", taps: "i32", ones: "i32",
):  # fmt: skip
    i = thread_number()
    if i < size:
        k, column = divided(i, row, row_multiplier, row_shift)
        if column < sums + ones:
            total = T(0)
            for split in range(splits):
                total += parts[split * size + i]
            if column == sums:
                grad_bias[k] = total
            else:
                tap, channel = divided(column, depth, depth_multiplier, depth_shift)
                out[(k * depth + channel) * taps + tap] = total
