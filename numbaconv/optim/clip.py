"""Gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..errors import ArgumentError, message
from ..functional.activation import number
from ..functional.update import scale_update, sum_of_squares

_EPS = 1e-6  # PyTorch's: keeps the clipped norm just below max_norm


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
    unique = {id(p): p for p in parameters if p.trainable and p.grad is not None}
    norm = math.sqrt(sum(sum_of_squares(p.grad) for p in unique.values()))
    factor = limit / (norm + _EPS)
    # Not `factor < 1`: NaN must get through. Without a limit there is nothing to do, whatever the norm.
    if not factor >= 1 and limit != math.inf:
        for parameter in unique.values():
            scale_update(parameter.grad, factor)
    return norm
