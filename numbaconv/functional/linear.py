"""Fully connected layers and their vector-Jacobian products.

Subnormal numbers count as zero on x86, as in convolutions.
"""

from __future__ import annotations

from typing import Any

from ..arguments import require_same_shape
from ..backend import enter
from ..errors import ShapeError, message

Array = Any


def linear(x: Array, weight: Array, bias: Array | None = None, *, relu: bool = False) -> Array:
    """x times weight transposed, plus bias.

    Args:
        x: (..., in_features), float32 or float64, any strides.
        weight: (out_features, in_features), of x's dtype.
        bias: (out_features,) or None.
        relu: whether the results are max(result, 0).

    Returns:
        (..., out_features).

    Raises:
        ShapeError, DTypeError, DeviceError: with the rule that is broken and what was given.
    """
    backend, x, weight, bias = enter("linear", x=x, weight=weight, bias=bias)
    check_linear("linear", x, weight, bias)
    if x.ndim == 2:
        return backend.linear(x, weight, bias, bool(relu))
    return backend.linear(rows(backend, x), weight, bias, bool(relu)).reshape(*x.shape[:-1], weight.shape[0])


def linear_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    *,
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Array | None, Array | None, Array | None]:
    """Vector-Jacobian products of `linear`.

    Args:
        grad_output: (..., out_features), the gradient of the output.
        x, weight: as given to `linear`.
        needs: which of the three to compute.

    Returns:
        (grad_input, grad_weight, grad_bias), None where not needed.

    Raises:
        ShapeError: if grad_output is not of the output's shape; else as `linear`.
    """
    op = "linear_backward"
    backend, grad_output, x, weight = enter(op, grad_output=grad_output, x=x, weight=weight)
    check_linear(op, x, weight)
    require_same_shape(op, "grad_output", grad_output.shape, "output", (*x.shape[:-1], weight.shape[0]))
    if x.ndim == 2:
        return backend.linear_backward(grad_output, x, weight, tuple(needs))
    grad_input, grad_weight, grad_bias = backend.linear_backward(
        rows(backend, grad_output), rows(backend, x), weight, tuple(needs)
    )
    return (None if grad_input is None else grad_input.reshape(x.shape)), grad_weight, grad_bias


def rows(backend: Any, x: Array) -> Array:
    """(..., features) as (rows, features); a copy where strides allow no view."""
    count = 1
    for size in x.shape[:-1]:
        count *= size
    return backend.contiguous(x).reshape(count, x.shape[-1])


def check_linear(op: str, x: Array | None, weight: Array, bias: Array | None = None) -> None:
    """Raises ShapeError unless weight, bias and (where it is known) x go together."""
    if x is not None and weight.ndim == 2 and x.ndim:  # the usual case, in a third of the time
        outputs, inputs = weight.shape
        if outputs and inputs and x.shape[-1] == inputs and (bias is None or bias.shape == (outputs,)):
            return
    if weight.ndim != 2 or min(weight.shape) < 1:
        raise ShapeError(
            message(op, "weight must have 2 axes (out_features, in_features) of at least 1", weight__shape=weight.shape)
        )
    if x is not None and (x.ndim < 1 or x.shape[-1] != weight.shape[1]):
        raise ShapeError(
            message(op, "x.shape[-1] must equal weight.shape[1]", x__shape=x.shape, weight__shape=weight.shape)
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(
            message(op, f"bias.shape must be (out_features,) = ({weight.shape[0]},)", bias__shape=bias.shape)
        )
