"""Dot products of rows with rows, in explicit SIMD: what a matrix product needs where nothing is packed.

The tile of `register_tile` runs along columns that lie side by side, which a weight (out, in) has only once it is
packed. Here the vectors run along the terms instead, both operands are read as they lie, and each sum is added up
across its lanes at the end: worth it where there are too few rows to pay for packing.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .simd import VECTOR_BYTES, Vectors, rolled_loop

# Columns of a tile of four rows: as many sums as half the registers, or fewer.
DOT_COLUMNS = 4 if VECTOR_BYTES == 64 else 2

_INT = ir.IntType(64)


def _add_lanes(vec: Vectors, values: list[Any]) -> list[Any]:
    """The sums of the lanes of 1, 2, 4, 8 or 16 vectors, side by side in as few vectors as hold them.

    Halves upon halves: one order, whatever the target. Two vectors of halves are one whole vector, so that eight sums
    take 23 instructions instead of 72.
    """
    builder, each, width = vec.builder, 1, vec.lanes  # sums in a vector, and lanes of each
    while width > 1:
        width //= 2
        whole = len(values) > 1
        starts = range(0, 2 * each * width * (2 if whole else 1), 2 * width)
        low, high = (
            ir.Constant(
                ir.VectorType(ir.IntType(32), len(starts) * width),
                [start + lane for start in starts for lane in range(half, half + width)],
            )
            for half in (0, width)
        )
        pairs = zip(values[::2], values[1::2] if whole else values, strict=True)
        values = [builder.fadd(builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high)) for a, b in pairs]
        each *= 2 if whole else 1
    return values


@intrinsic(prefer_literal=True)
def _dot_tile(
    typing_context: Any, a: Any, a_start: Any, a_row: Any, b: Any, b_start: Any, b_row: Any, terms: Any,
    out: Any, out_start: Any, out_row: Any, first: Any, rows: Any, columns: Any,
) -> Any:  # fmt: skip
    index = types.intp
    signature = types.void(
        a, index, index, b, index, index, index, out, index, index, types.boolean, rows, columns
    )  # fmt: skip
    size = rows.literal_value, columns.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def data(position: int) -> Any:
            return context.make_array(signature.args[position])(context, builder, args[position]).data

        element = signature.args[0].dtype
        vec = Vectors(builder, context.get_data_type(element), element.bitwidth // 8, VECTOR_BYTES)
        every = [(m, k) for m in range(size[0]) for k in range(size[1])]
        a_rows = [_row(builder, data(0), args[1], args[2], m) for m in range(size[0])]
        b_rows = [_row(builder, data(3), args[4], args[5], k) for k in range(size[1])]
        terms, lanes = args[6], ir.Constant(_INT, vec.lanes)
        zero = ir.Constant(vec.type, [0.0] * vec.lanes)
        sums = {place: cgutils.alloca_once_value(builder, zero) for place in every}

        def add_products(a_values: list[Any], b_values: list[Any]) -> None:
            for m, k in every:
                total = vec.multiply_add(a_values[m], b_values[k], builder.load(sums[m, k]))
                builder.store(total, sums[m, k])

        whole = builder.udiv(terms, lanes)
        with rolled_loop(builder, whole) as loop:
            at = builder.mul(loop.index, lanes)
            add_products([vec.load(row, at) for row in a_rows], [vec.load(row, at) for row in b_rows])
        at = builder.mul(whole, lanes)
        rest = builder.sub(terms, at)
        with builder.if_then(builder.icmp_signed(">", rest, ir.Constant(_INT, 0))):
            mask = vec.first_lanes(rest, 0)
            add_products(*([vec.masked_load(vec.at(row, at), mask) for row in side] for side in (a_rows, b_rows)))
        totals = _add_lanes(vec, [builder.load(sums[place]) for place in every])
        each = len(every) // len(totals)
        together = min(size[1], each)  # stored at once
        kind = ir.VectorType(vec.type.element, together)
        for first in range(0, len(every), together):
            m, k = every[first]
            place = builder.gep(_row(builder, data(7), args[8], args[9], m), [ir.Constant(_INT, k)])
            place = builder.bitcast(place, kind.as_pointer())
            lanes = [first % each + i for i in range(together)]
            here = totals[first // each]
            here = builder.shuffle_vector(here, here, ir.Constant(ir.VectorType(ir.IntType(32), together), lanes))
            before = builder.load(place, align=vec.itemsize)
            before = builder.select(args[10], ir.Constant(kind, [0.0] * together), before)
            builder.store(builder.fadd(before, here), place, align=vec.itemsize)
        return context.get_dummy_value()

    return signature, codegen


def _row(builder: Any, base: Any, start: Any, pitch: Any, index: int) -> Any:
    return builder.gep(base, [builder.add(start, builder.mul(pitch, ir.Constant(_INT, index)))])


# dot_tile(a, a_start, a_row, b, b_start, b_row, terms, out, out_start, out_row, first, rows, columns)
#
# For m < rows and k < columns, both literal:
#
#   out[out_start + m * out_row + k] = (0 if first else the value there)
#       + sum over j < terms of a[a_start + m * a_row + j] * b[b_start + k * b_row + j]
dot_tile: Any = _dot_tile


@intrinsic(prefer_literal=True)
def _dot_lines(
    typing_context: Any, a: Any, a_start: Any, a_row: Any, a_line: Any,
    b: Any, b_start: Any, b_offsets: Any, b_table: Any, b_line: Any,
    lines: Any, terms: Any, out: Any, out_start: Any, first: Any, rows: Any, columns: Any,
) -> Any:  # fmt: skip
    index = types.intp
    signature = types.void(
        *(a, index, index, index, b, index, b_offsets, index, index),
        *(index, index, out, index, types.boolean, rows, columns),
    )
    size = rows.literal_value, columns.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def data(position: int) -> Any:
            return context.make_array(signature.args[position])(context, builder, args[position]).data

        element = signature.args[0].dtype
        vec = Vectors(builder, context.get_data_type(element), element.bitwidth // 8, VECTOR_BYTES)
        every = [(m, k) for m in range(size[0]) for k in range(size[1])]
        table = builder.gep(data(6), [args[7]])
        offsets = [builder.load(builder.gep(table, [ir.Constant(_INT, k)])) for k in range(size[1])]
        a_rows = [_row(builder, data(0), args[1], args[2], m) for m in range(size[0])]
        b_rows = [builder.gep(data(4), [builder.add(args[5], offset)]) for offset in offsets]
        a_line, b_line, lines, terms, lanes = args[3], args[8], args[9], args[10], ir.Constant(_INT, vec.lanes)
        zero = ir.Constant(vec.type, [0.0] * vec.lanes)
        sums = {place: cgutils.alloca_once_value(builder, zero) for place in every}
        last = builder.sub(terms, ir.Constant(_INT, 1))
        whole = builder.mul(builder.udiv(last, lanes), lanes)  # the last vector may be a whole one too
        mask = vec.first_lanes(builder.sub(terms, whole), 0)

        def add_products(a_values: list[Any], b_values: list[Any]) -> None:
            for m, k in every:
                total = vec.multiply_add(a_values[m], b_values[k], builder.load(sums[m, k]))
                builder.store(total, sums[m, k])

        with cgutils.for_range(builder, lines) as line:
            a_at, b_at = builder.mul(line.index, a_line), builder.mul(line.index, b_line)
            with cgutils.for_range(builder, builder.udiv(whole, lanes)) as loop:
                at = builder.mul(loop.index, lanes)
                add_products(
                    [vec.load(row, builder.add(a_at, at)) for row in a_rows],
                    [vec.load(row, builder.add(b_at, at)) for row in b_rows],
                )
            add_products(
                [vec.masked_load(vec.at(row, builder.add(a_at, whole)), mask) for row in a_rows],
                [vec.masked_load(vec.at(row, builder.add(b_at, whole)), mask) for row in b_rows],
            )
        out = builder.gep(data(11), [args[12]])
        for place, (m, k) in enumerate(every):
            at = vec.at(out, ir.Constant(_INT, place * vec.lanes))
            before = builder.select(args[13], zero, builder.load(at, align=vec.itemsize))
            builder.store(builder.fadd(before, builder.load(sums[m, k])), at, align=vec.itemsize)
        return context.get_dummy_value()

    return signature, codegen


# dot_lines(a, a_start, a_row, a_line, b, b_start, b_offsets, b_table, b_line, lines, terms, out, out_start, first,
#           rows, columns)
#
# For m < rows and k < columns, both literal, and terms > 0: the sum of the vector at
# out[out_start + (m * columns + k) * lanes] grows by (or, if first, becomes)
#
#   sum over i < lines, j < terms of a[a_start + m * a_row + i * a_line + j]
#                                  * b[b_start + b_offsets[b_table + k] + i * b_line + j]
dot_lines: Any = _dot_lines
