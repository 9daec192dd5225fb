"""Explicit SIMD: LLVM's vectors, as wide as the target's registers.

LLVM's auto-vectoriser prefers 256-bit vectors even where there are 512, and does not keep a tile of accumulators
in registers; vectors written out do. The width comes from numba's effective target (NUMBA_CPU_FEATURES if set),
never from cpuid, so that code for another CPU can be tested on this one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import binding as llvm
from llvmlite import ir
from numba.core import cgutils, codegen, config


def _target_features() -> set[str]:
    features = vars(config)["CPU_FEATURES"]
    return set((codegen.get_host_cpu_features() if features is None else features).split(","))


def _vector_bytes(features: set[str]) -> int:
    if "+avx512f" in features:
        return 64
    return 32 if "+avx2" in features else 16


def _target_cpu() -> str:
    name = vars(config)["CPU_NAME"]
    return str(llvm.get_host_cpu_name() if name is None else name)


VECTOR_BYTES = _vector_bytes(_target_features())

# Zen 4 waits at stores to lines that are in none of its caches: where those are fetched some hundred cycles before, a
# 1x1 layer to 256 channels is 1.3 times as fast, one to 1,024 1.05. A like attempt lost 5 % on Zen 5; others are not
# measured.
_WAITS_AT_STORES = _target_cpu() == "znver4"

_INT = ir.IntType(64)
_INT32 = ir.IntType(32)


class Vectors:
    """LLVM's vectors of one element type: loads, stores, splats, multiply-adds."""

    def __init__(self, builder: Any, scalar: ir.Type, itemsize: int, nbytes: int) -> None:
        self.builder = builder
        self.itemsize = itemsize
        self.lanes = nbytes // itemsize
        self.type = ir.VectorType(scalar, self.lanes)
        self.pointer = ir.PointerType(self.type)
        self.mask = ir.VectorType(ir.IntType(1), self.lanes)
        self.name = f"v{self.lanes}f{itemsize * 8}"

    def _function(self, name: str, result: ir.Type, *arguments: ir.Type) -> Any:
        return cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(result, arguments), name)

    def at(self, pointer: Any, offset: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(pointer, [offset]), self.pointer)

    def load(self, pointer: Any, offset: Any) -> Any:
        return self.builder.load(self.at(pointer, offset), align=self.itemsize)

    def prefetch(self, pointer: Any, offset: Any, first_level: bool = True) -> None:
        """Fetches a line of memory that will be read soon, to the second-level cache at least; any address will do."""
        kinds = [self.pointer, _INT32, _INT32, _INT32]
        function = self._function("llvm.prefetch.p0", ir.VoidType(), *kinds)
        constants = [ir.Constant(_INT32, value) for value in (0, 3 if first_level else 2, 1)]  # to read; where; data
        self.builder.call(function, [self.at(pointer, offset), *constants])

    def prefetch_result(self, pointer: Any, offset: Any) -> None:
        """Fetches a line that will be written soon, on processors that would wait for it."""
        if _WAITS_AT_STORES:
            self.prefetch(pointer, offset, first_level=False)

    def opaque(self, pointer: Any) -> Any:
        """The same pointer, of which LLVM does not know how it came about.

        Loops around the code that uses it then keep no pointers of their own to each place it will read.
        """
        function = self._function("llvm.launder.invariant.group.p0", self.pointer, self.pointer)
        same = self.builder.call(function, [self.builder.bitcast(pointer, self.pointer)])
        return self.builder.bitcast(same, pointer.type)

    def splat(self, value: Any, of: ir.VectorType | None = None) -> Any:
        undefined = ir.Constant(of or self.type, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(_INT32, 0))
        return self.builder.shuffle_vector(
            first, undefined, ir.Constant(ir.VectorType(_INT32, self.lanes), [0] * self.lanes)
        )

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        # fmuladd, not fma: without FMA hardware the latter is a library call per element.
        function = self._function(f"llvm.fmuladd.{self.name}", self.type, self.type, self.type, self.type)
        return self.builder.call(function, [a, b, c])

    def at_least(self, value: Any, floor: Any) -> Any:
        """`value`, or `floor` where value is less; NaN stays."""
        return self.builder.select(self.builder.fcmp_ordered("<", value, floor), floor, value)

    def first_lanes(self, count: Any, start: int) -> Any:
        """The mask of lanes whose index, from `start`, is less than `count`."""
        integers = ir.VectorType(_INT, self.lanes)
        lanes = ir.Constant(integers, list(range(start, start + self.lanes)))
        return self.builder.icmp_signed("<", lanes, self.splat(count, integers))

    def masked_load(self, pointer: Any, mask: Any) -> Any:
        name = f"llvm.masked.load.{self.name}.p0"
        function = self._function(name, self.type, self.pointer, _INT32, self.mask, self.type)
        zeros = ir.Constant(self.type, [0.0] * self.lanes)
        return self.builder.call(function, [pointer, ir.Constant(_INT32, self.itemsize), mask, zeros])

    def masked_store(self, value: Any, pointer: Any, mask: Any) -> None:
        name = f"llvm.masked.store.{self.name}.p0"
        function = self._function(name, ir.VoidType(), self.type, self.pointer, _INT32, self.mask)
        self.builder.call(function, [value, pointer, ir.Constant(_INT32, self.itemsize), mask])


@contextlib.contextmanager
def rolled_loop(builder: Any, count: Any) -> Iterator[Any]:
    """`cgutils.for_range`, which LLVM does not unroll."""
    with cgutils.for_range(builder, count) as loop:
        yield loop
        latch = builder.basic_block
    module = builder.module
    disable = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    identity = ir.values.MDValue(module, [], name=str(len(module.metadata)))
    identity.operands = (identity, disable)  # LLVM tells loops apart by nodes that name themselves
    latch.terminator.set_metadata("llvm.loop", identity)


def operands(context: Any, builder: Any, signature: Any, args: Any) -> tuple[Vectors, Callable[[int], Any]]:
    """Vectors of the first argument's elements; and where the data of the array at a position is."""

    def data(position: int) -> Any:
        return context.make_array(signature.args[position])(context, builder, args[position]).data

    element = signature.args[0].dtype
    return Vectors(builder, context.get_data_type(element), element.bitwidth // 8, VECTOR_BYTES), data
