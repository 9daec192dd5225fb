"""Losses and their backwards: from a network's output to a number, and to the gradient where backward starts."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import integer, number, require_same_shape
from ..backend import enter, own_array, place_of
from ..errors import ArgumentError, DeviceError, DTypeError, ShapeError, message
from .update import as_float

Array = Any

REDUCTIONS = ("mean", "sum", "none")


def cross_entropy(
    x: Array,
    target: Array,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    wait: bool = True,
) -> float | Array:
    """Cross-entropy between the softmax of logits and their targets; torch.nn.functional.cross_entropy's semantics.

    Args:
        x: logits, float32 or float64, (N, C), (N, C, ...) or (C,).
        target: class indices, any integer dtype, of x's shape without C; or probabilities of x's shape and dtype.
        label_smoothing: share of the target that is spread evenly over the classes, 0 to 1.
        ignore_index: positions with this class index count for nothing; no matter for probabilities.
        reduction: "mean" over the positions not ignored (NaN if there are none), "sum", or "none".
        wait: False gives, on a device that runs ahead of the host, mean or sum as an array of one float64.

    Returns:
        A float; for "none" an array of x's shape without C, in x's dtype. Each is
        -sum over c of q[c] * log_softmax(x)[c] with q = (1 - label_smoothing) * target + label_smoothing / C.

    Raises:
        LabelError: a class index outside 0 .. C - 1; names the first and its position.
        ShapeError, DTypeError, ArgumentError: arguments that do not fit.
    """
    op = "cross_entropy"
    backend, x, target, single = _entered(op, x, target)
    smoothing, ignored = _options(op, label_smoothing, ignore_index, reduction)
    loss = backend.cross_entropy(x, target, smoothing, ignored, reduction)
    if reduction != "none":
        return as_float(loss) if wait else loss
    return loss.reshape(()) if single else loss


def cross_entropy_backward(
    x: Array,
    target: Array,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    grad_output: float | Array = 1.0,
) -> Array:
    """Gradient of `cross_entropy` with respect to the logits.

    Args:
        x, target, label_smoothing, ignore_index, reduction: as given to `cross_entropy`.
        grad_output: gradient of the loss: a number; for "none" also an array of the loss's shape and x's dtype.

    Returns:
        grad_output * (softmax(x) * sum(q) - q), divided by the number of positions not ignored for "mean"; zero where
        ignored; of x's shape and layout.

    Raises:
        LabelError, ShapeError, DTypeError, ArgumentError: as `cross_entropy`.
    """
    op = "cross_entropy_backward"
    backend, logits, target, single = _entered(op, x, target)
    smoothing, ignored = _options(op, label_smoothing, ignore_index, reduction)
    shape = () if single else logits.shape[:1] + logits.shape[2:]
    grad_output = _grad_output(op, grad_output, x, shape, reduction)
    grad = backend.cross_entropy_backward(grad_output, logits, target, smoothing, ignored, reduction)
    return grad[0] if single else grad


def mse_loss(x: Array, target: Array, *, reduction: str = "mean", wait: bool = True) -> float | Array:
    """Squared error.

    Args:
        x, target: float32 or float64, of one shape and dtype.
        reduction: "mean" over all elements (NaN if there are none), "sum", or "none".
        wait: as for `cross_entropy`.

    Returns:
        A float; for "none" an array of x's shape, dtype and layout: (x - target)^2.

    Raises:
        ShapeError: if the shapes differ; nothing is broadcast.
    """
    op = "mse_loss"
    backend, x, target = enter(op, x=x, target=target)
    require_same_shape(op, "target", target.shape, "x", x.shape)
    _check_reduction(op, reduction)
    loss = backend.mse_loss(x, target, reduction)
    return as_float(loss) if wait and reduction != "none" else loss


def mse_loss_backward(x: Array, target: Array, *, reduction: str = "mean", grad_output: float | Array = 1.0) -> Array:
    """Gradient of `mse_loss` with respect to x.

    Args:
        x, target, reduction: as given to `mse_loss`.
        grad_output: gradient of the loss: a number; for "none" also an array of x's shape and dtype.

    Returns:
        grad_output * 2 * (x - target), divided by x.size for "mean"; of x's shape and layout.

    Raises:
        ShapeError: if the shapes differ.
    """
    op = "mse_loss_backward"
    backend, x, target = enter(op, x=x, target=target)
    require_same_shape(op, "target", target.shape, "x", x.shape)
    _check_reduction(op, reduction)
    return backend.mse_loss_backward(_grad_output(op, grad_output, x, x.shape, reduction), x, target, reduction)


def _check_reduction(op: str, reduction: Any) -> None:
    if reduction not in REDUCTIONS:
        raise ArgumentError(message(op, f"reduction must be one of {', '.join(REDUCTIONS)}", reduction=reduction))


def _options(op: str, label_smoothing: Any, ignore_index: Any, reduction: Any) -> tuple[float, int]:
    _check_reduction(op, reduction)
    smoothing = number(op, "label_smoothing", label_smoothing)
    if not 0 <= smoothing <= 1:
        raise ArgumentError(message(op, "label_smoothing must be from 0 to 1", label_smoothing=label_smoothing))
    return smoothing, integer(op, "ignore_index", ignore_index, -(2**63))


def _grad_output(op: str, grad_output: Any, x: Array, shape: tuple[int, ...], reduction: str) -> float | Array:
    """A number, or for "none" an array of the loss's shape."""
    if reduction != "none" or isinstance(grad_output, (int, float, np.floating)):
        return number(op, "grad_output", grad_output)
    _, grad_output, _ = enter(op, grad_output=grad_output, x=x)
    if tuple(grad_output.shape) != shape:
        rule = f"grad_output must be a number, or an array of the loss's shape {shape}"
        raise ShapeError(message(op, rule, grad_output__shape=grad_output.shape))
    return grad_output


def _entered(op: str, x: Array, target: Array) -> tuple[Any, Array, Array, bool]:
    """(backend, logits (N, C, ...), target, whether there was no N)."""
    backend, x = enter(op, x=x)
    labels = _class_indices(op, x, target)
    if labels is None:
        backend, x, target = enter(op, x=x, target=target)
        require_same_shape(op, "target", target.shape, "x", x.shape)
    else:
        target = labels
    if len(x.shape) == 0 or x.shape[min(1, len(x.shape) - 1)] == 0:
        raise ShapeError(message(op, "x must have shape (N, C, ...) or (C,) with at least one class", x__shape=x.shape))
    single = len(x.shape) == 1
    without_classes = x.shape[:1] + x.shape[2:]
    if labels is not None and target.shape != (() if single else without_classes):
        rule = "class indices must have the shape of x without its axis 1; probabilities (of a float dtype) that of x"
        raise ShapeError(message(op, rule, target__shape=target.shape, x__shape=x.shape))
    return (backend, x[None], target[None], True) if single else (backend, x, target, False)


def _class_indices(op: str, x: Array, target: Any) -> Array | None:
    """`target` on x's device if it holds integers, None if it holds something else."""
    if isinstance(target, np.ma.MaskedArray):
        raise DTypeError(message(op, "target must not be a masked array", "Fill it first: target.filled(-100)."))
    if type(target) is not np.ndarray:
        if not hasattr(target, "dtype"):
            given = {"type(target)": type(target).__name__}
            rule = "target must be an array: of class indices, or of probabilities"
            raise DTypeError(message(op, rule, "Lists: numpy.asarray(target).", **given))
        target = own_array(op, "target", target)
    kind = np.dtype(target.dtype).kind
    if kind not in "iu":
        if kind != "f":
            rule = "target must hold integers (class indices) or floats (probabilities)"
            raise DTypeError(message(op, rule, target__dtype=str(target.dtype)))
        return None
    if place_of(target) != place_of(x):
        raise DeviceError(
            message(op, "x and target must be on one device", "Move one with to_device.",
                    x=place_of(x), target=place_of(target))
        )  # fmt: skip
    return target
