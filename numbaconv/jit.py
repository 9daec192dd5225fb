"""The one place that names numba flags: kernel decorators, the cache's key, threads.

Why each flag is as it is:

* ``fastmath={"contract"}`` lets LLVM fuse a multiply and an add, and nothing else. ``nnan``/``ninf`` would
  fold ``isnan`` to False, ``reassoc`` would delete compensated sums and let twins differ in bits.
* ``error_model="numpy"``: a division by zero gives inf, and loops keep no branch for it.
* ``nogil=True``: other Python threads run while a kernel does.
* ``boundscheck=False``: a kernel's indices are computed from shapes that were checked above it.

A kernel is written twice: a *body* over a range of tasks, which is also the serial twin, and a *parallel* wrapper
of the same arguments that hands one task at a time to the body. (Its ``prange(first, end)`` counts with signed
numbers; ``prange(tasks)`` would count with unsigned ones, and compile the body a second time for them.) `launch` picks
one by the amount of work. The body starts with ``never_inline()``, so both run the same machine code and agree in
every bit, and tasks are cut by the problem, never by the number of threads, so results do not depend on it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba import prange
from numba.core import config as numba_config
from numba.core import types
from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache
from numba.extending import intrinsic, overload

from .errors import ArgumentError, message

__all__ = [
    "always_inline",
    "by_dtype",
    "compiled_signatures",
    "get_num_threads",
    "inline",
    "kernel",
    "launch",
    "never_inline",
    "num_threads",
    "parallel_kernel",
    "prange",
    "set_num_threads",
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
    for path in [_PACKAGE / "jit.py", *sorted((_PACKAGE / "cpu").rglob("*.py"))]:
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


def _compile_lazily(function: Callable[..., Any], **flags: Any) -> Any:
    dispatcher = numba.njit(**_FLAGS, **flags)(function)
    dispatcher._cache = _CacheAtFirstUse(function)
    _kernels.append(dispatcher)
    return dispatcher


def kernel(function: Callable[..., Any]) -> Any:
    """A serial kernel, or the body of a parallel one. Compiled at its first call."""
    return _compile_lazily(function)


def parallel_kernel(function: Callable[..., Any]) -> Any:
    """A ``prange`` over tasks that calls a body `kernel`."""
    return _compile_lazily(function, parallel=True)


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


# Called in a body: LLVM keeps it a function of its own, so that its twins share one machine code.
never_inline: Any = _function_attribute("noinline")
# Called in a helper: LLVM pastes it into its callers, however long it is, so that their loops are vectorised.
always_inline: Any = _function_attribute("alwaysinline")


def compiled_signatures() -> dict[str, int]:
    """How many specialisations of each kernel this process has compiled or loaded so far."""
    return {f"{k.py_func.__module__}.{k.py_func.__name__}": len(k.signatures) for k in _kernels if k.signatures}


# --- threads -----------------------------------------------------------------------------------------------

# A parallel region wakes threads: some 10 us on idle cores, hundreds when they are busy. `work` is an estimate
# in nanoseconds on one thread; below this the serial twin is faster.
PARALLEL_WORK_NS = 100_000.0

_num_threads: int | None = None


def _threads_at_start() -> int:
    return int(vars(numba_config)["NUMBA_NUM_THREADS"])


def get_num_threads() -> int:
    """Threads that kernels use in this process."""
    return _num_threads if _num_threads is not None else _threads_at_start()


def set_num_threads(threads: int) -> None:
    """Sets how many threads kernels use, in every Python thread of this process.

    (numba's own setting is per thread; this one is applied at each call.)

    Raises:
        ArgumentError: if `threads` is not between 1 and the number numba started with.
    """
    global _num_threads
    most = _threads_at_start()
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= most:
        raise ArgumentError(
            message(
                "set_num_threads",
                f"threads must be an int from 1 to {most}",
                "The upper limit is the environment variable NUMBA_NUM_THREADS, by default the number of cores.",
                threads=threads,
            )
        )
    _num_threads = threads


@contextlib.contextmanager
def num_threads(threads: int) -> Iterator[None]:
    """``with numbaconv.num_threads(1):`` for a while, then back."""
    global _num_threads
    before = _num_threads
    set_num_threads(threads)
    try:
        yield
    finally:
        _num_threads = before


_threads_lost = False


def _lose_threads() -> None:
    global _threads_lost
    _threads_lost = True


@functools.cache
def _start_threads() -> None:
    """Loads numba's threading layer, told not to spin for long.

    libgomp's threads wait for each other by spinning, by default for milliseconds. Where another process wants a core,
    that is a time slice lost at every parallel region: LeNet-5 training fell from 9,000 images/s to 300. With 1,000
    turns (some microseconds) it keeps 1,600 and more, and loses nothing on an idle machine. libgomp reads the variable
    when it is loaded; it is not left behind for others.
    """
    # A forked child has none of these threads, and libgomp kills it when it looks for them: there, serial twins.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_lose_threads)
    if "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ:
        return
    os.environ["GOMP_SPINCOUNT"] = "1000"
    try:
        numba.get_num_threads()
    finally:
        del os.environ["GOMP_SPINCOUNT"]


def launch(body: Any, parallel: Any, tasks: int, work_ns: float, *args: Any) -> None:
    """Runs ``body`` over ``tasks`` tasks: in parallel if there is enough work for it, else on this thread.

    Args:
        body: kernel ``(first_task, end_task, *args)``.
        parallel: its twin, of the same arguments, that calls the body for one task at a time.
        tasks: number of independent tasks; depends on the problem only.
        work_ns: estimated time of all tasks on one thread, nanoseconds.
    """
    if tasks > 1 and work_ns >= PARALLEL_WORK_NS:
        threads = get_num_threads()
        if threads > 1 and not _threads_lost:
            _start_threads()
            if numba.get_num_threads() != threads:
                numba.set_num_threads(threads)
            parallel(0, tasks, *args)
            return
    body(0, tasks, *args)
