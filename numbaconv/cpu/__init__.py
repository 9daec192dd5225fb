"""The CPU backend: every operation of `contract`, in numba kernels."""

from __future__ import annotations

import numpy as np

from .activation import relu, relu_backward
from .conv2d import (
    conv2d,
    conv2d_backward,
    conv2d_backward_bias,
    conv2d_backward_input,
    conv2d_backward_weight,
    explain,
)
from .layout import channels_last, contiguous, layout_of
from .linear import linear, linear_backward
from .memory import reuse_buffers


def to_device(x: np.ndarray, index: int) -> np.ndarray:
    return x


def to_host(x: np.ndarray) -> np.ndarray:
    return x
