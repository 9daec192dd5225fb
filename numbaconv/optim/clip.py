"""Gradient clipping."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import ArgumentError, message
from ..functional.activation import number
from ..functional.update import as_float, clip_update


def clip_grad_norm(parameters: Iterable[Any], max_norm: float) -> float:
    """Scales all gradients, in place, so that together their 2-norm is at most `max_norm`.

    Args:
        parameters: objects with `grad` and `trainable`, such as ``model.parameters()``; those that are frozen or
            have no gradient do not count.
        max_norm: >= 0.

    Returns:
        The norm before. If it is NaN the gradients become NaN; if it is inf, 0, and NaN where they were inf: as in
        PyTorch, so look at it before the step.

    Raises:
        ArgumentError: if max_norm is negative or NaN.

    Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", 2013, algorithm 1.
    """
    limit = number("clip_grad_norm", "max_norm", max_norm)
    if not limit >= 0:
        raise ArgumentError(message("clip_grad_norm", "max_norm must be at least 0", max_norm=max_norm))
    return as_float(clip_gradients(parameters, limit))


def clip_gradients(parameters: Iterable[Any], max_norm: float) -> Any:
    """`clip_grad_norm` without waiting for the device: the norm as a float, or as an array of one float64."""
    unique = {id(p): p for p in parameters if p.trainable and p.grad is not None}
    return clip_update([p.grad for p in unique.values()], max_norm)
