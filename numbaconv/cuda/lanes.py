"""Kernels that do one element a thread, or `VECTOR` neighbours with 128-bit accesses, from one body.

The body handles tuples: of one element or of `VECTOR`, as the tuple `like` has, by `load_lanes`, `map_vector` and
`store_lanes`. ``Twin(make)`` calls ``make(like, name)`` for both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .array import DeviceArray
from .launch import VECTOR, Kernel, PerType
from .layout import aligned

ONE, SOME = (0.0,), PerType(float32=(0.0,) * 4, float64=(0.0,) * 2)


class Twin:
    """Two kernels of one body."""

    def __init__(self, make: Callable[[Any, str], Kernel]) -> None:
        name = make.__name__.strip("_")
        self.single, self.vector = make(ONE, name), make(SOME, f"{name}_vector")

    def chosen(self, inner: int, *arrays: DeviceArray) -> tuple[Kernel, int]:
        """The kernel for arrays whose innermost axis has `inner` elements, and how many of them a thread does."""
        lanes = VECTOR.values_by_type[arrays[0].dtype]
        if inner % lanes == 0 and aligned(*arrays):
            return self.vector, lanes
        return self.single, 1
