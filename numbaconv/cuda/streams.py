"""The stream that work goes to, and the order between streams.

Everything is queued on the current stream of its device: the default one, or in a ``with stream(...)`` the caller's.
Streams are plain ints, as CUDA's handles are; 0 is the default one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from ..errors import ArgumentError, message
from .runtime import runtime

_LEGACY_DEFAULT = 1  # another name of stream 0, in CUDA and in the protocols between libraries


class _State(threading.local):
    def __init__(self) -> None:
        self.streams: dict[int, int] = {}


_state = _State()


def current_stream(device: int) -> int:
    """The stream of `device` that this thread's launches and copies are queued on; 0 is the default one."""
    return _state.streams.get(device, 0)


@contextlib.contextmanager
def stream(stream: Any, device: int = 0, *, ordered: bool = True) -> Iterator[int]:
    """While entered, this thread's work on a device goes to `stream`.

    Args:
        stream: of PyTorch, CuPy, numba or cuda.core, any with ``__cuda_stream__``, or CUDA's handle as an int.
        device: number of the GPU.
        ordered: what is queued inside starts after what was queued before, and what comes after starts after it.
            False: the caller sees to that.

    Raises:
        ArgumentError: if `stream` is no stream.
    """
    inner, outer = stream_value(stream), current_stream(device)
    if ordered:
        order(device, outer, inner)
    _state.streams[device] = inner
    try:
        yield inner
    finally:
        _state.streams[device] = outer
        if ordered:
            order(device, inner, outer)


def order(device: int, first: int, then: int) -> None:
    """What is queued on `then` from now on starts after what is queued on `first`."""
    if first != then:
        event = runtime().create_event(device)
        runtime().record(device, event, first)
        runtime().wait(device, then, event)


def stream_value(stream: Any) -> int:
    """The handle of anybody's stream object."""
    if isinstance(stream, bool) or stream is None:
        raise _no_stream(stream)
    if isinstance(stream, int):
        return _plain(stream)
    if hasattr(stream, "__cuda_stream__"):
        return _plain(stream.__cuda_stream__()[1])
    for attribute in ("cuda_stream", "ptr", "handle"):  # PyTorch, CuPy, numba
        if hasattr(stream, attribute):
            handle = getattr(stream, attribute)
            return _plain(int(getattr(handle, "value", handle) or 0))
    raise _no_stream(stream)


def _plain(handle: int) -> int:
    return 0 if handle == _LEGACY_DEFAULT else handle


def protocol_number(stream: int) -> int:
    """A stream as the protocols between libraries write it, where 0 would be ambiguous."""
    return stream or _LEGACY_DEFAULT


def _no_stream(stream: Any) -> ArgumentError:
    fix = "Pass torch.cuda.Stream, cupy.cuda.Stream, numba.cuda.stream, or a handle."
    return ArgumentError(message("stream", "stream must be a CUDA stream", fix, stream=stream))
