"""Runs a kernel's tasks on the threads of numba's threading layer, and says how many those are.

A kernel ``(first_task, end_task, *args)`` is compiled once. `launch` calls it with minus the number of threads for its
first task: then the kernel hands itself to the threading layer (`on_threads`), which calls it from every thread for a
run of tasks. So it is one machine code, and results are the same in every bit, since tasks are cut by the problem,
never by the number of threads.

(numba's ``prange`` needs a second function around the kernel, which takes as long to compile as the kernel itself or
longer: 11 of the 24 s of a cold first LeNet-5 step. A function for each list of argument types that hands over any
kernel of theirs took 0.2 to 0.5 s each. What `on_threads` adds to a kernel is some twenty instructions.)
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Iterator
from typing import Any

import numba
from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core import config as numba_config
from numba.extending import intrinsic

from .errors import ArgumentError, message

__all__ = [
    "get_num_threads",
    "launch",
    "num_threads",
    "on_threads",
    "on_threads_flushing",
    "set_num_threads",
    "threading_layer",
]

# A parallel region takes some 3 us when the last one ended a moment ago, 40 when its threads must be woken, and
# hundreds on busy cores. `work` is an estimate in nanoseconds on one thread; with less than this for each of them one
# thread is as fast. It is low because what others have read is slow to write for one thread (400 kB of transposed
# gradients, 20 us of work, took 50, and 175 when the machine's cores were further apart); threads that write what they
# will read do not wait. With 15 us for two threads instead of 10 the gradients of 3 to 17 channels took 1.1 times as
# long, with 30 us those of a 1x1 layer with 100 channels 1.3 times; a LeNet-5 step the same.
PARALLEL_WORK_NS = 5_000.0
_MOST_COUNTED = 6  # threads

# --- how many threads -------------------------------------------------------------------------------------

_num_threads: int | None = None


def _threads_at_start() -> int:
    return int(vars(numba_config)["NUMBA_NUM_THREADS"])


def get_num_threads() -> int:
    """Threads that kernels use in this process."""
    return _num_threads if _num_threads is not None else _threads_at_start()


def set_num_threads(threads: int) -> None:
    """Sets how many threads kernels use, in every Python thread of this process.

    (numba's own setting, which is per thread, has no effect on kernels.)

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


# --- the threading layer ----------------------------------------------------------------------------------

_threads_lost = False
# One parallel region at a time: Python threads that compute at once share the cores already, and each region would ask
# for all of them. (numba's own `workqueue` even ends the process when a second one begins.)
_one_region = threading.Lock()
# Where kernels find the layer's `parallel_for`: machine code from the cache knows it by the name of this cell.
_parallel_for = ctypes.c_void_p()
_CELL = "numbaconv_parallel_for"
llvm.add_symbol(_CELL, ctypes.addressof(_parallel_for))


def _lose_threads() -> None:
    global _threads_lost
    _threads_lost = True


@functools.cache
def _start_layer() -> None:
    """Starts the threads of the threading layer.

    libgomp's threads wait for each other by spinning, by default for milliseconds. Where another process wants a core,
    that is a time slice lost at every parallel region: LeNet-5 training fell from 9,000 images/s to 300. Without
    spinning a thread must be woken for each region, which takes as long as a small layer. A LeNet-5 step (2 cores):
    1,000 turns 3.8 ms, beside a busy process 4.7; 10,000 turns (some 50 microseconds) 3.1 and 6.6; 100,000 turns 3.3
    and, when 10,000 had 8.2, 11.9. libgomp reads the variable when it is loaded; it is not left behind for others.
    """
    # A forked child has none of these threads, and libgomp kills it when it looks for them: there, one thread.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_lose_threads)
    chosen = "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ
    if not chosen:
        os.environ["GOMP_SPINCOUNT"] = "10000"
    try:
        numba.get_num_threads()
    finally:
        if not chosen:
            del os.environ["GOMP_SPINCOUNT"]
    name = numba.threading_layer()
    if name == "workqueue":
        from numba.np.ufunc import workqueue as pool  # type: ignore[attr-defined]
    elif name == "tbb":
        from numba.np.ufunc import tbbpool as pool  # type: ignore[attr-defined]
    else:
        from numba.np.ufunc import omppool as pool  # type: ignore[attr-defined]
    _parallel_for.value = pool.parallel_for


def threading_layer() -> str:
    """The name of numba's threading layer, whose threads run kernels: "omp", "tbb", "workqueue"; starts them."""
    _start_layer()
    return numba.threading_layer()


# --- launching --------------------------------------------------------------------------------------------


def launch(body: Any, tasks: int, work_ns: float, *args: Any) -> None:
    """Runs ``body`` over ``tasks`` tasks: in parallel if there is enough work and no other thread does, else here.

    Args:
        body: kernel ``(first_task, end_task, *args)``.
        tasks: number of independent tasks; depends on the problem only.
        work_ns: estimated time of all tasks on one thread, nanoseconds.

    Raises:
        MemoryError: if a task finds no memory for what it works in.
    """
    if tasks > 1 and work_ns >= PARALLEL_WORK_NS:
        threads = min(get_num_threads(), tasks)
        enough = threads > 1 and work_ns >= PARALLEL_WORK_NS * min(threads, _MOST_COUNTED)
        if enough and not _threads_lost and _one_region.acquire(blocking=False):
            try:
                _start_layer()
                body(-threads, tasks, *args)
            finally:
                _one_region.release()
            return
    body(-1, tasks, *args)


def _entry(flush: bool) -> Any:
    @intrinsic
    def entry(typing_context: Any) -> Any:
        """The call is the one that ``prange`` compiles to: ``parallel_for(chunk, args, dimensions, steps, data, 0, 1,
        threads)``. The threading layer calls ``chunk(args, dimensions, steps, data)`` for runs of `dimensions[0]`
        numbers, with ``args[0]`` moved on by ``steps[0]`` for each number before them. Here a number is a thread's
        share of the tasks, and `data` points to the kernel's own arguments.
        """

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kernel = builder.function
            kernel.attributes.add("noinline")  # called from Python or by a thread, it is one machine code
            first, end, *rest = kernel.args[2:]  # before them: where to put the result, and the exception
            handed = builder.icmp_signed("<", first, _INT(0))
            with builder.if_then(handed, likely=False):
                threads = builder.neg(first)
                held = cgutils.pack_struct(builder, [_INT(0), threads, end, *rest])
                place = cgutils.alloca_once_value(builder, held)
                data = builder.bitcast(place, cgutils.voidptr_t)
                starts, counts, steps = (cgutils.alloca_once_value(builder, v) for v in (data, threads, _INT(1)))
                chunk = _chunk(kernel, held, flush)
                with builder.if_else(builder.icmp_signed("==", threads, _INT(1))) as (alone, together):
                    with alone:
                        builder.call(chunk, [starts, counts, steps, data])
                    with together:
                        function = builder.load(ir.GlobalVariable(builder.module, _PARALLEL_FOR.as_pointer(), _CELL))
                        pointers = [builder.bitcast(p, cgutils.voidptr_t) for p in (chunk, starts, counts, steps)]
                        builder.call(function, [*pointers, data, _INT(0), _INT(1), threads])
                failed = builder.load(cgutils.gep_inbounds(builder, place, 0, 0))
                with builder.if_then(cgutils.is_not_null(builder, failed), likely=False):
                    context.call_conv.return_user_exc(builder, MemoryError, ("a kernel found no memory to work in",))
            return handed

        return types.boolean(), codegen

    return entry


# Whether the tasks were handed to threads (one of them: this one) and are done; with it a kernel begins:
#
#     if on_threads():
#         return
on_threads: Any = _entry(flush=False)
# The same, and subnormal numbers count as zero, as operands and as results: on Intel's CPUs an instruction that meets
# one takes some 150 cycles. For kernels of many multiply-adds; the threads' own state is restored.
on_threads_flushing: Any = _entry(flush=True)
_INT = cgutils.intp_t
_INTS = _INT.as_pointer()
_CHUNK = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t.as_pointer(), _INTS, _INTS, cgutils.voidptr_t])
_PARALLEL_FOR = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t] * 5 + [_INT] * 3)
_FLUSH_TO_ZERO = 1 << 15 | 1 << 6  # results and operands, in MXCSR (Intel, "Software developer's manual", 10.2.3)


def _chunk(kernel: Any, held: Any, flush: bool) -> Any:
    """The function that a thread runs; `data` points to (failed, threads, tasks, the kernel's other arguments).

    `failed` is set where the kernel raises something. What it may raise is a MemoryError.
    """
    function = ir.Function(kernel.module, _CHUNK, name=f"{kernel.name}.chunk")
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    starts, counts, _, data = function.args
    place = builder.bitcast(data, held.type.as_pointer())
    values = builder.load(place)
    _, threads, tasks, *rest = (builder.extract_value(values, i) for i in range(len(held.type.elements)))
    result, exception = (cgutils.alloca_once(builder, a.type.pointee) for a in kernel.args[:2])
    number = builder.sub(builder.ptrtoint(builder.load(starts), _INT), builder.ptrtoint(data, _INT))
    with _flushing(builder, flush), cgutils.for_range(builder, builder.load(counts)) as loop:
        share = builder.add(number, loop.index)
        first, end = (builder.sdiv(builder.mul(n, tasks), threads) for n in (share, builder.add(share, _INT(1))))
        status = builder.call(kernel, [result, exception, first, end, *_borrowed(rest)])
        with builder.if_then(cgutils.is_not_null(builder, status), likely=False):
            builder.store(_INT(1), cgutils.gep_inbounds(builder, place, 0, 0))
    builder.ret_void()
    return function


def _borrowed(values: list[Any]) -> list[Any]:
    """A kernel's arguments, the arrays without their owners, whom the caller keeps alive.

    numba counts references wherever a kernel names a part of an array, with atomic instructions; of an array that has
    no owner it does not. Threads that count the same array's wait for each other: a depthwise convolution of 8
    images took 1.2 ms on two threads, now 0.9.
    """
    pointers = [value.type == cgutils.voidptr_t for value in values]
    # An array begins with its owner and its Python object, the only two such pointers in a row.
    neighbours = zip([False, *pointers], pointers, [*pointers[1:], False], strict=False)
    owners = [here and (before or after) for before, here, after in neighbours]
    return [cgutils.get_null_value(v.type) if owner else v for v, owner in zip(values, owners, strict=True)]


@contextlib.contextmanager
def _flushing(builder: Any, flush: bool) -> Iterator[None]:
    """Code between which subnormals are zero, on x86; ARM's vector units take them at full speed."""
    if not flush or not llvm.get_process_triple().startswith("x86_64"):
        yield
        return
    state = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t])
    store, load = (builder.module.declare_intrinsic(f"llvm.x86.sse.{n}mxcsr", (), state) for n in ("st", "ld"))
    before, during = (cgutils.alloca_once(builder, ir.IntType(32)) for _ in range(2))
    pointers = [builder.bitcast(p, cgutils.voidptr_t) for p in (before, during)]
    builder.call(store, pointers[:1])
    builder.store(builder.or_(builder.load(before), ir.IntType(32)(_FLUSH_TO_ZERO)), during)
    builder.call(load, pointers[1:])
    yield
    builder.call(load, pointers[:1])
