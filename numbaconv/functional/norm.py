"""Batch normalisation, and its backward beside it."""

from __future__ import annotations

import math
from typing import Any

from ..arguments import number, require_same_shape
from ..backend import enter
from ..contract import BatchNormResult
from ..errors import ArgumentError, DeviceError, ShapeError, message

Array = Any

_OPTIONAL = ("weight", "bias", "running_mean", "running_var")


def batch_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> BatchNormResult:
    """Normalises each channel (axis 1) to mean 0 and variance 1, then scales and shifts it.

    Nothing is updated in place: the new running statistics are returned. In training they are
    (1 - momentum) * old + momentum * batch, with the unbiased variance; the output uses the biased one.

    Args:
        x: float32 or float64, (N, C, ...), such as (N, C, H, W) or (N, C).
        weight, bias: (C,), x's dtype; None means 1 and 0.
        running_mean, running_var: (C,), x's dtype; both or neither. Without `training` they are what x is
            normalised by, and must be given.
        training: normalise by the batch's own statistics.
        momentum: the batch's share in the new running statistics, 0 to 1.
        eps: added to the variance, > 0.

    Returns:
        BatchNormResult: output = (x - mean) * inverse_std * weight + bias, of x's shape, dtype and layout;
        the running statistics (None where none were given); mean and inverse_std, (C,) in float64, which
        `batch_norm_backward` needs. An empty batch gives an empty output and the statistics as they were.

    Raises:
        ShapeError: a statistic or parameter that is not (C,); in training, one element per channel.
        ArgumentError: momentum or eps out of range; statistics missing.
        DTypeError, DeviceError: arrays of several dtypes or devices.
    """
    op = "batch_norm"
    backend, x, weight, bias, running_mean, running_var = enter(
        op, _OPTIONAL, x=x, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var
    )
    per_channel = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    _check_shapes(op, x.shape, per_channel)
    if (running_mean is None) != (running_var is None):
        raise ArgumentError(message(op, "running_mean and running_var must be given together"))
    if running_mean is None and not training:
        raise ArgumentError(
            message(
                op,
                "running_mean and running_var must be given unless training",
                "Or normalise by the batch itself: training=True.",
                training=bool(training),
            )
        )
    if training and math.prod(x.shape) == x.shape[1]:
        raise ShapeError(message(op, "training needs more than one element per channel", x__shape=x.shape))
    momentum = number(op, "momentum", momentum)
    if not 0 <= momentum <= 1:
        raise ArgumentError(message(op, "momentum must be from 0 to 1", momentum=momentum))
    eps = number(op, "eps", eps)
    if not 0 < eps < math.inf:
        raise ArgumentError(message(op, "eps must be greater than 0", eps=eps))
    return backend.batch_norm(x, weight, bias, running_mean, running_var, bool(training), momentum, eps)


def batch_norm_backward(
    grad_output: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    inverse_std: Array,
    *,
    training: bool = False,
) -> tuple[Array, Array, Array]:
    """Vector-Jacobian product of `batch_norm`.

    Args:
        grad_output: gradient of the output, of x's shape and dtype.
        x: the input.
        weight: (C,), as given to `batch_norm`.
        mean, inverse_std: (C,), float32 or float64, from the BatchNormResult.
        training: as given to `batch_norm`: whether the statistics depend on x.

    Returns:
        (grad_input, grad_weight, grad_bias), of shapes x.shape, (C,) and (C,), in x's dtype.

    Raises:
        ShapeError: if the shapes do not fit.

    Source: Ioffe and Szegedy, "Batch Normalization", 2015, section 3.
    """
    op = "batch_norm_backward"
    backend, grad_output, x, weight = enter(op, _OPTIONAL, grad_output=grad_output, x=x, weight=weight)
    other, mean, inverse_std = enter(op, mean=mean, inverse_std=inverse_std)
    if other is not backend:
        raise DeviceError(message(op, "mean and inverse_std must be on the device of x"))
    _check_shapes(op, x.shape, {"weight": weight, "mean": mean, "inverse_std": inverse_std})
    require_same_shape(op, "grad_output", grad_output.shape, "x", x.shape)
    return backend.batch_norm_backward(grad_output, x, weight, mean, inverse_std, bool(training))


def _check_shapes(op: str, shape: tuple[int, ...], per_channel: dict[str, Array | None]) -> None:
    if len(shape) < 2:
        raise ShapeError(message(op, "x must have at least 2 axes (N, C, ...)", x__shape=shape))
    for name, array in per_channel.items():
        if array is not None and array.shape != (shape[1],):
            raise ShapeError(
                message(op, f"{name}.shape must be (channels,) = ({shape[1]},)", **{f"{name}__shape": array.shape})
            )
