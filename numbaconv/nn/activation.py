"""Activation layers. What each keeps for its backward is its context's one field: input or output."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from .. import functional as F
from ..arguments import integer
from .module import Module

Array = Any


class InputContext(NamedTuple):
    """Of an activation whose gradient is taken at the input."""

    x: Array


class OutputContext(NamedTuple):
    """Of an activation whose gradient follows from the output (which the next layer keeps anyway).

    None: of a ReLU whose gradient the pooling after it has left out already.
    """

    output: Array | None


class _Elementwise(Module):
    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The input's."""
        return input_shape


class ReLU(_Elementwise):
    """max(x, 0)."""

    def forward_ctx(self, x: Array) -> tuple[Array, OutputContext]:
        """Keeps the output: it is positive where x is."""
        y = F.relu(x)
        return y, OutputContext(y)

    def backward_ctx(self, grad_output: Array, ctx: OutputContext, needs_input: bool = True) -> Array | None:
        """See `Module.backward_ctx`."""
        if not needs_input:
            return None
        return grad_output if ctx.output is None else F.relu_backward(grad_output, ctx.output)


class LeakyReLU(_Elementwise):
    """X where x > 0, else negative_slope * x."""

    arguments: ClassVar = ("negative_slope",)

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = float(negative_slope)

    def forward_ctx(self, x: Array) -> tuple[Array, InputContext]:
        """Keeps the input."""
        return F.leaky_relu(x, negative_slope=self.negative_slope), InputContext(x)

    def backward_ctx(self, grad_output: Array, ctx: InputContext, needs_input: bool = True) -> Array | None:
        """See `Module.backward_ctx`."""
        if not needs_input:
            return None
        return F.leaky_relu_backward(grad_output, ctx.x, negative_slope=self.negative_slope)


class Sigmoid(_Elementwise):
    """1 / (1 + exp(-x))."""

    def forward_ctx(self, x: Array) -> tuple[Array, OutputContext]:
        """Keeps the output."""
        y = F.sigmoid(x)
        return y, OutputContext(y)

    def backward_ctx(self, grad_output: Array, ctx: OutputContext, needs_input: bool = True) -> Array | None:
        """See `Module.backward_ctx`."""
        return F.sigmoid_backward(grad_output, ctx.output) if needs_input else None


class Tanh(_Elementwise):
    """Hyperbolic tangent."""

    def forward_ctx(self, x: Array) -> tuple[Array, OutputContext]:
        """Keeps the output."""
        y = F.tanh(x)
        return y, OutputContext(y)

    def backward_ctx(self, grad_output: Array, ctx: OutputContext, needs_input: bool = True) -> Array | None:
        """See `Module.backward_ctx`."""
        return F.tanh_backward(grad_output, ctx.output) if needs_input else None


class Softmax(_Elementwise):
    """exp(x) / sum(exp(x)) along one axis: scores as probabilities.

    Not before `CrossEntropyLoss`, which takes the scores themselves.

    Args:
        axis: 1, the classes of (N, K) and (N, K, H, W), or another.
    """

    arguments: ClassVar = ("axis",)

    def __init__(self, axis: int = 1) -> None:
        self.axis = integer("Softmax", "axis", axis, -(2**31))

    def forward_ctx(self, x: Array) -> tuple[Array, OutputContext]:
        """Keeps the output."""
        y = F.softmax(x, self.axis)
        return y, OutputContext(y)

    def backward_ctx(self, grad_output: Array, ctx: OutputContext, needs_input: bool = True) -> Array | None:
        """See `Module.backward_ctx`."""
        return F.softmax_backward(grad_output, ctx.output, self.axis) if needs_input else None


class GELU(_Elementwise):
    """x times the normal distribution function of x.

    Args:
        approximate: True takes the tanh approximation (PyTorch's "tanh").
    """

    arguments: ClassVar = ("approximate",)

    def __init__(self, approximate: bool = False) -> None:
        self.approximate = bool(approximate)

    def forward_ctx(self, x: Array) -> tuple[Array, InputContext]:
        """Keeps the input."""
        return F.gelu(x, approximate=self.approximate), InputContext(x)

    def backward_ctx(self, grad_output: Array, ctx: InputContext, needs_input: bool = True) -> Array | None:
        """See `Module.backward_ctx`."""
        return F.gelu_backward(grad_output, ctx.x, approximate=self.approximate) if needs_input else None


class SiLU(_Elementwise):
    """x * sigmoid(x)."""

    def forward_ctx(self, x: Array) -> tuple[Array, InputContext]:
        """Keeps the input."""
        return F.silu(x), InputContext(x)

    def backward_ctx(self, grad_output: Array, ctx: InputContext, needs_input: bool = True) -> Array | None:
        """See `Module.backward_ctx`."""
        return F.silu_backward(grad_output, ctx.x) if needs_input else None
