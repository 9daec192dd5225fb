"""How a stage's operands come from memory: into registers (fetch), and from there into shared memory (store).

An operand lies *across* where its terms follow each other in memory, as the channels of a pixel do: a thread loads
vectors of terms and transposes them as it stores. It lies *along* where its rows (or columns) follow each other, as
in packed weights. A fetching function moves on by one stage, and gives zeros for what does not exist.

State is kept in local int32 arrays, which are registers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import int32, uint32, uint64

from ..indexing import divided, quotient, remainder
from ..intrinsics import load_vector, put_vector, store_vector_shared, vector_at
from ..launch import VECTOR, T, inline
from .tile import DEPTH, Tile, column_pitch, columns_begin, row_pitch

# State of each vector of pixels: the terms are SPAN elements from BASE; TERM is the next one, perhaps outside
BASE, TERM, SPAN, PIXEL_STATE = 0, 1, 2, 3
# State of each vector of a line: where the next one is, and where the line ends
INDEX, END, LINE_STATE = 0, 1, 2
# State of an operand along: the next vector and the end, likewise; how many of its lines exist; steps
LINES, STAGE_STEP, VECTOR_STEP, ALONG_STATE = 2, 3, 4, 5
# State of windows: the next one's number and their number; the sizes of the image; for each element (or vector) of
# columns the shifts of its row and column; which of a vector is a column of ones, if any
WINDOW, WINDOWS, ROWS, COLUMNS, ROW_STEP, COLUMN_STEP, HEIGHT, WIDTH, ONES, SHIFTS = 0, 1, 2, 5, 8, 9, 10, 11, 12, 13
WINDOWS_STATE = SHIFTS + 2 * 4


class Operand(NamedTuple):
    """An operand's functions, and the constants of how its vectors are dealt out to threads.

    Attributes:
        COUNT: vectors of a thread.
        STEP: lines (across) or terms (along) from one of them to the next.
        STAGED: registers for what is fetched.
        STATE: for the state.
        first: ``first(thread) -> line, term`` of its first vector.
        place: ``place(line, term)`` in shared memory.
        at: ``at(place) -> line, term``, so that these need no registers.
        fetch: ``fetch(source, state, staged)``.
        store: ``store(staged, shared, place)``.
    """

    COUNT: Any
    STEP: Any
    STAGED: Any
    STATE: Any
    first: Any
    place: Any
    at: Any
    fetch: Any
    store: Any


def _places(tile: Tile, rows: bool) -> tuple[Any, Any]:
    """The functions place and at."""
    BEGIN = tile.constant(lambda shape, vector: 0 if rows else columns_begin(shape, vector))
    PITCH = tile.constant(row_pitch if rows else column_pitch)

    @inline
    def place(line, term):
        return int32(BEGIN + term * PITCH + line)

    @inline
    def at(place):
        term = quotient(int32(place - BEGIN), int32(PITCH))
        return int32(place - BEGIN - term * PITCH), term

    return place, at


def _deal_across(tile: Tile, rows: bool) -> tuple[Any, Any, Any, Any, Any]:
    """COUNT, STEP, STAGED, first and store of an operand whose terms follow each other."""
    COUNT = tile.constant(lambda s, v: (s.rows if rows else s.columns) * DEPTH // (tile.threads * v))
    STEP = tile.constant(lambda s, v: tile.threads * v // DEPTH)
    STAGED = tile.constant(lambda s, v: (s.rows if rows else s.columns) * DEPTH // tile.threads)
    PITCH = tile.constant(row_pitch if rows else column_pitch)

    @inline
    def first(thread):
        vectors = int32(DEPTH // VECTOR)
        return quotient(thread, vectors), int32(remainder(thread, vectors) * VECTOR)

    @inline
    def store(staged, shared, place):
        for v in range(COUNT):
            for k in range(VECTOR):
                shared[uint64(place) + uint64(k * PITCH + v * STEP)] = staged[v * VECTOR + k]

    return COUNT, STEP, STAGED, first, store


def pixels(tile: Tile, vectors: bool) -> Operand:
    """The rows of a tile as runs of elements of an image, of which a part may lie outside."""
    COUNT, STEP, STAGED, first, store = _deal_across(tile, rows=True)
    STATE = tile.constant(lambda s, v: s.rows * DEPTH // (tile.threads * v) * PIXEL_STATE)

    @inline
    def fetch_vectors(source, state, staged):
        for v in range(COUNT):
            term = state[v * PIXEL_STATE + TERM]
            for k in range(VECTOR):
                staged[v * VECTOR + k] = T(0)
            if uint32(term) < uint32(state[v * PIXEL_STATE + SPAN]):
                put_vector(staged, v * VECTOR, load_vector(source, int32(state[v * PIXEL_STATE + BASE] + term)))
            state[v * PIXEL_STATE + TERM] = int32(term + DEPTH)

    @inline
    def fetch_scalars(source, state, staged):
        for v in range(COUNT):
            term = state[v * PIXEL_STATE + TERM]
            for k in range(VECTOR):
                staged[v * VECTOR + k] = T(0)
                if uint32(term + k) < uint32(state[v * PIXEL_STATE + SPAN]):
                    staged[v * VECTOR + k] = source[int32(state[v * PIXEL_STATE + BASE] + term) + k]
            state[v * PIXEL_STATE + TERM] = int32(term + DEPTH)

    fetch = fetch_vectors if vectors else fetch_scalars
    return Operand(COUNT, STEP, STAGED, STATE, first, *_places(tile, rows=True), fetch, store)


def lines(tile: Tile) -> Operand:
    """The columns of a tile as rows of a matrix in memory, whose elements are the terms."""
    COUNT, STEP, STAGED, first, store = _deal_across(tile, rows=False)
    STATE = tile.constant(lambda s, v: s.columns * DEPTH // (tile.threads * v) * LINE_STATE)

    @inline
    def fetch(source, state, staged):
        for v in range(COUNT):
            index = state[v * LINE_STATE + INDEX]
            for k in range(VECTOR):
                staged[v * VECTOR + k] = T(0)
            if index < state[v * LINE_STATE + END]:
                put_vector(staged, v * VECTOR, load_vector(source, index))
            state[v * LINE_STATE + INDEX] = int32(index + DEPTH)

    return Operand(COUNT, STEP, STAGED, STATE, first, *_places(tile, rows=False), fetch, store)


def _deal_along(tile: Tile, rows: bool) -> tuple[Any, Any, Any, Any, Any]:
    """COUNT, STEP, STAGED, first and store of an operand whose lines follow each other."""
    COUNT = tile.constant(lambda s, v: (s.rows if rows else s.columns) * DEPTH // (tile.threads * v))
    STEP = tile.constant(lambda s, v: tile.threads * v // (s.rows if rows else s.columns))
    STAGED = tile.constant(lambda s, v: (s.rows if rows else s.columns) * DEPTH // tile.threads)
    VECTORS = tile.constant(lambda s, v: (s.rows if rows else s.columns) // v)
    PITCH = tile.constant(row_pitch if rows else column_pitch)

    @inline
    def first(thread):
        return int32(remainder(thread, int32(VECTORS)) * VECTOR), quotient(thread, int32(VECTORS))

    @inline
    def store(staged, shared, place):
        for v in range(COUNT):
            store_vector_shared(shared, place + v * STEP * PITCH, vector_at(staged, v * VECTOR))

    return COUNT, STEP, STAGED, first, store


def along(tile: Tile, rows: bool, vectors: bool) -> Operand:
    """A matrix in memory, one row of it for each term, whose elements are a tile's rows or columns."""
    COUNT, STEP, STAGED, first, store = _deal_along(tile, rows)

    @inline
    def fetch_vectors(source, state, staged):
        for v in range(COUNT):
            index = int32(state[INDEX] + v * state[VECTOR_STEP])
            for k in range(VECTOR):
                staged[v * VECTOR + k] = T(0)
            if index < state[END]:
                put_vector(staged, v * VECTOR, load_vector(source, index))
        state[INDEX] = int32(state[INDEX] + state[STAGE_STEP])

    @inline
    def fetch_scalars(source, state, staged):
        for v in range(COUNT):
            index = int32(state[INDEX] + v * state[VECTOR_STEP])
            for k in range(VECTOR):
                staged[v * VECTOR + k] = T(0)
                if index < state[END] and k < state[LINES]:
                    staged[v * VECTOR + k] = source[index + k]
        state[INDEX] = int32(state[INDEX] + state[STAGE_STEP])

    fetch = fetch_vectors if vectors else fetch_scalars
    return Operand(COUNT, STEP, STAGED, ALONG_STATE, first, *_places(tile, rows), fetch, store)


def windows(tile: Tile, vectors: bool) -> Operand:
    """The columns of a tile as elements (tap, channel) of windows of an image; terms are the windows, one per pixel.

    A row of the image is `WIDTH` elements. A window's element is in row ``step * row + shift`` of it, likewise the
    column, where the window's row and column come from its number by two divisions.
    """
    COUNT, STEP, STAGED, first, store = _deal_along(tile, rows=False)

    @inline
    def corner(state, window):
        """First element of an image's row 0, and row and column (in elements) of a window in it."""
        line, j = divided(window, state[COLUMNS], uint32(state[COLUMNS + 1]), uint32(state[COLUMNS + 2]))
        image, i = divided(line, state[ROWS], uint32(state[ROWS + 1]), uint32(state[ROWS + 2]))
        return int32(image * state[HEIGHT]), int32(i * state[ROW_STEP]), int32(j * state[COLUMN_STEP])

    @inline
    def fetch_vectors(source, state, staged):
        for v in range(COUNT):
            window = int32(state[WINDOW] + v * STEP)
            image, row, column = corner(state, window)
            row, column = int32(row + state[SHIFTS]), int32(column + state[SHIFTS + 1])
            for k in range(VECTOR):
                staged[v * VECTOR + k] = T(1) if k == 0 and state[ONES] == 0 else T(0)
            inside = uint32(row) < uint32(state[HEIGHT]) and uint32(column) < uint32(state[WIDTH])
            if inside and window < state[WINDOWS]:
                put_vector(staged, v * VECTOR, load_vector(source, int32((image + row) * state[WIDTH] + column)))
        state[WINDOW] = int32(state[WINDOW] + DEPTH)

    @inline
    def fetch_scalars(source, state, staged):
        for v in range(COUNT):
            window = int32(state[WINDOW] + v * STEP)
            image, first_row, first_column = corner(state, window)
            for k in range(VECTOR):
                row = int32(first_row + state[SHIFTS + 2 * k])
                column = int32(first_column + state[SHIFTS + 2 * k + 1])
                staged[v * VECTOR + k] = T(1) if k == state[ONES] else T(0)
                inside = uint32(row) < uint32(state[HEIGHT]) and uint32(column) < uint32(state[WIDTH])
                if inside and window < state[WINDOWS]:
                    staged[v * VECTOR + k] = source[int32((image + row) * state[WIDTH] + column)]
        state[WINDOW] = int32(state[WINDOW] + DEPTH)

    fetch = fetch_vectors if vectors else fetch_scalars
    return Operand(COUNT, STEP, STAGED, WINDOWS_STATE, first, *_places(tile, rows=False), fetch, store)
