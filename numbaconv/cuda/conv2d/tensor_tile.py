"""The matrix product of one block on tensor cores: 128 x 128 results, 16 terms a stage, three stages in shared memory.

Four warps have 64 x 64 results each, 128 registers of every thread. What rows, columns and terms are is known to those
who copy (`tensor_correlate`, `tensor_weight_gradient`); this file is what they have in common: where operands lie in
shared memory, how they come from there into registers, and how results leave.

A product of 16x8 by 8x8 is one instruction of 1024 multiply-adds. Per stage a warp issues 64 of them, and 16 loads of
512 bytes from shared memory: the 64 x 64 tile is as large as registers allow, because loads grow with its sides and
products with its area.

Results leave in stores of 16 bytes. Of a product, a thread holds two neighbouring columns; so columns are dealt out to
products such that a thread's columns of four products follow each other, and that with the three lanes beside it 64
bytes are whole (`column_of`).

TF32 cuts the mantissa after 10 bits. Cutting makes every product a little too small, so numbers are first moved away
from zero by 0.7213 of half a unit of the last of these bits, relative to 1 <= mantissa < 2: the mean of 1 / mantissa,
if its logarithm is uniform; the mean error is then 0. Numbers of 10 bits stay as they are, NaN and infinity too. It
takes one instruction; rounding to the nearest takes two, which would be a third of the main loop.
"""

from __future__ import annotations

from numba import cuda, float32, int32, uint32

from ..intrinsics import load_vector, load_vector_shared, map_vector, store_vector
from ..launch import T, inline
from ..matrix_intrinsics import (
    bits_of,
    copy_async_wait_0,
    copy_async_wait_1,
    copy_async_wait_2,
    float_of,
    four_of,
    load_matrices,
    multiply_tile_3xtf32,
    multiply_tile_tf32,
)

ROWS = 128  # of a block
DEPTH = 16  # terms of a stage
STAGES = 3
THREADS = 128
ROW_PART = ROWS * DEPTH  # elements of a stage that are the rows'; the columns' follow
HAS_BIAS, RELU = 1, 2  # flags of kernels
_NUDGE = 1 + 0.7213 / 2**11
_FIRST_BITS = 0xFFFFE000  # sign, exponent, and 10 bits of mantissa


@inline
def near_tf32(bits):
    """A float32 whose first 10 bits of mantissa are about those of the nearest TF32 number."""
    return bits_of(float_of(bits) * float32(_NUDGE))


@inline
def zeros_64():
    zero = float32(0)
    eight = (zero, zero, zero, zero, zero, zero, zero, zero)
    half = eight + eight + eight + eight
    return half + half


@inline
def zeros_128():
    return zeros_64() + zeros_64()


@inline
def add_products(sums, rows, columns):
    """Sums plus products of one step of 8 terms; the columns are TF32 already."""
    return multiply_tile_tf32(sums, map_vector(near_tf32, (rows,)), columns)


@inline
def add_products_rounding_both(sums, rows, columns):
    return multiply_tile_tf32(sums, map_vector(near_tf32, (rows,)), map_vector(near_tf32, (columns,)))


@inline
def _rest(bits):
    """What the first 10 bits of mantissa leave of a float32, exactly."""
    return bits_of(float_of(bits) - float_of(uint32(bits & uint32(_FIRST_BITS))))


@inline
def _without(bits, rest):
    return bits_of(float_of(bits) - float_of(rest))


@inline
def add_products_3x(sums, rows, columns):
    """Sums plus products of one step of 8 terms in float32's precision."""
    rows_rest, columns_rest = map_vector(_rest, (rows,)), map_vector(_rest, (columns,))
    return multiply_tile_3xtf32(sums, rows, rows_rest, columns, columns_rest)


@inline
def add_products_3x_moved(sums, rows, columns):
    """The same, where operands do not lie in registers as products want them.

    Subtracting the rest puts them there; else the compiler, which knows which bits are not read, moves them again and
    again (230 instructions of 635).
    """
    rows_rest, columns_rest = map_vector(_rest, (rows,)), map_vector(_rest, (columns,))
    rows, columns = map_vector(_without, (rows, rows_rest)), map_vector(_without, (columns, columns_rest))
    return multiply_tile_3xtf32(sums, rows, rows_rest, columns, columns_rest)


# --- operands whose terms follow each other in memory: 16 of a row are 64 bytes, four pieces of 16 ------------------
#
# Eight rows are read at once, 16 bytes of each. So that no bank has two of them, piece p of a row lies at place
# p ^ (row // 2 % 4).


@inline
def place_of_piece(row, piece):
    """The element of an operand's stage where a piece of a row starts."""
    return int32(row * DEPTH + (piece ^ (row >> 1 & 3)) * 4)


@inline
def first_row_piece(first, lane, step):
    """Where a lane's first piece is to load a warp's rows, from row `first` on; `step` is 0 or 1, of 8 terms."""
    return place_of_piece(int32(first + (lane & 15)), int32(step * 2 + (lane >> 4)))


@inline
def first_column_piece(first, lane, step):
    line = int32(first + (lane & 7) + (lane >> 4) * 8)
    return int32(ROW_PART + place_of_piece(line, int32(step * 2 + (lane >> 3 & 1))))


@inline
def load_32(shared, place):
    """32 rows or columns of 8 terms, as `multiply_tile_tf32` wants them."""
    return load_matrices(shared, place) + load_matrices(shared, int32(place + 16 * DEPTH))


@inline
def load_64(shared, place):
    return load_32(shared, place) + load_32(shared, int32(place + 32 * DEPTH))


@inline
def column_of(place):
    """The column of a block that lies at a place (0 to 127) of an operand, or is computed as its column number."""
    product, column = int32(place >> 3), int32(place & 7)
    return int32((product >> 2) * 32 + (column & 1) * 16 + (column >> 1) * 4 + (product & 3))


# --- operands whose rows, or columns, follow each other in memory: 128 of a term are 512 bytes ---------------------
#
# A thread reads 4 neighbours at once, and is given the products' rows or columns that make this right: those of
# `column_of`. Lanes of 4 terms and 2 pieces read together; piece p lies at place p ^ (term % 4).


@inline
def place_of_line(term, piece, length):
    """The element where a piece of a term starts; `length` elements of a term are in a stage."""
    return int32(term * length + (piece ^ (term & 3)) * 4)


@inline
def first_line_piece(first, lane, length):
    """Where a lane's first piece is to load a warp's rows or columns, from number `first` on."""
    row, term = int32(lane >> 2), int32(lane & 3)
    return place_of_line(term, int32((first >> 2) + (row & 1) * 4 + (row >> 1)), length)


@inline
def _four(shared, place):
    return map_vector(bits_of, (load_vector_shared(shared, place),))


@inline
def load_64_row_lines(shared, place):
    """64 rows of 8 terms, as `multiply_tile_tf32` wants them."""
    a, b = _four(shared, place), _four(shared, int32(place + 4 * ROWS))
    c, d = _four(shared, int32(place + 32)), _four(shared, int32(place + 32 + 4 * ROWS))
    return (a[0], a[1], b[0], b[1], a[2], a[3], b[2], b[3], c[0], c[1], d[0], d[1], c[2], c[3], d[2], d[3])


@inline
def _load_32_column_lines(shared, place, length):
    a, b = _four(shared, place), _four(shared, int32(place + 4 * length))
    return (a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3])


@inline
def load_32_column_lines(shared, place):
    """32 of 64 columns of 8 terms."""
    return _load_32_column_lines(shared, place, 64)


@inline
def load_64_column_lines(shared, place):
    """64 of 128 columns of 8 terms."""
    return _load_32_column_lines(shared, place, 128) + _load_32_column_lines(shared, int32(place + 32), 128)


# --- the loop ---------------------------------------------------------------------------------------------------------


def make_multiply(columns, exact, start_stage, load_rows, load_columns, add):
    """The loop over stages of a block, a device function that returns a thread's sums.

    Args:
        columns: of a block, 64 or 128.
        exact: whether `add` multiplies in float32's precision.
        start_stage: ``(shared, stage, places, source, moving, fixed, columns) -> moving`` starts the copies of a stage,
            and commits; beyond the last stage it writes zeros.
        load_rows, load_columns: ``(shared, place)``, of one step of 8 terms.
        add: ``(sums, rows, columns) -> sums``.
    """
    STAGE = (ROWS + columns) * DEPTH
    SHARED = STAGES * STAGE
    COLUMNS = columns
    zeros = zeros_128 if columns == 128 else zeros_64

    @inline
    def following(stage):
        stage = int32(stage + STAGE)
        return int32(0) if stage == SHARED else stage

    @inline
    def multiply_tf32(shared, count, places, source, moving, fixed, firsts):
        """A step's operands are loaded while the step before is multiplied, over the barrier too.

        The barrier says that all warps have loaded a stage's last step: copies for three stages on may take its place.
        """
        rows_0, rows_1, columns_0, columns_1 = firsts
        for k in range(STAGES):
            moving = start_stage(shared, int32(k * STAGE), places, source, moving, fixed, COLUMNS)
        sums = zeros()
        stage = int32(0)
        copy_async_wait_2()
        cuda.syncthreads()
        a_0, b_0 = load_rows(shared, rows_0), load_columns(shared, columns_0)
        for _ in range(count):
            a_1, b_1 = load_rows(shared, int32(stage + rows_1)), load_columns(shared, int32(stage + columns_1))
            sums = add(sums, a_0, b_0)
            copy_async_wait_1()
            cuda.syncthreads()
            moving = start_stage(shared, stage, places, source, moving, fixed, COLUMNS)
            stage = following(stage)
            a_0, b_0 = load_rows(shared, int32(stage + rows_0)), load_columns(shared, int32(stage + columns_0))
            sums = add(sums, a_1, b_1)
        copy_async_wait_0()  # a block does not end before its copies
        return sums

    @inline
    def multiply_3xtf32(shared, count, places, source, moving, fixed, firsts):
        """Three products for each leave no registers for operands that wait: copies are two stages ahead."""
        rows_0, rows_1, columns_0, columns_1 = firsts
        for k in range(STAGES - 1):
            moving = start_stage(shared, int32(k * STAGE), places, source, moving, fixed, COLUMNS)
        sums = zeros()
        stage, third = int32(0), int32(2 * STAGE)
        for _ in range(count):
            copy_async_wait_1()
            cuda.syncthreads()
            moving = start_stage(shared, third, places, source, moving, fixed, COLUMNS)
            third = following(third)
            a, b = load_rows(shared, int32(stage + rows_0)), load_columns(shared, int32(stage + columns_0))
            sums = add(sums, a, b)
            a, b = load_rows(shared, int32(stage + rows_1)), load_columns(shared, int32(stage + columns_1))
            sums = add(sums, a, b)
            stage = following(stage)
        copy_async_wait_0()
        return sums

    return multiply_3xtf32 if exact else multiply_tf32


# --- results --------------------------------------------------------------------------------------------------------


@inline
def _positive(value):
    return T(0) if value <= T(0) else value  # NaN <= 0 is False: NaN passes


@inline
def _add(a, b):
    return a + b


@inline
def finished(values, bias, column, flags):
    """Four columns of results, with bias and ReLU as the flags say."""
    if flags & HAS_BIAS:
        values = map_vector(_add, (values, load_vector(bias, column)))
    if flags & RELU:
        values = map_vector(_positive, (values,))
    return values


@inline
def store_line(out, start, column, columns, bias, flags, sums, products, line):
    """Stores one of a thread's 8 rows of results.

    Args:
        start: the element of `out` where the row's first column is.
        column: this thread's first; it has four of every 16.
        columns: there are; a multiple of 4.
        products: beside each other, of a warp.
        line: which of the 8 rows.
    """
    for k in range(products // 2):
        first = ((line >> 1) * products + (k >> 1) * 4) * 4 + (line & 1) * 2 + (k & 1)
        c = int32(column + k * 16)
        if c < columns:
            store_vector(out, int32(start + c), finished(four_of(sums, first, 4), bias, c, flags))
