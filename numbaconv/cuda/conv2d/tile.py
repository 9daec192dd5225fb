"""The matrix product of one block: results in registers, two stages of both operands in shared memory.

``out[row, column] = sum over terms of a[row, term] * b[term, column]``. What rows, columns and terms are is known to
the functions that fetch a stage's operands (`operands`). Convolution in its three directions and linear layers all
run this loop.

Loop order: stages of `DEPTH` terms > the terms of a stage > the results of a thread. While a stage is multiplied, the
next one is on its way from memory into registers; it is then stored in the other half of shared memory, so that one
barrier a stage is enough. In shared memory a term's rows follow each other, and so do its columns: a thread reads 8 of
them with two accesses of 16 bytes. A warp is 4 x 8 threads, which read 4 vectors of rows and 8 of columns: no
bank twice. The pitch is 16 bytes more than a term's rows (or columns), so that the terms of a vector, stored one by
one by threads that have read along the terms, lie in different banks too.

Cost of a stage for a thread of the large float32 tile: 512 multiply-adds, 32 loads of 16 bytes from shared memory, 2
from memory, 40 other instructions. A float32 sum loses with its length (1.2e-6 relative over 4,608 terms), so after
`SEGMENT` stages the results are added to those in memory, an outer sum: for a tile of 128 x 128 a quarter more traffic,
in a loop that is bound by arithmetic.

Index arithmetic: constants are added last and not cast to int32, so that they become part of the instruction's
address; a cast would let each sum wrap around, and cost an addition. An index into a numba array is unsigned, or a
negative one would be looked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numba import cuda, int32

from ..indexing import quotient, remainder
from ..intrinsics import load_vector_shared, put_vector
from ..launch import VECTOR, PerType, T, inline

DEPTH = 8  # terms of a stage
SEGMENT: Any = PerType(64, 1 << 27)  # stages of a sequential sum: 512 terms in float32; a float64 one needs no end


class Shape(NamedTuple):
    """Results of a block, and of one of its threads, for one element type."""

    rows: int
    columns: int
    thread_rows: int
    thread_columns: int


class Tile(NamedTuple):
    """A tile for both element types.

    Attributes:
        name: for kernels' names.
        threads: of a block.
        blocks_per_sm: at once; bounds the registers.
        float32, float64: the shapes.
        dtypes: that kernels are made for.
    """

    name: str
    threads: int
    blocks_per_sm: int
    float32: Shape
    float64: Shape
    dtypes: tuple[str, ...] = ("float32", "float64")

    def shape(self, itemsize: int) -> Shape:
        """The shape for elements of so many bytes."""
        return self.float32 if itemsize == 4 else self.float64

    def constant(self, value: Callable[[Shape, int], int]) -> Any:
        """A constant of kernels, from the shape and the elements of a vector."""
        return PerType(value(self.float32, 4), value(self.float64, 2))


# The large one is for float32 only: twice the registers for a result would leave room for half a tile, the medium one.
LARGE = Tile("large", 256, 2, Shape(128, 128, 8, 8), Shape(128, 64, 8, 4), ("float32",))
MEDIUM = Tile("medium", 64, 6, Shape(64, 64, 8, 8), Shape(64, 32, 8, 4))
SMALL = Tile("small", 64, 8, Shape(32, 32, 4, 4), Shape(32, 32, 4, 4))


def row_pitch(shape: Shape, vector: int) -> int:
    """Elements of shared memory from one term's rows to the next one's."""
    return shape.rows + vector


def column_pitch(shape: Shape, vector: int) -> int:
    """Elements of shared memory from one term's columns to the next one's."""
    return shape.columns + vector


def columns_begin(shape: Shape, vector: int) -> int:
    """Where the columns of a stage begin in shared memory: after its rows."""
    return DEPTH * row_pitch(shape, vector)


def stage_size(shape: Shape, vector: int) -> int:
    """Elements of shared memory of one stage."""
    return DEPTH * (row_pitch(shape, vector) + column_pitch(shape, vector))


def next_rows(shape: Shape, vector: int) -> int:
    """Rows from one vector of a thread's rows to the next."""
    return shape.rows * vector // shape.thread_rows


def next_columns(shape: Shape, vector: int) -> int:
    """Columns from one vector of a thread's columns to the next."""
    return shape.columns * vector // shape.thread_columns


def make_corner(tile: Tile) -> Any:
    """An inline function of a thread's number: the first of its rows and of its columns in the tile."""
    WARPS = tile.constant(lambda shape, vector: shape.columns // shape.thread_columns // 8)  # side by side

    @inline
    def corner(thread):
        warp, lane = int32(thread >> 5), int32(thread & 31)
        row = int32(quotient(warp, int32(WARPS)) * 4 + (lane >> 3))
        return int32(row * VECTOR), int32((remainder(warp, int32(WARPS)) * 8 + (lane & 7)) * VECTOR)

    return corner


def make_multiply(tile: Tile, rows: Any, columns: Any) -> Any:
    """The loop over some stages, for two operands.

    Returns an inline function of: how many stages; source, state and staging registers of the rows, and of the
    columns; shared memory; the results; and places in shared memory: where this thread reads its rows and columns and
    where it stores those it has fetched, in a stage at 0, and the offsets of the stage to be read and the other one.
    """
    fetch_rows, store_rows, fetch_columns, store_columns = rows.fetch, rows.store, columns.fetch, columns.store
    ROW_PITCH, COLUMN_PITCH = tile.constant(row_pitch), tile.constant(column_pitch)
    NEXT_ROWS, NEXT_COLUMNS = tile.constant(next_rows), tile.constant(next_columns)
    THREAD_ROWS = tile.constant(lambda shape, vector: shape.thread_rows)
    THREAD_COLUMNS = tile.constant(lambda shape, vector: shape.thread_columns)
    ROW_VECTORS = tile.constant(lambda shape, vector: shape.thread_rows // vector)
    COLUMN_VECTORS = tile.constant(lambda shape, vector: shape.thread_columns // vector)

    @inline
    def multiply_term(shared, row_place, column_place, term, results):
        a = cuda.local.array(THREAD_ROWS, T)
        b = cuda.local.array(THREAD_COLUMNS, T)
        for v in range(ROW_VECTORS):
            put_vector(a, v * VECTOR, load_vector_shared(shared, row_place + term * ROW_PITCH + v * NEXT_ROWS))
        for v in range(COLUMN_VECTORS):
            put_vector(b, v * VECTOR, load_vector_shared(shared, column_place + term * COLUMN_PITCH + v * NEXT_COLUMNS))
        for i in range(THREAD_ROWS):
            for j in range(THREAD_COLUMNS):
                results[i * THREAD_COLUMNS + j] += a[i] * b[j]

    @inline
    def multiply(
        stages, row_source, row_state, row_staged, column_source, column_state, column_staged, shared, results, places
    ):
        for _ in range(stages):
            fetch_rows(row_source, row_state, row_staged)
            fetch_columns(column_source, column_state, column_staged)
            row_place, column_place = int32(places[0] + places[4]), int32(places[1] + places[4])
            # A loop over the terms would not be unrolled, and `results` not be registers. The casts keep numba from
            # compiling the function eight times, for eight literals.
            multiply_term(shared, row_place, column_place, int32(0), results)
            multiply_term(shared, row_place, column_place, int32(1), results)
            multiply_term(shared, row_place, column_place, int32(2), results)
            multiply_term(shared, row_place, column_place, int32(3), results)
            multiply_term(shared, row_place, column_place, int32(4), results)
            multiply_term(shared, row_place, column_place, int32(5), results)
            multiply_term(shared, row_place, column_place, int32(6), results)
            multiply_term(shared, row_place, column_place, int32(7), results)
            places[4], places[5] = places[5], places[4]
            store_rows(row_staged, shared, int32(places[2] + places[4]))
            store_columns(column_staged, shared, int32(places[3] + places[4]))
            cuda.syncthreads()

    return multiply
