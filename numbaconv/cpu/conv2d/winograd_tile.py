"""What Winograd convolution is made of, in explicit SIMD: two-dimensional transforms, and products of their values.

How many inputs, taps, points and results there are must be known when a kernel is compiled, and is not one number per
library but one per variant. It travels as the *length of a tuple*: the type of ``(0,) * 6`` says 6, and numba compiles
(and caches) a kernel once per type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ..simd import VECTOR_BYTES, Vectors
from .winograd_points import transform_data, transform_filter, transform_result


class _Value:
    """An LLVM vector that adds, subtracts, and is multiplied by numbers (fused where numba allows it: jit.py)."""

    def __init__(self, vec: Vectors, value: Any) -> None:
        self.vec, self.value = vec, value

    def __add__(self, other: _Value) -> _Value:
        return _Value(self.vec, self.vec.builder.fadd(self.value, other.value))

    def __sub__(self, other: _Value) -> _Value:
        return _Value(self.vec, self.vec.builder.fsub(self.value, other.value))

    def __mul__(self, number: float) -> _Value:
        constant = ir.Constant(self.vec.type, [number] * self.vec.lanes)
        return _Value(self.vec, self.vec.builder.fmul(self.value, constant))


# Of a point: those of the next tiles follow.
_VECTORS_AHEAD = 16

Transform = Callable[[Sequence[Any]], list[Any]]


def _separable(rows: Transform, columns: Transform, grid: list[list[Any]]) -> list[list[Any]]:
    """`rows` applied along the first axis of a grid, then `columns` along the second."""
    down = [rows([line[j] for line in grid]) for j in range(len(grid[0]))]
    return [columns([column[i] for column in down]) for i in range(len(down[0]))]


def _vectors(context: Any, builder: Any, array_type: Any) -> Vectors:
    element = array_type.dtype
    return Vectors(builder, context.get_data_type(element), element.bitwidth // 8, VECTOR_BYTES)


def _data(context: Any, builder: Any, signature: Any, args: Any, position: int) -> Any:
    return context.make_array(signature.args[position])(context, builder, args[position]).data


def _constant(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), value)


def _load_grid(vec: Vectors, source: Any, offsets: Any, at: Any, height: int, width: int) -> list[list[_Value]]:
    grid = []
    for i in range(height):
        line = []
        for j in range(width):
            offset = vec.builder.load(vec.builder.gep(offsets, [_constant(i * width + j)]))
            line.append(_Value(vec, vec.load(source, vec.builder.add(offset, at))))
        grid.append(line)
    return grid


def _store_grid(vec: Vectors, out: Any, start: Any, pitch: Any, grid: list[list[_Value]]) -> None:
    builder, width = vec.builder, len(grid[0])
    for i, line in enumerate(grid):
        for j, value in enumerate(line):
            offset = builder.add(start, builder.mul(pitch, _constant(i * width + j)))
            builder.store(value.value, vec.at(out, offset), align=vec.itemsize)
            vec.prefetch_result(out, builder.add(offset, _constant(_VECTORS_AHEAD * vec.lanes)))


def _overlapping(vec: Vectors, count: Any) -> tuple[Any, Callable[[Any], Any]]:
    """How many vectors cover `count` >= lanes elements, and where the i-th starts: the last ends with the last."""
    builder, lanes = vec.builder, _constant(vec.lanes)
    vectors = builder.udiv(builder.add(count, _constant(vec.lanes - 1)), lanes)
    last = builder.sub(count, lanes)

    def start(index: Any) -> Any:
        at = builder.mul(index, lanes)
        return builder.select(builder.icmp_signed("<", at, last), at, last)

    return vectors, start


def _emit_to_points(
    context: Any,
    builder: Any,
    signature: Any,
    args: Any,
    size: tuple[int, int],
    transforms: tuple[Transform, Transform],
) -> Any:
    """The body of `transform_patch` and `transform_taps`."""
    vec = _vectors(context, builder, signature.args[0])
    source, offsets = (_data(context, builder, signature, args, position) for position in (0, 1))
    count, start, pitch = args[2], args[4], args[5]
    out = _data(context, builder, signature, args, 3)
    vectors, at = _overlapping(vec, count)
    with cgutils.for_range(builder, vectors) as loop:
        c = at(loop.index)
        grid = _separable(*transforms, _load_grid(vec, source, offsets, c, *size))
        _store_grid(vec, out, builder.add(start, c), pitch, grid)
    return context.get_dummy_value()


@intrinsic
def _transform_patch(
    typing_context: Any, x: Any, offsets: Any, channels: Any, out: Any, start: Any, pitch: Any,
    points_h: Any, points_w: Any, results_h: Any, results_w: Any,
) -> Any:  # fmt: skip
    signature = types.void(
        x, offsets, types.intp, out, types.intp, types.intp, points_h, points_w, results_h, results_w
    )  # fmt: skip

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        size = points_h.count, points_w.count

        def for_results(results: Any) -> Transform:
            return lambda data: transform_data(data, results.count)

        transforms = for_results(results_h), for_results(results_w)
        return _emit_to_points(context, builder, signature, args, size, transforms)

    return signature, codegen


# transform_patch(x, offsets, channels, out, start, pitch, points_h, points_w, results_h, results_w)
#
# For c < channels (at least one vector of them): the patch x[offsets[i * width + j] + c] of points_h x points_w inputs,
# transformed as data, to out[start + (i * width + j) * pitch + c].
transform_patch: Any = _transform_patch


@intrinsic
def _transform_taps(
    typing_context: Any, source: Any, offsets: Any, channels: Any, out: Any, start: Any, pitch: Any,
    points_h: Any, points_w: Any, taps_h: Any, taps_w: Any,
) -> Any:  # fmt: skip
    signature = types.void(
        source, offsets, types.intp, out, types.intp, types.intp, points_h, points_w, taps_h, taps_w
    )  # fmt: skip

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def to(points: Any) -> Transform:
            return lambda taps: transform_filter(taps, points.count)

        size = taps_h.count, taps_w.count
        return _emit_to_points(context, builder, signature, args, size, (to(points_h), to(points_w)))

    return signature, codegen


# transform_taps(source, offsets, channels, out, start, pitch, points_h, points_w, taps_h, taps_w)
#
# The same for taps_h x taps_w inputs that are a filter's: points_h x points_w values, but one along an axis of one tap.
transform_taps: Any = _transform_taps


@intrinsic
def _transform_products(
    typing_context: Any, products: Any, start: Any, pitch: Any, bias: Any, bias_start: Any, columns: Any, floor: Any,
    out: Any, offsets: Any, points_h: Any, points_w: Any, results_h: Any, results_w: Any, added: Any,
) -> Any:  # fmt: skip
    index = types.intp
    signature = types.void(
        products, index, index, bias, index, index, products.dtype, out, offsets,
        points_h, points_w, results_h, results_w, added,
    )  # fmt: skip

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vec = _vectors(context, builder, signature.args[0])
        products, bias, out, offsets = (_data(context, builder, signature, args, p) for p in (0, 3, 7, 8))
        start, pitch, bias_start, columns = args[1], args[2], args[4], args[5]
        floor = vec.splat(args[6])
        lanes = _constant(vec.lanes)
        vectors = builder.udiv(builder.add(columns, _constant(vec.lanes - 1)), lanes)
        with cgutils.for_range(builder, vectors) as loop:
            column = builder.mul(loop.index, lanes)
            grid = [
                [
                    _Value(vec, vec.load(products, _offset(builder, start, pitch, i * points_w.count + j, column)))
                    for j in range(points_w.count)
                ]
                for i in range(points_h.count)
            ]
            results = _separable(
                lambda values: transform_result(values, results_h.count),
                lambda values: transform_result(values, results_w.count),
                grid,
            )
            first = vec.load(bias, builder.add(bias_start, column))
            places = [
                vec.at(out, builder.add(builder.load(builder.gep(offsets, [_constant(i)])), column))
                for i in range(results_h.count * results_w.count)
            ]
            left = builder.sub(columns, column)
            flat = [builder.fadd(r.value, first) for line in results for r in line]
            if added.count:
                wanted = builder.icmp_signed("!=", builder.extract_value(args[-1], 0), _constant(0))
                mask = vec.first_lanes(builder.select(wanted, left, _constant(0)), 0)
                held = (vec.masked_load(place, mask) for place in places)
                flat = [builder.fadd(value, before) for value, before in zip(flat, held, strict=True)]
            flat = [vec.at_least(value, floor) for value in flat]
            with builder.if_else(builder.icmp_signed(">=", left, lanes)) as (whole, part):
                with whole:
                    for value, place in zip(flat, places, strict=True):
                        builder.store(value, place, align=vec.itemsize)
                with part:
                    mask = vec.first_lanes(left, 0)
                    for value, place in zip(flat, places, strict=True):
                        vec.masked_store(value, place, mask)
        return context.get_dummy_value()

    return signature, codegen


def _offset(builder: Any, start: Any, pitch: Any, index: int, column: Any) -> Any:
    return builder.add(builder.add(start, builder.mul(pitch, _constant(index))), column)


# transform_products(products, start, pitch, bias, bias_start, columns, floor, out, offsets,
#                    points_h, points_w, results_h, results_w, added)
#
# For v < columns: the grid products[start + (i * points_w + j) * pitch + v], transformed to results_h x results_w
# results, plus bias[bias_start + v], with (1,) for `added` plus what out holds, at least floor, to
# out[offsets[i * results_w + j] + v]. With () as with (0,), but it is known when the kernel is compiled. Products and
# bias are padded to whole vectors, out is not.
transform_products: Any = _transform_products
