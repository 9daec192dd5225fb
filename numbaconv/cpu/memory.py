"""Where CPU results and scratch live.

A fresh 12.8 MB array costs 2.9 ms at its first touch, a reused one 0.5 ms (measured): training reuses the
memory of activations and gradients from one step to the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ..errors import DeviceMemoryError, message

_BYTE = np.dtype(np.uint8)
_addressof, _from_buffer = ctypes.addressof, ctypes.c_char.from_buffer  # looked up once
_ALIGNMENT = 64  # a cache line, and one AVX-512 vector
_SMALLEST_POOLED = 1 << 14  # bytes; malloc is quick below
# What is larger malloc (glibc's) takes from the system in each call and gives back: where memory is in pieces, the
# huge pages that NumPy asks for made a 1x1 convolution of 51 MB take 67 ms instead of 15.
_LARGEST_OF_HEAP = 1 << 25
_MOST_SHAPES = 1024  # that a pool knows the buffers of

# glibc gives the end of its heap back to the system when more of it is free than twice the largest array that was
# freed, and the next call's page faults take as long as its work: 238 of them in each input-gradient of a 3x3
# convolution from 88 to 40 channels, 0.81 ms instead of 0.39. It learns from what is freed: after an array of this
# size, never touched, it keeps up to 64 MB, as in a process that uses such arrays. (Where its settings are in the
# environment it does not learn, and nothing changes.)
np.empty(_LARGEST_OF_HEAP - (1 << 13), np.uint8)


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised C-contiguous array that starts at a cache line."""
    return _aligned(shape, dtype, math.prod(shape) * dtype.itemsize)


def _aligned(shape: tuple[int, ...], dtype: np.dtype, nbytes: int) -> np.ndarray:
    raw = _raw(nbytes)
    return np.ndarray(shape, dtype, raw, _to_line(raw))


def _raw(nbytes: int) -> np.ndarray:
    """Bytes to lend."""
    require(nbytes)
    try:
        return np.empty(nbytes + _ALIGNMENT, np.uint8)
    except (MemoryError, ValueError):
        raise _too_large(nbytes, available()) from None


def require(nbytes: int) -> None:
    """Before anything that needs so many bytes.

    Raises:
        DeviceMemoryError: if there are not so many. Linux promises more memory than it has, and kills who uses it.
    """
    if nbytes > _LARGEST_UNCHECKED and nbytes > (free := available()):
        raise _too_large(nbytes, free)


def _too_large(nbytes: int, free: int) -> DeviceMemoryError:
    rule = "an array must fit in the memory that is available"
    fix = "Use smaller batches, images or layers."
    return DeviceMemoryError(message("memory", rule, fix, bytes=nbytes, available=free))


_LARGEST_UNCHECKED = 1 << 28  # bytes; to ask takes 30 us
_UNKNOWN = 1 << 62
_CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")


def available() -> int:
    """Bytes this process may still take, as far as the system says (Linux; elsewhere a very large number)."""
    free = _UNKNOWN
    with contextlib.suppress(OSError, ValueError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines.get("MemAvailable", f"{_UNKNOWN >> 10} kB").split()[0]) << 10
    with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
        free = min(free, int(_CONTROL_GROUP.read_text()))
    return free


def address_of(x: np.ndarray) -> int:
    """Of a flat writable array. (NumPy's own ways to say it take 1 us, four times as long.)"""
    return _addressof(_from_buffer(x)) if x.size else 0


def _to_line(raw: np.ndarray) -> int:
    """Where its first cache line begins."""
    return -_addressof(_from_buffer(raw)) % _ALIGNMENT


def _references(buffers: list[np.ndarray], index: int) -> int:
    return sys.getrefcount(buffers[index])


_UNUSED = _references([np.empty(1)], 0)  # a buffer only the pool holds; differs between Python versions


class BufferPool:
    """Buffers that are lent again when nobody holds an array on them any more.

    Every NumPy view keeps its owner alive, so an owner that only the pool references is free. Nothing is ever
    handed out twice while it is in use, and no call is needed to give memory back.
    """

    def __init__(self, most: float = math.inf) -> None:
        self._buffers: dict[int, tuple[list[np.ndarray], list[int]]] = {}  # by size; where each's cache line begins
        self._known: dict[tuple[tuple[int, ...], int], tuple[list[np.ndarray], list[int]]] = {}  # by shape and itemsize
        self._most = most  # bytes to hold; what exceeds it is not kept

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        key = shape, dtype.itemsize
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_SHAPES:
                self._known.clear()
            size = _size_class(math.prod(shape) * dtype.itemsize)
            known = self._known[key] = self._buffers.setdefault(size, ([], []))
        buffers, offsets = known
        for index, offset in enumerate(offsets):
            if _references(buffers, index) == _UNUSED:
                return np.ndarray(shape, dtype, buffer=buffers[index], offset=offset)
        return self._another(shape, dtype, buffers, offsets)

    def _another(
        self, shape: tuple[int, ...], dtype: np.dtype, buffers: list[np.ndarray], offsets: list[int]
    ) -> np.ndarray:
        size = _size_class(math.prod(shape) * dtype.itemsize)
        if size <= self._most < size + self.nbytes:
            self._let_go()
        if self._most < size + self.nbytes:
            return aligned_empty(shape, dtype)
        buffers.append(_raw(size))
        offsets.append(_to_line(buffers[-1]))
        return np.ndarray(shape, dtype, buffer=buffers[-1], offset=offsets[-1])

    def _let_go(self) -> None:
        """Of the buffers that nobody uses."""
        for buffers, offsets in self._buffers.values():
            for index in reversed(range(len(buffers))):
                if _references(buffers, index) == _UNUSED:
                    del buffers[index], offsets[index]

    @property
    def nbytes(self) -> int:
        """Bytes held, in use or not."""
        return sum(size * len(buffers) for size, (buffers, _) in self._buffers.items())


def _size_class(nbytes: int) -> int:
    """Rounded up to an eighth of its power of two: at most 12.5 % larger, few classes."""
    step = 1 << max((nbytes - 1).bit_length() - 4, 0)
    return -(-nbytes // step) * step


class _ThreadState(threading.local):
    pool: BufferPool | None = None
    temporaries: BufferPool | None = None
    scratch: dict[str, np.ndarray] | None = None


_state = _ThreadState()


@contextlib.contextmanager
def reuse_buffers() -> Iterator[BufferPool]:
    """While entered, this thread's results come from one pool; entered again inside, from the same."""
    if _state.pool is not None:
        yield _state.pool
        return
    _state.pool = BufferPool()
    try:
        yield _state.pool
    finally:
        _state.pool = None


_MOST_KEPT = 1 << 27  # bytes of results that are gone: of each thread


def _kept_pool() -> BufferPool:
    if _state.temporaries is None:
        _state.temporaries = BufferPool(_MOST_KEPT)
    return _state.temporaries


@contextlib.contextmanager
def temporaries() -> Iterator[None]:
    """While entered, results of this thread come from memory kept for those that do not outlive their operation.

    As copies in another layout do not: in fresh memory their first touch takes longer than the copying. Safe for
    results that do, too: a buffer is lent again when nobody holds it.
    """
    if _state.pool is not None:
        yield
        return
    _state.pool = _kept_pool()
    try:
        yield
    finally:
        _state.pool = None


# Of less than `_SMALLEST_POOLED`: to align it would take longer than it saves, 2 us instead of 0.2.
small_empty = np.empty


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised C-contiguous result; one that is not small starts at a cache line."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < _SMALLEST_POOLED:
        return small_empty(shape, dtype)
    pool = _state.pool
    if pool is None and nbytes > _LARGEST_OF_HEAP:
        pool = _kept_pool()
    return _aligned(shape, dtype, nbytes) if pool is None else pool.empty(shape, dtype)


def empty_for(shape: tuple[int, ...], dtype: np.dtype) -> Callable[[tuple[int, ...], np.dtype], np.ndarray]:
    """`empty`, or what it comes down to for arrays of this shape."""
    return empty if math.prod(shape) * dtype.itemsize >= _SMALLEST_POOLED else small_empty


_LARGEST_KEPT = 1 << 28  # bytes; larger scratch is not kept between calls


def buffer(name: str, size: int, dtype: np.dtype, kept: bool) -> np.ndarray:
    """1-D memory: scratch `name`, or, if it is to be kept, an array of its own."""
    return aligned_empty((size,), dtype) if kept else scratch(name, size, dtype)


def scratch(name: str, size: int, dtype: np.dtype) -> np.ndarray:
    """A 1-D work array of `size` elements, uninitialised, kept for this thread's next call with this name.

    The caller's until it returns: two that are needed at once need two names.
    """
    nbytes = size * dtype.itemsize
    if nbytes > _LARGEST_KEPT:
        return aligned_empty((size,), dtype)
    if _state.scratch is None:
        _state.scratch = {}
    memory = _state.scratch.get(name)
    if memory is None or memory.size < nbytes:
        memory = _state.scratch[name] = aligned_empty((nbytes,), _BYTE)
    return np.ndarray((size,), dtype, buffer=memory)
