"""Sums and maxima of lines of neighbours in memory, in explicit SIMD and in an order that no compiler changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .simd import VECTOR_BYTES, Vectors

_INT32 = ir.IntType(32)


def _constant(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), value)


class _Line:
    """Array x of an intrinsic's first arguments (x, start, count); vectors of its elements, and of as many doubles."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        element = signature.args[0].dtype
        self.vec = Vectors(builder, context.get_data_type(element), element.bitwidth // 8, VECTOR_BYTES)
        array = context.make_array(signature.args[0])(context, builder, args[0])
        self.source, self.count = builder.gep(array.data, [args[1]]), args[2]
        self.wide = Vectors(builder, ir.DoubleType(), 8, 8 * self.vec.lanes)

    def for_each_vector(self, visit: Callable[[int, Any, Any], None]) -> None:
        """visit(v, vector, None) for the v-th of every 4; then for those left v = 0, and a mask: zeros elsewhere."""
        vec, builder = self.vec, self.vec.builder
        step = _constant(4 * vec.lanes)
        whole = builder.sub(self.count, builder.srem(self.count, step))
        with cgutils.for_range_slice(builder, _constant(0), whole, step, inc=True) as (at, _):
            for v in range(4):
                visit(v, vec.load(self.source, builder.add(at, _constant(v * vec.lanes))), None)
        with cgutils.for_range_slice(builder, whole, self.count, _constant(vec.lanes), inc=True) as (at, _):
            mask = vec.first_lanes(builder.sub(self.count, at), 0)
            visit(0, vec.masked_load(vec.at(self.source, at), mask), mask)

    def add_to(self, total: Any, value: Any) -> None:
        """Adds a vector of elements to a place of as many doubles."""
        builder = self.vec.builder
        value = value if self.vec.itemsize == 8 else builder.fpext(value, self.wide.type)
        builder.store(builder.fadd(builder.load(total), value), total)


def _of_pairs(vec: Vectors, a: Any, b: Any) -> Any:
    """The sums of neighbouring lanes: those of a, then those of b."""
    kind = ir.VectorType(_INT32, vec.lanes)
    even, odd = (ir.Constant(kind, list(range(first, 2 * vec.lanes, 2))) for first in (0, 1))
    return vec.builder.fadd(vec.builder.shuffle_vector(a, b, even), vec.builder.shuffle_vector(a, b, odd))


def _short_line(vec: Vectors, source: Any, count: Any) -> list[Any]:
    """4 vectors of a line, zeros from `count` on."""
    return [
        vec.masked_load(vec.at(source, _constant(v * vec.lanes)), vec.first_lanes(count, v * vec.lanes))
        for v in range(4)
    ]


def _total(vec: Vectors, values: list[Any]) -> Any:
    return vec.builder.fadd(vec.builder.fadd(*values[:2]), vec.builder.fadd(*values[2:]))


@intrinsic
def _sum_line(typing_context: Any, x: Any, start: Any, count: Any) -> Any:
    signature = x.dtype(x, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        line = _Line(context, builder, signature, args)
        vec, source, count = line.vec, line.source, line.count
        sums = [cgutils.alloca_once_value(builder, value) for value in _short_line(vec, source, count)]
        step = _constant(4 * vec.lanes)
        with builder.if_then(builder.icmp_signed(">", count, step), likely=False):
            whole = builder.sub(count, builder.srem(count, step))
            with cgutils.for_range_slice(builder, step, whole, step, inc=True) as (at, _):
                for v, total in enumerate(sums):
                    value = vec.load(source, builder.add(at, _constant(v * vec.lanes)))
                    builder.store(builder.fadd(builder.load(total), value), total)
            with cgutils.for_range_slice(builder, whole, count, _constant(vec.lanes), inc=True) as (at, _):
                value = vec.masked_load(vec.at(source, at), vec.first_lanes(builder.sub(count, at), 0))
                builder.store(builder.fadd(builder.load(sums[0]), value), sums[0])
        total = _total(vec, [builder.load(part) for part in sums])
        for _ in range(vec.lanes.bit_length() - 1):
            total = _of_pairs(vec, total, total)
        return builder.extract_element(total, _constant(0))

    return signature, codegen


# sum_line(x, start, count): the sum of x[start : start + count], in 4 vectors of sums.
sum_line: Any = _sum_line


@intrinsic
def _mean_lines(
    typing_context: Any, x: Any, start: Any, count: Any, divisor: Any, out: Any, out_start: Any
) -> Any:  # fmt: skip
    signature = types.void(x, types.intp, types.intp, x.dtype, out, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        line = _Line(context, builder, signature, args)
        vec, source, count = line.vec, line.source, line.count
        totals = [
            _total(vec, _short_line(vec, builder.gep(source, [builder.mul(count, _constant(i))]), count))
            for i in range(vec.lanes)
        ]
        while len(totals) > 1:
            totals = [_of_pairs(vec, *totals[i : i + 2]) for i in range(0, len(totals), 2)]
        mean = builder.fdiv(totals[0], vec.splat(args[3]))
        out = context.make_array(signature.args[4])(context, builder, args[4]).data
        builder.store(mean, vec.at(out, args[5]), align=vec.itemsize)
        return context.get_dummy_value()

    return signature, codegen


# mean_lines(x, start, count, divisor, out, out_start): out[out_start + i] = sum_line(x, start + i * count, count) /
# divisor for i < lanes, with the same bits; count is at most 4 vectors. The horizontal sums of all lines are one tree.
mean_lines: Any = _mean_lines


@intrinsic
def _max_line(typing_context: Any, x: Any, start: Any, count: Any) -> Any:
    signature = x.dtype(x, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        line = _Line(context, builder, signature, args)
        vec = line.vec
        least = ir.Constant(vec.type, [float("-inf")] * vec.lanes)
        best = [cgutils.alloca_once_value(builder, least) for _ in range(4)]

        def larger(value: Any, than: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", value, than), value, than)

        def take(v: int, value: Any, mask: Any) -> None:
            value = value if mask is None else builder.select(mask, value, least)
            builder.store(larger(value, builder.load(best[v])), best[v])

        line.for_each_vector(take)
        a, b, c, d = (builder.load(one) for one in best)
        total = larger(larger(a, b), larger(c, d))
        lanes = vec.lanes
        while lanes > 1:
            lanes //= 2
            mask = ir.Constant(ir.VectorType(_INT32, vec.lanes), [(i + lanes) % vec.lanes for i in range(vec.lanes)])
            total = larger(total, builder.shuffle_vector(total, total, mask))
        return builder.extract_element(total, _constant(0))

    return signature, codegen


# max_line(x, start, count): the largest of x[start : start + count], -inf of none; NaNs are passed over.
max_line: Any = _max_line


@intrinsic(prefer_literal=True)
def _sum_columns(
    typing_context: Any, x: Any, start: Any, pitch: Any, rows: Any, sums: Any, sums_start: Any, vectors: Any
) -> Any:
    index = types.intp
    signature = types.void(x, index, index, index, sums, index, vectors)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        line = _Line(context, builder, signature, args)
        vec, wide, (pitch, rows) = line.vec, line.wide, args[2:4]
        sums = builder.gep(context.make_array(signature.args[4])(context, builder, args[4]).data, [args[5]])
        offsets = [_constant(v * vec.lanes) for v in range(vectors.literal_value)]
        totals = [cgutils.alloca_once_value(builder, wide.load(sums, offset)) for offset in offsets]
        with cgutils.for_range(builder, rows) as loop:
            row = builder.gep(line.source, [builder.mul(loop.index, pitch)])
            for total, offset in zip(totals, offsets, strict=True):
                line.add_to(total, vec.load(row, offset))
        for total, offset in zip(totals, offsets, strict=True):
            builder.store(builder.load(total), wide.at(sums, offset), align=8)
        return context.get_dummy_value()

    return signature, codegen


# sum_columns(x, start, pitch, rows, sums, sums_start, vectors): for i < vectors (a literal) * lanes, to float64
# sums[sums_start + i] the x[start + j * pitch + i] for j < rows are added, one after the other.
sum_columns: Any = _sum_columns


@intrinsic
def _sum_wide(typing_context: Any, x: Any, start: Any, count: Any) -> Any:
    signature = types.float64(x, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        line = _Line(context, builder, signature, args)
        wide = line.wide
        totals = [cgutils.alloca_once_value(builder, ir.Constant(wide.type, [0.0] * wide.lanes)) for _ in range(4)]
        line.for_each_vector(lambda v, value, mask: line.add_to(totals[v], value))
        total = _total(wide, [builder.load(part) for part in totals])
        for _ in range(wide.lanes.bit_length() - 1):
            total = _of_pairs(wide, total, total)
        return builder.extract_element(total, _constant(0))

    return signature, codegen


# sum_wide(x, start, count): the sum of x[start : start + count] in float64.
sum_wide: Any = _sum_wide
