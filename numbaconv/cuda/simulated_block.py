"""Kernels as Python: the threads of every block in turn.

numba's own simulator gives the `cuda` module that kernels see; blocks are run here, because numba's has one
operating-system thread for each simulated one even where no barrier needs it, aliases shared arrays of one line, and
has no warp operations. A barrier that not all threads reach is an error.

Threads of a block that has barriers are operating-system threads of which one runs at a time, in order: it runs until
it waits at a barrier or ends, so every run is the same.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
from numba.cuda.np import numpy_support
from numba.cuda.simulator.kernelapi import Dim3, FakeCUDAModule

_POISON = 0xFF  # as float32 or float64: NaN


class Pointer:
    """A pointer as a kernel sees it: elements from an address to the end of its allocation, checked."""

    def __init__(self, elements: np.ndarray, address: int) -> None:
        self.elements, self.address = elements, address

    def __getitem__(self, index: Any) -> Any:
        return self.elements[self._checked(index)]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.elements[self._checked(index)] = value

    def _checked(self, index: Any) -> int:
        if not 0 <= index < self.elements.size:
            raise IndexError(f"element {index} of {self.elements.size}")
        return int(index)


def run_grid(kernel: Any, grid: tuple[int, int, int], shared: int, values: list[Any]) -> None:
    """Runs all blocks of a `launch.Specialised`, one after the other.

    Args:
        shared: bytes of dynamic shared memory.
        values: a `Pointer` or a NumPy scalar for each parameter.
    """
    function = kernel.python_function(_cuda)
    run = _run_with_barriers if _waits(function) else _run_in_turn
    with np.errstate(all="ignore"):
        for z in range(grid[2]):
            for y in range(grid[1]):
                for x in range(grid[0]):
                    block = _Block(grid, kernel.threads, shared, Dim3(x, y, z))
                    try:
                        run(block, function, values)
                    except Exception as error:
                        where = f"{kernel.name}, block ({x}, {y}, {z}), thread {block.thread}: {error}"
                        raise type(error)(where) from error


class _Shared:
    """`cuda.shared`: each call's array by its place in the code. Fresh memory is full of NaN."""

    def __init__(self, dynamic: int) -> None:
        self._dynamic = np.full(dynamic, _POISON, np.uint8)
        self._arrays: dict[Any, np.ndarray] = {}

    def array(self, shape: Any, dtype: Any, alignment: int | None = None) -> np.ndarray:
        dtype = numpy_support.as_dtype(dtype)
        if shape == 0:
            return self._dynamic[: self._dynamic.size - self._dynamic.size % dtype.itemsize].view(dtype)
        frame = sys._getframe(1)
        place = frame.f_code, frame.f_lasti
        if place not in self._arrays:
            self._arrays[place] = _poisoned(shape, dtype)
        return self._arrays[place]


class _Local:
    """`cuda.local`: an array of one thread."""

    def array(self, shape: Any, dtype: Any, alignment: int | None = None) -> np.ndarray:
        return _poisoned(shape, numpy_support.as_dtype(dtype))


def _poisoned(shape: Any, dtype: np.dtype) -> np.ndarray:
    array = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8)[:] = _POISON
    return array


class _Block(FakeCUDAModule):
    """The `cuda` module as one block's kernel sees it, and what its threads share."""

    def __init__(self, grid: tuple[int, int, int], threads: int, shared: int, index: Dim3) -> None:
        super().__init__(grid, (threads, 1, 1), shared)
        self._shared, self._local = _Shared(shared), _Local()
        self.threads, self.index = threads, index
        self.thread = 0  # the one that runs
        self.exchange: dict[int, Any] = {}  # what threads of a warp hand to each other
        self.wait: Callable[[str, int], None] = _no_barriers

    @property
    def threadIdx(self) -> Dim3:
        return Dim3(self.thread, 0, 0)

    @property
    def blockIdx(self) -> Dim3:
        return self.index

    @property
    def laneid(self) -> int:
        return self.thread % 32

    def syncthreads(self) -> None:
        self.wait("block", sys._getframe(1).f_lasti)

    def syncwarp(self, mask: int = 0xFFFFFFFF) -> None:
        self.wait("warp", sys._getframe(1).f_lasti)

    def shfl_sync(self, mask: int, value: Any, lane: int) -> Any:
        return self._shuffled(value, lane % 32, sys._getframe(1).f_lasti)

    def shfl_xor_sync(self, mask: int, value: Any, lane_mask: int) -> Any:
        return self._shuffled(value, self.laneid ^ lane_mask, sys._getframe(1).f_lasti)

    def shfl_down_sync(self, mask: int, value: Any, delta: int) -> Any:
        return self._shuffled(value, self.laneid + delta, sys._getframe(1).f_lasti)

    def shfl_up_sync(self, mask: int, value: Any, delta: int) -> Any:
        return self._shuffled(value, self.laneid - delta, sys._getframe(1).f_lasti)

    def _shuffled(self, value: Any, lane: int, place: int) -> Any:
        """The value of another lane of this warp; one's own where there is no such lane."""
        self.exchange[self.thread] = value
        self.wait("warp", place)
        source = self.thread - self.laneid + lane if 0 <= lane < 32 else self.thread
        result = self.exchange[source]
        self.wait("warp", place)
        return result


def _no_barriers(kind: str, place: int) -> None:
    raise RuntimeError("a barrier that was not seen in the code")


class _Cuda:
    """`cuda` in a kernel's globals: the block that runs."""

    block: _Block

    def __getattr__(self, name: str) -> Any:
        return getattr(self.block, name)


_cuda = _Cuda()
_WAITING = {"syncthreads", "syncwarp", "shfl_sync", "shfl_xor_sync", "shfl_down_sync", "shfl_up_sync"}


def current_block() -> _Block:
    """The block that runs: for the intrinsics' fallbacks."""
    return _cuda.block


def collective(function: Callable[..., Any]) -> Callable[..., Any]:
    """Marks an intrinsic's fallback in which threads wait for each other."""
    vars(function)["collective"] = True
    return function


def _waits(function: Any, seen: set[int] | None = None) -> bool:
    """Whether a function, or one that it calls, has barriers."""
    seen = set() if seen is None else seen
    if id(function) in seen:
        return False
    seen.add(id(function))
    if getattr(function, "collective", False) or _WAITING & set(function.__code__.co_names):
        return True
    called = [function.__globals__.get(name) for name in function.__code__.co_names]
    called += [cell.cell_contents for cell in function.__closure__ or ()]
    return any(_waits(f, seen) for f in called if isinstance(f, FunctionType))


def _run_in_turn(block: _Block, function: Any, values: list[Any]) -> None:
    _cuda.block = block
    for thread in range(block.threads):
        block.thread = thread
        function(*values)


class _Abandoned(BaseException):
    """Ends a thread whose block has failed."""


class _Thread:
    """One simulated thread with a stack of its own, which runs only while the scheduler waits for it."""

    def __init__(self, number: int, body: Callable[[], None]) -> None:
        self.number = number
        self.waits_at: tuple[str, int] | None = None
        self.ended = False
        self.error: Exception | None = None
        self._go, self._stopped = threading.Lock(), threading.Lock()  # held: not yet
        self._go.acquire()
        self._stopped.acquire()
        self._abandoned = False
        self._body = body
        threading.Thread(target=self._main, daemon=True).start()

    def _main(self) -> None:
        self._go.acquire()
        try:
            if not self._abandoned:
                self._body()
        except _Abandoned:
            pass
        except Exception as error:
            self.error = error
        self.ended = True
        self._stopped.release()

    def run(self) -> None:
        """Lets it run until it waits or ends."""
        self._go.release()
        self._stopped.acquire()

    def wait(self, kind: str, place: int) -> None:
        """Called by the thread itself, at a barrier."""
        self.waits_at = kind, place
        self._stopped.release()
        self._go.acquire()
        if self._abandoned:
            raise _Abandoned
        self.waits_at = None

    def abandon(self) -> None:
        """Ends it where it is."""
        self._abandoned = True
        self._go.release()


def _run_with_barriers(block: _Block, function: Any, values: list[Any]) -> None:
    _cuda.block = block
    threads = [_Thread(number, lambda: function(*values)) for number in range(block.threads)]
    block.wait = lambda kind, place: threads[block.thread].wait(kind, place)
    try:
        while alive := [t for t in threads if not t.ended]:
            ready = [t for t in alive if t.waits_at is None] or _released(alive)
            for thread in ready:
                block.thread = thread.number
                thread.run()
                if thread.error is not None:
                    raise thread.error
    finally:
        for thread in threads:
            if not thread.ended:
                thread.abandon()


def _released(alive: list[_Thread]) -> list[_Thread]:
    """Threads whose barrier all of their warp, or all of the block, have reached. All of `alive` wait.

    Raises:
        RuntimeError: there are none: threads wait at different barriers.
    """
    for warp in sorted({t.number // 32 for t in alive}):
        members = [t for t in alive if t.number // 32 == warp]
        if len({t.waits_at for t in members}) == 1 and ("warp" in (members[0].waits_at or ())):
            return members
    if len({t.waits_at for t in alive}) == 1:
        return alive
    raise RuntimeError("threads wait for each other at different barriers")
