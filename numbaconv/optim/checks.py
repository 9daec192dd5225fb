"""Checks of hyperparameters, once, where they are set."""

from __future__ import annotations

import math
from typing import Any

from ..errors import ArgumentError, message
from ..functional.activation import number


def in_range(op: str, name: str, value: Any, low: float, high: float = math.inf, *, below: bool = True) -> float:
    """`value` as a finite float with low <= value < high, or <= high unless `below`.

    Raises:
        ArgumentError: with the bound that is broken.
    """
    result = number(op, name, value)
    if math.isfinite(result) and low <= result and (result < high or (not below and result == high)):
        return result
    bound = "" if high == math.inf else f" and {'less than' if below else 'at most'} {high:g}"
    raise ArgumentError(message(op, f"{name} must be at least {low:g}{bound}", **{name: value}))
