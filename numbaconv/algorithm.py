"""Which convolution algorithm is forced, if any.

Backends pick one per problem (their ``choose.py``); this setting overrides them, by name. It is for tests,
benchmarks, and people who want one algorithm's rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_process: str | None = None
_context: ContextVar[str | None] = ContextVar("numbaconv_algorithm", default=None)


def forced() -> str | None:
    """The name in force: the innermost ``with algorithm(...)``, else the process-wide one, else None."""
    return _context.get() or _process


def set_algorithm(name: str | None) -> None:
    """Forces an algorithm in the whole process; None lets every problem choose again."""
    global _process
    _process = name


@contextlib.contextmanager
def algorithm(name: str) -> Iterator[None]:
    """Forces a convolution algorithm: ``with numbaconv.algorithm("direct"): ...``.

    A name that the backend does not know, or that does not support a problem, raises ArgumentError at the call.
    A direction that the algorithm does not have is computed as usual.

    NaN and Inf go through all of them by the rules of IEEE arithmetic (zeros of the padding may be factors: where a
    filter with an Inf reaches them is NaN), but through "winograd_4", "winograd_2" and "winograd_strided": these
    transform tiles of several pixels and filters as wholes, so one NaN or Inf makes NaN of every result of the tiles
    that read it, or of the channel whose filter has it. In input-gradients of strided convolutions, and in what
    transposed ones compute, the zeros that "sub_pixel" puts among the filters are factors too. "direct" gives those by
    the definition.
    """
    token = _context.set(name)
    try:
        yield
    finally:
        _context.reset(token)
