"""The CPU backend: every operation of `contract`, in numba kernels."""

from __future__ import annotations

import numpy as np

from .activation import relu, relu_backward
from .layout import channels_last, contiguous, layout_of
from .memory import reuse_buffers

__all__ = ["channels_last", "contiguous", "layout_of", "relu", "relu_backward", "reuse_buffers", "to_device", "to_host"]


def to_device(x: np.ndarray, index: int) -> np.ndarray:
    return x


def to_host(x: np.ndarray) -> np.ndarray:
    return x
