"""What training changes in place: optimizer steps, gradient sums and scales.

These run per parameter and step, so checks are few: one dtype, one device, one shape, memory that can be written.
Hyperparameters are checked where they are set, in `optim`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import require_same_shape
from ..backend import enter
from ..errors import ArgumentError, message

Array = Any


def _require_shared(op: str, name: str, given: Array, entered: Array) -> None:
    """`enter` copies arrays of foreign byte order or alignment: an update of the copy would be lost."""
    if entered is not given and isinstance(given, np.ndarray) and not np.may_share_memory(entered, given):
        raise ArgumentError(
            message(
                op,
                f"{name} must be in native byte order and aligned, for it is changed in place",
                **{f"{name}__dtype": given.dtype.str, f"{name}__strides": given.strides},
            )
        )


def sgd_update(
    parameter: Array,
    grad: Array,
    velocity: Array | None = None,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    first: bool = False,
) -> None:
    """One step of stochastic gradient descent, in place.

    With g = grad + weight_decay * parameter: without velocity, parameter -= lr * g. With it, velocity becomes
    momentum * velocity + (1 - dampening) * g (g itself at the first step) and parameter -= lr * velocity; with
    `nesterov`, parameter -= lr * (g + momentum * velocity).

    Args:
        parameter: float32 or float64, any shape, C-contiguous and writable; changed.
        grad: of the same shape and dtype, any strides.
        velocity: of the same shape and dtype, C-contiguous and writable; changed. None: no momentum.
        first: velocity holds nothing yet.

    Raises:
        ShapeError, DTypeError, DeviceError: if the arrays do not fit together.
        ArgumentError: if an array that is to be changed cannot be.
    """
    op = "sgd_update"
    backend, p, g, v = enter(op, ("velocity",), parameter=parameter, grad=grad, velocity=velocity)
    _require_shared(op, "parameter", parameter, p)
    require_same_shape(op, "grad", g.shape, "parameter", p.shape)
    if v is not None:
        _require_shared(op, "velocity", velocity, v)
        require_same_shape(op, "velocity", v.shape, "parameter", p.shape)
    rates = float(lr), float(momentum), float(dampening), float(weight_decay)
    backend.sgd_update(p, g, v, *rates, bool(nesterov), bool(first))


def adam_update(
    parameter: Array,
    grad: Array,
    mean: Array,
    square: Array,
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    step: int,
) -> None:
    """One step of Adam, in place.

    mean and square are the exponential averages of g and g^2, with g = grad + weight_decay * parameter, and
    parameter -= lr / (1 - beta1^step) * mean / (sqrt(square / (1 - beta2^step)) + eps). `decoupled` (AdamW):
    g = grad, and the parameter is first multiplied by 1 - lr * weight_decay.

    Args:
        parameter, mean, square: float32 or float64 of one shape, C-contiguous and writable; changed.
        grad: of the same shape and dtype, any strides.
        step: 1 at the first step, where mean and square are zeros.

    Raises:
        ShapeError, DTypeError, DeviceError: if the arrays do not fit together.
        ArgumentError: if an array that is to be changed cannot be.

    Source: Kingma and Ba, "Adam", 2015, algorithm 1; Loshchilov and Hutter, "Decoupled weight decay", 2019.
    """
    op = "adam_update"
    backend, p, g, m, s = enter(op, parameter=parameter, grad=grad, mean=mean, square=square)
    require_same_shape(op, "grad", g.shape, "parameter", p.shape)
    for name, given, entered in (("parameter", parameter, p), ("mean", mean, m), ("square", square, s)):
        _require_shared(op, name, given, entered)
        require_same_shape(op, name, entered.shape, "parameter", p.shape)
    rates = float(lr), float(beta1), float(beta2), float(eps), float(weight_decay)
    backend.adam_update(p, g, m, s, *rates, bool(decoupled), int(step))


def accumulate(target: Array, source: Array) -> None:
    """Adds in place: target += source.

    Args:
        target: float32 or float64, writable, any strides; changed.
        source: of the same shape and dtype, any strides.

    Raises:
        ShapeError, DTypeError, DeviceError: if the arrays do not fit together.
        ArgumentError: if target cannot be changed.
    """
    op = "accumulate"
    backend, a, b = enter(op, target=target, source=source)
    _require_shared(op, "target", target, a)
    require_same_shape(op, "source", b.shape, "target", a.shape)
    backend.accumulate(a, b)


def scale_update(array: Array, factor: float) -> None:
    """Multiplies in place: array *= factor.

    Args:
        array: float32 or float64, writable, any strides; changed.

    Raises:
        ArgumentError: if the array cannot be changed.
    """
    op = "scale_update"
    backend, a = enter(op, array=array)
    _require_shared(op, "array", array, a)
    backend.scale_update(a, float(factor))


def sum_of_squares(x: Array) -> float:
    """The sum of all x^2, accumulated in float64: the square of the 2-norm.

    Args:
        x: float32 or float64, any shape and strides.
    """
    backend, x = enter("sum_of_squares", x=x)
    return backend.sum_of_squares(x)


def zeros_like(x: Array) -> Array:
    """A new C-contiguous array of zeros, with x's shape, dtype and device.

    Args:
        x: float32 or float64, any shape and strides.
    """
    backend, x = enter("zeros_like", x=x)
    return backend.zeros_like(x)
