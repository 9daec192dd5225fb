"""Runs a kernel's tasks on the threads of numba's threading layer, and says how many those are.

A kernel ``(first_task, end_task, *args)`` is compiled once. `launch` calls it for all tasks on this thread, or hands
its machine code to the threading layer, which calls it from every thread for a run of tasks: so results are the same
in every bit, since tasks are cut by the problem, never by the number of threads.

(numba's ``prange`` needs a second function around the kernel, which takes as long to compile as the kernel itself or
longer: 11 of the 24 s of a cold first LeNet-5 step. What is compiled here is one call for each list of argument types,
in a tenth of the time.)
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba._dispatcher import compute_fingerprint
from numba.core import cgutils
from numba.core import config as numba_config
from numba.extending import intrinsic

from .errors import ArgumentError, message
from .jit import kernel

__all__ = ["get_num_threads", "launch", "num_threads", "set_num_threads", "threading_layer"]

# A parallel region wakes threads: some 10 us on idle cores, hundreds when they are busy. `work` is an estimate
# in nanoseconds on one thread; below this one thread is faster.
PARALLEL_WORK_NS = 100_000.0

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


def _lose_threads() -> None:
    global _threads_lost
    _threads_lost = True


@functools.cache
def _layer() -> int:
    """Starts the threads of the threading layer; the address of the function that hands them work.

    libgomp's threads wait for each other by spinning, by default for milliseconds. Where another process wants a core,
    that is a time slice lost at every parallel region: LeNet-5 training fell from 9,000 images/s to 300. With 1,000
    turns (some microseconds) it keeps 1,600 and more, and loses nothing on an idle machine. libgomp reads the variable
    when it is loaded; it is not left behind for others.
    """
    # A forked child has none of these threads, and libgomp kills it when it looks for them: there, one thread.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_lose_threads)
    chosen = "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ
    if not chosen:
        os.environ["GOMP_SPINCOUNT"] = "1000"
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
    return pool.parallel_for


def threading_layer() -> str:
    """The name of numba's threading layer, whose threads run kernels: "omp", "tbb", "workqueue"; starts them."""
    _layer()
    return numba.threading_layer()


# --- launching --------------------------------------------------------------------------------------------


def launch(body: Any, tasks: int, work_ns: float, *args: Any) -> None:
    """Runs ``body`` over ``tasks`` tasks: in parallel if there is enough work and no other thread does, else here.

    Args:
        body: kernel ``(first_task, end_task, *args)``.
        tasks: number of independent tasks; depends on the problem only.
        work_ns: estimated time of all tasks on one thread, nanoseconds.
    """
    if tasks > 1 and work_ns >= PARALLEL_WORK_NS:
        threads = get_num_threads()
        if threads > 1 and not _threads_lost:
            function, address = _layer(), _address(body, args)
            if _one_region.acquire(blocking=False):
                try:
                    _run(function, address, min(threads, tasks), tasks, *args)
                finally:
                    _one_region.release()
                return
    body(0, tasks, *args)


_addresses: dict[tuple[Any, bytes], int] = {}


def _address(body: Any, args: tuple[Any, ...]) -> int:
    """Where the machine code of a kernel is that takes these arguments.

    numba's fingerprint of a value says what type it has: values of one fingerprint are of one type.
    """
    key = body, compute_fingerprint(args)
    address = _addresses.get(key)
    if address is None:
        signature = (types.intp, types.intp, *map(body.typeof_pyval, args))
        body.compile(signature)
        compiled = body.overloads[signature]
        address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
        _addresses[key] = address
    return address


@kernel
def _run(function, body, threads, tasks, *args):
    """Calls the kernel at the address `body` from each thread for its share of the tasks."""
    _call_on_threads(function, body, threads, tasks, args)


@intrinsic
def _call(typing_context: Any, function: Any, body: Any, threads: Any, tasks: Any, args: Any) -> Any:
    """The call that ``prange`` compiles to: ``parallel_for(chunk, args, dimensions, steps, data, 0, 1, threads)``.

    The threading layer calls ``chunk(args, dimensions, steps, data)`` for runs of `dimensions[0]` numbers, with
    ``args[0]`` moved on by ``steps[0]`` for each number before them. Here a number is a thread's share of the tasks.
    """
    signature = types.void(*[types.intp] * 4, args)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        held = cgutils.pack_struct(builder, values[1:])
        data = builder.bitcast(cgutils.alloca_once_value(builder, held), cgutils.voidptr_t)
        chunk = _chunk(context, builder, held.type, signature.args[4].types)
        starts, counts, steps = (cgutils.alloca_once_value(builder, v) for v in (data, values[2], _INT(1)))
        function = builder.inttoptr(values[0], _PARALLEL_FOR.as_pointer())
        pointers = [builder.bitcast(p, cgutils.voidptr_t) for p in (chunk, starts, counts, steps)]
        builder.call(function, [*pointers, data, _INT(0), _INT(1), values[2]])
        return context.get_dummy_value()

    return signature, codegen


_call_on_threads: Any = _call
_INT = cgutils.intp_t
_INTS = _INT.as_pointer()
_CHUNK = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t.as_pointer(), _INTS, _INTS, cgutils.voidptr_t])
_PARALLEL_FOR = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t] * 5 + [_INT] * 3)


def _chunk(context: Any, caller: Any, held: Any, argument_types: Any) -> Any:
    """The function that a thread runs; `data` points to (body, threads, tasks, arguments)."""
    function = ir.Function(caller.module, _CHUNK, name=f"{caller.function.name}.chunk")
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    starts, counts, _, data = function.args
    values = builder.load(builder.bitcast(data, held.as_pointer()))
    address, threads, tasks, arguments = (builder.extract_value(values, i) for i in range(4))
    elements = [builder.extract_value(arguments, i) for i in range(len(argument_types))]
    signature = (types.intp, types.intp, *argument_types)
    convention = context.call_conv
    body = builder.inttoptr(address, convention.get_function_type(types.none, signature).as_pointer())
    number = builder.sub(builder.ptrtoint(builder.load(starts), _INT), builder.ptrtoint(data, _INT))
    with cgutils.for_range(builder, builder.load(counts)) as loop:
        share = builder.add(number, loop.index)
        first, end = (builder.sdiv(builder.mul(n, tasks), threads) for n in (share, builder.add(share, _INT(1))))
        convention.call_function(builder, body, types.none, signature, [first, end, *elements])
    builder.ret_void()
    return function
