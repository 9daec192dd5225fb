"""Softmax and its logarithm, and their backwards, which want the output instead of the input."""

from __future__ import annotations

from typing import Any

from ..arguments import integer, require_same_shape
from ..backend import enter
from ..errors import ArgumentError, message

Array = Any


def softmax(x: Array, axis: int = -1) -> Array:
    """Exponentials that sum to 1 along an axis.

    Args:
        x: float32 or float64, any shape; logits (N, C, ...) have their classes on axis 1.
        axis: -x.ndim to x.ndim - 1.

    Returns:
        exp(x - max) / sum(exp(x - max)), of x's shape and layout. A slice that holds NaN or +inf, or nothing but
        -inf, gives NaN, as in PyTorch.

    Raises:
        ArgumentError: if there is no such axis.
    """
    backend, x = enter("softmax", x=x)
    return backend.softmax(x, _axis("softmax", x, axis))


def softmax_backward(grad_output: Array, output: Array, axis: int = -1) -> Array:
    """Vector-Jacobian product of `softmax`.

    Args:
        grad_output: gradient of the output, of its shape and dtype.
        output: what `softmax` returned.
        axis: as given to `softmax`.

    Returns:
        output * (grad_output - sum(grad_output * output)), of output's shape and layout.

    Raises:
        ShapeError: if the shapes differ.
    """
    op = "softmax_backward"
    backend, grad_output, output = enter(op, grad_output=grad_output, output=output)
    require_same_shape(op, "grad_output", grad_output.shape, "output", output.shape)
    return backend.softmax_backward(grad_output, output, _axis(op, output, axis))


def log_softmax(x: Array, axis: int = -1) -> Array:
    """The logarithm of `softmax`, without its underflow.

    Args:
        x, axis: as for `softmax`.

    Returns:
        x - max - log(sum(exp(x - max))), of x's shape and layout.

    Raises:
        ArgumentError: if there is no such axis.
    """
    backend, x = enter("log_softmax", x=x)
    return backend.log_softmax(x, _axis("log_softmax", x, axis))


def log_softmax_backward(grad_output: Array, output: Array, axis: int = -1) -> Array:
    """Vector-Jacobian product of `log_softmax`.

    Args:
        grad_output: gradient of the output, of its shape and dtype.
        output: what `log_softmax` returned.
        axis: as given to `log_softmax`.

    Returns:
        grad_output - exp(output) * sum(grad_output), of output's shape and layout.

    Raises:
        ShapeError: if the shapes differ.
    """
    op = "log_softmax_backward"
    backend, grad_output, output = enter(op, grad_output=grad_output, output=output)
    require_same_shape(op, "grad_output", grad_output.shape, "output", output.shape)
    return backend.log_softmax_backward(grad_output, output, _axis(op, output, axis))


def _axis(op: str, x: Array, axis: Any) -> int:
    """The axis counted from the front."""
    rank = len(x.shape)
    number = integer(op, "axis", axis, -rank)
    if number >= rank:
        raise ArgumentError(message(op, f"axis must be from {-rank} to {rank - 1}", axis=axis, x__shape=x.shape))
    return number % rank
