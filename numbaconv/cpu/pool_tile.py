"""What channels-last pooling is made of, in explicit SIMD: one window, some vectors of channels in registers.

A window is `rows` x `columns` pixels, `row_pitch` and `column_pitch` elements apart. Each pixel of it is loaded once,
each result stored once. (Tap by tap into a row of results, the form that plain loops take, was three times slower:
three memory operations a tap.)
"""

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


class _Window:
    """The arguments all windows share: array x, start, rows, row_pitch, columns, column_pitch."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any, vectors: int) -> None:
        self.context, self.builder, self.signature, self.args = context, builder, signature, args
        element = signature.args[0].dtype
        self.vec = Vectors(builder, context.get_data_type(element), element.bitwidth // 8, VECTOR_BYTES)
        self.places = [_constant(v * self.vec.lanes) for v in range(vectors)]
        self.int_type = ir.VectorType(_INT32, self.vec.lanes)

    def pointer(self, position: int, offset: Any) -> Any:
        """The address of an element of the array argument at `position`."""
        array = self.context.make_array(self.signature.args[position])(self.context, self.builder, self.args[position])
        return self.builder.gep(array.data, [offset])

    def ints_at(self, pointer: Any, place: Any) -> Any:
        address = self.builder.gep(pointer, [place])
        return self.builder.bitcast(address, ir.PointerType(self.int_type))

    def splat_int(self, value: Any) -> Any:
        return self.vec.splat(self.builder.trunc(value, _INT32), self.int_type)

    def for_each_pixel(
        self, visit: Callable[[Any, Any, Any], None], after_row: Callable[[Any], None] | None = None
    ) -> None:
        """visit(pixel's offset from the start, row, column), row by row."""
        builder, (rows, row_pitch, columns, column_pitch) = self.builder, self.args[2:6]
        with cgutils.for_range(builder, rows) as row:
            line = builder.mul(row.index, row_pitch)
            with cgutils.for_range(builder, columns) as column:
                offset = builder.add(line, builder.mul(column.index, column_pitch))
                visit(offset, row.index, column.index)
            if after_row is not None:
                after_row(row.index)


@intrinsic(prefer_literal=True)
def _window_maximum(
    typing_context: Any, x: Any, start: Any, rows: Any, row_pitch: Any, columns: Any, column_pitch: Any,
    out: Any, out_start: Any, indices: Any, place: Any, row_places: Any, column_places: Any, with_indices: Any,
    vectors: Any,
) -> Any:  # fmt: skip
    index = types.intp
    keep = bool(with_indices.literal_value)
    signature = types.void(
        x, index, index, index, index, index, out, index, indices, index, index, index, with_indices, vectors
    )

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        w = _Window(context, builder, signature, args, vectors.literal_value)
        vec = w.vec
        source = w.pointer(0, args[1])
        # The first pixel begins, whatever it is; it is met again, and does not win against itself.
        best = [cgutils.alloca_once_value(builder, vec.load(source, v)) for v in w.places]
        first = w.splat_int(args[9])
        where = [cgutils.alloca_once_value(builder, first) for _ in w.places] if keep else []

        def visit(offset: Any, row: Any, column: Any) -> None:
            pixel = builder.gep(source, [offset])
            if keep:
                step = builder.add(builder.mul(row, args[10]), builder.mul(column, args[11]))
                here = w.splat_int(builder.add(args[9], step))
            for v, place in enumerate(w.places):
                value, before = vec.load(pixel, place), builder.load(best[v])
                is_nan = builder.fcmp_unordered("uno", value, value)
                larger = builder.or_(builder.fcmp_ordered(">", value, before), is_nan)
                builder.store(builder.select(larger, value, before), best[v])
                if keep:
                    builder.store(builder.select(larger, here, builder.load(where[v])), where[v])

        w.for_each_pixel(visit)
        for v, place in enumerate(w.places):
            builder.store(builder.load(best[v]), vec.at(w.pointer(6, args[7]), place), align=vec.itemsize)
            if keep:
                builder.store(builder.load(where[v]), w.ints_at(w.pointer(8, args[7]), place), align=4)
        return context.get_dummy_value()

    return signature, codegen


# window_maximum(x, start, rows, row_pitch, columns, column_pitch, out, out_start, indices, place, row_places,
#                column_places, with_indices, vectors)
#
# For c < vectors * lanes: out[out_start + c] = the largest of the window's x[start + c + ...], a NaN being the largest
# of all; and, with_indices (a literal 1 instead of 0), indices[out_start + c] = place + row * row_places + column *
# column_places of the first such pixel (of several NaN, the last).
window_maximum: Any = _window_maximum


@intrinsic(prefer_literal=True)
def _window_matches(
    typing_context: Any, grad: Any, start: Any, rows: Any, row_pitch: Any, columns: Any, column_pitch: Any,
    indices: Any, place: Any, out: Any, out_start: Any, skip: Any, vectors: Any,
) -> Any:  # fmt: skip
    index = types.intp
    signature = types.intp(
        grad, index, index, index, index, index, indices, index, out, index, index, vectors
    )  # fmt: skip

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        w = _Window(context, builder, signature, args, vectors.literal_value)
        vec = w.vec
        grads, indices = w.pointer(0, args[1]), w.pointer(6, args[1])
        here = w.splat_int(args[7])
        zero, none = ir.Constant(vec.type, [0.0] * vec.lanes), ir.Constant(w.int_type, [0] * vec.lanes)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in w.places]
        matches = cgutils.alloca_once_value(builder, none)
        counted = builder.not_(vec.first_lanes(args[10], 0))

        def visit(offset: Any, row: Any, column: Any) -> None:
            pixel, where = builder.gep(grads, [offset]), builder.gep(indices, [offset])
            for v, position in enumerate(w.places):
                same = builder.icmp_signed("==", builder.load(w.ints_at(where, position), align=4), here)
                value = builder.select(same, vec.load(pixel, position), zero)
                builder.store(builder.fadd(builder.load(sums[v]), value), sums[v])
                hits = builder.zext(builder.and_(same, counted), w.int_type)
                builder.store(builder.add(builder.load(matches), hits), matches)

        w.for_each_pixel(visit)
        for total, position in zip(sums, w.places, strict=True):
            builder.store(builder.load(total), vec.at(w.pointer(8, args[9]), position), align=vec.itemsize)
        kind = ir.FunctionType(_INT32, [w.int_type])
        total = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.add.v{vec.lanes}i32")
        return builder.sext(builder.call(total, [builder.load(matches)]), ir.IntType(64))

    return signature, codegen


# window_matches(grad, start, rows, row_pitch, columns, column_pitch, indices, place, out, out_start, skip, vectors)
#
# For c < vectors * lanes: out[out_start + c] = the sum over the window of grad[start + c + ...] where the indices
# there are `place`. Returns how many of them were, in the lanes from `skip` on of every vector.
window_matches: Any = _window_matches


@intrinsic(prefer_literal=True)
def _window_sum(
    typing_context: Any, x: Any, start: Any, rows: Any, row_pitch: Any, columns: Any, column_pitch: Any,
    row_weights: Any, row: Any, column_weights: Any, column: Any, divisor: Any, out: Any, out_start: Any, vectors: Any,
) -> Any:  # fmt: skip
    index = types.intp
    signature = types.void(
        x, index, index, index, index, index, row_weights, index, column_weights, index, x.dtype, out, index, vectors
    )

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        w = _Window(context, builder, signature, args, vectors.literal_value)
        vec = w.vec
        source = w.pointer(0, args[1])
        row_weights, column_weights = w.pointer(6, args[7]), w.pointer(8, args[9])
        zero = ir.Constant(vec.type, [0.0] * vec.lanes)
        totals = [cgutils.alloca_once_value(builder, zero) for _ in w.places]
        lines = [cgutils.alloca_once_value(builder, zero) for _ in w.places]

        def visit(offset: Any, row: Any, column: Any) -> None:
            pixel = builder.gep(source, [offset])
            weight = vec.splat(builder.load(builder.gep(column_weights, [column])))
            for line, place in zip(lines, w.places, strict=True):
                builder.store(vec.multiply_add(vec.load(pixel, place), weight, builder.load(line)), line)

        def after_row(row: Any) -> None:
            weight = vec.splat(builder.load(builder.gep(row_weights, [row])))
            for total, line in zip(totals, lines, strict=True):
                builder.store(vec.multiply_add(builder.load(line), weight, builder.load(total)), total)
                builder.store(zero, line)

        w.for_each_pixel(visit, after_row)
        divisor = vec.splat(args[10])
        for total, place in zip(totals, w.places, strict=True):
            mean = builder.fdiv(builder.load(total), divisor)
            builder.store(mean, vec.at(w.pointer(11, args[12]), place), align=vec.itemsize)
        return context.get_dummy_value()

    return signature, codegen


# window_sum(x, start, rows, row_pitch, columns, column_pitch, row_weights, row, column_weights, column, divisor,
#            out, out_start, vectors)
#
# For c < vectors * lanes: out[out_start + c] = the sum over the window, row i and column j, of
# row_weights[row + i] * column_weights[column + j] * x[start + c + ...], divided by `divisor`.
window_sum: Any = _window_sum


@intrinsic
def _scale_vector(typing_context: Any, x: Any, start: Any, factor: Any, out: Any, out_start: Any) -> Any:
    signature = types.void(x, types.intp, x.dtype, out, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        w = _Window(context, builder, signature, args, 1)
        value = builder.fmul(w.vec.load(w.pointer(0, args[1]), _constant(0)), w.vec.splat(args[2]))
        builder.store(value, w.vec.at(w.pointer(3, args[4]), _constant(0)), align=w.vec.itemsize)
        return context.get_dummy_value()

    return signature, codegen


# scale_vector(x, start, factor, out, out_start): out[out_start + c] = x[start + c] * factor for c < lanes.
scale_vector: Any = _scale_vector
