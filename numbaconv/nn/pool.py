"""Pooling layers of (N, C, H, W). None of them keeps its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from .. import functional as F
from ..arguments import Pair, pair
from ..errors import ShapeError, message
from ..shapes import pool2d_problem
from .module import Module
from .shape import ShapeContext

Array = Any


def _int_or_pair(op: str, name: str, value: Any, minimum: int) -> int | Pair:
    """A checked argument, as it was given: repr and files then show what was written."""
    checked = pair(op, name, value, minimum)
    return checked if isinstance(value, Sequence) else checked[0]


class MaxPool2dContext(NamedTuple):
    """What `MaxPool2d.backward_ctx` needs: where the maxima were. `relu`: of the ReLU of the input."""

    indices: Array
    input_shape: tuple[int, ...]
    relu: bool = False


class MaxPool2d(Module):
    """Maximum of each window.

    Args:
        kernel_size: int, or (height, width).
        stride: int or (vertical, horizontal); None: kernel_size.
        padding, dilation: int or pair; padding never wins.
        ceil_mode: rounds the output size up instead of down.
    """

    arguments: ClassVar = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")

    def __init__(
        self, kernel_size: Any, stride: Any = None, *, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> None:
        op = "MaxPool2d"
        self.kernel_size = _int_or_pair(op, "kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else _int_or_pair(op, "stride", stride, 1)
        self.padding = _int_or_pair(op, "padding", padding, 0)
        self.dilation = _int_or_pair(op, "dilation", dilation, 1)
        self.ceil_mode = bool(ceil_mode)

    def _window(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "ceil_mode": self.ceil_mode,
        }

    def __call__(self, x: Array) -> Array:
        """Predicts, without looking for indices."""
        return self._predict(x, False)

    def _predict(self, x: Array, relu: bool) -> Array:
        """`__call__`, and with `relu` the ReLU before it."""
        return F.max_pool2d(x, self.kernel_size, relu=relu, **self._window())

    def forward_ctx(self, x: Array) -> tuple[Array, MaxPool2dContext]:
        """Output (N, C, P, Q) of x (N, C, H, W)."""
        return self._forward(x, False)

    def _forward(self, x: Array, relu: bool) -> tuple[Array, MaxPool2dContext]:
        """`forward_ctx`, and with `relu` the ReLU before it."""
        y, indices = F.max_pool2d(x, self.kernel_size, return_indices=True, relu=relu, **self._window())
        return y, MaxPool2dContext(indices, tuple(x.shape), relu)

    def backward_ctx(self, grad_output: Array, ctx: MaxPool2dContext, needs_input: bool = True) -> Array | None:
        """See `Module.backward_ctx`."""
        if not needs_input:
            return None
        window = {"relu": ctx.relu, **self._window()}
        return F.max_pool2d_backward(grad_output, ctx.indices, ctx.input_shape, self.kernel_size, **window)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, P, Q) for (C, H, W)."""
        window = self.kernel_size, self.stride, self.padding, self.dilation
        problem = pool2d_problem((1, *input_shape), *window, ceil_mode=self.ceil_mode, op="MaxPool2d")
        return problem.output_shape[1:]


class AvgPool2d(Module):
    """Mean of each window.

    Args:
        kernel_size: int, or (height, width).
        stride: int or (vertical, horizontal); None: kernel_size.
        padding: int or pair.
        ceil_mode: rounds the output size up instead of down.
        count_include_pad: whether padding counts in the mean's denominator.
    """

    arguments: ClassVar = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        *,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        op = "AvgPool2d"
        self.kernel_size = _int_or_pair(op, "kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else _int_or_pair(op, "stride", stride, 1)
        self.padding = _int_or_pair(op, "padding", padding, 0)
        self.ceil_mode, self.count_include_pad = bool(ceil_mode), bool(count_include_pad)

    def _window(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "ceil_mode": self.ceil_mode,
            "count_include_pad": self.count_include_pad,
        }

    def forward_ctx(self, x: Array) -> tuple[Array, ShapeContext]:
        """Output (N, C, P, Q) of x (N, C, H, W)."""
        return F.avg_pool2d(x, self.kernel_size, **self._window()), ShapeContext(tuple(x.shape))

    def backward_ctx(self, grad_output: Array, ctx: ShapeContext, needs_input: bool = True) -> Array | None:
        """See `Module.backward_ctx`."""
        if not needs_input:
            return None
        return F.avg_pool2d_backward(grad_output, ctx.input_shape, self.kernel_size, **self._window())

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, P, Q) for (C, H, W)."""
        window = self.kernel_size, self.stride, self.padding, 1
        problem = pool2d_problem((1, *input_shape), *window, ceil_mode=self.ceil_mode, op="AvgPool2d")
        return problem.output_shape[1:]

    def extra_repr(self) -> str:
        """As PyTorch."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """Means over as many windows as the output has elements.

    Args:
        output_size: int, or (height, width).
    """

    arguments: ClassVar = ("output_size",)

    def __init__(self, output_size: Any) -> None:
        self.output_size = _int_or_pair("AdaptiveAvgPool2d", "output_size", output_size, 1)

    def forward_ctx(self, x: Array) -> tuple[Array, ShapeContext]:
        """Output (N, C, P, Q) of x (N, C, H, W), (P, Q) the output_size."""
        return F.adaptive_avg_pool2d(x, self.output_size), ShapeContext(tuple(x.shape))

    def backward_ctx(self, grad_output: Array, ctx: ShapeContext, needs_input: bool = True) -> Array | None:
        """See `Module.backward_ctx`."""
        return F.adaptive_avg_pool2d_backward(grad_output, ctx.input_shape) if needs_input else None

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, *output_size) for (C, H, W)."""
        op = "AdaptiveAvgPool2d"
        if len(input_shape) != 3:
            raise ShapeError(message(op, "input_shape must have 3 axes (C, H, W)", input_shape=input_shape))
        return (input_shape[0], *pair(op, "output_size", self.output_size, 1))
