"""What one writes in NumPy alone: every window of x as a column, then a matrix product by BLAS.

The windows are a strided view (no loop in Python over pixels); the product copies them. The input-gradient adds the
columns' gradients back, one filter tap at a time. This is the baseline to beat.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..cases import ConvRow, pair
from .base import Needs, Provider


def windows(row: ConvRow, padded: np.ndarray) -> np.ndarray:
    """Every window: a view (N, groups, C / groups, R, S, P, Q) of the padded input."""
    _, _, p, q = row.output_shape
    n, c, _, _ = padded.shape
    image, channel, line, pixel = padded.strides
    per_group = c // row.groups
    shape = (n, row.groups, per_group, *row.weight_shape[2:], p, q)
    down, across = pair(row.dilation)
    strides = (
        image, channel * per_group, channel,
        line * down, pixel * across, line * row.stride, pixel * row.stride,
    )  # fmt: skip
    return as_strided(padded, shape, strides, writeable=False)


def pad(row: ConvRow, x: np.ndarray) -> np.ndarray:
    vertical, horizontal = pair(row.padding)
    sides = (0, 0), (0, 0), (vertical, vertical), (horizontal, horizontal)
    return np.pad(x, sides) if vertical or horizontal else x


class NumpyIm2col(Provider):
    """NumPy with its BLAS. Its threads are set by the environment, before NumPy is imported (conftest.py)."""

    name = "numpy_im2col"

    def version(self) -> str:
        return np.__version__

    def limited_to(self, target: str) -> str:
        features = np._core._multiarray_umath.__cpu_features__
        wide = [name for name in ("X86_V3", "X86_V4") if features.get(name)]
        if target != "avx2" or "X86_V4" in wide:
            return f"its loops are those for {wide[-1:]}" if wide else ""
        return ""

    def array(self, x: np.ndarray, layout: str) -> np.ndarray:
        if x.ndim == 4 and layout == "channels_last":
            return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        return x

    def to_numpy(self, x: np.ndarray) -> np.ndarray:
        return x

    def _columns(self, row: ConvRow, x: np.ndarray) -> np.ndarray:
        """(N, groups, C / groups * R * S, P * Q), a copy."""
        n, _, p, q = row.output_shape
        return windows(row, pad(row, x)).reshape(n, row.groups, -1, p * q)

    def conv2d(self, row: ConvRow, x: Any, weight: Any, bias: Any) -> np.ndarray:
        filters = weight.reshape(row.groups, row.out_channels // row.groups, -1)
        output = np.matmul(filters, self._columns(row, x)).reshape(row.output_shape)
        output += bias[:, None, None]
        return output

    def conv2d_backward(self, row: ConvRow, grad_output: Any, x: Any, weight: Any, needs: Needs) -> tuple[Any, ...]:
        n, k, p, q = row.output_shape
        grad = grad_output.reshape(n, row.groups, k // row.groups, p * q)
        grad_input = grad_weight = grad_bias = None
        if needs[0]:
            filters = weight.reshape(row.groups, k // row.groups, -1)
            grad_input = self._add_columns(row, np.matmul(filters.transpose(0, 2, 1), grad))
        if needs[1]:
            products = np.matmul(grad, self._columns(row, x).swapaxes(2, 3))
            grad_weight = products.sum(axis=0).reshape(weight.shape)
        if needs[2]:
            grad_bias = grad_output.sum(axis=(0, 2, 3))
        return grad_input, grad_weight, grad_bias

    def _add_columns(self, row: ConvRow, columns: np.ndarray) -> np.ndarray:
        n, _, p, q = row.output_shape
        (top, left), (down, across) = pair(row.padding), pair(row.dilation)
        _, _, r_size, s_size = row.weight_shape
        padded = np.zeros((n, row.in_channels, row.height + 2 * top, row.width + 2 * left), columns.dtype)
        columns = columns.reshape(n, row.in_channels, r_size, s_size, p, q)
        for r in range(r_size):
            for s in range(s_size):
                h, w = r * down, s * across
                rows = slice(h, h + (p - 1) * row.stride + 1, row.stride)
                padded[:, :, rows, w : w + (q - 1) * row.stride + 1 : row.stride] += columns[:, :, r, s]
        return padded[:, :, top : top + row.height, left : left + row.width]

    def linear(self, x: Any, weight: Any, bias: Any) -> np.ndarray:
        return x @ weight.T + bias

    def linear_backward(self, grad_output: Any, x: Any, weight: Any) -> tuple[Any, ...]:
        return grad_output @ weight, grad_output.T @ x, grad_output.sum(axis=0)

    def forward(self, op: str, x: Any, arguments: dict[str, Any]) -> tuple[Any, Any]:
        if op == "relu":
            return np.maximum(x, 0), None
        return super().forward(op, x, arguments)

    def backward(self, op: str, grad_output: Any, x: Any, context: Any, arguments: dict[str, Any]) -> Any:
        if op == "relu":
            return np.where(x > 0, grad_output, 0)
        return super().backward(op, grad_output, x, context, arguments)
