"""The one place that names numba flags: kernel decorators, and the cache's key.

Why each flag is as it is:

* ``fastmath={"contract"}`` lets LLVM fuse a multiply and an add, and nothing else. ``nnan``/``ninf`` would
  fold ``isnan`` to False, ``reassoc`` would delete compensated sums and let twins differ in bits.
* ``error_model="numpy"``: a division by zero gives inf, and loops keep no branch for it.
* ``nogil=True``: other Python threads run while a kernel does.
* ``boundscheck=False``: a kernel's indices are computed from shapes that were checked above it.

A kernel that `parallel.launch` runs takes a range of tasks, ``(first_task, end_task, *args)``. It starts with
``never_inline()``: called from Python or from the threading layer, it is one machine code.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import types
from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache
from numba.extending import intrinsic, overload

__all__ = [
    "always_inline",
    "by_dtype",
    "compiled_signatures",
    "inline",
    "kernel",
    "never_inline",
]

_FLAGS: dict[str, Any] = {
    "nogil": True,
    "fastmath": {"contract"},
    "error_model": "numpy",
    "boundscheck": False,
}

_PACKAGE = Path(__file__).parent
_kernels: list[Any] = []


@functools.cache
def _source_digest() -> str:
    """SHA-256 of every file kernels come from.

    numba stamps a cached function with its own file's time and size only: a helper edited in another file
    would leave the old machine code in use.
    """
    digest = hashlib.sha256()
    for path in [_PACKAGE / "jit.py", _PACKAGE / "parallel.py", *sorted((_PACKAGE / "cpu").rglob("*.py"))]:
        digest.update(str(path.relative_to(_PACKAGE)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _PackageCache(FunctionCache):
    """numba's on-disk cache, stamped with the package's source instead of one file's time."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = IndexDataCacheFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=_source_digest(),
        )


class _CacheAtFirstUse:
    """Looks for the cache's directory when a kernel is first called: for all kernels it is a fifth of the import."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @functools.cached_property
    def _cache(self) -> Any:
        try:
            return _PackageCache(self._function)
        except (RuntimeError, OSError):
            return NullCache()  # no place to write: kernels still compile, in every process anew

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)


def kernel(function: Callable[..., Any]) -> Any:
    """A function that is compiled at its first call, for the types of its arguments."""
    dispatcher = numba.njit(**_FLAGS)(function)
    dispatcher._cache = _CacheAtFirstUse(function)
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

    def helper(x):  # (numba compares these signatures, annotations included)
        raise TypeError("it exists in kernels only")

    def body(x):
        chosen = float32 if x == types.float32 else float64
        return chosen.py_func

    overload(helper, jit_options=_FLAGS)(body)  # type: ignore[arg-type]
    return helper


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
    """How many specialisations of each kernel this process has compiled or loaded so far."""
    return {f"{k.py_func.__module__}.{k.py_func.__name__}": len(k.signatures) for k in _kernels if k.signatures}
