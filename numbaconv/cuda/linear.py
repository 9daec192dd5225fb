"""Fully connected layers: the 1x1 convolution of one pixel a sample, on the same tiles."""

from __future__ import annotations

import functools

from ..shapes import Conv2dProblem
from . import memory
from .array import DeviceArray
from .conv2d import algorithm_for, bias_of, copied
from .conv2d.column_sums import column_sums
from .layout import aligned, contiguous


@functools.lru_cache(maxsize=1024)
def _problem(rows: int, weight_shape: tuple[int, int]) -> Conv2dProblem:
    outputs, inputs = weight_shape
    shapes = (rows, inputs, 1, 1), (outputs, inputs, 1, 1), (rows, outputs, 1, 1)
    return Conv2dProblem(*shapes, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1)


def _as_pixels(x: DeviceArray) -> DeviceArray:
    """(M, features) as the images (M, features, 1, 1), aligned."""
    x = contiguous(x)
    x = x if aligned(x) else copied(x)
    return x.reshape(*x.shape, 1, 1)


def _forward(problem, x, algorithm, packed, relu):
    return algorithm.forward(problem, _as_pixels(x), packed, relu).reshape(x.shape[0], problem.weight_shape[0])


def linear(x: DeviceArray, weight: DeviceArray, bias: DeviceArray | None, relu: bool = False) -> DeviceArray:
    if x.shape[0] == 0:
        return memory.empty((0, weight.shape[0]), x.dtype, x.device)
    problem = _problem(x.shape[0], weight.shape)
    algorithm = algorithm_for("linear", problem, x, None)
    packed = algorithm.pack_weight(problem, _as_pixels(weight), bias_of(bias), False)
    return _forward(problem, x, algorithm, packed, relu)


class PreparedLinear:
    """A linear layer for prediction: its weights are copied once, and packed once per algorithm."""

    def __init__(self, weight: DeviceArray, bias: DeviceArray | None) -> None:
        self._weight, self._bias = copied(weight), None if bias is None else copied(bias)
        self._packed: dict[str, object] = {}

    def __call__(self, x: DeviceArray, relu: bool) -> DeviceArray:
        if x.shape[0] == 0:
            return memory.empty((0, self._weight.shape[0]), x.dtype, x.device)
        problem = _problem(x.shape[0], self._weight.shape)
        algorithm = algorithm_for("linear", problem, x, None)
        packed = self._packed.get(algorithm.name)
        if packed is None:  # two threads may both do it: the results are the same
            packed = algorithm.pack_weight(problem, _as_pixels(self._weight), self._bias, True)
            self._packed[algorithm.name] = packed
        return _forward(problem, x, algorithm, packed, relu)


def prepare_linear(weight: DeviceArray, bias: DeviceArray | None) -> PreparedLinear:
    return PreparedLinear(weight, bias)


def linear_backward(
    grad_output: DeviceArray, x: DeviceArray, weight: DeviceArray, needs: tuple[bool, bool, bool]
) -> tuple[DeviceArray | None, DeviceArray | None, DeviceArray | None]:
    if x.shape[0] == 0:
        sizes = zip((x.shape, weight.shape, weight.shape[:1]), needs, strict=True)
        grads = [memory.zeros(size, x.dtype, x.device) if need else None for size, need in sizes]
        return grads[0], grads[1], grads[2]
    problem = _problem(x.shape[0], weight.shape)
    algorithm = algorithm_for("linear_backward", problem, x, None)
    pixels = _as_pixels(grad_output)
    grad_input = grad_weight = grad_bias = None
    if needs[0]:
        grad_input = algorithm.backward_input(problem, pixels, _as_pixels(weight), None).reshape(x.shape)
    if needs[1]:
        gradient, grad_bias = algorithm.backward_weight(problem, pixels, _as_pixels(x), needs[2])
        grad_weight = gradient.reshape(weight.shape)
    if needs[2] and grad_bias is None:
        grad_bias = column_sums(pixels.reshape(grad_output.shape))
    return grad_input, grad_weight, grad_bias
