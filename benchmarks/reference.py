"""Elements of results, worked out one by one: what every provider's error is measured against.

They are worked out in float64; for float64 results in long double, where that is longer (x86), or the reference's own
rounding would be as large as what it measures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .cases import ConvRow, pair

SAMPLES = 100


def wide(a: np.ndarray) -> np.ndarray:
    """The same numbers in a longer type."""
    return a.astype(np.longdouble if a.dtype == np.float64 else np.float64)


def _places(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(1)
    corners = [(0,) * len(shape), tuple(size - 1 for size in shape)]
    return corners + [tuple(int(rng.integers(size)) for size in shape) for _ in range(SAMPLES)]


def relative_error(result: np.ndarray, expected: Callable[..., Any]) -> float:
    places = _places(result.shape)
    wanted = np.array([expected(*place) for place in places])
    actual = np.array([result[place] for place in places], dtype=wanted.dtype)
    return float(np.linalg.norm(actual - wanted) / (np.linalg.norm(wanted) or 1.0))


def forward_error(row: ConvRow, output: np.ndarray, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> float:
    """Relative L2 error of sampled outputs."""
    assert output.shape == row.output_shape, (output.shape, row.output_shape)
    (top, left), (down, across) = pair(row.padding), pair(row.dilation)
    _, per_group, height, width = row.weight_shape

    def expected(n: int, k: int, p: int, q: int) -> Any:
        first = k // (row.out_channels // row.groups) * per_group
        total = wide(bias)[k]
        for r in range(height):
            for s in range(width):
                h, w = p * row.stride + r * down - top, q * row.stride + s * across - left
                if 0 <= h < row.height and 0 <= w < row.width:
                    total += wide(x[n, first : first + per_group, h, w]) @ wide(weight[k, :, r, s])
        return total

    return relative_error(output, expected)


def input_gradient_error(row: ConvRow, grad_input: np.ndarray, grad_output: np.ndarray, weight: np.ndarray) -> float:
    """Relative L2 error of sampled input-gradients."""
    assert grad_input.shape == row.input_shape
    (top, left), (down, across) = pair(row.padding), pair(row.dilation)
    _, per_group, height, width = row.weight_shape
    _, _, rows, columns = row.output_shape
    outputs = row.out_channels // row.groups

    def expected(n: int, c: int, h: int, w: int) -> Any:
        first = c // per_group * outputs
        total: Any = 0.0
        for r in range(height):
            for s in range(width):
                p, rest_p = divmod(h + top - r * down, row.stride)
                q, rest_q = divmod(w + left - s * across, row.stride)
                if rest_p == rest_q == 0 and 0 <= p < rows and 0 <= q < columns:
                    filters = wide(weight[first : first + outputs, c % per_group, r, s])
                    total += wide(grad_output[n, first : first + outputs, p, q]) @ filters
        return total

    return relative_error(grad_input, expected)


def weight_gradient_error(row: ConvRow, grad_weight: np.ndarray, grad_output: np.ndarray, x: np.ndarray) -> float:
    """Relative L2 error of sampled weight-gradients."""
    assert grad_weight.shape == row.weight_shape
    (top, left), (down, across) = pair(row.padding), pair(row.dilation)
    _, _, rows, columns = row.output_shape
    sides = (0, 0), (top, top), (left, left)

    def expected(k: int, c: int, r: int, s: int) -> Any:
        channel = k // (row.out_channels // row.groups) * row.weight_shape[1] + c
        padded = np.pad(wide(x[:, channel]), sides)[:, r * down :, s * across :]
        read = padded[:, : (rows - 1) * row.stride + 1 : row.stride, : (columns - 1) * row.stride + 1 : row.stride]
        return (read * wide(grad_output[:, k])).sum()

    return relative_error(grad_weight, expected)


def backward_error(
    row: ConvRow, gradients: list[np.ndarray], grad_output: np.ndarray, x: np.ndarray, weight: np.ndarray
) -> float:
    """The largest of the three gradients' relative L2 errors."""
    grad_input, grad_weight, grad_bias = gradients
    wanted = grad_output.sum(axis=(0, 2, 3), dtype=wide(grad_output[:0]).dtype)
    return max(
        input_gradient_error(row, grad_input, grad_output, weight),
        weight_gradient_error(row, grad_weight, grad_output, x),
        # A sum of numbers of both signs may be near 0: measured against the size of its terms.
        float(np.linalg.norm(grad_bias - wanted) / np.linalg.norm(np.sqrt((grad_output**2).sum(axis=(0, 2, 3))))),
    )


def product_error(output: np.ndarray, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> float:
    """Relative L2 error of sampled elements of x times weight transposed, plus bias."""
    return relative_error(output, lambda i, j: wide(x[i]) @ wide(weight[j]) + bias[j])


def linear_backward_error(gradients: Any, grad_output: np.ndarray, x: np.ndarray, weight: np.ndarray) -> float:
    """The largest of the three gradients' relative L2 errors."""
    grad_input, grad_weight, grad_bias = gradients
    wanted = grad_output.sum(axis=0, dtype=wide(grad_output[:0]).dtype)
    return max(
        product_error(grad_input, grad_output, weight.T, np.zeros(weight.shape[1])),
        product_error(grad_weight, grad_output.T, x.T, np.zeros(x.shape[1])),
        float(np.linalg.norm(grad_bias - wanted) / np.linalg.norm(np.sqrt((grad_output**2).sum(axis=0)))),
    )


def geometric_mean(values: list[float]) -> float:
    """0 for none."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else 0.0
