"""Kernels as Python: every thread of every block in turn, under NUMBA_ENABLE_CUDASIM=1.

Slow, and nothing of the compiled code is seen, but every access is checked against the end of its allocation, fresh
memory is full of NaN, and a barrier that not all threads reach is an error. numba's own simulator gives the `cuda`
module that kernels see; blocks are run here, because numba's has one operating-system thread for each simulated one
even where no barrier needs it, aliases shared arrays of one line, and has no warp operations.

Threads of a block that has barriers are operating-system threads of which one runs at a time, in order: it runs until
it waits at a barrier or ends, so every run is the same.
"""

from __future__ import annotations

import bisect
import ctypes
import itertools
import sys
import threading
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import numpy as np
from numba.cuda.np import numpy_support
from numba.cuda.simulator.kernelapi import Dim3, FakeCUDAModule

from ..errors import DeviceError, message

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


class Simulator:
    """The runtime that executes kernels as Python."""

    caches = False

    def __init__(self) -> None:
        self._allocations: dict[int, np.ndarray] = {}
        self._addresses: list[int] = []
        self._adopted: dict[int, int] = {}
        self._streams = itertools.count(16)

    def device_count(self) -> int:
        return 1

    def compute_capability(self, device: int) -> tuple[int, int]:
        if device != 0:
            raise DeviceError(message("simulator", "there is one simulated device, cuda:0", device=device))
        return 8, 0

    def multiprocessors(self, device: int) -> int:
        return 4

    def memory_info(self, device: int) -> tuple[int, int]:
        return 1 << 32, 1 << 33

    # --- memory ---------------------------------------------------------------------------------------------

    def allocate(self, device: int, nbytes: int) -> int:
        raw = np.full(nbytes + 256, _POISON, np.uint8)
        start = -raw.ctypes.data % 256
        memory = raw[start : start + nbytes]
        address = int(memory.ctypes.data)
        self._allocations[address] = memory
        bisect.insort(self._addresses, address)
        return address

    def free(self, device: int, address: int) -> None:
        del self._allocations[address]
        self._addresses.remove(address)

    def adopt(self, address: int, nbytes: int) -> int:
        start = self._start(address)
        if start is not None and start not in self._adopted:  # our own, back from another library
            return 0
        self._adopted[address] = self._adopted.get(address, 0) + 1
        known = self._allocations.get(address)
        if known is None:
            bisect.insort(self._addresses, address)
        if known is None or known.size < nbytes:
            pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8))
            self._allocations[address] = np.ctypeslib.as_array(pointer, (nbytes,))
        return 0

    def disown(self, address: int) -> None:
        if address in self._adopted:
            self._adopted[address] -= 1
            if not self._adopted[address]:
                del self._adopted[address]
                self.free(0, address)

    def _start(self, address: int) -> int | None:
        """Start of the allocation an address is in."""
        place = bisect.bisect_right(self._addresses, address) - 1
        if place < 0:
            return None
        start = self._addresses[place]
        return start if address - start <= self._allocations[start].size else None

    def bytes_at(self, address: int) -> np.ndarray:
        """The bytes from an address to the end of its allocation."""
        start = self._start(address)
        if start is None:
            raise IndexError(f"address {address:#x} is in no allocation")
        return self._allocations[start][address - start :]

    def pointer(self, address: int, dtype: Any) -> Pointer:
        """A pointer to elements of a dtype."""
        dtype = np.dtype(dtype)
        if address % dtype.itemsize:
            raise IndexError(f"address {address:#x} is not aligned to {dtype}")
        memory = self.bytes_at(address)
        return Pointer(memory[: memory.size - memory.size % dtype.itemsize].view(dtype), address)

    def copy_to_device(self, device: int, address: int, source: np.ndarray, stream: int) -> None:
        self.bytes_at(address)[: source.nbytes] = source.reshape(-1).view(np.uint8)

    def copy_to_host(self, device: int, target: np.ndarray, address: int, stream: int) -> None:
        target.reshape(-1).view(np.uint8)[:] = self.bytes_at(address)[: target.nbytes]

    def copy(self, device: int, to: int, source: int, nbytes: int, stream: int) -> None:
        self.bytes_at(to)[:nbytes] = self.bytes_at(source)[:nbytes]

    def clear(self, device: int, address: int, nbytes: int, stream: int) -> None:
        self.bytes_at(address)[:nbytes] = 0

    def pinned_empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return np.empty(shape, dtype)

    # --- order: everything is done when its call returns -----------------------------------------------------

    def create_stream(self, device: int) -> int:
        return next(self._streams)

    def create_event(self, device: int) -> Any:
        return object()

    def record(self, device: int, event: Any, stream: int) -> None:
        pass

    def wait(self, device: int, stream: int, event: Any) -> None:
        pass

    def finished(self, device: int, event: Any) -> bool:
        return True

    def wait_on_host(self, device: int, event: Any) -> None:
        pass

    def synchronize(self, device: int, stream: int | None = None) -> None:
        pass

    def begin_capture(self, device: int, stream: int) -> None:
        raise DeviceError(message("capture", "the simulator cannot capture: it runs kernels at once"))

    def end_capture(self, device: int, stream: int) -> Any:
        raise DeviceError(message("capture", "nothing is being captured"))

    def replay(self, device: int, graph: Any, stream: int) -> None:
        raise DeviceError(message("capture", "nothing was captured"))

    # --- kernels --------------------------------------------------------------------------------------------

    def launch(
        self,
        device: int,
        kernel: Any,
        grid: tuple[int, int, int],
        shared: int,
        stream: int,
        args: Sequence[int | float],
    ) -> None:
        function = kernel.python_function(_cuda)
        values = [self._value(p, a) for p, a in zip(kernel.parameters, args, strict=True)]
        run = _run_in_turn if not _waits(function) else _run_with_barriers
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

    def _value(self, parameter: Any, arg: Any) -> Any:
        dtype = numpy_support.as_dtype(parameter.type)
        return self.pointer(arg, dtype) if parameter.pointer else dtype.type(arg)


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
            raise SystemExit
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
