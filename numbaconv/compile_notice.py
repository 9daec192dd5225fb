"""One line on stderr for people who wait for a first call: kernels are being compiled, and kept."""

from __future__ import annotations

import contextlib
import functools
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from . import cache_files

__all__ = ["announced", "compiling"]

# Of compiling in all, in this process; below it nobody wonders.
PATIENCE_SECONDS = 1.0

_TEXT = (
    "compiling kernels for this machine; later processes load them from the cache "
    "(python -m numbaconv warmup compiles ahead, NUMBACONV_QUIET=1 hides this line)"
)
_lock = threading.Lock()
_told = False
_depth = 0
_seconds = 0.0
_collected = False  # whether to turn the garbage collector on again


def _tell() -> None:
    global _told
    with _lock:
        if _told:
            return
        _told = True
    cache_files.tell(_TEXT)


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Around everything that compiles. The line comes while it still does: a timer waits for that moment.

    numba compiles under one lock, so there is one clock; a kernel that another one calls is compiled inside of it.
    The garbage collector rests meanwhile: it would look through a compiler's millions of objects over and over, a
    tenth of the time.
    """
    global _collected, _depth, _seconds
    timer = None
    with _lock:
        _depth += 1
        if _depth == 1:
            _collected = gc.isenabled()
            gc.disable()
    try:  # from here on, so that Ctrl-C leaves the collector as it was
        start = time.perf_counter()
        if _depth == 1 and not _told and not cache_files.quiet():
            timer = threading.Timer(max(PATIENCE_SECONDS - _seconds, 0.0), _tell)
            timer.daemon = True
            timer.start()
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _seconds += time.perf_counter() - start
                if _collected:
                    gc.enable()
        if timer is not None:
            timer.cancel()


def announced(compile_function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, with the line."""

    @functools.wraps(compile_function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with compiling():
            return compile_function(*args, **kwargs)

    return call
