"""Small tables of int32 on the device, for kernels that would have to work them out, or take too many parameters.

A table follows from a problem's sizes. It is written once for each stream and then kept: a training step copies none.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict

import numpy as np

from .. import transfer
from ..array import DeviceArray
from ..runtime import Runtime, runtime
from ..streams import current_stream

_MOST = 1024  # tables of a runtime

_tables: weakref.WeakKeyDictionary[Runtime, OrderedDict] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def device_table(numbers: tuple[int, ...], device: int) -> DeviceArray:
    """An int32 array of these numbers, to be read on the current stream."""
    key = device, current_stream(device), numbers
    with _lock:
        tables = _tables.setdefault(runtime(), OrderedDict())
        if key not in tables:
            tables[key] = transfer.to_device(np.array(numbers, np.int32), device)
            if len(tables) > _MOST:
                tables.popitem(last=False)
        tables.move_to_end(key)
        return tables[key]
