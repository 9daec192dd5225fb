"""Activations and their backwards. Arrays of any shape; the result has the input's shape, dtype and layout.

Each backward is the vector-Jacobian product of its forward: the gradient of a loss at the activation's input,
given the gradient at its output. `sigmoid` and `tanh` want their output for it, the others their input.
"""

from __future__ import annotations

from typing import Any

from ..arguments import number, require_same_shape
from ..backend import enter
from ..errors import ArgumentError, message

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


def leaky_relu(x: Array, *, negative_slope: float = 0.01) -> Array:
    """Rectified linear unit that lets a share of the negative side through, elementwise.

    Args:
        x: float32 or float64, any shape.
        negative_slope: that share.

    Returns:
        x where x > 0, else negative_slope * x.

    Raises:
        DTypeError: if x is not a float32 or float64 array.
        ArgumentError: if negative_slope is not a number.
    """
    backend, x = enter("leaky_relu", x=x)
    return backend.leaky_relu(x, number("leaky_relu", "negative_slope", negative_slope))


def leaky_relu_backward(grad_output: Array, x: Array, *, negative_slope: float = 0.01) -> Array:
    """Vector-Jacobian product of `leaky_relu`.

    Args:
        grad_output: gradient of the output, of x's shape and dtype.
        x: the input.
        negative_slope: as in the forward call.

    Returns:
        grad_output where x > 0, else negative_slope * grad_output.

    Raises:
        ShapeError: if the shapes differ.
    """
    op = "leaky_relu_backward"
    backend, grad_output, x = enter(op, grad_output=grad_output, x=x)
    require_same_shape(op, "grad_output", grad_output.shape, "x", x.shape)
    return backend.leaky_relu_backward(grad_output, x, number(op, "negative_slope", negative_slope))


def sigmoid(x: Array) -> Array:
    """Logistic function, elementwise.

    Args:
        x: float32 or float64, any shape.

    Returns:
        1 / (1 + exp(-x)), of x's shape.

    Raises:
        DTypeError: if x is not a float32 or float64 array.
    """
    backend, x = enter("sigmoid", x=x)
    return backend.sigmoid(x)


def sigmoid_backward(grad_output: Array, output: Array) -> Array:
    """Vector-Jacobian product of `sigmoid`.

    Args:
        grad_output: gradient of the output, of its shape and dtype.
        output: what `sigmoid` returned.

    Returns:
        grad_output * output * (1 - output).

    Raises:
        ShapeError: if the shapes differ.
    """
    backend, grad_output, output = enter("sigmoid_backward", grad_output=grad_output, output=output)
    require_same_shape("sigmoid_backward", "grad_output", grad_output.shape, "output", output.shape)
    return backend.sigmoid_backward(grad_output, output)


def tanh(x: Array) -> Array:
    """Hyperbolic tangent, elementwise.

    Args:
        x: float32 or float64, any shape.

    Returns:
        tanh(x), of x's shape.

    Raises:
        DTypeError: if x is not a float32 or float64 array.
    """
    backend, x = enter("tanh", x=x)
    return backend.tanh(x)


def tanh_backward(grad_output: Array, output: Array) -> Array:
    """Vector-Jacobian product of `tanh`.

    Args:
        grad_output: gradient of the output, of its shape and dtype.
        output: what `tanh` returned.

    Returns:
        grad_output * (1 - output^2).

    Raises:
        ShapeError: if the shapes differ.
    """
    backend, grad_output, output = enter("tanh_backward", grad_output=grad_output, output=output)
    require_same_shape("tanh_backward", "grad_output", grad_output.shape, "output", output.shape)
    return backend.tanh_backward(grad_output, output)


def _flag(op: str, approximate: Any) -> bool:
    """PyTorch's `approximate="none"` would be true as a bool: only bools pass."""
    if approximate is True or approximate is False:
        return approximate
    fix = 'PyTorch\'s "tanh" is True here, its "none" is False.'
    raise ArgumentError(message(op, "approximate must be True or False", fix, approximate=approximate))


def gelu(x: Array, *, approximate: bool = False) -> Array:
    """Gaussian error linear unit, elementwise.

    Args:
        x: float32 or float64, any shape.
        approximate: use the tanh formula instead of the error function.

    Returns:
        x * Phi(x), with Phi(x) = (1 + erf(x / sqrt(2))) / 2, or approximately
        (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2.

    Raises:
        DTypeError: if x is not a float32 or float64 array.
        ArgumentError: if approximate is not a bool.

    Source: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016 (arXiv:1606.08415), section 2.
    """
    backend, x = enter("gelu", x=x)
    return backend.gelu(x, _flag("gelu", approximate))


def gelu_backward(grad_output: Array, x: Array, *, approximate: bool = False) -> Array:
    """Vector-Jacobian product of `gelu`.

    Args:
        grad_output: gradient of the output, of x's shape and dtype.
        x: the input.
        approximate: as in the forward call.

    Returns:
        grad_output * (Phi(x) + x * Phi'(x)).

    Raises:
        ShapeError: if the shapes differ.
        ArgumentError: if approximate is not a bool.
    """
    backend, grad_output, x = enter("gelu_backward", grad_output=grad_output, x=x)
    require_same_shape("gelu_backward", "grad_output", grad_output.shape, "x", x.shape)
    return backend.gelu_backward(grad_output, x, _flag("gelu_backward", approximate))


def silu(x: Array) -> Array:
    """Sigmoid linear unit (swish), elementwise.

    Args:
        x: float32 or float64, any shape.

    Returns:
        x * sigmoid(x), of x's shape.

    Raises:
        DTypeError: if x is not a float32 or float64 array.

    Source: Elfwing, Uchibe and Doya, Sigmoid-Weighted Linear Units, 2017 (arXiv:1702.03118), equation 6.
    """
    backend, x = enter("silu", x=x)
    return backend.silu(x)


def silu_backward(grad_output: Array, x: Array) -> Array:
    """Vector-Jacobian product of `silu`.

    Args:
        grad_output: gradient of the output, of x's shape and dtype.
        x: the input.

    Returns:
        grad_output * s * (1 + x * (1 - s)), with s = sigmoid(x).

    Raises:
        ShapeError: if the shapes differ.
    """
    backend, grad_output, x = enter("silu_backward", grad_output=grad_output, x=x)
    require_same_shape("silu_backward", "grad_output", grad_output.shape, "x", x.shape)
    return backend.silu_backward(grad_output, x)
