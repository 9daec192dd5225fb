"""2-D convolution on the CPU: one file per algorithm, `choose` picks one per problem and direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...algorithm import forced
from ...shapes import Conv2dProblem
from ..layout import CHANNELS_LAST, channels_last, dense, dense_in, in_layout, layout_of
from ..memory import temporaries
from ..reduce import channel_sums
from .algorithm import Algorithm, Packed
from .choose import choose, explain

__all__ = [
    "conv2d",
    "conv2d_backward",
    "conv2d_backward_bias",
    "conv2d_backward_input",
    "conv2d_backward_weight",
    "explain",
    "prepare_conv2d",
]


_MOST_CALLS = 256  # that a prepared layer keeps
_SMALL = 1 << 13  # elements: first touch of so little does not matter


def conv2d(
    problem: Conv2dProblem, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, relu: bool = False
) -> np.ndarray:
    algorithm = choose(problem, "forward", forced())
    packed = algorithm.pack_weight(problem, weight, bias, False)
    return _forward(algorithm, problem, x, packed, relu)


def _forward(
    algorithm: Algorithm, problem: Conv2dProblem, x: np.ndarray, packed: Packed, relu: bool, layout: str | None = None
) -> np.ndarray:
    """The result in `layout`, or in that of x."""
    x, layout_of_x = dense_in(x)
    if layout is None:
        layout = layout_of_x
        if algorithm.bind is not None:
            return algorithm.forward(problem, x, packed, relu, layout)
    if layout == CHANNELS_LAST or x.size < _SMALL:
        return in_layout(algorithm.forward(problem, x, packed, relu), layout)
    with temporaries():
        out = algorithm.forward(problem, x, packed, relu)
    return in_layout(out, layout)


class PreparedConv2d:
    """A convolution of one layer, for prediction: its weights are copied once, and packed once per algorithm.

    Algorithms differ with the size of x; what they want of the weights does not, so it is kept by their names. Small
    calls, which take as long to prepare as to compute, are kept by all that they depend on.
    """

    def __init__(self, weight: np.ndarray, bias: np.ndarray | None) -> None:
        self._weight = weight.copy()
        self._bias = None if bias is None else bias.copy()
        self._packed: dict[str, Packed] = {}
        self._calls: dict[Any, Callable[[np.ndarray], np.ndarray]] = {}

    def __call__(self, problem: Conv2dProblem, x: np.ndarray, relu: bool, layout: str | None = None) -> np.ndarray:
        name = forced()
        if self._calls and layout is None and name is None:
            call = self._calls.get((x.shape, x.strides, relu))
            if call is not None:
                return call(x)
        algorithm = choose(problem, "forward", name)
        packed = self._packed.get(algorithm.name)
        if packed is None:  # two threads may both do it: the results are the same
            packed = self._packed[algorithm.name] = algorithm.pack_weight(problem, self._weight, self._bias, True)
        if algorithm.bind is not None and name is None and dense(x) is x:
            if len(self._calls) >= _MOST_CALLS:
                self._calls.clear()
            key = x.shape, x.strides, relu
            self._calls[key] = algorithm.bind(problem, packed, relu, layout_of(x), x.dtype)
        return _forward(algorithm, problem, x, packed, relu, layout)


def prepare_conv2d(weight: np.ndarray, bias: np.ndarray | None) -> PreparedConv2d:
    return PreparedConv2d(weight, bias)


def conv2d_backward_input(
    problem: Conv2dProblem, grad_output: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None
) -> np.ndarray:
    algorithm = choose(problem, "backward_input", forced())
    return algorithm.backward_input(problem, dense(grad_output), weight, bias)


def conv2d_backward_weight(problem: Conv2dProblem, grad_output: np.ndarray, x: np.ndarray) -> np.ndarray:
    algorithm = choose(problem, "backward_weight", forced())
    return algorithm.backward_weight(problem, dense(grad_output), dense(x))


def conv2d_backward_bias(grad_output: np.ndarray) -> np.ndarray:
    return channel_sums(dense(grad_output))


def conv2d_backward(
    problem: Conv2dProblem,
    grad_output: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    needs: tuple[bool, bool, bool],
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    name = forced()
    of_input, of_weight = choose(problem, "backward_input", name), choose(problem, "backward_weight", name)
    if of_input is of_weight and of_input.gradients is not None:
        return of_input.gradients(problem, grad_output, x, weight, needs)
    layout = layout_of(grad_output)
    if layout == CHANNELS_LAST or grad_output.size < _SMALL:
        return _backward(problem, of_input, of_weight, dense(grad_output), x, weight, needs)
    with temporaries():  # each copied once for the three
        grad_output = channels_last(grad_output)
        x = channels_last(x) if needs[1] else x
        grad_input, _, _ = _backward(problem, of_input, of_weight, grad_output, x, weight, (needs[0], False, False))
    grads = _backward(problem, of_input, of_weight, grad_output, x, weight, (False, *needs[1:]))
    return None if grad_input is None else in_layout(grad_input, layout), *grads[1:]


def _backward(
    problem: Conv2dProblem,
    of_input: Algorithm,
    of_weight: Algorithm,
    grad_output: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    needs: tuple[bool, bool, bool],
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Of a dense grad_output."""
    grad_input = of_input.backward_input(problem, grad_output, weight, None) if needs[0] else None
    grad_weight = of_weight.backward_weight(problem, grad_output, dense(x)) if needs[1] else None
    return grad_input, grad_weight, channel_sums(grad_output) if needs[2] else None
