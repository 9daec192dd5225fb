"""Kernels over many arrays at once: one launch for all parameters of a model.

A table on the device says where each array is, and which piece of which array each block does. It holds int64 words:
for each block (number of the array << 32 | number of its piece), then a row for each array: its size, and the
addresses of what goes with it (gradient, state). Tables are kept by what is in them: a training step that finds its
arrays where they were copies nothing.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict

import numpy as np
from numba import cuda, int64

from . import transfer
from .launch import inline, launch
from .runtime import Runtime, runtime
from .streams import current_stream

PIECE = 4096  # elements of a block's piece of an array
_MOST_TABLES = 32
_INT64 = np.dtype(np.int64)

_tables: weakref.WeakKeyDictionary[Runtime, OrderedDict] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def blocks_of(arrays):
    """Blocks of a launch over some arrays."""
    return sum(-(-array.size // PIECE) for array in arrays)


def launch_all(body, lists, *args):
    """Launches ``body(table, blocks, *args)`` over lists of arrays that go together, all of one dtype.

    Args:
        lists: such as parameters, gradients and velocities; the sizes are those of the first.
    """
    blocks = blocks_of(lists[0])
    if blocks:
        first = lists[0][0]
        launch(body, first.dtype, blocks, _table(lists), blocks, *args, also=[a for arrays in lists for a in arrays])


def _table(lists):
    device, stream = lists[0][0].device, current_stream(lists[0][0].device)
    key = device, stream, tuple(a.size for a in lists[0]), tuple(a.address for arrays in lists for a in arrays)
    with _lock:
        known = _tables.setdefault(runtime(), OrderedDict())
        if key not in known:
            known[key] = transfer.to_device(_words(lists), device)
            if len(known) > _MOST_TABLES:
                known.popitem(last=False)
        known.move_to_end(key)
        return known[key]


def _words(lists):
    pieces = [number << 32 | piece for number, a in enumerate(lists[0]) for piece in range(-(-a.size // PIECE))]
    rows = [word for group in zip(*lists, strict=True) for word in (group[0].size, *(a.address for a in group))]
    return np.array([*pieces, *rows], _INT64)


@inline
def row_of_block(table, blocks, columns):
    """Where the row of this block's array begins, if a row has so many addresses: its size, then they."""
    return int64(blocks) + (table[cuda.blockIdx.x] >> int64(32)) * int64(columns + 1)


@inline
def piece_of_block(table, row):
    """(first, end) of the elements that this block does."""
    first = (table[cuda.blockIdx.x] & int64(0xFFFFFFFF)) * int64(PIECE)
    return first, min(first + int64(PIECE), table[row])
