"""Sums of pixels in memory, a step apart, and pixels from a wide pitch to a narrow one, in explicit SIMD."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .simd import VECTOR_BYTES, Vectors


def _part(context: Any, builder: Any, element: Any, part: int) -> Vectors:
    """Vectors of that part of the lanes; of one, where there are fewer."""
    itemsize = element.bitwidth // 8
    return Vectors(builder, context.get_data_type(element), itemsize, max(VECTOR_BYTES // part, itemsize))


@intrinsic(prefer_literal=True)
def _add_pixels(
    typing_context: Any, source: Any, start: Any, row: Any, step: Any, count: Any, out: Any, out_start: Any,
    out_row: Any, rows: Any, part: Any,
) -> Any:  # fmt: skip
    index = types.intp
    signature = types.void(source, index, index, index, index, out, index, index, rows, part)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = signature.args[0].dtype
        vec = _part(context, builder, element, part.literal_value)
        source, out = (context.make_array(signature.args[p])(context, builder, args[p]).data for p in (0, 5))
        numbers = [ir.Constant(ir.IntType(64), m) for m in range(rows.literal_value)]
        places = [builder.add(args[6], builder.mul(args[7], m)) for m in numbers]
        totals = [cgutils.alloca_once_value(builder, vec.load(out, place)) for place in places]
        with cgutils.for_range(builder, args[4]) as loop:
            line = builder.gep(source, [builder.add(args[1], builder.mul(loop.index, args[3]))])
            for m, total in zip(numbers, totals, strict=True):
                value = vec.load(line, builder.mul(args[2], m))
                builder.store(builder.fadd(builder.load(total), value), total)
        for place, total in zip(places, totals, strict=True):
            builder.store(builder.load(total), vec.at(out, place), align=vec.itemsize)
        return context.get_dummy_value()

    return signature, codegen


# add_pixels(source, start, row, step, count, out, out_start, out_row, rows, part)
#
# For m < rows and v < lanes // part, with literal rows and part, in this order of the terms:
#
#   out[out_start + m * out_row + v] += sum over i < count of source[start + m * row + i * step + v]
add_pixels: Any = _add_pixels


@intrinsic(prefer_literal=True)
def _pack_pixels(
    typing_context: Any, source: Any, start: Any, row: Any, out: Any, out_row: Any, rows: Any, initial: Any, part: Any
) -> Any:
    index = types.intp
    signature = types.void(source, index, index, out, index, index, initial, part)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = signature.args[0].dtype
        vec = _part(context, builder, element, part.literal_value)
        source, out, initial = (
            context.make_array(signature.args[p])(context, builder, args[p]).data for p in (0, 3, 6)
        )
        first = vec.load(initial, ir.Constant(ir.IntType(64), 0))
        with cgutils.for_range(builder, args[5]) as loop:
            here = vec.at(source, builder.add(args[1], builder.mul(loop.index, args[2])))
            builder.store(builder.load(here, align=vec.itemsize), vec.at(out, builder.mul(loop.index, args[4])),
                          align=vec.itemsize)  # fmt: skip
            builder.store(first, here, align=vec.itemsize)
        return context.get_dummy_value()

    return signature, codegen


# pack_pixels(source, start, row, out, out_row, rows, initial, part)
#
# For m < rows, in order, and v < lanes // part, a literal: out[m * out_row + v] = source[start + m * row + v], which
# then becomes initial[v]. Where out_row is less than a vector, the next line goes over the rest of the one before.
pack_pixels: Any = _pack_pixels
