"""SciPy: one `correlate` per image and pair of channels; for the smallest rows only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy
from scipy import signal

from ..cases import ConvRow, pair
from .base import Provider, Unavailable

MOST_CALLS = 3000
MOST_PRODUCTS = 2e9  # some two seconds


class Scipy(Provider):
    """scipy.signal.correlate2d."""

    name = "scipy"

    def version(self) -> str:
        return str(scipy.__version__)

    def array(self, x: np.ndarray, layout: str) -> np.ndarray:
        return x

    def to_numpy(self, x: np.ndarray) -> np.ndarray:
        return x

    def conv2d(self, row: ConvRow, x: Any, weight: Any, bias: Any) -> np.ndarray:
        if row.batch * row.in_channels * row.out_channels > MOST_CALLS:
            raise Unavailable("one call per image and pair of channels would take too long")
        if row.batch * row.out_channels * math.prod(row.input_shape[1:]) * math.prod(pair(row.kernel)) > MOST_PRODUCTS:
            raise Unavailable("correlate2d computes every position, also between strides: it would take too long")
        if pair(row.dilation) != (1, 1) or row.groups != 1:
            raise Unavailable("correlate2d has no dilation or groups")
        (top, left) = pair(row.padding)
        padded = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)))
        output = np.empty(row.output_shape, x.dtype)
        for n in range(row.batch):
            for k in range(row.out_channels):
                total = sum(signal.correlate2d(padded[n, c], weight[k, c], "valid") for c in range(row.in_channels))
                output[n, k] = total[:: row.stride, :: row.stride] + bias[k]
        return output
