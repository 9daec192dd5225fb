"""Correlation of a channels-last image with weights: the kernel of conv2d forward and input-gradient, and of linear.

Implicit GEMM: a tile's rows are result pixels, its columns output channels, its terms the elements of the *taps*. A
tap is a run of elements next to each other in memory: the channels of a source pixel, or those of all pixels under a
filter row at once (`taps`). Result (i, j) reads tap t from row ``i * row_step + row shift of t``, element
``j * column_step + column shift of t`` on; what lies outside of the image is zero. So no patch is ever written to
memory. The forward pass is one class of results with all taps. The input-gradient is one class per residue of
the stride, each with the taps that reach it: dense work, no scatter, all classes in one launch.

Blocks: (row tile, split, group, class) along x, column tile along y. With several splits each sums a share of the
terms into an `out` of its own, and `splits` adds these in order.

A block first writes into shared memory where each of its rows begins in the source and lies in the result, so that
nothing of that is kept in registers, or divided again, while the tile is multiplied.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import cuda, int32, uint32, uint64

from .. import memory
from ..array import DeviceArray
from ..indexing import quotient, remainder
from ..launch import T, inline, kernel, launch
from ..layout import aligned
from ..limits import require_32_bit
from . import operands
from .epilogue import make_epilogue
from .operands import BASE, END, INDEX, LINE_STATE, LINES, PIXEL_STATE, SPAN, STAGE_STEP, TERM, VECTOR_STEP
from .pack import Packed
from .splits import HAS_BIAS, RELU, add_splits
from .tables import device_table
from .taps import Taps
from .tile import DEPTH, LARGE, MEDIUM, SEGMENT, SMALL, Tile, columns_begin, make_corner, make_multiply, stage_size
from .tiling import choose_tiling

# The table: one row for each class, then one for each tap
FIRST_TAP, END_TAP, CLASS_ROW, CLASS_COLUMN, ELEMENTS, CLASS_FIELDS = 0, 1, 2, 3, 4, 5
ROW_SHIFT, COLUMN_SHIFT, TAP_FIELDS = 0, 1, 2
NOWHERE = -(1 << 30)  # a row that is outside of any image, whatever the tap
# The table of a block's rows in shared memory, one array for each field
IMAGE, ROW, ELEMENT, PLACE, ROW_FIELDS = 0, 1, 2, 3, 4
# What a block knows of its class, in shared memory: seldom needed, and worth no registers
TERMS_OF_TAP, STAGES_OF_TAP, LAST_TAP, GROUP, STAGES, TILE_COLUMN, FACTS = 0, 1, 2, 3, 4, 5, 6


class Correlation(NamedTuple):
    """The parameters of the kernel, after its arrays. Pitches are in elements."""

    images: int
    height: int  # of the source
    width: int  # of the source: elements of a row
    rows: int  # of results, in each class
    columns: int
    row_step: int
    column_step: int  # elements
    depth: int  # elements from one group of the source to the next
    groups: int
    taps: int  # of all classes
    tap_rows: int  # rows of weights from one tap to the next
    weight_row: int  # elements from one row of weights (along) or of a column's weights (across) to the next
    weight_size: int
    classes: int
    row_classes: int
    column_classes: int
    out_channels: int
    group_columns: int  # output channels of a group
    out_height: int
    out_width: int
    splits: int
    split_stages: int  # of a split
    out_size: int  # elements of one split's result
    flags: int


def make_correlate(tile: Tile, vectors: bool, weights_across: bool) -> Any:
    """Makes the kernel for a tile.

    Args:
        vectors: x and out are read and written 16 bytes at a time: their channels are whole vectors.
        weights_across: a column's weights follow each other (out channels, taps), not a term's (taps, out channels).
    """
    a = operands.pixels(tile, vectors)
    b = operands.lines(tile) if weights_across else operands.along(tile, rows=False, vectors=True)
    multiply, corner, epilogue = make_multiply(tile, a, b), make_corner(tile), make_epilogue(tile, vectors)
    load_bias, store_results = epilogue
    ROW_COUNT, ROW_STEP, ROW_STAGED, ROW_STATE = a.COUNT, a.STEP, a.STAGED, a.STATE
    COLUMN_COUNT, COLUMN_STEP, COLUMN_STAGED, COLUMN_STATE = b.COUNT, b.STEP, b.STAGED, b.STATE
    first_row, row_place, row_at, fetch_rows, store_rows = a.first, a.place, a.at, a.fetch, a.store
    first_column, column_place, column_at, fetch_columns, store_columns = b.first, b.place, b.at, b.fetch, b.store
    ROWS, COLUMNS = tile.constant(lambda s, v: s.rows), tile.constant(lambda s, v: s.columns)
    TABLE = tile.constant(lambda s, v: ROW_FIELDS * s.rows)
    STAGE, SHARED = tile.constant(stage_size), tile.constant(lambda s, v: 2 * stage_size(s, v))
    RESULTS = tile.constant(lambda s, v: s.thread_rows * s.thread_columns)
    THREAD_COLUMNS = tile.constant(lambda s, v: s.thread_columns)
    COLUMNS_BEGIN = tile.constant(columns_begin)

    @inline
    def place_row(
        line, pixel, images, height, rows, columns, row_step, column_step, first_element, out_channels, first_channel,
        out_height, out_width, row_classes, class_row, column_classes, class_column, table,
    ):  # fmt: skip
        """Fills in a row of the block's table."""
        line_of_pixels = quotient(pixel, columns)
        image = quotient(line_of_pixels, rows)
        i, j = int32(line_of_pixels - image * rows), int32(pixel - line_of_pixels * columns)
        h, w = int32(i * row_classes + class_row), int32(j * column_classes + class_column)
        exists = image < images and h < out_height and w < out_width
        place = int32(((image * out_height + h) * out_width + w) * out_channels + first_channel)
        table[line + IMAGE * ROWS] = int32(image * height)
        table[line + ROW * ROWS] = int32(i * row_step) if exists else int32(NOWHERE)
        table[line + ELEMENT * ROWS] = int32(j * column_step + first_element)
        table[line + PLACE * ROWS] = place if exists else int32(-1)

    @inline
    def start_rows(state, table, line, term, height, width, row_shift, column_shift, elements):
        """This thread's rows at the first stage of a tap; `elements` is 0 after the last one."""
        for v in range(ROW_COUNT):
            row = int32(table[uint64(line) + uint64(v * ROW_STEP + ROW * ROWS)] + row_shift)
            column = int32(table[uint64(line) + uint64(v * ROW_STEP + ELEMENT * ROWS)] + column_shift)
            outside = max(int32(-column), int32(0))  # elements before the image
            span = int32(min(elements, int32(width - column)) - outside)
            image = table[uint64(line) + uint64(v * ROW_STEP + IMAGE * ROWS)]
            inside = uint32(row) < uint32(height) and span > 0
            state[v * PIXEL_STATE + BASE] = int32((image + row) * width + column + outside)
            state[v * PIXEL_STATE + TERM] = int32(term - outside)
            state[v * PIXEL_STATE + SPAN] = span if inside else int32(0)

    @inline
    def start_columns_across(state, tap, term, column, columns, tap_rows, weight_row, weight_size):
        for v in range(COLUMN_COUNT):
            line = int32((column + v * COLUMN_STEP) * weight_row + tap * tap_rows)
            state[v * LINE_STATE + INDEX] = int32(line + term)
            state[v * LINE_STATE + END] = int32(line + tap_rows) if column + v * COLUMN_STEP < columns else int32(0)

    @inline
    def start_columns_along(state, tap, term, column, columns, tap_rows, weight_row, weight_size):
        state[INDEX] = int32((tap * tap_rows + term) * weight_row + column)
        state[END] = weight_size if column < columns else int32(0)
        state[LINES] = int32(weight_row - column)
        state[STAGE_STEP] = int32(DEPTH * weight_row)
        state[VECTOR_STEP] = int32(COLUMN_STEP * weight_row)

    start_columns = start_columns_across if weights_across else start_columns_along

    @kernel(tile.threads, tile.blocks_per_sm if vectors else 4, tile.dtypes, _name(tile, vectors, weights_across))
    def _correlate(
        x: "T*", weight: "T*", bias: "T*", out: "T*", table: "i32*",
        images: "i32", height: "i32", width: "i32", rows: "i32", columns: "i32", row_step: "i32", column_step: "i32",
        depth: "i32", groups: "i32", taps: "i32", tap_rows: "i32", weight_row: "i32", weight_size: "i32",
        classes: "i32", row_classes: "i32", column_classes: "i32", out_channels: "i32", group_columns: "i32",
        out_height: "i32", out_width: "i32", splits: "i32", split_stages: "i32", out_size: "i32", flags: "i32",
    ):  # fmt: skip
        shared = cuda.shared.array(SHARED, T, alignment=16)
        block_rows = cuda.shared.array(TABLE, int32)
        facts = cuda.shared.array(FACTS, int32)
        results = cuda.local.array(RESULTS, T)
        row_staged, row_state = cuda.local.array(ROW_STAGED, T), cuda.local.array(ROW_STATE, int32)
        column_staged, column_state = cuda.local.array(COLUMN_STAGED, T), cuda.local.array(COLUMN_STATE, int32)
        places = cuda.local.array(6, int32)
        thread = int32(cuda.threadIdx.x)
        row_tiles = quotient(int32(images * rows * columns + ROWS - 1), int32(ROWS))
        part = quotient(int32(cuda.blockIdx.x), row_tiles)
        split_and_group = quotient(part, classes)
        split = quotient(split_and_group, groups)
        group = int32(split_and_group - split * groups)
        this_class = int32((part - split_and_group * classes) * CLASS_FIELDS)
        first_pixel = int32((cuda.blockIdx.x - part * row_tiles) * ROWS)
        if thread < ROWS:
            place_row(
                thread, int32(first_pixel + thread), images, height, rows, columns, row_step, column_step,
                int32(group * depth), out_channels, int32(split * out_size + group * group_columns),
                out_height, out_width, row_classes, table[this_class + CLASS_ROW],
                column_classes, table[this_class + CLASS_COLUMN], block_rows,
            )  # fmt: skip
        first_tap, end_tap = table[this_class + FIRST_TAP], table[this_class + END_TAP]
        tap_stages = quotient(int32(table[this_class + ELEMENTS] + DEPTH - 1), int32(DEPTH))
        first_stage = int32(split * split_stages)
        stages = max(min(split_stages, int32(tap_stages * (end_tap - first_tap) - first_stage)), int32(0))
        if thread == 0:
            facts[TERMS_OF_TAP], facts[STAGES_OF_TAP] = table[this_class + ELEMENTS], tap_stages
            facts[LAST_TAP], facts[GROUP], facts[STAGES] = end_tap, group, stages
            facts[TILE_COLUMN] = int32(cuda.blockIdx.y * COLUMNS)
        taps_before = quotient(first_stage, tap_stages)
        tap = int32(first_tap + taps_before)
        # Stages of this tap still to be fetched. Before anything is: -1, less those of the first tap to be skipped.
        left = int32(taps_before * tap_stages - first_stage - 1)

        line, term = first_row(thread)
        places[2] = row_place(line, term)
        column, term = first_column(thread)
        places[3] = column_place(column, term)
        result_row, result_column = corner(thread)
        places[0], places[1] = row_place(result_row, int32(0)), column_place(result_column, int32(0))
        places[4], places[5] = int32(0), int32(STAGE)
        for i in range(RESULTS):
            results[i] = T(0)
        cuda.syncthreads()
        while True:
            if left <= 0:
                skipped = max(int32(-1 - left), int32(0)) * DEPTH
                more = tap < facts[LAST_TAP]  # else what is fetched now is not multiplied
                line, term = row_at(places[2])
                shifts = int32(classes * CLASS_FIELDS + min(tap, int32(taps - 1)) * TAP_FIELDS)
                start_rows(
                    row_state, block_rows, line, int32(term + skipped), height, width,
                    table[shifts + ROW_SHIFT], table[shifts + COLUMN_SHIFT],
                    facts[TERMS_OF_TAP] if more else int32(0),
                )  # fmt: skip
                column, term = column_at(places[3])
                start_columns(
                    column_state, int32(facts[GROUP] * taps + tap), int32(term + skipped),
                    int32(column + facts[TILE_COLUMN]), group_columns if more else int32(0),
                    tap_rows, weight_row, weight_size,
                )  # fmt: skip
                tap = int32(tap + 1)
                if left < 0:
                    fetch_rows(x, row_state, row_staged)
                    fetch_columns(weight, column_state, column_staged)
                    store_rows(row_staged, shared, places[2])
                    store_columns(column_staged, shared, places[3])
                    cuda.syncthreads()
                    left = int32(facts[STAGES_OF_TAP] + left)
                    continue
                left = facts[STAGES_OF_TAP]
            done = int32(facts[STAGES] - stages)
            count = min(min(left, stages), int32(SEGMENT - remainder(done, int32(SEGMENT))))
            multiply(
                count, x, row_state, row_staged, weight, column_state, column_staged, shared, results, places
            )  # fmt: skip
            left, stages, done = int32(left - count), int32(stages - count), int32(done + count)
            if stages == 0 or remainder(done, int32(SEGMENT)) == 0:
                bias_values = cuda.local.array(THREAD_COLUMNS, T)
                last = stages == 0
                # Computed anew, so that no register holds it meanwhile.
                first = int32(places[1] - COLUMNS_BEGIN + facts[TILE_COLUMN])
                biased = last and flags & HAS_BIAS != 0
                load_bias(bias, int32(facts[GROUP] * group_columns), first, group_columns, biased, bias_values)
                store_results(
                    results, bias_values, out, block_rows, int32(places[0] + PLACE * ROWS), first, group_columns,
                    done > SEGMENT, last and flags & RELU != 0,
                )  # fmt: skip
                if last:
                    break
                for i in range(RESULTS):
                    results[i] = T(0)

    return _correlate


def _name(tile: Tile, vectors: bool, weights_across: bool) -> str:
    return "_".join(["across" if weights_across else "along", tile.name, "vectors" if vectors else "scalars"])


# By tile, whether channels are whole vectors, and whether weights lie across.
_KERNELS = {
    (LARGE, True, False): make_correlate(LARGE, True, False),
    (MEDIUM, True, False): make_correlate(MEDIUM, True, False),
    (SMALL, True, False): make_correlate(SMALL, True, False),
    (MEDIUM, False, False): make_correlate(MEDIUM, False, False),
    (LARGE, True, True): make_correlate(LARGE, True, True),
    (MEDIUM, True, True): make_correlate(MEDIUM, True, True),
    (SMALL, True, True): make_correlate(SMALL, True, True),
}


def whole_vectors(itemsize: int, *channels: int) -> bool:
    """Whether channels are multiples of 16 bytes."""
    return not any(c * itemsize % 16 for c in channels)


def correlate(
    taps: Taps, source: DeviceArray, packed: Packed, out: DeviceArray, step: tuple[int, int], groups: int,
    size: tuple[int, int], relu: bool,
) -> None:  # fmt: skip
    """Writes all of `out`.

    Args:
        source, out: (N, C, H, W) channels-last.
        step: rows and columns of the source from one result of a class to the next.
        size: rows and columns of each class, the largest one's.
        relu: whether max(result, 0) is stored.
    """
    images, channels, height, width = source.shape
    _, out_channels, out_height, out_width = out.shape
    depth, columns = channels // groups, out_channels // groups
    rows, classes = images * size[0] * size[1], len(taps.classes)
    vectors = whole_vectors(out.itemsize, depth, columns) and aligned(source, out)
    tiles = tuple(t for t, *kind in _KERNELS if kind == [vectors, packed.across] and str(out.dtype) in t.dtypes)
    tiling = choose_tiling(tiles, rows, columns, groups * classes, taps.most_stages, out.itemsize)
    splits, split = tiling.splits, tiling.splits > 1
    require_32_bit("conv2d", source, splits * out.size)
    sums = memory.empty((splits, out.size), out.dtype, out.device) if split else out
    bias = None if split else packed.bias
    flags = (HAS_BIAS if bias is not None else 0) | (RELU if relu and not split else 0)
    arguments = Correlation(
        images, height, width * channels, *size, step[0], step[1] * channels, depth, groups, taps.total,
        packed.tap_rows, packed.row, packed.weight.size, classes, taps.row_classes, taps.column_classes, out_channels,
        columns, out_height, out_width, splits, tiling.split_stages, out.size, flags,
    )  # fmt: skip
    shape = tiling.tile.shape(out.itemsize)
    grid = -(-rows // shape.rows) * splits * groups * classes, -(-columns // shape.columns)
    launch(
        _KERNELS[tiling.tile, vectors, packed.across], out.dtype, grid, source, packed.weight,
        out if bias is None else bias, sums, device_table(taps.table(), out.device), *arguments,
    )  # fmt: skip
    if split:
        add_splits(sums, splits, packed.bias, out, out_channels, relu)
