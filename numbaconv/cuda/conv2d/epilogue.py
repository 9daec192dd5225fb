"""A tile's results, from registers to memory: plus what is there already, plus a bias, without what ReLU takes away.

A thread has 4 neighbouring rows (2 in float64) and as many neighbouring columns, once or twice each; 8 threads write
128 bytes next to each other. Where a row lies comes from a table in shared memory, one place for each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import cuda, int32, uint64

from ..intrinsics import load_vector, put_vector, store_vector, vector_at
from ..launch import VECTOR, T, inline
from .tile import Tile, next_columns, next_rows


class Epilogue(NamedTuple):
    """The inline functions.

    Attributes:
        load_bias: ``load_bias(bias, first, column, columns, wanted, values)``: of this thread's columns, from element
            `first` on; zeros where there is none.
        store: ``store(results, bias_values, out, places, row, column, columns, add, relu)``: `places` has -1 for rows
            that do not exist; `row` and `column` are the first of this thread, `row` in the tile.
    """

    load_bias: Any
    store: Any


def make_epilogue(tile: Tile, vectors: bool) -> Epilogue:
    """Makes the functions; with `vectors`, a row's columns are whole vectors at aligned places."""
    THREAD_ROWS = tile.constant(lambda shape, vector: shape.thread_rows)
    THREAD_COLUMNS = tile.constant(lambda shape, vector: shape.thread_columns)
    COLUMN_VECTORS = tile.constant(lambda shape, vector: shape.thread_columns // vector)
    NEXT_ROWS, NEXT_COLUMNS = tile.constant(next_rows), tile.constant(next_columns)

    @inline
    def load_bias(bias, first, column, columns, wanted, values):
        for v in range(COLUMN_VECTORS):
            for k in range(VECTOR):
                at = int32(column + v * NEXT_COLUMNS + k)
                values[v * VECTOR + k] = bias[int32(first + at)] if wanted and at < columns else T(0)

    @inline
    def finished(value, there, add, bias, relu):
        value += bias
        if add:
            value += there
        return T(0) if relu and value <= T(0) else value  # NaN <= 0 is False: NaN passes

    @inline
    def store_vectors(i, results, bias_values, out, place, column, columns, add, relu):
        values = cuda.local.array(VECTOR, T)
        for v in range(COLUMN_VECTORS):
            if column + v * NEXT_COLUMNS < columns:
                at = int32(place + column) + v * NEXT_COLUMNS
                if add:
                    put_vector(values, 0, load_vector(out, at))
                for k in range(VECTOR):
                    j = v * VECTOR + k
                    values[k] = finished(results[i * THREAD_COLUMNS + j], values[k], add, bias_values[j], relu)
                store_vector(out, at, vector_at(values, 0))

    @inline
    def store_scalars(i, results, bias_values, out, place, column, columns, add, relu):
        for v in range(COLUMN_VECTORS):
            for k in range(VECTOR):
                if column + v * NEXT_COLUMNS + k < columns:
                    at = int32(place + column) + v * NEXT_COLUMNS + k
                    j = v * VECTOR + k
                    there = out[at] if add else T(0)
                    out[at] = finished(results[i * THREAD_COLUMNS + j], there, add, bias_values[j], relu)

    store_columns = store_vectors if vectors else store_scalars

    @inline
    def store_row(i, results, bias_values, out, places, row, column, columns, add, relu):
        place = places[uint64(row) + uint64(i // VECTOR * NEXT_ROWS + i % VECTOR)]
        if place >= 0:
            store_columns(i, results, bias_values, out, place, column, columns, add, relu)

    @inline
    def store(results, bias_values, out, places, row, column, columns, add, relu):
        store_row(int32(0), results, bias_values, out, places, row, column, columns, add, relu)
        store_row(int32(1), results, bias_values, out, places, row, column, columns, add, relu)
        store_row(int32(2), results, bias_values, out, places, row, column, columns, add, relu)
        store_row(int32(3), results, bias_values, out, places, row, column, columns, add, relu)
        if THREAD_ROWS == 8:
            store_row(int32(4), results, bias_values, out, places, row, column, columns, add, relu)
            store_row(int32(5), results, bias_values, out, places, row, column, columns, add, relu)
            store_row(int32(6), results, bias_values, out, places, row, column, columns, add, relu)
            store_row(int32(7), results, bias_values, out, places, row, column, columns, add, relu)

    return Epilogue(load_bias, store)
