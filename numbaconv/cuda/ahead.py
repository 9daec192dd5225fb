"""What lets the host run ahead of the device: batches copied while others are computed on, results read later.

Copies of batches have a stream of their own. A batch goes through pinned memory into one of two slots on the device, in
turn: slot 1 is filled while kernels read slot 0. Events keep the order: a slot is filled when the kernels that read it
are done, and read when it is filled; the host refills pinned memory when the copy from it is done. The arrays of a slot
are the same objects each time, so that a recorded step finds its inputs.

A result is copied into pinned memory on the stream that computes it, with the device's error word, and is there when an
event has been reached.
"""

from __future__ import annotations

import contextlib
import math
import threading
import weakref

import numpy as np
from numba import cuda, int32

from . import errorword, memory, streams
from .array import DeviceArray
from .errorword import report
from .launch import kernel, launch
from .layout import contiguous
from .runtime import runtime

_ALIGNMENT = 256  # bytes, of each array of a batch or a reading
_SLOTS = 2
_BYTE = np.dtype(np.uint8)
_FLOAT64 = np.dtype(np.float64)


class _Pinned:
    """Pinned buffers that were used and are free again, by size: a new one costs the driver a millisecond."""

    def __init__(self):
        self.lock = threading.Lock()
        self.free = {}

    def take(self, nbytes):
        """At least so many bytes."""
        size = 1 << max(nbytes - 1, 1).bit_length()
        with self.lock:
            buffers = self.free.setdefault(size, [])
            return buffers.pop() if buffers else runtime().pinned_empty((size,), _BYTE)

    def give_back(self, buffer):
        with self.lock:
            self.free[buffer.nbytes].append(buffer)


_pinned: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _pinned_of_runtime():
    return _pinned.setdefault(runtime(), _Pinned())


def _offsets(sizes):
    """(where each array begins, bytes in all) of arrays one behind the other."""
    offsets, end = [], 0
    for nbytes in sizes:
        offsets.append(end)
        end += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
    return offsets, max(end, 1)


# --- batches to the device ----------------------------------------------------------------------------------


class _Slot:
    """Memory of one batch on the device, and on the host for its way there."""

    def __init__(self, device, nbytes):
        self.device = device
        self.memory = memory.empty((nbytes,), _BYTE, device)
        self.staging = _pinned_of_runtime().take(nbytes)
        self.filled, self.read = runtime().create_event(device), runtime().create_event(device)
        self.was_filled = self.was_read = False
        self._arrays = {}

    def arrays(self, forms, offsets):
        """Arrays of these (shape, dtype) in the slot, the same objects each time."""
        if forms not in self._arrays:
            self._arrays[forms] = tuple(
                DeviceArray(self.memory.address + offset, shape, dtype, self.device, self.memory.owner)
                for offset, (shape, dtype) in zip(offsets, forms, strict=True)
            )
        return self._arrays[forms]


class _Feeder:
    """See the module, and `contract`."""

    def __init__(self, device):
        self._device = device
        self._stream = runtime().create_stream(device)
        self._slots = []
        self._turn = 0

    def __call__(self, batches):
        """(batch, its arrays on the device) in turn. One is on its way while the one before is in use."""
        queued = []
        for batch in batches:
            queued.append((batch, *self._send(batch)))
            if len(queued) == _SLOTS:
                yield from self._lend(*queued.pop(0))
        for item in queued:
            yield from self._lend(*item)

    def _send(self, batch):
        """Queues the copy of a batch into the slot whose turn it is."""
        forms = tuple((x.shape, x.dtype.newbyteorder("=")) for x in batch)
        offsets, nbytes = _offsets([x.nbytes for x in batch])
        slot = self._slot(nbytes)
        for x, offset, (_, dtype) in zip(batch, offsets, forms, strict=True):
            np.copyto(slot.staging[offset : offset + x.nbytes].view(dtype).reshape(x.shape), x)
        if slot.was_read:
            runtime().wait(self._device, self._stream, slot.read)
        slot.memory.owner.used_on(self._stream)
        runtime().copy_to_device(self._device, slot.memory.address, slot.staging[:nbytes], self._stream)
        runtime().record(self._device, slot.filled, self._stream)
        slot.was_filled = True
        return slot, slot.arrays(forms, offsets)

    def _slot(self, nbytes):
        """The next slot, with a free staging buffer; a larger one if it does not hold the batch."""
        self._turn = (self._turn + 1) % _SLOTS
        while len(self._slots) < _SLOTS:
            self._slots.append(self._new(nbytes))
        slot = self._slots[self._turn]
        if slot.was_filled:
            runtime().wait_on_host(self._device, slot.filled)
        if slot.memory.nbytes < nbytes:
            _pinned_of_runtime().give_back(slot.staging)
            slot = self._slots[self._turn] = self._new(nbytes)
        return slot

    def _new(self, nbytes):
        slot = _Slot(self._device, nbytes)
        # The memory may have been another array's until now.
        streams.order(self._device, streams.current_stream(self._device), self._stream)
        return slot

    def _lend(self, batch, slot, arrays):
        stream = streams.current_stream(self._device)
        runtime().wait(self._device, stream, slot.filled)
        try:
            yield batch, arrays
        finally:
            runtime().record(self._device, slot.read, stream)
            slot.was_read = True

    def __del__(self):
        for slot in self._slots:
            with contextlib.suppress(KeyError, ReferenceError):
                _pinned[slot.memory.owner.runtime].give_back(slot.staging)


def feeder(index):
    return _Feeder(index)


# --- results to the host ------------------------------------------------------------------------------------


class _Reading:
    """Arrays on their way to the host."""

    def __init__(self, values):
        self._values = list(values)
        given = [(place, x) for place, x in enumerate(values) if isinstance(x, DeviceArray)]
        self._event = None
        if given:
            self._queue(given)

    def _queue(self, given):
        device = self._device = given[0][1].device
        stream = streams.current_stream(device)
        words = errorword.words(device)
        self._expected = {slot: call for slot, call in errorword.expected(device).items() if call.stream == stream}
        arrays = [words[:1], *(contiguous(x) for _, x in given)]
        offsets, nbytes = _offsets([x.nbytes for x in arrays])
        self._places = [place for place, _ in given]
        self._buffer = _pinned_of_runtime().take(nbytes)
        self._hosts = []
        for x, offset in zip(arrays, offsets, strict=True):
            host = self._buffer[offset : offset + x.nbytes].view(x.dtype).reshape(x.shape)
            x.owner.used_on(stream)
            if x.size:
                runtime().copy_to_host(device, host, x.address, stream)
            self._hosts.append(host)
        self._event = runtime().create_event(device)
        runtime().record(device, self._event, stream)

    @property
    def done(self):
        return self._event is None or runtime().finished(self._device, self._event)

    def wait(self):
        if self._event is not None:
            runtime().wait_on_host(self._device, self._event)
            word, *hosts = self._hosts
            failed = bool(word[0])
            for place, host in zip(self._places, hosts, strict=True):
                self._values[place] = host.copy()
            _pinned_of_runtime().give_back(self._buffer)
            self._event = None
            if failed:
                errorword.synchronize(self._device)
            errorword.passed(self._device, self._expected)
        return tuple(self._values)


def read(values):
    return _Reading(values)


# --- numbers that must be finite ------------------------------------------------------------------------------

_NUMBERS = {1: math.inf, 2: -math.inf, 3: math.nan}


@kernel(threads=32, dtypes=("float64",))
def _require_finite(value: "f64*", errors: "i64*", slot: "i32"):
    """Reports which kind of number it is, by its place in _NUMBERS."""
    if cuda.threadIdx.x == 0:
        number = value[0]
        if number != number:
            report(errors, slot, int32(0), int32(3))
        elif number - number != 0.0:
            report(errors, slot, int32(0), int32(1 if number > 0.0 else 2))


def require_finite(value, describe):
    slot = errorword.expect(value.device, lambda position, kind: describe(_NUMBERS[kind]))
    launch(_require_finite, _FLOAT64, 1, value, errorword.words(value.device), slot)
