"""The one register tile that every matrix-like kernel is made of, in explicit SIMD."""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .simd import VECTOR_BYTES, Vectors, operands, rolled_loop


class Tile(NamedTuple):
    """A register tile: `rows` x `vectors` accumulators."""

    rows: int
    vectors: int


# Registers of the target: 32 with AVX-512 (and on ARM), else 16. The wide tile reads least per multiply-add:
# 6 broadcasts and 4 vectors for 24. The narrow one is for few columns; its 12 accumulators cover the latency of
# two multiply-add units. The middle one needs 27 registers. 7x4 spilled when tried.
WIDE = Tile(6, 4) if VECTOR_BYTES == 64 else Tile(6, 2)
NARROW = Tile(12, 1)
MIDDLE = Tile(12, 2) if VECTOR_BYTES == 64 else NARROW

# Kernels name these: literal ints, known when they are compiled.
WIDE_ROWS, WIDE_VECTORS = WIDE
MIDDLE_ROWS, MIDDLE_VECTORS = MIDDLE
NARROW_ROWS, NARROW_VECTORS = NARROW

# Rows of b that the innermost loop fetches to the first-level cache, which is mostly smaller than b, before their turn:
# 6x4 with 1,152 terms 175 GFLOP/s without, 200 with; 2 rows ahead are as bad as none, 8 worse than 4 to 6.
_AHEAD = 5

_INT = ir.IntType(64)


def _constant(value: int) -> ir.Constant:
    return ir.Constant(_INT, value)


def _tile(fetch: bool) -> Any:
    @intrinsic(prefer_literal=True)
    def multiply_tile(
        typing_context: Any, a: Any, a_start: Any, a_offsets: Any, a_table: Any, a_step: Any,
        b: Any, b_start: Any, b_offsets: Any, b_table: Any, b_step: Any,
        out: Any, out_start: Any, out_offsets: Any, initial: Any, initial_start: Any,
        columns: Any, outer: Any, inner: Any, first: Any, floor: Any, spills: Any, rows: Any, vectors: Any,
    ) -> Any:  # fmt: skip
        tile = Tile(rows.literal_value, vectors.literal_value)
        index = types.intp
        signature = types.void(
            *(a, index, a_offsets, index, index),
            *(b, index, b_offsets, index, index),
            *(out, index, out_offsets, initial, index),
            *(index, index, index, types.boolean, a.dtype, types.boolean, rows, vectors),
        )

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            vec, data = operands(context, builder, signature, args)

            def at(array: int) -> Any:
                """Where the array at a position begins, with the start that is the argument after it."""
                return vec.opaque(builder.gep(data(array), [args[array + 1]]))

            _emit_tile(builder, vec, tile, fetch and tile == WIDE, _TileArguments(
                a=at(0), a_offsets=at(2), a_step=args[4], b=at(5), b_offsets=at(7), b_step=args[9],
                out=at(10), out_offsets=data(12),
                initial=builder.gep(data(13), [args[14]]),
                columns=args[15], outer=args[16], inner=args[17], first=args[18], floor=args[19], spills=args[20],
            ))  # fmt: skip
            return context.get_dummy_value()

        return signature, codegen

    return multiply_tile


# multiply_tile(a, a_start, a_offsets, a_table, a_step, b, b_start, b_offsets, b_table, b_step,
#               out, out_start, out_offsets, initial, initial_start, columns, outer, inner, first, floor,
#               spills, rows, vectors)
#
# For m < rows and v < vectors * lanes, with literal rows and vectors:
#
#   out[out_start + out_offsets[m] + v] = (initial[initial_start + v] if first else the value there)
#       + sum over i < outer, j < inner of a[a_start + a_offsets[a_table + i * rows + m] + j * a_step]
#                                        * b[b_start + b_offsets[b_table + i] + j * b_step + v]
#
# and then floor where that is less than floor: 0 for ReLU, -inf for none (NaN stays NaN).
#
# Only the first `columns` columns of out are read and written; b and initial are padded to full vectors. All start,
# offset and step values are in elements. Rows beyond the last valid one repeat it: they write the same values to the
# same place, so no remainder needs a kernel of its own. With `spills` all rows but the last may write full vectors,
# over what comes next in memory: where that is the next row (masked stores take 20 cycles each on some processors).
#
# Of the wide tile, what follows the last row by as much as the second follows the first is fetched into the
# second-level cache: the rows of the next tile, which the processor does not see coming. (A 1x1 layer of 256 channels
# and one to 256 take 1.1 to 1.5 times as long without; other tiles, of fewer multiply-adds a term, are slower with it.)
# So are its results, where that is worth it (simd.py).
multiply_tile: Any = _tile(fetch=True)
multiply_near_tile: Any = _tile(fetch=False)  # for an a that is in the first-level cache


class _TileArguments(NamedTuple):
    a: Any
    a_offsets: Any
    a_step: Any
    b: Any
    b_offsets: Any
    b_step: Any
    out: Any
    out_offsets: Any
    initial: Any
    columns: Any
    outer: Any
    inner: Any
    first: Any
    floor: Any
    spills: Any


def _emit_tile(builder: Any, vec: Vectors, tile: Tile, fetch: bool, t: _TileArguments) -> None:
    every = [(m, v) for m in range(tile.rows) for v in range(tile.vectors)]
    sums = _zero_sums(vec, tile)
    out_rows = [
        builder.gep(t.out, [builder.load(builder.gep(t.out_offsets, [_constant(m)]))]) for m in range(tile.rows)
    ]
    out_at = {(m, v): vec.at(out_rows[m], _constant(v * vec.lanes)) for m, v in every}
    for m, v in every if fetch else ():
        vec.prefetch_result(out_rows[m], _constant(v * vec.lanes))

    def a_offset(m: int) -> Any:
        return builder.load(builder.gep(t.a_offsets, [_constant(m)]))

    ahead_of_first = builder.sub(builder.add(a_offset(tile.rows - 1), a_offset(1)), a_offset(0))
    a_ahead = builder.sub(ahead_of_first, a_offset(0)) if fetch else None
    with cgutils.for_range(builder, t.outer) as outer:
        table = builder.mul(outer.index, _constant(tile.rows))
        a_rows = []
        for m in range(tile.rows):
            offset = builder.load(builder.gep(t.a_offsets, [builder.add(table, _constant(m))]))
            a_rows.append(builder.gep(t.a, [offset]))
        b_row = builder.gep(t.b, [builder.load(builder.gep(t.b_offsets, [outer.index]))])
        _multiply_add_terms(vec, tile, sums, a_rows, t.a_step, b_row, t.b_step, t.inner, a_ahead=a_ahead)

    # What the sums are added to: the outer sum, whose terms are whole segments. Where it lies is chosen, not what is
    # loaded: of a branch with loads for either LLVM makes one addition, and copies on the stack for it to read.
    before = [builder.select(t.first, t.initial, row) for row in out_rows]
    floor = vec.splat(t.floor)

    def result(m: int, v: int, more: Any) -> Any:
        return vec.at_least(builder.fadd(builder.load(sums[m, v]), more), floor)

    full = builder.icmp_signed("==", t.columns, _constant(tile.vectors * vec.lanes))
    with builder.if_else(full) as (then, otherwise):
        with then:
            # All of them first: rows that repeat the last one must not find its new value.
            totals = {(m, v): result(m, v, vec.load(before[m], _constant(v * vec.lanes))) for m, v in every}
            for place, total in totals.items():
                builder.store(total, out_at[place], align=vec.itemsize)
        with otherwise:
            masks = [vec.first_lanes(t.columns, v * vec.lanes) for v in range(tile.vectors)]
            totals = {
                (m, v): result(m, v, vec.masked_load(vec.at(before[m], _constant(v * vec.lanes)), masks[v]))
                for m, v in every
            }
            above = [(m, v) for m, v in every if m < tile.rows - 1]
            with builder.if_else(t.spills) as (whole, masked):
                with whole:
                    for place in above:
                        builder.store(totals[place], out_at[place], align=vec.itemsize)
                with masked:
                    for m, v in above:
                        vec.masked_store(totals[m, v], out_at[m, v], masks[v])
            for v in range(tile.vectors):
                m = tile.rows - 1
                vec.masked_store(totals[m, v], out_at[m, v], masks[v])


@intrinsic(prefer_literal=True)
def _multiply_lines(
    typing_context: Any, a: Any, a_start: Any, a_rows: Any, row: Any, a_lines: Any, line: Any, a_step: Any,
    b: Any, b_start: Any, b_line: Any, b_step: Any, out: Any, out_start: Any, out_row: Any,
    lines: Any, length: Any, first: Any, ahead: Any, rows: Any, vectors: Any,
) -> Any:  # fmt: skip
    tile = Tile(rows.literal_value, vectors.literal_value)
    index = types.intp
    signature = types.void(
        a, index, a_rows, index, a_lines, index, index, b, index, index, index, out, index, index,
        index, index, types.boolean, index, rows, vectors,
    )  # fmt: skip

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vec, data = operands(context, builder, signature, args)
        a, b, out = data(0), data(7), data(11)
        row_table, line_table = builder.gep(data(2), [args[3]]), builder.gep(data(4), [args[5]])
        a_step, b_line, b_step = args[6], args[9], args[10]
        sums = _zero_sums(vec, tile)
        a_rows = [
            builder.gep(a, [builder.add(args[1], builder.load(builder.gep(row_table, [_constant(m)])))])
            for m in range(tile.rows)
        ]
        with cgutils.for_range(builder, args[14]) as outer:
            shift = builder.load(builder.gep(line_table, [outer.index]))
            rows_here = [builder.gep(row, [shift]) for row in a_rows]
            b_here = builder.gep(b, [builder.add(args[8], builder.mul(outer.index, b_line))])
            _multiply_add_terms(
                vec, tile, sums, rows_here, a_step, b_here, b_step, args[15], unroll=False, ahead=args[17]
            )
        _store_or_add(vec, tile, sums, builder.gep(out, [args[12]]), args[13], args[16])
        return context.get_dummy_value()

    return signature, codegen


# multiply_lines(a, a_start, a_rows, row, a_lines, line, a_step, b, b_start, b_line, b_step,
#                out, out_start, out_row, lines, length, first, ahead, rows, vectors)
#
# For m < rows and v < vectors * lanes, with literal rows and vectors:
#
#   out[out_start + m * out_row + v] = (0 if first else the value there)
#       + sum over i < lines, j < length of a[a_start + a_rows[row + m] + a_lines[line + i] + j * a_step]
#                                         * b[b_start + i * b_line + j * b_step + v]
#
# What is `ahead` of each row of b is fetched into the second-level cache, a line of 64 bytes.
multiply_lines: Any = _multiply_lines


def _panel(fetch: bool) -> Any:
    @intrinsic(prefer_literal=True)
    def multiply_panel(
        typing_context: Any, a: Any, a_start: Any, a_row: Any, a_step: Any, b: Any, b_start: Any, b_step: Any,
        out: Any, out_start: Any, out_row: Any, terms: Any, first: Any, rows: Any, vectors: Any,
    ) -> Any:  # fmt: skip
        index = types.intp
        tile = Tile(rows.literal_value, vectors.literal_value)
        signature = types.void(
            a, index, index, index, b, index, index, out, index, index, index, types.boolean, rows, vectors
        )

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            vec, data = operands(context, builder, signature, args)
            a, b, out = data(0), data(4), data(7)
            a_start, a_row, a_step, b_start, b_step, out_start, out_row, terms, first = (
                args[i] for i in (1, 2, 3, 5, 6, 8, 9, 10, 11)
            )
            sums = _zero_sums(vec, tile)
            a_rows = [
                builder.gep(a, [builder.add(a_start, builder.mul(a_row, _constant(m)))]) for m in range(tile.rows)
            ]
            _multiply_add_terms(vec, tile, sums, a_rows, a_step, builder.gep(b, [b_start]), b_step, terms, fetch)
            _store_or_add(vec, tile, sums, builder.gep(out, [out_start]), out_row, first)
            return context.get_dummy_value()

        return signature, codegen

    return multiply_panel


# multiply_panel(a, a_start, a_row, a_step, b, b_start, b_step, out, out_start, out_row, terms, first, rows, vectors)
#
# For m < rows and v < vectors * lanes, with literal rows and vectors:
#
#   out[out_start + m * out_row + v] = (0 if first else the value there)
#       + sum over j < terms of a[a_start + m * a_row + j * a_step] * b[b_start + j * b_step + v]
multiply_panel: Any = _panel(fetch=True)
multiply_near_panel: Any = _panel(fetch=False)  # for a b that is in the first-level cache


def _zero_sums(vec: Vectors, tile: Tile) -> dict[tuple[int, int], Any]:
    sums = {}
    for place in [(m, v) for m in range(tile.rows) for v in range(tile.vectors)]:
        sums[place] = cgutils.alloca_once(vec.builder, vec.type)
        vec.builder.store(ir.Constant(vec.type, [0.0] * vec.lanes), sums[place])
    return sums


def _multiply_add_terms(
    vec: Vectors, tile: Tile, sums: dict[tuple[int, int], Any], a_rows: list[Any], a_step: Any, b: Any, b_step: Any,
    terms: Any, fetch: bool = True, unroll: bool = True, ahead: Any = None, a_ahead: Any = None,
) -> None:  # fmt: skip
    """The innermost loop of every tile: a vector row of b against one value of each row of a.

    Unrolled, LLVM gives each of many rows, or of rows whose step it does not know, two pointers of its own, most of
    them on the stack: 12x1 at half the speed. The six rows of known step gain 3 % by it.
    """
    builder = vec.builder
    with (cgutils.for_range if unroll and tile.rows <= WIDE.rows else rolled_loop)(builder, terms) as loop:
        offset = builder.mul(loop.index, a_step)
        b_row = builder.gep(b, [builder.mul(loop.index, b_step)])
        row = [vec.load(b_row, _constant(v * vec.lanes)) for v in range(tile.vectors)]
        for v in range(0, tile.vectors if fetch else 0, 64 // VECTOR_BYTES):  # every line of 64 bytes
            vec.prefetch(b_row, builder.add(builder.mul(b_step, _constant(_AHEAD)), _constant(v * vec.lanes)))
        if a_ahead is not None:  # a term's share of the next tile's rows, as if those lay side by side
            share = builder.mul(loop.index, _constant(tile.rows))
            vec.prefetch(a_rows[0], builder.add(a_ahead, share), first_level=False)
        if ahead is not None:
            vec.prefetch(b_row, ahead, first_level=False)
        for m in range(tile.rows):
            value = vec.splat(builder.load(builder.gep(a_rows[m], [offset])))
            for v in range(tile.vectors):
                builder.store(vec.multiply_add(value, row[v], builder.load(sums[m, v])), sums[m, v])


def _store_or_add(
    vec: Vectors, tile: Tile, sums: dict[tuple[int, int], Any], out: Any, out_row: Any, first: Any
) -> None:
    """Stores the sums if `first`, else adds them to what is there."""
    builder = vec.builder
    at = {}
    for m in range(tile.rows):
        line = builder.gep(out, [builder.mul(out_row, _constant(m))])
        for v in range(tile.vectors):
            at[m, v] = vec.at(line, _constant(v * vec.lanes))
    with builder.if_else(first) as (alone, added):
        with alone:
            for place, total in sums.items():
                builder.store(builder.load(total), at[place], align=vec.itemsize)
        with added:
            for place, total in sums.items():
                before = builder.load(at[place], align=vec.itemsize)
                builder.store(builder.fadd(builder.load(total), before), at[place], align=vec.itemsize)
