"""Layers that only rearrange."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .. import functional as F
from .module import Module

Array = Any


class ShapeContext(NamedTuple):
    """Of a layer whose backward needs the input's shape only."""

    input_shape: tuple[int, ...]


class Flatten(Module):
    """(N, C, H, W) as (N, C * H * W), in the order of the shape whatever lies in memory."""

    def forward_ctx(self, x: Array) -> tuple[Array, ShapeContext]:
        """All axes after the first as one."""
        return F.flatten(x), ShapeContext(tuple(x.shape))

    def backward_ctx(self, grad_output: Array, ctx: ShapeContext, needs_input: bool = True) -> Array | None:
        """See `Module.backward_ctx`."""
        return F.flatten_backward(grad_output, ctx.input_shape) if needs_input else None

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C * H * W,)."""
        return (math.prod(input_shape),)
