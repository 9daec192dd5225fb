"""Traps around calls: bands beside every array a CPU operation allocates, and a watch on its time and warnings."""

from __future__ import annotations

import contextlib
import faulthandler
import math
import warnings

import numpy as np

from numbaconv.cpu import memory

_BAND = 2048  # bytes before and after: many vectors, or some rows of a small image
_POISON = np.array([0xA5, 0xA5, 0xFF, 0xFF], np.uint8)  # a NaN as float32 and as float64, and one no sum gives
_ALIGNED, _LESS_ALIGNED = 64, 16  # bytes: large arrays, and small ones, which NumPy allocates
_HANG_SECONDS = 120  # compiling counts


class Bands:
    """Allocates arrays of NaNs between bands of NaNs: what is not written, or read from outside, shows in results."""

    def __init__(self):
        self._owners = []

    def empty(self, shape, dtype, large=True):
        nbytes = math.prod(shape) * dtype.itemsize
        owner = np.resize(_POISON, _BAND + 128 + nbytes + _BAND)
        start = _BAND + -(owner.__array_interface__["data"][0] + _BAND) % _ALIGNED
        if not large:
            start += _LESS_ALIGNED
        self._owners.append((owner, start, nbytes))
        return np.ndarray(shape, dtype, buffer=owner, offset=start)

    def check(self):
        for owner, start, nbytes in self._owners:
            for name, first, last in (("before", 0, start), ("after", start + nbytes, owner.size)):
                band = owner[first:last]
                wanted = np.resize(np.roll(_POISON, -first), band.size)
                changed = np.flatnonzero(band != wanted)
                assert not changed.size, f"{changed.size} bytes {name} an array of {nbytes} were written"
        self._owners.clear()


@contextlib.contextmanager
def guarded():
    """While entered, results and scratch of CPU operations lie between bands; they are checked at the end."""
    bands = Bands()

    def small_or_large(shape, dtype):
        return bands.empty(shape, dtype, math.prod(shape) * dtype.itemsize >= memory._SMALLEST_POOLED)

    kept = memory.empty, memory.small_empty, memory.aligned_empty, memory._LARGEST_KEPT
    memory.empty, memory.small_empty, memory.aligned_empty = small_or_large, small_or_large, bands.empty
    memory._LARGEST_KEPT = -1  # no scratch is kept
    try:
        yield
    finally:
        memory.empty, memory.small_empty, memory.aligned_empty, memory._LARGEST_KEPT = kept
    bands.check()


@contextlib.contextmanager
def watched():
    """A warning is an error, and a call that does not come back ends the run with its traceback."""
    faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def between_nans(x):
    """A copy of `x` in the same order, in the middle of NaNs: what reads beside it shows."""
    owner = np.full(x.size + 256, np.nan, x.dtype)
    flat = owner[128 : 128 + x.size]
    order = np.argsort([-abs(stride) for stride in x.strides], kind="stable")
    view = flat.reshape([x.shape[axis] for axis in order]).transpose(np.argsort(order))
    view[...] = x
    return view
