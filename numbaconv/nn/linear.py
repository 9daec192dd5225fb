"""Linear layer."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

from .. import functional as F
from ..arguments import integer
from ..errors import ShapeError, message
from . import init
from .weighted import Weighted

Array = Any


class LinearContext(NamedTuple):
    """What `Linear.backward_ctx` needs."""

    x: Array


class Linear(Weighted):
    """x times weight transposed, plus bias.

    Args:
        in_features, out_features: sizes of the last axis of input and output.
        bias: whether to add a bias.
        rng: Generator, int seed, or None, for the weights.

    Parameters: weight (out_features, in_features), bias (out_features,).
    """

    arguments: ClassVar = ("in_features", "out_features")

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, rng: init.Rng = None) -> None:
        self.in_features = integer("Linear", "in_features", in_features, 1)
        self.out_features = integer("Linear", "out_features", out_features, 1)
        shape = (self.out_features, self.in_features)
        self._make_parameters(shape, (self.out_features,) if bias else None, rng)

    def forward_ctx(self, x: Array) -> tuple[Array, LinearContext]:
        """Output (N, out_features) of x (N, in_features)."""
        return self._forward(x, False)

    def _forward(self, x: Array, relu: bool) -> tuple[Array, LinearContext]:
        """`forward_ctx`, and with `relu` the ReLU after it."""
        return F.linear(x, self.weight.data, self._bias_data, relu=relu), LinearContext(x)

    def backward_ctx(self, grad_output: Array, ctx: LinearContext, needs_input: bool = True) -> Array | None:
        """See `Module.backward_ctx`."""
        needs = self._needs(needs_input)
        if not any(needs):
            return None
        grad_input, *grads = F.linear_backward(grad_output, ctx.x, self.weight.data, needs=needs)
        self._accumulate(*grads)
        return grad_input

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(out_features,)."""
        if not input_shape or input_shape[-1] != self.in_features:
            rule = f"the last axis must have in_features = {self.in_features} elements"
            fix = "After a convolution: nn.Flatten()." if len(input_shape) == 3 else ""
            raise ShapeError(message("Linear", rule, fix, input_shape=input_shape))
        return (*input_shape[:-1], self.out_features)

    def multiply_adds(self, input_shape: tuple[int, ...]) -> int:
        """in_features * out_features, for each row."""
        return math.prod(input_shape[:-1]) * self.in_features * self.out_features
