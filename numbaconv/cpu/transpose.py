"""Transposing a square block in vector registers, for every copy that turns rows into columns.

n vectors of n lanes in log2(n) steps: step s exchanges the off-diagonal s x s blocks of each pair of rows s apart.
For 16 lanes 64 shuffles move 256 elements; element by element it is 256 loads and 256 stores. And copies of whole
vectors, for lines that stay as they lie.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .simd import VECTOR_BYTES, Vectors

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


@intrinsic
def _transpose_block(
    typing_context: Any, source: Any, start: Any, row_stride: Any, out: Any, out_start: Any, out_stride: Any
) -> Any:
    signature = types.void(source, types.intp, types.intp, out, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = signature.args[0].dtype
        vec = Vectors(builder, context.get_data_type(element), element.bitwidth // 8, VECTOR_BYTES)
        source, out = (context.make_array(signature.args[p])(context, builder, args[p]).data for p in (0, 3))

        def at(base: Any, stride: Any, index: int) -> Any:
            return builder.add(base, builder.mul(stride, ir.Constant(ir.IntType(64), index)))

        rows = [vec.load(source, at(args[1], args[2], i)) for i in range(vec.lanes)]
        for j, column in enumerate(_exchange(vec, rows)):
            builder.store(column, vec.at(out, at(args[4], args[5], j)), align=vec.itemsize)
        return context.get_dummy_value()

    return signature, codegen


# transpose_block(source, start, row_stride, out, out_start, out_stride)
#
# out[out_start + j * out_stride + i] = source[start + i * row_stride + j], for i, j < VECTOR_BYTES // itemsize.
transpose_block: Any = _transpose_block


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
