"""Errors that only a kernel can see, such as a label out of range: noted on the device, raised at the next wait.

Each device has an array of int64 words. A call that can fail takes a slot, and says what its error would be; its
kernel writes position and value of an offender there, and 1 into word 0. While that is set, kernels that update
parameters do nothing. Whatever waits for the device (`synchronize`, `to_host`, losses that are floats) calls `check`.

A slot holds one number that is larger for a smaller position, so the first offender is named, in whatever order
the threads come: an integer maximum, so the result is the same in every run.

    @kernel()
    def pick(x: "T*", target: "i64*", ..., errors: "i64*", slot: "i32"):
        ...
        if label < 0 or label >= channels:
            report(errors, slot, position, label)
    launch(pick, ..., errorword.words(device), errorword.expect(device, describe))

    @kernel()
    def update(parameter: "T*", ..., errors: "i64*"):
        if errors[0] == 0:
            ...
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import int64

from . import memory
from .array import DeviceArray
from .intrinsics import atomic_max
from .launch import inline
from .runtime import Runtime, runtime
from .streams import current_stream

SLOTS = 1024  # calls between two waits; the next one waits
_LAST_POSITION = 2**31 - 1
_INT64 = np.dtype(np.int64)

Describe = Callable[[int, int], Exception]


class Expected(NamedTuple):
    """A call that may fail: what makes its error, and the stream it is queued on."""

    describe: Describe
    stream: int


@inline
def report(errors, slot, position, value):
    """Notes an offender: its position (below 2^31 - 1), and its value (as int32)."""
    low = int64(value) & int64(0xFFFFFFFF)
    atomic_max(errors, slot, ((int64(2147483647) - int64(position)) << int64(32)) | low)
    atomic_max(errors, 0, int64(1))


class _Words:
    """The words of one device, and the errors its calls would raise, by slot."""

    def __init__(self, device: int) -> None:
        self.array = memory.zeros((1 + SLOTS,), _INT64, device)
        runtime().synchronize(device, current_stream(device))  # any stream may use it from now on
        self.pending: dict[int, Expected] = {}
        self.next = 0
        self.lock = threading.RLock()


_words: weakref.WeakKeyDictionary[Runtime, dict[int, _Words]] = weakref.WeakKeyDictionary()


def _words_of(device: int) -> _Words:
    devices = _words.setdefault(runtime(), {})
    if device not in devices:
        devices[device] = _Words(device)
    return devices[device]


def words(device: int) -> DeviceArray:
    """The device's words: word 0 is 0 while there is no error."""
    return _words_of(device).array


def expect(device: int, describe: Describe) -> int:
    """A slot for a call that may fail; ``describe(position, value)`` makes the error."""
    state = _words_of(device)
    with state.lock:
        if len(state.pending) == SLOTS:
            synchronize(device)
        while True:
            state.next = state.next % SLOTS + 1
            if state.next not in state.pending:
                break
        state.pending[state.next] = Expected(describe, current_stream(device))
        return state.next


def expected(device: int) -> dict[int, Expected]:
    """The calls that may fail since the last wait, by slot: `expect_again` them when a graph of them is replayed."""
    return dict(_words_of(device).pending)


def expect_again(device: int, calls: dict[int, Expected]) -> None:
    """Calls queued once more, with the slots they had."""
    _words_of(device).pending.update(calls)


def passed(device: int, calls: dict[int, Expected]) -> None:
    """Calls that the host knows to have gone well: their slots are free."""
    state = _words_of(device)
    with state.lock:
        for slot, call in calls.items():
            if state.pending.get(slot) is call:
                del state.pending[slot]


def check(device: int) -> None:
    """Waits for the current stream, and raises the first error of the calls queued on it since the last check.

    Raises:
        LabelError: or whatever the call that failed says.
    """
    stream = current_stream(device)
    _check(device, stream, lambda call: call.stream == stream)


def synchronize(device: int = 0) -> None:
    """Returns when a GPU has done all that was queued on it.

    Raises:
        LabelError: a call queued since the last wait got a label out of range.
    """
    runtime().synchronize(device)
    _check(device, current_stream(device), lambda call: True)


def _check(device: int, stream: int, chosen: Callable[[Expected], bool]) -> None:
    state = _words.get(runtime(), {}).get(device)
    if state is None:
        return
    with state.lock:
        calls = {slot: call for slot, call in state.pending.items() if chosen(call)}
        if not calls:
            return
        found = np.empty(1 + SLOTS, _INT64)
        runtime().copy_to_host(device, found, state.array.address, stream)
        runtime().synchronize(device, stream)
        for slot in calls:
            del state.pending[slot]
        failed = next((slot for slot in calls if found[slot]), None)  # in the order of the calls
        if failed is None:
            return
        runtime().clear(device, state.array.address, state.array.nbytes, stream)
        runtime().synchronize(device, stream)
    position = _LAST_POSITION - (int(found[failed]) >> 32)
    raise calls[failed].describe(position, int(found[failed : failed + 1].view(np.int32)[0]))
