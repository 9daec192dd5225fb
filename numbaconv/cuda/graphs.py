"""Work that is written down once and then asked for in one call: CUDA graphs.

A graph is captured on a stream of its own, whose pool gives it its memory: the same in a rehearsal before, so that
capturing allocates nothing, and kept from `empty_cache` as long as there is a graph. It is replayed on the current
stream. All graphs of a device have one pool: they are replayed one after the other, and what is to outlive a replay
is held by its arrays.
"""

from __future__ import annotations

import contextlib
import weakref

from . import errorword, memory, streams
from .runtime import runtime


class _Stream:
    """Where the graphs of one device are captured, and how many there are."""

    def __init__(self, device):
        self.number = runtime().create_stream(device)
        self.graphs = 0


_streams: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _stream_of(device):
    devices = _streams.setdefault(runtime(), {})
    if device not in devices:
        devices[device] = _Stream(device)
    return devices[device]


class _Recorded:
    """See `contract`. `graph` and `calls`, which may set the error word, are there when it is whole."""

    def __init__(self, device, stream):
        self._device, self._stream, self._runtime = device, stream, runtime()
        self.graph, self.calls = None, {}
        stream.graphs += 1
        memory.keep(device, stream.number)

    def replay(self):
        stream = streams.current_stream(self._device)
        again = {slot: errorword.Expected(call.describe, stream) for slot, call in self.calls.items()}
        errorword.expect_again(self._device, again)
        runtime().replay(self._device, self.graph, stream)

    def __del__(self):
        self._stream.graphs -= 1
        if not self._stream.graphs and runtime() is self._runtime:
            memory.keep(self._device, self._stream.number, False)


@contextlib.contextmanager
def record(index, rehearsal):
    stream = _stream_of(index)
    errorword.words(index)  # made now, if they are not there: later would be among what is written down
    if rehearsal:
        with streams.stream(stream.number, index):
            yield None
        return
    outer = streams.current_stream(index)
    streams.order(index, outer, stream.number)
    memory.settle(index, stream.number)
    recorded, before = _Recorded(index, stream), errorword.expected(index)
    runtime().begin_capture(index, stream.number)
    try:
        with streams.stream(stream.number, index, ordered=False):
            yield recorded
    except BaseException:
        with contextlib.suppress(Exception):  # what went wrong inside is what matters
            runtime().end_capture(index, stream.number)
        raise
    recorded.graph = runtime().end_capture(index, stream.number)
    recorded.calls = {slot: call for slot, call in errorword.expected(index).items() if slot not in before}
    errorword.passed(index, recorded.calls)  # none of them has been made yet
