"""Transposing a square block in vector registers, for every copy that turns rows into columns.

n vectors of n lanes in log2(n) steps: step s exchanges the off-diagonal s x s blocks of each pair of rows s apart.
For 16 lanes 64 shuffles move 256 elements; element by element it is 256 loads and 256 stores. And copies of whole
vectors, for lines that stay as they lie. Pixels of few channels become lines of one channel each, and back, a vector of
pixels at a time, by shuffles of two vectors: 30 for 6 channels, where a square block would throw most of itself away.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .simd import VECTOR_BYTES, Vectors, operands, rolled_loop

_INT32 = ir.IntType(32)


def _exchange(vec: Vectors, rows: list[Any]) -> list[Any]:
    step = 1
    while step < vec.lanes:
        low = [j if not j & step else vec.lanes + j - step for j in range(vec.lanes)]
        high = [j + step if not j & step else vec.lanes + j for j in range(vec.lanes)]
        for i in range(vec.lanes):
            if not i & step:
                pair = rows[i], rows[i + step]
                for place, lanes in ((i, low), (i + step, high)):
                    mask = ir.Constant(ir.VectorType(_INT32, vec.lanes), lanes)
                    rows[place] = vec.builder.shuffle_vector(*pair, mask)
        step *= 2
    return rows


def _transpose(context: Any, builder: Any, signature: Any, args: Any, count: Any) -> Any:
    """The code of both; rows from `count` on, if it is not None, are zeros."""
    element = signature.args[0].dtype
    vec = Vectors(builder, context.get_data_type(element), element.bitwidth // 8, VECTOR_BYTES)
    source, out = (context.make_array(signature.args[p])(context, builder, args[p]).data for p in (0, 3))
    numbers = [ir.Constant(ir.IntType(64), i) for i in range(vec.lanes)]

    def row(number: Any) -> Any:
        if count is None:
            return vec.load(source, builder.add(args[1], builder.mul(args[2], number)))
        there = builder.icmp_signed("<", number, count)
        number = builder.select(there, number, numbers[0])
        value = vec.load(source, builder.add(args[1], builder.mul(args[2], number)))
        return builder.select(there, value, ir.Constant(vec.type, [0.0] * vec.lanes))

    for number, column in zip(numbers, _exchange(vec, [row(number) for number in numbers]), strict=True):
        to = builder.add(args[4], builder.mul(args[5], number))
        builder.store(column, vec.at(out, to), align=vec.itemsize)
    return context.get_dummy_value()


@intrinsic
def _transpose_block(
    typing_context: Any, source: Any, start: Any, row_stride: Any, out: Any, out_start: Any, out_stride: Any
) -> Any:
    signature = types.void(source, types.intp, types.intp, out, types.intp, types.intp)
    return signature, lambda context, builder, signature, args: _transpose(context, builder, signature, args, None)


@intrinsic
def _transpose_rows(
    typing_context: Any, source: Any, start: Any, row_stride: Any, out: Any, out_start: Any, out_stride: Any, rows: Any
) -> Any:
    signature = types.void(source, types.intp, types.intp, out, types.intp, types.intp, types.intp)
    return signature, lambda context, builder, signature, args: _transpose(context, builder, signature, args, args[6])


# transpose_block(source, start, row_stride, out, out_start, out_stride)
#
# out[out_start + j * out_stride + i] = source[start + i * row_stride + j], for i, j < VECTOR_BYTES // itemsize.
transpose_block: Any = _transpose_block
# transpose_rows(source, start, row_stride, out, out_start, out_stride, rows): the same of `rows` rows, at least 1; the
# others are not read, and count as zeros.
transpose_rows: Any = _transpose_rows


@intrinsic
def _copy_vectors(typing_context: Any, source: Any, start: Any, out: Any, out_start: Any, vectors: Any) -> Any:
    signature = types.void(source, types.intp, out, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = signature.args[0].dtype
        vec = Vectors(builder, context.get_data_type(element), element.bitwidth // 8, VECTOR_BYTES)
        source, out = (context.make_array(signature.args[p])(context, builder, args[p]).data for p in (0, 2))
        with cgutils.for_range(builder, args[4]) as loop:
            at = builder.mul(loop.index, ir.Constant(ir.IntType(64), vec.lanes))
            value = vec.load(source, builder.add(args[1], at))
            builder.store(value, vec.at(out, builder.add(args[3], at)), align=vec.itemsize)
        return context.get_dummy_value()

    return signature, codegen


# copy_vectors(source, start, out, out_start, vectors): that many whole vectors.
copy_vectors: Any = _copy_vectors


@intrinsic
def _fetch_vectors(typing_context: Any, x: Any, start: Any, pitch: Any, rows: Any, vectors: Any) -> Any:
    signature = types.void(x, types.intp, types.intp, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vec, data = operands(context, builder, signature, args)
        with rolled_loop(builder, args[3]) as row:
            line = builder.gep(data(0), [builder.add(args[1], builder.mul(row.index, args[2]))])
            with rolled_loop(builder, args[4]) as vector:
                place = builder.mul(vector.index, ir.Constant(ir.IntType(64), vec.lanes))
                vec.prefetch(line, place, first_level=False)
        return context.get_dummy_value()

    return signature, codegen


# fetch_vectors(x, start, pitch, rows, vectors): of rows a pitch apart, what will be read soon, into the second-level
# cache.
fetch_vectors: Any = _fetch_vectors


# --- pixels of few channels ---------------------------------------------------------------------------------

MOST_INTERLEAVED = 6  # channels; of more, a square block takes as few shuffles


def _gather(vec: Vectors, sources: list[Any], places: list[int]) -> Any:
    """A vector of elements `places` of the sources, counted through all of them."""
    result, taken = sources[0], [place if place < vec.lanes else 0 for place in places]
    for number, source in enumerate(sources[1:], 1):
        first = number * vec.lanes
        lanes = [
            vec.lanes + place - first if first <= place < first + vec.lanes else (lane if number > 1 else taken[lane])
            for lane, place in enumerate(places)
        ]
        mask = ir.Constant(ir.VectorType(_INT32, vec.lanes), lanes)
        result = vec.builder.shuffle_vector(result, source, mask)
    return result


def _interleaving(joins: bool) -> Any:
    @intrinsic(prefer_literal=True)
    def interleaving(
        typing_context: Any, source: Any, start: Any, source_stride: Any, out: Any, out_start: Any, out_stride: Any,
        channels: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(source, types.intp, types.intp, out, types.intp, types.intp, channels)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            element = signature.args[0].dtype
            vec = Vectors(builder, context.get_data_type(element), element.bitwidth // 8, VECTOR_BYTES)
            source, out = (context.make_array(signature.args[p])(context, builder, args[p]).data for p in (0, 3))
            count = channels.literal_value
            numbers = [ir.Constant(ir.IntType(64), c) for c in range(count)]
            vectors = [vec.load(source, builder.add(args[1], builder.mul(args[2], c))) for c in numbers]
            for c, number in enumerate(numbers):
                if joins:  # element i of pixel after pixel is of channel i % count, pixel i // count
                    elements = range(c * vec.lanes, (c + 1) * vec.lanes)
                    places = [i % count * vec.lanes + i // count for i in elements]
                else:
                    places = [pixel * count + c for pixel in range(vec.lanes)]
                to = builder.add(args[4], builder.mul(args[5], number))
                builder.store(_gather(vec, vectors, places), vec.at(out, to), align=vec.itemsize)
            return context.get_dummy_value()

        return signature, codegen

    return interleaving


# split_channels(source, start, lanes, out, out_start, out_stride, channels), for a vector of pixels and channels, a
# literal of at least 2:
#
#   out[out_start + c * out_stride + j] = source[start + j * channels + c]
split_channels: Any = _interleaving(joins=False)
# join_channels(source, start, source_stride, out, out_start, lanes, channels), the other way round:
#
#   out[out_start + j * channels + c] = source[start + c * source_stride + j]
join_channels: Any = _interleaving(joins=True)


@intrinsic(prefer_literal=True)
def _split_padded(
    typing_context: Any, source: Any, start: Any, first: Any, last: Any, out: Any, out_start: Any, out_stride: Any,
    count: Any, channels: Any,
) -> Any:  # fmt: skip
    index = types.intp
    signature = types.void(source, index, index, index, out, index, index, index, channels)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vec, data = operands(context, builder, signature, args)
        channels, count = signature.args[8].literal_value, args[7]
        lanes, zero = (ir.Constant(ir.IntType(64), value) for value in (vec.lanes, 0))
        source, out = builder.gep(data(0), [args[1]]), builder.gep(data(4), [args[5]])

        def split(pixel: Any, mask: Any) -> None:
            element = builder.mul(pixel, ir.Constant(ir.IntType(64), channels))
            values = []
            for c in range(channels):
                here = builder.add(element, ir.Constant(ir.IntType(64), c * vec.lanes))
                before = builder.not_(vec.first_lanes(builder.sub(args[2], here), 0))
                inside = builder.and_(before, vec.first_lanes(builder.sub(args[3], here), 0))
                values.append(vec.masked_load(vec.at(source, here), inside))
            for c in range(channels):
                to = vec.at(out, builder.add(pixel, builder.mul(args[6], ir.Constant(ir.IntType(64), c))))
                value = _gather(vec, values, [lane * channels + c for lane in range(vec.lanes)])
                if mask is None:
                    builder.store(value, to, align=vec.itemsize)
                else:
                    vec.masked_store(value, to, mask)

        vectors = builder.sdiv(count, lanes)
        with rolled_loop(builder, vectors) as loop:
            split(builder.mul(loop.index, lanes), None)
        whole = builder.mul(vectors, lanes)
        rest = builder.sub(count, whole)
        with builder.if_then(builder.icmp_signed(">", rest, zero)):
            split(whole, vec.first_lanes(rest, 0))
        return context.get_dummy_value()

    return signature, codegen


# split_padded(source, start, first, last, out, out_start, out_stride, count, channels), for j < count and c < channels,
# a literal:
#
#   out[out_start + c * out_stride + j] = source[start + i] if first <= i < last else 0, of i = j * channels + c
split_padded: Any = _split_padded
