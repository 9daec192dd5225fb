"""Whether convolutions and linear layers of float32 may run on tensor cores. Off unless asked for."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType

from ..errors import ArgumentError, message

_MODES = (False, True, "3x")
_mode: bool | str = False


def tf32_mode() -> bool | str:
    """What `allow_tf32` was last given: False, True or "3x"."""
    return _mode


class _Before:
    """What `allow_tf32` returns: as a context it puts the mode back that was there."""

    def __init__(self, mode: bool | str) -> None:
        self._mode = mode

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _mode
        _mode = self._mode


def allow_tf32(mode: bool | str = True) -> AbstractContextManager[None]:
    """Lets convolutions and linear layers of float32 run on tensor cores, in the whole process.

    It holds from the call on; as a context, until its end::

        numbaconv.cuda.allow_tf32(True)
        with numbaconv.cuda.allow_tf32("3x"):
            ...

    It takes a GPU of compute capability 8.0 and channels that are multiples of 4; all else runs as before.

    Args:
        mode: True: products of numbers rounded to TF32 (10 bits of mantissa), added up in float32; a result's relative
            error is about 3e-4. "3x": three products for each; an error like float32's, under 3e-6, and an infinity
            gives NaN. False: float32.

    Raises:
        ArgumentError: another mode.
    """
    global _mode
    if not isinstance(mode, (bool, str)) or mode not in _MODES:
        raise ArgumentError(message("allow_tf32", 'mode must be True, False or "3x"', mode=mode))
    before = _Before(_mode)
    _mode = mode
    return before
