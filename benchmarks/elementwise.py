"""Operands of the rows that are bound by memory, and elements of their results in float64, worked out one by one."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .cases import ElementwiseRow
from .reference import relative_error

Normal = Callable[[tuple[int, ...]], np.ndarray]


def operands(row: ElementwiseRow, normal: Normal) -> dict[str, np.ndarray]:
    """What the operation takes beside x."""
    if row.op == "add":
        return {"y": normal(row.shape)}
    if row.op == "cross_entropy":
        return {"target": np.arange(row.shape[0]) * 7 % row.shape[1]}
    return {}


def _windows(row: ElementwiseRow) -> tuple[int, int, int]:
    """Kernel size, stride and padding of a pooling."""
    size = row.arguments["kernel_size"]
    return size, row.arguments.get("stride", size), row.arguments.get("padding", 0)


def _span(row: ElementwiseRow, place: int, size: int) -> slice:
    """The part of an axis of x that one window covers."""
    kernel, stride, padding = _windows(row)
    start = place * stride - padding
    return slice(max(start, 0), min(start + kernel, size))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _gelu_slope(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2))) + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


# name: (function of one number, its derivative)
POINTWISE = {
    "relu": (lambda x: max(x, 0.0), lambda x: float(x > 0)),
    "sigmoid": (_sigmoid, lambda x: _sigmoid(x) * (1 - _sigmoid(x))),
    "tanh": (math.tanh, lambda x: 1 - math.tanh(x) ** 2),
    "gelu": (lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))), _gelu_slope),
}


def forward_error(row: ElementwiseRow, output: Any, x: np.ndarray, others: dict[str, np.ndarray]) -> float:
    """Relative L2 error of sampled results."""
    if row.op == "cross_entropy":
        losses = [-_log_softmax(line)[label] for line, label in zip(x, others["target"], strict=True)]
        return abs(float(output) / float(np.mean(losses)) - 1)

    @functools.cache
    def moments(c: int) -> tuple[float, float]:
        values = x[:, c].astype(float)
        return float(values.mean()), float(values.var())

    def expected(n: int, c: int, h: int, w: int) -> float:
        if row.op == "add":
            return float(x[n, c, h, w]) + float(others["y"][n, c, h, w])
        if row.op == "batch_norm":
            mean, variance = moments(c)
            return (float(x[n, c, h, w]) - mean) / math.sqrt(variance + 1e-5)
        if row.op == "adaptive_avg_pool2d":
            return float(x[n, c].mean(dtype=float))
        if row.op in ("max_pool2d", "avg_pool2d"):
            window = x[n, c, _span(row, h, x.shape[2]), _span(row, w, x.shape[3])].astype(float)
            return float(window.max() if row.op == "max_pool2d" else window.sum() / _windows(row)[0] ** 2)
        return float(POINTWISE[row.op][0](float(x[n, c, h, w])))

    return relative_error(output, expected)


def backward_error(row: ElementwiseRow, grad_input: np.ndarray, grad_output: Any, x: np.ndarray, others: Any) -> float:
    """Relative L2 error of sampled input-gradients."""
    assert grad_input.shape == row.shape
    if row.op == "cross_entropy":

        def of_logit(n: int, c: int) -> float:
            probability = math.exp(_log_softmax(x[n])[c])
            return float(grad_output) * (probability - (c == others["target"][n])) / len(x)

        return relative_error(grad_input, of_logit)

    @functools.cache
    def of_channel(c: int) -> np.ndarray:
        values, grads = x[:, c].astype(float), grad_output[:, c].astype(float)
        inverse_std = 1 / math.sqrt(values.var() + 1e-5)
        normalized = (values - values.mean()) * inverse_std
        return (grads - grads.mean() - normalized * (grads * normalized).mean()) * inverse_std

    def expected(n: int, c: int, h: int, w: int) -> float:
        if row.op == "batch_norm":
            return float(of_channel(c)[n, h, w])
        if row.op == "adaptive_avg_pool2d":
            return float(grad_output[n, c, 0, 0]) / math.prod(x.shape[2:])
        if row.op in ("max_pool2d", "avg_pool2d"):
            return _pool_gradient(row, grad_output[n, c], x[n, c], h, w)
        return float(POINTWISE[row.op][1](float(x[n, c, h, w]))) * float(grad_output[n, c, h, w])

    return relative_error(grad_input, expected)


def _pool_gradient(row: ElementwiseRow, grads: np.ndarray, image: np.ndarray, h: int, w: int) -> float:
    """The gradient at one pixel: of all windows over it, or of those whose maximum it is."""
    kernel, stride, padding = _windows(row)

    def over(place: int, windows: int) -> range:
        return range(max(0, (place + padding - kernel) // stride + 1), min(windows, (place + padding) // stride + 1))

    total = 0.0
    for p in over(h, grads.shape[0]):
        for q in over(w, grads.shape[1]):
            if row.op == "avg_pool2d":
                total += float(grads[p, q]) / kernel**2
            elif image[h, w] == image[_span(row, p, image.shape[0]), _span(row, q, image.shape[1])].max():
                total += float(grads[p, q])
    return total


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(float) - float(logits.max())
    return shifted - math.log(float(np.exp(shifted).sum()))
