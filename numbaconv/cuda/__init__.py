"""The CUDA backend: every operation of `contract`, in numba.cuda kernels.

Importing it needs numba-cuda, and no driver: that is asked for when something is moved or launched.
"""

from __future__ import annotations

from .activation import relu, relu_backward
from .array import DeviceArray
from .errorword import synchronize
from .interop import as_device_array
from .layout import layout_of
from .memory import empty_cache, memory_stats, reuse_buffers
from .streams import stream
from .transfer import to_device, to_host
