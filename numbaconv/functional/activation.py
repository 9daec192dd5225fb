"""Activations and their backwards. Arrays of any shape; the result has the input's shape, dtype and layout."""

from __future__ import annotations

from typing import Any

from ..backend import enter
from ..shapes import require_same_shape

Array = Any


def relu(x: Array) -> Array:
    """Rectified linear unit, elementwise.

    Args:
        x: float32 or float64, any shape.

    Returns:
        max(x, 0), of x's shape; NaN stays NaN.

    Raises:
        DTypeError: if x is not a float32 or float64 array.
    """
    backend, x = enter("relu", x=x)
    return backend.relu(x)


def relu_backward(grad_output: Array, x: Array) -> Array:
    """Vector-Jacobian product of `relu`.

    Args:
        grad_output: gradient of the output, of x's shape and dtype.
        x: the input (or the output: the result is the same).

    Returns:
        grad_output where x > 0 (or x is NaN, as in PyTorch), else 0.

    Raises:
        ShapeError: if the shapes differ.
    """
    backend, grad_output, x = enter("relu_backward", grad_output=grad_output, x=x)
    require_same_shape("relu_backward", "grad_output", grad_output.shape, "x", x.shape)
    return backend.relu_backward(grad_output, x)
