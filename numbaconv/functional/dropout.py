"""Dropout, and its backward beside it: a pure function of its arguments, random numbers included."""

from __future__ import annotations

from typing import Any

from ..arguments import integer, number
from ..backend import enter
from ..errors import ArgumentError, message

Array = Any


def dropout(x: Array, p: float = 0.5, *, seed: int, layer: int = 0, step: int = 0) -> Array:
    """Sets elements to zero with probability p, and scales the others by 1 / (1 - p).

    Which ones is decided by Philox4x32-10 from (seed, layer, step, position in C order), so that the same
    arguments give the same mask on every device, in every layout and for every thread count.

    Args:
        x: float32 or float64, any shape.
        p: probability of a zero, 0 to 1.
        seed: 0 to 2^64 - 1.
        layer, step: 0 to 2^32 - 1; give each layer and each training step its own.

    Returns:
        x * mask / (1 - p), of x's shape and layout; all zero for p = 1. NaN and inf stay NaN where they are
        dropped, as in PyTorch.

    Raises:
        ArgumentError: an argument out of range.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11.
    """
    return _dropout("dropout", "x", x, p, seed, layer, step)


def dropout_backward(grad_output: Array, p: float = 0.5, *, seed: int, layer: int = 0, step: int = 0) -> Array:
    """Vector-Jacobian product of `dropout`: the same mask and scale, applied to the gradient.

    Args:
        grad_output: gradient of the output, of its shape and dtype.
        p, seed, layer, step: as given to `dropout`.

    Returns:
        grad_output * mask / (1 - p).
    """
    return _dropout("dropout_backward", "grad_output", grad_output, p, seed, layer, step)


def _dropout(op: str, name: str, x: Array, p: Any, seed: Any, layer: Any, step: Any) -> Array:
    backend, x = enter(op, **{name: x})
    probability = number(op, "p", p)
    if not 0 <= probability <= 1:
        raise ArgumentError(message(op, "p must be from 0 to 1", p=p))
    return backend.dropout(
        x, probability, _word(op, "seed", seed, 64), _word(op, "layer", layer, 32), _word(op, "step", step, 32)
    )


def _word(op: str, name: str, value: Any, bits: int) -> int:
    number = integer(op, name, value, 0)
    if number >> bits:
        raise ArgumentError(message(op, f"{name} must be less than 2^{bits}", **{name: value}))
    return number
