"""Fully connected layers: the pointwise convolution of M pixels, on the same register tile."""

from __future__ import annotations

import numpy as np

from ..shapes import Conv2dProblem
from .conv2d import pointwise
from .layout import contiguous
from .reduce import channel_sums


def _problem(rows: int, weight_shape: tuple[int, int]) -> Conv2dProblem:
    outputs, inputs = weight_shape
    shapes = (1, inputs, 1, rows), (outputs, inputs, 1, 1), (1, outputs, 1, rows)
    return Conv2dProblem(*shapes, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1)


def _as_pixels(x: np.ndarray) -> np.ndarray:
    """(M, features) as the channels_last image (1, features, 1, M)."""
    return contiguous(x)[None, None].transpose(0, 3, 1, 2)


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    out = pointwise.forward(_problem(x.shape[0], weight.shape), _as_pixels(x), weight[:, :, None, None], bias)
    return out.transpose(0, 2, 3, 1).reshape(x.shape[0], weight.shape[0])


def linear_backward(
    grad_output: np.ndarray, x: np.ndarray, weight: np.ndarray, needs: tuple[bool, bool, bool]
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    problem = _problem(x.shape[0], weight.shape)
    grad_output = contiguous(grad_output)
    grad_input = grad_weight = None
    if needs[0]:
        image = pointwise.backward_input(problem, _as_pixels(grad_output), weight[:, :, None, None], None)
        grad_input = image.transpose(0, 2, 3, 1).reshape(x.shape)
    if needs[1]:
        grad_weight = pointwise.backward_weight(problem, _as_pixels(grad_output), _as_pixels(x)).reshape(weight.shape)
    return grad_input, grad_weight, channel_sums(grad_output) if needs[2] else None
