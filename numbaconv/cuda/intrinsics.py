"""What numba has no word for: accesses of 16 bytes, warp shuffles. The only file that knows LLVM and PTX.

Each has a fallback for the simulator beside it. A "vector" is a tuple of VECTOR elements (4 float32, 2 float64) that
one thread loads or stores at once; its first element's index must be a multiple of VECTOR, and its array aligned to
16 bytes (`cuda.shared.array(size, T, alignment=16)`). Four loads in a row would not be merged by the compiler.
"""

from __future__ import annotations

from typing import Any

from .runtime import simulated

__all__ = [
    "ALL_LANES",
    "atomic_max",
    "load_lanes",
    "load_vector",
    "load_vector_shared",
    "map_vector",
    "pointer_at",
    "put_vector",
    "store_lanes",
    "store_vector",
    "store_vector_shared",
    "unsigned_quotient",
    "vector_at",
]

_BYTES = 16
ALL_LANES = 0xFFFFFFFF  # the mask of cuda.shfl_down_sync and its like

if not simulated():
    from llvmlite import ir
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    _I32, _I64 = ir.IntType(32), ir.IntType(64)
    _GLOBAL, _SHARED = 1, 3  # LLVM's address spaces

    def element_pointer(context: Any, builder: Any, kind: Any, array: Any, index_kind: Any, index: Any) -> Any:
        """LLVM's pointer to an element of a pointer, or of a 1-D contiguous array. No index wraps around."""
        data = array if isinstance(kind, types.CPointer) else context.make_array(kind)(context, builder, array).data
        if index_kind.bitwidth < 64:
            index = (builder.sext if index_kind.signed else builder.zext)(index, _I64)
        return builder.gep(data, [index])

    def _vector_pointer(context: Any, builder: Any, kind: Any, element: Any, space: int) -> Any:
        vector = ir.VectorType(context.get_value_type(kind.dtype), _BYTES * 8 // kind.dtype.bitwidth)
        generic = builder.bitcast(element, ir.PointerType(vector))
        return builder.addrspacecast(generic, ir.PointerType(vector, space)), vector

    def _loads(space: int) -> Any:
        @intrinsic
        def load(typing_context, array, index):
            result = types.UniTuple(array.dtype, _BYTES * 8 // array.dtype.bitwidth)

            def generate(context, builder, signature, args):
                kind, index_kind = signature.args
                element = element_pointer(context, builder, kind, args[0], index_kind, args[1])
                pointer, _ = _vector_pointer(context, builder, kind, element, space)
                vector = builder.load(pointer)
                vector.align = _BYTES
                lanes = [builder.extract_element(vector, _I32(k)) for k in range(result.count)]
                return context.make_tuple(builder, result, lanes)

            return result(array, index), generate

        return load

    def _stores(space: int) -> Any:
        @intrinsic
        def store(typing_context, array, index, values):
            def generate(context, builder, signature, args):
                kind, index_kind, values_kind = signature.args
                element = element_pointer(context, builder, kind, args[0], index_kind, args[1])
                pointer, vector_type = _vector_pointer(context, builder, kind, element, space)
                vector = ir.Constant(vector_type, ir.Undefined)
                for k, value_kind in enumerate(values_kind.types):
                    value = context.cast(builder, builder.extract_value(args[2], k), value_kind, kind.dtype)
                    vector = builder.insert_element(vector, value, _I32(k))
                builder.store(vector, pointer).align = _BYTES
                return context.get_dummy_value()

            return types.void(array, index, values), generate

        return store

    load_vector, load_vector_shared = _loads(_GLOBAL), _loads(_SHARED)
    store_vector, store_vector_shared = _stores(_GLOBAL), _stores(_SHARED)

    def _lanes_pointer(
        context: Any, builder: Any, kind: Any, array: Any, index_kind: Any, index: Any, count: int
    ) -> Any:
        """LLVM's pointer to `count` elements in global memory as one value, and its alignment."""
        value = context.get_value_type(kind.dtype)
        whole = ir.VectorType(value, count) if count > 1 else value
        element = builder.bitcast(
            element_pointer(context, builder, kind, array, index_kind, index), ir.PointerType(whole)
        )
        return builder.addrspacecast(element, ir.PointerType(whole, _GLOBAL)), count * kind.dtype.bitwidth // 8

    @intrinsic
    def load_lanes(typing_context, array, index, like):
        """As many elements as the tuple `like` has (1, 2 or 4), in one access, aligned to their size."""
        result = types.UniTuple(array.dtype, like.count)

        def generate(context, builder, signature, args):
            pointer, align = _lanes_pointer(
                context, builder, signature.args[0], args[0], signature.args[1], args[1], result.count
            )
            whole = builder.load(pointer)
            whole.align = align
            lanes = (
                [builder.extract_element(whole, _I32(k)) for k in range(result.count)] if result.count > 1 else [whole]
            )
            return context.make_tuple(builder, result, lanes)

        return result(array, index, like), generate

    @intrinsic
    def store_lanes(typing_context, array, index, values):
        """The elements of a tuple (1, 2 or 4), in one access, aligned to their size."""

        def generate(context, builder, signature, args):
            kind, index_kind, values_kind = signature.args
            pointer, align = _lanes_pointer(context, builder, kind, args[0], index_kind, args[1], values_kind.count)
            whole = ir.Constant(pointer.type.pointee, ir.Undefined)
            for k, value_kind in enumerate(values_kind.types):
                value = context.cast(builder, builder.extract_value(args[2], k), value_kind, kind.dtype)
                whole = builder.insert_element(whole, value, _I32(k)) if values_kind.count > 1 else value
            builder.store(whole, pointer).align = align
            return context.get_dummy_value()

        return types.void(array, index, values), generate

    @intrinsic
    def unsigned_quotient(typing_context, a, b):
        def generate(context, builder, signature, args):
            return builder.udiv(*args)

        return types.uint32(types.uint32, types.uint32), generate

    @intrinsic
    def atomic_max(typing_context, array, index, value):
        """The larger of an integer in global memory and `value` is written there: no order of threads changes it."""

        def generate(context, builder, signature, args):
            kind, index_kind, value_kind = signature.args
            element = element_pointer(context, builder, kind, args[0], index_kind, args[1])
            pointer = builder.addrspacecast(element, ir.PointerType(element.type.pointee, _GLOBAL))
            builder.atomic_rmw("max", pointer, context.cast(builder, args[2], value_kind, kind.dtype), "monotonic")
            return context.get_dummy_value()

        return types.void(array, index, value), generate

    @intrinsic
    def pointer_at(typing_context, address, kind):
        """An address (int64), such as one of a table, as a pointer to elements of a type such as ``T``."""

        def generate(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind.instance_type)(address, kind), generate

    @intrinsic
    def map_vector(typing_context, function, values):
        """``function`` of the first elements, of the second ones, ...: a vector. Scalars go to each call."""
        vector = next(v for v in values.types if isinstance(v, types.BaseTuple))
        call = function.get_call_type(typing_context, tuple(getattr(v, "dtype", v) for v in values.types), {})
        result = types.UniTuple(call.return_type, vector.count)

        def generate(context, builder, signature, args):
            compiled = context.get_function(function, call)
            given = [(kind, builder.extract_value(args[1], k)) for k, kind in enumerate(values.types)]
            outs = []
            for k in range(result.count):
                lane = [builder.extract_value(v, k) if isinstance(t, types.BaseTuple) else v for t, v in given]
                outs.append(compiled(builder, lane))
            return context.make_tuple(builder, result, outs)

        return result(function, values), generate

    @intrinsic
    def vector_at(typing_context, array, first):
        """The vector in elements [first, first + VECTOR) of a local array, which stays in registers."""
        result = types.UniTuple(array.dtype, _BYTES * 8 // array.dtype.bitwidth)

        def generate(context, builder, signature, args):
            kind, index_kind = signature.args
            pointer = element_pointer(context, builder, kind, args[0], index_kind, args[1])
            lanes = [builder.load(builder.gep(pointer, [_I32(k)])) for k in range(result.count)]
            return context.make_tuple(builder, result, lanes)

        return result(array, first), generate

    @intrinsic
    def put_vector(typing_context, array, first, values):
        """Writes a vector into elements [first, first + VECTOR) of a local array."""

        def generate(context, builder, signature, args):
            kind, index_kind, values_kind = signature.args
            pointer = element_pointer(context, builder, kind, args[0], index_kind, args[1])
            for k in range(values_kind.count):
                builder.store(builder.extract_value(args[2], k), builder.gep(pointer, [_I32(k)]))
            return context.get_dummy_value()

        return types.void(array, first, values), generate

else:
    from numba.cuda.np import numpy_support

    from .runtime import runtime
    from .simulated_block import Pointer

    def _elements(array: Any) -> int:
        return _BYTES // (array.elements if isinstance(array, Pointer) else array).itemsize

    def load_vector(array: Any, index: Any) -> Any:
        count = _elements(array)
        _require_aligned(array, index, count)
        return tuple(array[index + k] for k in range(count))

    def store_vector(array: Any, index: Any, values: Any) -> None:
        _require_aligned(array, index, _elements(array))
        for k, value in enumerate(values):
            array[index + k] = value

    def load_lanes(array: Any, index: Any, like: Any) -> Any:
        _require_lanes_aligned(array, index, len(like))
        return tuple(array[index + k] for k in range(len(like)))

    def store_lanes(array: Any, index: Any, values: Any) -> None:
        _require_lanes_aligned(array, index, len(values))
        for k, value in enumerate(values):
            array[index + k] = value

    def _require_lanes_aligned(array: Any, index: Any, count: int) -> None:
        nbytes = count * array.elements.itemsize
        if (array.address + int(index) * array.elements.itemsize) % nbytes:
            raise IndexError(f"an access of {nbytes} bytes at element {index} is not aligned")

    def _require_aligned(array: Any, index: Any, count: int) -> None:
        if index % count or (isinstance(array, Pointer) and array.address % _BYTES):
            raise IndexError(f"an access of {_BYTES} bytes at element {index} is not aligned")

    load_vector_shared, store_vector_shared = load_vector, store_vector

    def unsigned_quotient(a: Any, b: Any) -> Any:
        return a // b

    def atomic_max(array: Any, index: Any, value: Any) -> None:
        array[index] = max(array[index], value)

    def pointer_at(address: Any, kind: Any) -> Any:
        return runtime().pointer(int(address), numpy_support.as_dtype(kind))  # type: ignore[attr-defined]

    def map_vector(function: Any, values: Any) -> Any:
        count = next(len(v) for v in values if isinstance(v, tuple))
        return tuple(function(*(v[k] if isinstance(v, tuple) else v for v in values)) for k in range(count))

    def vector_at(array: Any, first: Any) -> Any:
        return tuple(array[first + k] for k in range(_elements(array)))

    def put_vector(array: Any, first: Any, values: Any) -> None:
        for k, value in enumerate(values):
            array[first + k] = value
