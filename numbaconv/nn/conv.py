"""Convolution and transposed convolution layers."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from .. import functional as F
from ..arguments import integer, pair
from ..errors import ArgumentError, message
from ..shapes import PAD_MODES, Conv2dProblem, conv2d_problem, conv_padding, conv_transpose2d_problem
from . import init
from .weighted import Weighted

Array = Any


def _channels(op: str, in_channels: int, out_channels: int, groups: int) -> tuple[int, int, int]:
    """The three as ints, where groups divide both."""
    inputs = integer(op, "in_channels", in_channels, 1)
    outputs = integer(op, "out_channels", out_channels, 1)
    parts = integer(op, "groups", groups, 1)
    if inputs % parts or outputs % parts:
        rule = "groups must divide in_channels and out_channels"
        raise ArgumentError(message(op, rule, groups=parts, in_channels=inputs, out_channels=outputs))
    return inputs, outputs, parts


def _shortest(padding: tuple[int, int, int, int]) -> tuple[Any, Any]:
    """(top, bottom, left, right) as (vertical, horizontal), or as two pairs where the sides differ."""
    top, bottom, left, right = padding
    return (top, left) if top == bottom and left == right else ((top, bottom), (left, right))


class Conv2dContext(NamedTuple):
    """What `Conv2d.backward_ctx` needs: x as convolved, and its shape before `padding_mode` padded it."""

    x: Array
    unpadded_shape: tuple[int, ...] | None


class Conv2d(Weighted):
    """2-D convolution (cross-correlation) of (N, C, H, W), with the semantics of torch.nn.Conv2d.

    Args:
        in_channels, out_channels: C and K.
        kernel_size: int, or (height, width).
        stride, dilation: int, or (vertical, horizontal).
        padding: int, (vertical, horizontal), ((top, bottom), (left, right)), "valid" or "same".
        groups: divides the channels into independent convolutions.
        bias: whether to add a bias.
        padding_mode: what the padding holds: "zeros", "reflect", "replicate" or "circular".
        rng: Generator, int seed, or None, for the weights.

    Parameters: weight (out_channels, in_channels // groups, kernel height, kernel width), bias (out_channels,).
    """

    arguments: ClassVar = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        *,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        rng: init.Rng = None,
    ) -> None:
        op = "Conv2d"
        self.in_channels, self.out_channels, self.groups = _channels(op, in_channels, out_channels, groups)
        self.kernel_size = pair(op, "kernel_size", kernel_size, 1)
        self.stride, self.dilation = pair(op, "stride", stride, 1), pair(op, "dilation", dilation, 1)
        full = conv_padding(op, padding, (1, 1), self.kernel_size, self.stride, self.dilation)
        self.padding = padding if isinstance(padding, str) else _shortest(full)
        if padding_mode not in PAD_MODES:
            rule = f"padding_mode must be one of {', '.join(PAD_MODES)}"
            raise ArgumentError(message(op, rule, padding_mode=padding_mode))
        self.padding_mode = padding_mode
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        self._make_parameters(shape, (self.out_channels,) if bias else None, rng)

    def _conv_arguments(self) -> dict[str, Any]:
        padding = self.padding if self.padding_mode == "zeros" else 0
        return {"stride": self.stride, "padding": padding, "dilation": self.dilation, "groups": self.groups}

    def _border(self, input_shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
        """((top, bottom), (left, right)) that `padding_mode` fills."""
        size = (input_shape[-2], input_shape[-1])
        top, bottom, left, right = conv_padding(
            "Conv2d", self.padding, size, self.kernel_size, self.stride, self.dilation
        )
        return (top, bottom), (left, right)

    def _padded(self, x: Array) -> Array:
        """What is convolved: x, with the border that `padding_mode` fills."""
        if self.padding_mode == "zeros" or len(x.shape) < 2:
            return x
        return F.pad(x, self._border(tuple(x.shape)), mode=self.padding_mode)

    def forward_ctx(self, x: Array) -> tuple[Array, Conv2dContext]:
        """Output (N, K, P, Q) of x (N, C, H, W); or (K, P, Q) of one image (C, H, W)."""
        return self._forward(x, False)

    def _forward(self, x: Array, relu: bool) -> tuple[Array, Conv2dContext]:
        """`forward_ctx`, and with `relu` the ReLU after it."""
        padded = self._padded(x)
        y = F.conv2d(padded, self.weight.data, self._bias_data, relu=relu, **self._conv_arguments())
        return y, Conv2dContext(padded, None if padded is x else tuple(x.shape))

    def backward_ctx(self, grad_output: Array, ctx: Conv2dContext, needs_input: bool = True) -> Array | None:
        """See `Module.backward_ctx`."""
        needs = self._needs(needs_input)
        if not any(needs):
            return None
        grad_input, *grads = F.conv2d_backward(
            grad_output, ctx.x, self.weight.data, needs=needs, **self._conv_arguments()
        )
        self._accumulate(*grads)
        if grad_input is None or ctx.unpadded_shape is None:
            return grad_input
        border = self._border(ctx.unpadded_shape)
        return F.pad_backward(grad_input, ctx.unpadded_shape, border, mode=self.padding_mode)

    def _problem(self, input_shape: tuple[int, ...]) -> Conv2dProblem:
        bias_shape = None if self.bias is None else self.bias.shape
        arguments = self.stride, self.padding, self.dilation, self.groups
        return conv2d_problem((1, *input_shape), self.weight.shape, bias_shape, *arguments, op="Conv2d")

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(K, P, Q) for (C, H, W)."""
        return self._problem(input_shape).output_shape[1:]

    def multiply_adds(self, input_shape: tuple[int, ...]) -> int:
        """K * P * Q * C // groups * R * S, padding counted as if it were data."""
        return self._problem(input_shape).multiply_adds

    def extra_repr(self) -> str:
        """As PyTorch: what differs from the default."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        if self.padding not in ((0, 0), "valid", 0):
            parts.append(f"padding={self.padding}")
        if self.dilation != (1, 1):
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


class ConvTranspose2dContext(NamedTuple):
    """What `ConvTranspose2d.backward_ctx` needs."""

    x: Array


class ConvTranspose2d(Weighted):
    """2-D transposed convolution of (N, C, H, W), with the semantics of torch.nn.ConvTranspose2d.

    Args:
        in_channels, out_channels: C and K.
        kernel_size: int, or (height, width).
        stride, padding, dilation: int, or (vertical, horizontal); those of the convolution it transposes.
        output_padding: int or pair: rows and columns added at the bottom and right of the output.
        groups: divides the channels into independent transposed convolutions.
        bias: whether to add a bias.
        rng: Generator, int seed, or None, for the weights.

    Parameters: weight (in_channels, out_channels // groups, kernel height, kernel width), bias (out_channels,).
    """

    arguments: ClassVar = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "output_padding",
        "groups",
        "dilation",
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        *,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        rng: init.Rng = None,
    ) -> None:
        op = "ConvTranspose2d"
        self.in_channels, self.out_channels, self.groups = _channels(op, in_channels, out_channels, groups)
        self.kernel_size = pair(op, "kernel_size", kernel_size, 1)
        self.stride, self.dilation = pair(op, "stride", stride, 1), pair(op, "dilation", dilation, 1)
        self.padding = pair(op, "padding", padding, 0)
        self.output_padding = pair(op, "output_padding", output_padding, 0)
        shape = (self.in_channels, self.out_channels // self.groups, *self.kernel_size)
        self._make_parameters(shape, (self.out_channels,) if bias else None, rng)

    def _conv_arguments(self) -> dict[str, Any]:
        names = "stride", "padding", "output_padding", "groups", "dilation"
        return {name: getattr(self, name) for name in names}

    def forward_ctx(self, x: Array) -> tuple[Array, ConvTranspose2dContext]:
        """Output (N, K, P, Q) of x (N, C, H, W), P = (H - 1) * stride - 2 * padding + kernel + output_padding."""
        y = F.conv_transpose2d(x, self.weight.data, self._bias_data, **self._conv_arguments())
        return y, ConvTranspose2dContext(x)

    def backward_ctx(self, grad_output: Array, ctx: ConvTranspose2dContext, needs_input: bool = True) -> Array | None:
        """See `Module.backward_ctx`."""
        needs = self._needs(needs_input)
        if not any(needs):
            return None
        grad_input, *grads = F.conv_transpose2d_backward(
            grad_output, ctx.x, self.weight.data, needs=needs, **self._conv_arguments()
        )
        self._accumulate(*grads)
        return grad_input

    def _problem(self, input_shape: tuple[int, ...]) -> Conv2dProblem:
        bias_shape = None if self.bias is None else self.bias.shape
        window = self.stride, self.padding, self.output_padding, self.dilation
        return conv_transpose2d_problem((1, *input_shape), self.weight.shape, bias_shape, *window, self.groups)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(K, P, Q) for (C, H, W)."""
        return self._problem(input_shape).input_shape[1:]  # the problem is that of the transposed one

    def multiply_adds(self, input_shape: tuple[int, ...]) -> int:
        """C * H * W * K // groups * R * S."""
        return self._problem(input_shape).multiply_adds

    def extra_repr(self) -> str:
        """As PyTorch: what differs from the default."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        for name, default in (("padding", (0, 0)), ("dilation", (1, 1)), ("output_padding", (0, 0)), ("groups", 1)):
            if getattr(self, name) != default:
                parts.append(f"{name}={getattr(self, name)}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join(parts)
