"""Sums and maxima along lines of neighbours in memory, in explicit SIMD and in an order that no compiler changes."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .simd import VECTOR_BYTES, Vectors

_INT32 = ir.IntType(32)


def _constant(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), value)


class _Line:
    """Array x of an intrinsic's first arguments (x, start, count), and the vectors of its elements."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        element = signature.args[0].dtype
        self.vec = Vectors(builder, context.get_data_type(element), element.bitwidth // 8, VECTOR_BYTES)
        array = context.make_array(signature.args[0])(context, builder, args[0])
        self.source, self.count = builder.gep(array.data, [args[1]]), args[2]


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
        vec, source, count = line.vec, line.source, line.count
        least = ir.Constant(vec.type, [float("-inf")] * vec.lanes)
        best = [cgutils.alloca_once_value(builder, least) for _ in range(4)]

        def larger(value: Any, than: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", value, than), value, than)

        step = _constant(4 * vec.lanes)
        whole = builder.sub(count, builder.srem(count, step))
        with cgutils.for_range_slice(builder, _constant(0), whole, step, inc=True) as (at, _):
            for v, one in enumerate(best):
                value = vec.load(source, builder.add(at, _constant(v * vec.lanes)))
                builder.store(larger(value, builder.load(one)), one)
        with cgutils.for_range_slice(builder, whole, count, _constant(vec.lanes), inc=True) as (at, _):
            mask = vec.first_lanes(builder.sub(count, at), 0)
            value = builder.select(mask, vec.masked_load(vec.at(source, at), mask), least)
            builder.store(larger(value, builder.load(best[0])), best[0])
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
