"""Copies into shared memory that do not wait, and products of small matrices on tensor cores. Compute capability 8.0.

Only this file and `intrinsics` know LLVM and PTX. Each function has its fallback for the simulator. A warp multiplies
16x8 by 8x8 matrices of TF32, float32 with 10 bits of mantissa instead of 23, and adds in float32 ("mma.m16n8k8" in
NVIDIA's PTX ISA). Of such a matrix every lane holds some elements; with ``row, column = lane // 4, lane % 4``:

    A (16x8): (row, column), (row + 8, column), (row, column + 4), (row + 8, column + 4)
    B (8x8):  (column, row), (column + 4, row)
    C (16x8): (row, 2 column), (row, 2 column + 1), (row + 8, 2 column), (row + 8, 2 column + 1)

`load_matrices` brings A, or two Bs whose columns lie as rows, from shared memory. A *tile* of M x N such matrices is
one tuple: A of M after each other, B of N, and C of M x N, of a row after each other.
"""

from __future__ import annotations

from typing import Any

from .runtime import simulated

__all__ = [
    "advance",
    "bits_of",
    "copy_async_4",
    "copy_async_8",
    "copy_async_16",
    "copy_async_commit",
    "copy_async_wait_0",
    "copy_async_wait_1",
    "copy_async_wait_2",
    "float_of",
    "four_of",
    "load_matrices",
    "multiply_tile_3xtf32",
    "multiply_tile_tf32",
    "to_tf32",
]

if not simulated():
    from llvmlite import ir
    from numba.cuda import cgutils, types
    from numba.cuda.extending import intrinsic

    from .intrinsics import element_pointer

    _I32, _I64, _F32, _VOID = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.VoidType()
    _GLOBAL, _SHARED = 1, 3  # LLVM's address spaces

    def _assembly(
        builder: Any, result: Any, text: str, constraints: str, args: list[Any], *, effects: bool = True
    ) -> Any:
        kind = ir.FunctionType(result, [a.type for a in args])
        return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=effects), args)

    def _address(context: Any, builder: Any, kind: Any, array: Any, index_kind: Any, index: Any, space: int) -> Any:
        """The address of an element as an integer, of the address space's size."""
        element = element_pointer(context, builder, kind, array, index_kind, index)
        pointer = builder.addrspacecast(element, ir.PointerType(element.type.pointee, space))
        return builder.ptrtoint(pointer, _I32 if space == _SHARED else _I64)

    def _copies(nbytes: int) -> Any:
        cached = "cg" if nbytes == 16 else "ca"  # only 16 bytes can go past the L1 cache

        @intrinsic
        def copy_async(typing_context, shared, index, source, source_index, wanted):
            def generate(context, builder, signature, args):
                shared_kind, index_kind, source_kind, source_index_kind, wanted_kind = signature.args
                to = _address(context, builder, shared_kind, args[0], index_kind, args[1], _SHARED)
                start = _address(context, builder, source_kind, args[2], source_index_kind, args[3], _GLOBAL)
                size = context.cast(builder, args[4], wanted_kind, types.int32)
                text = f"cp.async.{cached}.shared.global [$0], [$1], {nbytes}, $2;"
                _assembly(builder, _VOID, text, "r,l,r,~{memory}", [to, start, size])
                return context.get_dummy_value()

            return types.void(shared, index, source, source_index, wanted), generate

        copy_async.__doc__ = f"""Starts a copy of {nbytes} bytes into shared memory; bytes from `wanted` on become 0."""
        return copy_async

    def _statement(text: str) -> Any:
        @intrinsic
        def statement(typing_context):
            def generate(context, builder, signature, args):
                _assembly(builder, _VOID, text, "~{memory}", [])
                return context.get_dummy_value()

            return types.void(), generate

        return statement

    copy_async_16, copy_async_8, copy_async_4 = _copies(16), _copies(8), _copies(4)
    copy_async_commit = _statement("cp.async.commit_group;")
    copy_async_wait_0, copy_async_wait_1, copy_async_wait_2 = (
        _statement(f"cp.async.wait_group {left};") for left in range(3)
    )

    @intrinsic
    def load_matrices(typing_context, shared, index):
        """Four 8x4 matrices of float32, as bits. Lanes 8 q to 8 q + 7 say where the rows of matrix q start."""
        result = types.UniTuple(types.uint32, 4)
        text = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0, $1, $2, $3}, [$4];"

        def generate(context, builder, signature, args):
            kind, index_kind = signature.args
            address = _address(context, builder, kind, args[0], index_kind, args[1], _SHARED)
            four = ir.LiteralStructType([_I32] * 4)
            loaded = _assembly(builder, four, text, "=r,=r,=r,=r,r,~{memory}", [address])
            return context.make_tuple(builder, result, [builder.extract_value(loaded, k) for k in range(4)])

        return result(shared, index), generate

    @intrinsic
    def to_tf32(typing_context, value):
        """The bits of the nearest TF32 number; halves away from zero."""

        def generate(context, builder, signature, args):
            return _assembly(builder, _I32, "cvt.rna.tf32.f32 $0, $1;", "=r,f", list(args), effects=False)

        return types.uint32(types.float32), generate

    @intrinsic
    def bits_of(typing_context, value):
        """The bits of a float32."""

        def generate(context, builder, signature, args):
            return builder.bitcast(args[0], _I32)

        return types.uint32(types.float32), generate

    @intrinsic
    def float_of(typing_context, bits):
        """The float32 of these bits."""

        def generate(context, builder, signature, args):
            return builder.bitcast(args[0], _F32)

        return types.float32(types.uint32), generate

    def _multiply(builder: Any, a: list[Any], b: list[Any], c: list[Any]) -> list[Any]:
        """One product: 4 registers of A, 2 of B, 4 of C."""
        registers = [f"${n}" for n in range(14)]
        groups = (registers[:4], registers[4:8], registers[8:10], registers[10:])
        operands = ", ".join("{" + ", ".join(group) + "}" for group in groups)
        text = f"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {operands};"
        four, constraints = ir.LiteralStructType([_F32] * 4), "=f,=f,=f,=f" + ",r" * 6 + ",f" * 4
        product = _assembly(builder, four, text, constraints, [*a, *b, *c], effects=False)
        return [builder.extract_value(product, k) for k in range(4)]

    def _tile(operands: int, product: Any) -> Any:
        """The intrinsic that replaces each C by ``product(builder, [A, ...], [B, ...], C)``; so many As, so many Bs."""

        def generate(context, builder, signature, args):
            parts = [
                [builder.extract_value(arg, k) for k in range(kind.count)]
                for kind, arg in zip(signature.args, args, strict=True)
            ]
            sums, left, right = parts[0], parts[1 : 1 + operands], parts[1 + operands :]
            columns = len(right[0]) // 2
            for place in range(0, len(sums), 4):
                i, j = divmod(place // 4, columns)
                a, b = [v[4 * i : 4 * i + 4] for v in left], [v[2 * j : 2 * j + 2] for v in right]
                sums[place : place + 4] = product(builder, a, b, sums[place : place + 4])
            return context.make_tuple(builder, signature.return_type, sums)

        return generate

    def _one(builder: Any, a: list[Any], b: list[Any], c: list[Any]) -> list[Any]:
        return _multiply(builder, a[0], b[0], c)

    def _three(builder: Any, a: list[Any], b: list[Any], c: list[Any]) -> list[Any]:
        result = _multiply(builder, a[1], b[0], [ir.Constant(_F32, 0.0)] * 4)
        result = _multiply(builder, a[0], b[1], result)
        result = _multiply(builder, a[0], b[0], result)
        return [builder.fadd(*both) for both in zip(c, result, strict=True)]

    @intrinsic
    def multiply_tile_tf32(typing_context, c, a, b):
        """C + A B of a tile. Of the operands' bits the lowest 13 are not read."""
        return c(c, a, b), _tile(1, _one)

    @intrinsic
    def multiply_tile_3xtf32(typing_context, c, a, a_rest, b, b_rest):
        """C + (A + A') (B + B') - A' B' of a tile.

        The three products are added up from zero, and their sum then to C: tensor cores cut off a sum's last bits, and
        over many products that adds up; float32 rounds.
        """
        return c(c, a, a_rest, b, b_rest), _tile(2, _three)

    @intrinsic
    def four_of(typing_context, values, first, step):
        """Four elements of a tuple, from `first` on, `step` apart. In registers, if both are constants once inlined."""
        result = types.UniTuple(values.dtype, 4)

        def generate(context, builder, signature, args):
            memory = cgutils.alloca_once_value(builder, args[0])
            at, step = (context.cast(builder, args[k], signature.args[k], types.int32) for k in (1, 2))
            picked = []
            for _ in range(4):
                picked.append(builder.load(builder.gep(memory, [_I32(0), at])))
                at = builder.add(at, step)
            return context.make_tuple(builder, result, picked)

        return result(values, first, step), generate

    @intrinsic
    def advance(typing_context, pointer, elements):
        """The pointer, so many elements on."""

        def generate(context, builder, signature, args):
            return element_pointer(context, builder, signature.args[0], args[0], signature.args[1], args[1])

        return pointer(pointer, elements), generate

else:
    import numpy as np

    from .simulated_block import Pointer, collective, current_block

    def _copy_of(nbytes: int) -> Any:
        def copy_async(shared: Any, index: Any, source: Any, source_index: Any, wanted: Any) -> None:
            count = nbytes // shared.itemsize
            if index % count or (wanted and (source.address + int(source_index) * shared.itemsize) % nbytes):
                raise IndexError(f"a copy of {nbytes} bytes to element {index} is not aligned")
            for k in range(count):
                shared[index + k] = source[source_index + k] if k * shared.itemsize < wanted else 0

        return copy_async

    copy_async_16, copy_async_8, copy_async_4 = _copy_of(16), _copy_of(8), _copy_of(4)

    def copy_async_commit() -> None:
        pass

    copy_async_wait_0 = copy_async_wait_1 = copy_async_wait_2 = copy_async_commit

    def _exchange(value: Any, place: int) -> list[Any]:
        """What the 32 threads of this warp give, in order."""
        block = current_block()
        block.exchange[block.thread] = value
        block.wait("warp", place)
        first = block.thread - block.laneid
        values = [block.exchange[first + lane] for lane in range(32)]
        block.wait("warp", place)
        return values

    @collective
    def load_matrices(shared: Any, index: Any) -> Any:
        lane = current_block().laneid
        starts = _exchange(index, 1)
        words = (shared[starts[8 * q + lane // 4] + lane % 4] for q in range(4))
        return tuple(np.float32(word).view(np.uint32) for word in words)

    def to_tf32(value: Any) -> Any:
        bits = np.float32(value).view(np.uint32)
        return bits if not np.isfinite(value) else (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)

    def bits_of(value: Any) -> Any:
        return np.float32(value).view(np.uint32)

    def float_of(bits: Any) -> Any:
        return np.uint32(bits).view(np.float32)

    _ROW, _COLUMN = np.arange(32) // 4, np.arange(32) % 4

    def _matrices(fragments: list[Any], places: Any, shape: tuple[int, int]) -> Any:
        """The matrices (n, rows, columns) of which each lane gives some elements, as float64."""
        values = np.array(fragments, np.uint32).view(np.float32).astype(np.float64)
        matrices = np.empty((values.shape[1] // len(places), *shape))
        for k, (row, column) in enumerate(places):
            matrices[:, row, column] = values[:, k :: len(places)].T
        return matrices

    _A = tuple((_ROW + row, _COLUMN + column) for column in (0, 4) for row in (0, 8))
    _B = tuple((_COLUMN + row, _ROW) for row in (0, 4))

    def _products(a: Any, b: Any, place: int) -> Any:
        """This lane's elements of A B, float64."""
        lane = current_block().laneid
        pairs = _exchange((np.array(a) & np.uint32(0xFFFFE000), np.array(b) & np.uint32(0xFFFFE000)), place)
        left = _matrices([a for a, _ in pairs], _A, (16, 8))
        right = _matrices([b for _, b in pairs], _B, (8, 8))
        row, column = lane // 4, 2 * (lane % 4)
        products = left[:, None] @ right[None]  # (M, N, 16, 8)
        return products[:, :, (row, row, row + 8, row + 8), (column, column + 1, column, column + 1)].ravel()

    @collective
    def multiply_tile_tf32(c: Any, a: Any, b: Any) -> Any:
        return tuple((np.array(c, np.float64) + _products(a, b, 2)).astype(np.float32))

    @collective
    def multiply_tile_3xtf32(c: Any, a: Any, a_rest: Any, b: Any, b_rest: Any) -> Any:
        products = _products(a_rest, b, 3) + _products(a, b_rest, 4) + _products(a, b, 5)
        return tuple(np.array(c, np.float32) + products.astype(np.float32))

    def four_of(values: Any, first: Any, step: Any) -> Any:
        return tuple(values[first + k * step] for k in range(4))

    class _Advanced(Pointer):
        """A pointer so many elements on; it may be outside of its memory, as long as nothing there is read."""

        def __init__(self, pointer: Pointer, elements: int) -> None:
            super().__init__(pointer.elements, pointer.address + elements * pointer.elements.itemsize)
            self._first = getattr(pointer, "_first", 0) + elements

        def _checked(self, index: Any) -> int:
            return super()._checked(int(index) + self._first)

    def advance(pointer: Any, elements: Any) -> Any:
        return _Advanced(pointer, int(elements))
