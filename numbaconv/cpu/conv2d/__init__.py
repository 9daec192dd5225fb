"""2-D convolution on the CPU: one file per algorithm, `choose` picks one per problem and direction."""

from __future__ import annotations

import numpy as np

from ...algorithm import forced
from ...shapes import Conv2dProblem
from ..layout import dense
from ..reduce import channel_sums
from .choose import choose, explain

__all__ = [
    "conv2d",
    "conv2d_backward",
    "conv2d_backward_bias",
    "conv2d_backward_input",
    "conv2d_backward_weight",
    "explain",
]


def conv2d(problem: Conv2dProblem, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    return choose(problem, "forward", forced())(problem, dense(x), weight, bias)


def conv2d_backward_input(
    problem: Conv2dProblem, grad_output: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None
) -> np.ndarray:
    function = choose(problem, "backward_input", forced())
    return function(problem, dense(grad_output), weight, bias)


def conv2d_backward_weight(problem: Conv2dProblem, grad_output: np.ndarray, x: np.ndarray) -> np.ndarray:
    function = choose(problem, "backward_weight", forced())
    return function(problem, dense(grad_output), dense(x))


def conv2d_backward_bias(grad_output: np.ndarray) -> np.ndarray:
    return channel_sums(dense(grad_output))


def conv2d_backward(
    problem: Conv2dProblem,
    grad_output: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    needs: tuple[bool, bool, bool],
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    grad_output = dense(grad_output)  # once for the three
    return (
        conv2d_backward_input(problem, grad_output, weight) if needs[0] else None,
        conv2d_backward_weight(problem, grad_output, x) if needs[1] else None,
        channel_sums(grad_output) if needs[2] else None,
    )
