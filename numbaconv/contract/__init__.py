"""Every operation a backend must have, with its full signature.

A backend is a package that exports these names with these parameters; a test compares them. All arrays a
backend gets are its own kind, of one dtype (float32 or float64), with shapes already checked by `functional`;
their strides may be anything, and the result's layout follows the first array's (`layout_of`). Nothing given is
changed, but for the first argument of the ops that end in ``_update`` and of `accumulate`.

An argument called `problem` is a NamedTuple of `shapes`. `needs` says which gradients to compute, in the order
they are returned; the others are None.
"""

from __future__ import annotations

from typing import Any

from . import layers, training
from .layers import BatchNormResult

OPS: dict[str, Any] = {
    name: value
    for module in (layers, training)
    for name, value in vars(module).items()
    if callable(value) and getattr(value, "__module__", None) == module.__name__ and not isinstance(value, type)
}
