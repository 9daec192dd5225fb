"""The one place that names numba flags: kernel decorators.

Why each flag is as it is:

* ``fastmath={"contract"}`` lets LLVM fuse a multiply and an add, and nothing else. ``nnan``/``ninf`` would
  fold ``isnan`` to False, ``reassoc`` would delete compensated sums and let twins differ in bits.
* ``error_model="numpy"``: a division by zero gives inf, and loops keep no branch for it.
* ``nogil=True``: other Python threads run while a kernel does.
* ``boundscheck=False``: a kernel's indices are computed from shapes that were checked above it.
* ``no_cfunc_wrapper=True``: no entry for C callbacks, which nobody calls and which takes time to compile.

A kernel takes a range of tasks, ``(first_task, end_task, *args)``, and begins with `parallel.on_threads`. What kernels
call is either a `helper`, compiled once, or `inline`, pasted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba.core import types
from numba.core.compiler import CompilerBase
from numba.extending import intrinsic, overload

from .compile_notice import announced
from .kernel_cache import KernelCache
from .kernel_compiler import HelperCompiler, KernelCompiler

__all__ = [
    "always_inline",
    "by_dtype",
    "compile_counts",
    "compiled_signatures",
    "helper",
    "inline",
    "kernel",
    "machine_code",
    "never_inline",
]

_FLAGS: dict[str, Any] = {
    "nogil": True,
    "fastmath": {"contract"},
    "error_model": "numpy",
    "boundscheck": False,
    "no_cfunc_wrapper": True,
}

_kernels: list[Any] = []  # and helpers


def kernel(function: Callable[..., Any]) -> Any:
    """A function that is compiled at its first call, for the types of its arguments."""
    dispatcher = _compiled(function, KernelCompiler, _FLAGS)
    dispatcher._cache = KernelCache(function)
    dispatcher._compiler.compile = announced(dispatcher._compiler.compile)
    return dispatcher


def machine_code(kernel: Any, *args: Any) -> Any:
    """What a kernel runs for arguments of these types; to be called with no others, which are not looked at.

    A call of the kernel finds it anew, in a quarter of a microsecond.
    """
    return kernel.compile(tuple(map(kernel.typeof_pyval, args)))


def helper(function: Callable[..., Any]) -> Any:
    """A function that kernels alone call: compiled once for all of them; LLVM pastes it into them where that pays.

    It has no machine code, no Python entry and no file of its own.
    """
    return _compiled(function, HelperCompiler, _FLAGS | {"no_cpython_wrapper": True})


def _compiled(function: Callable[..., Any], compiler: type[CompilerBase], flags: dict[str, Any]) -> Any:
    dispatcher = numba.njit(pipeline_class=compiler, **flags)(function)
    _kernels.append(dispatcher)
    return dispatcher


def inline(function: Callable[..., Any]) -> Any:
    """A helper pasted into the kernels that call it; it is never compiled by itself."""
    return numba.njit(**_FLAGS, inline="always")(function)


def by_dtype(float32: Any, float64: Any) -> Any:
    """A helper of one number that has a body for each element type.

    LLVM pastes it into kernels if the bodies begin with ``always_inline()``. (numba, told to do it as for `inline`,
    warns of its own bookkeeping where such helpers call each other.)
    """

    def number(x):  # (numba compares these signatures, annotations included)
        raise TypeError("it exists in kernels only")

    def body(x):
        chosen = float32 if x == types.float32 else float64
        return chosen.py_func

    overload(number, jit_options=_FLAGS)(body)  # type: ignore[arg-type]
    return number


def _function_attribute(name: str) -> Any:
    @intrinsic
    def mark(typing_context: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.function.attributes.add(name)
            return context.get_dummy_value()

        return types.void(), codegen

    return mark


# Called in a kernel: LLVM keeps it a function of its own, one machine code for all its callers.
never_inline: Any = _function_attribute("noinline")
# Called in a helper: LLVM pastes it into its callers, however long it is, so that their loops are vectorised.
always_inline: Any = _function_attribute("alwaysinline")


def compiled_signatures() -> dict[str, int]:
    """How many specialisations of each kernel and helper this process has compiled or loaded so far."""
    return {f"{k.py_func.__module__}.{k.py_func.__name__}": len(k.signatures) for k in _kernels if k.signatures}


def compile_counts() -> tuple[int, int]:
    """(compiled, loaded from the cache): specialisations of all kernels and helpers in this process so far."""
    statistics = [k.stats for k in _kernels]
    return sum(sum(s.cache_misses.values()) for s in statistics), sum(sum(s.cache_hits.values()) for s in statistics)
