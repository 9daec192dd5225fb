"""The CUDA backend: every operation of `contract`, in numba.cuda kernels.

Importing it needs numba-cuda, and no driver: that is asked for when something is moved or launched.
"""

from __future__ import annotations

from . import memory as _memory
from .activation import relu, relu_backward
from .array import DeviceArray
from .layout import layout_of


def to_device(x, index):
    return _memory.from_host(x, index)


def to_host(x):
    return x.copy_to_host()
