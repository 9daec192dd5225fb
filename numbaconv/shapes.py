"""Argument checks and output sizes: pure Python, above every backend, done once per shape.

A *problem* is a NamedTuple that says everything about one call but the data: the shapes, and the arguments in
their full form. Backends get problems, never raw arguments; plans and algorithm choices are cached by problem.

Output size of a window operation along one axis (PyTorch's ``Conv2d`` documentation; with the floor)::

    output = (input + pad_before + pad_after - dilation * (kernel - 1) - 1) // stride + 1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .arguments import Pair, integer, is_shape, pair, remembered, require_countable
from .errors import ArgumentError, ShapeError, message

Shape4 = tuple[int, int, int, int]


class Conv2dProblem(NamedTuple):
    """One convolution. ``padding`` is (top, bottom, left, right)."""

    input_shape: Shape4  # N, C, H, W
    weight_shape: Shape4  # K, C // groups, R, S
    output_shape: Shape4  # N, K, P, Q
    stride: Pair
    padding: Shape4
    dilation: Pair
    groups: int

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one direction, padding counted as if it were data."""
        n, k, p, q = self.output_shape
        _, c, r, s = self.weight_shape
        return n * k * p * q * c * r * s


class Pool2dProblem(NamedTuple):
    """One pooling. ``padding`` is (vertical, horizontal), the same before and after."""

    input_shape: Shape4
    output_shape: Shape4
    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    count_include_pad: bool


class PadProblem(NamedTuple):
    """One padding of the last two axes. ``padding`` is (top, bottom, left, right)."""

    input_shape: Shape4
    output_shape: Shape4
    padding: Shape4
    mode: str


PAD_MODES = ("zeros", "reflect", "replicate", "circular")


def window_output_size(
    size: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int | Pair = 0,
    dilation: int = 1,
    strict: bool = False,
    ceil_mode: bool = False,
) -> int:
    """Output size of a convolution or pooling along one axis.

    Args:
        size, kernel: input and kernel extent (elements).
        padding: the same before and after, or (before, after).
        strict: a window that does not tile the padded input exactly is an error, instead of leaving the last
            elements unread: 7 with a 3-kernel at stride 3 does not fit.
        ceil_mode: pooling's rounding up; a last window must still start inside the input or the padding before.

    Returns:
        The output size; zero or less where the kernel is larger than the padded input.

    Raises:
        ShapeError: under `strict`, where the stride does not fit.
    """
    before, after = (padding, padding) if isinstance(padding, int) else padding
    room = size + before + after - dilation * (kernel - 1) - 1
    if strict and (room < 0 or room % stride):
        raise ShapeError(
            message(
                "window_output_size",
                "strict: (size + padding - dilation * (kernel - 1) - 1) must be a multiple of stride",
                "Change the stride or the padding, or leave strict off to ignore the last elements.",
                size=size,
                kernel=kernel,
                stride=stride,
                padding=padding,
                dilation=dilation,
            )
        )
    if not ceil_mode:
        return room // stride + 1
    output = -(-room // stride) + 1
    if (output - 1) * stride >= size + before:
        output -= 1
    return output


def conv2d_output_size(
    height: int,
    width: int,
    kernel_size: int | Pair,
    *,
    stride: int | Pair = 1,
    padding: Any = 0,
    dilation: int | Pair = 1,
    strict: bool = False,
) -> Pair:
    """(P, Q) of a convolution on a (H, W) input; the arguments of `functional.conv2d`, and `strict`."""
    op = "conv2d_output_size"
    kernel = pair(op, "kernel_size", kernel_size, 1)
    strides, dilations = pair(op, "stride", stride, 1), pair(op, "dilation", dilation, 1)
    top, bottom, left, right = conv_padding(op, padding, (height, width), kernel, strides, dilations)
    p = window_output_size(
        height, kernel[0], stride=strides[0], padding=(top, bottom), dilation=dilations[0], strict=strict
    )
    q = window_output_size(
        width, kernel[1], stride=strides[1], padding=(left, right), dilation=dilations[1], strict=strict
    )
    return p, q


def conv_padding(op: str, padding: Any, size: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> Shape4:
    """Any form of `padding` as (top, bottom, left, right)."""
    if isinstance(padding, str):
        if padding == "valid":
            return 0, 0, 0, 0
        if padding == "same":
            top, bottom = _same_padding(size[0], kernel[0], stride[0], dilation[0])
            left, right = _same_padding(size[1], kernel[1], stride[1], dilation[1])
            return top, bottom, left, right
        raise ArgumentError(message(op, 'padding must be "same", "valid", ints or pairs', padding=padding))
    if isinstance(padding, Sequence) and len(padding) == 2 and any(isinstance(p, Sequence) for p in padding):
        top, bottom = pair(op, "padding", padding[0], 0)
        left, right = pair(op, "padding", padding[1], 0)
        return top, bottom, left, right
    vertical, horizontal = pair(op, "padding", padding, 0)
    return vertical, vertical, horizontal, horizontal


def _same_padding(size: int, kernel: int, stride: int, dilation: int) -> Pair:
    """So much that output = ceil(size / stride); the odd element after."""
    total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def _rank(op: str, name: str, shape: Any, rank: int, axes: str) -> None:
    if not is_shape(shape) or len(shape) != rank:
        raise ShapeError(message(op, f"{name} must have {rank} axes ({axes})", **{f"{name}__shape": shape}))


@remembered
def conv2d_problem(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    bias_shape: tuple[int, ...] | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    op: str = "conv2d",
) -> Conv2dProblem:
    """Checks the arguments of a convolution (PyTorch's rules) and works out its shapes.

    Raises:
        ShapeError, ArgumentError: with the rule that is broken.
    """
    _rank(op, "x", input_shape, 4, "N, C, H, W")
    _rank(op, "weight", weight_shape, 4, "out_channels, in_channels // groups, kernel height, kernel width")
    groups = integer(op, "groups", groups, 1)
    strides, dilations = pair(op, "stride", stride, 1), pair(op, "dilation", dilation, 1)
    n, c, h, w = input_shape
    k, c_per_group, r, s = weight_shape
    if min(k, c_per_group, r, s) < 1:
        raise ShapeError(message(op, "every axis of weight must be at least 1", weight__shape=weight_shape))
    if c % groups or k % groups:
        raise ShapeError(
            message(op, "groups must divide in_channels and out_channels", groups=groups, in_channels=c, out_channels=k)
        )
    if c_per_group != c // groups:
        raise ShapeError(
            message(
                op,
                "weight.shape[1] must equal x.shape[1] // groups",
                weight__shape=weight_shape,
                x__shape=input_shape,
                groups=groups,
            )
        )
    if bias_shape is not None and bias_shape != (k,):
        raise ShapeError(message(op, f"bias.shape must be (out_channels,) = ({k},)", bias__shape=bias_shape))
    full = conv_padding(op, padding, (h, w), (r, s), strides, dilations)
    p = window_output_size(h, r, stride=strides[0], padding=full[:2], dilation=dilations[0])
    q = window_output_size(w, s, stride=strides[1], padding=full[2:], dilation=dilations[1])
    if p < 1 or q < 1 or h < 1 or w < 1:
        raise ShapeError(
            message(
                op,
                "the dilated kernel must not be larger than the padded input",
                "Add padding, or use a smaller kernel or dilation.",
                x__shape=input_shape,
                kernel_size=(r, s),
                padding=padding,
                dilation=dilations,
            )
        )
    require_countable(op, x=input_shape, weight=weight_shape, output=(n, k, p, q))
    return Conv2dProblem((n, c, h, w), (k, c_per_group, r, s), (n, k, p, q), strides, full, dilations, groups)


@remembered
def conv_transpose2d_problem(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    bias_shape: tuple[int, ...] | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    dilation: Any,
    groups: Any,
    op: str = "conv_transpose2d",
) -> Conv2dProblem:
    """The convolution whose input-gradient this transposed convolution is.

    Its ``output_shape`` is the transposed convolution's input, its ``input_shape`` the result.
    """
    _rank(op, "x", input_shape, 4, "N, C, H, W")
    _rank(op, "weight", weight_shape, 4, "in_channels, out_channels // groups, kernel height, kernel width")
    groups = integer(op, "groups", groups, 1)
    strides, dilations = pair(op, "stride", stride, 1), pair(op, "dilation", dilation, 1)
    extra = pair(op, "output_padding", output_padding, 0)
    pads = pair(op, "padding", padding, 0)
    n, k, p, q = input_shape
    weight_in, c_per_group, r, s = weight_shape
    if min(weight_in, c_per_group, r, s) < 1:
        raise ShapeError(message(op, "every axis of weight must be at least 1", weight__shape=weight_shape))
    if k != weight_in:
        raise ShapeError(
            message(op, "weight.shape[0] must equal x.shape[1]", weight__shape=weight_shape, x__shape=input_shape)
        )
    if k % groups:
        raise ShapeError(message(op, "groups must divide in_channels", groups=groups, in_channels=k))
    c = c_per_group * groups
    if bias_shape is not None and bias_shape != (c,):
        raise ShapeError(message(op, f"bias.shape must be (out_channels,) = ({c},)", bias__shape=bias_shape))
    for axis in (0, 1):
        if extra[axis] >= max(strides[axis], dilations[axis]):
            raise ArgumentError(
                message(
                    op,
                    "output_padding must be smaller than the larger of stride and dilation",
                    output_padding=extra,
                    stride=strides,
                    dilation=dilations,
                )
            )
    h = (p - 1) * strides[0] - 2 * pads[0] + dilations[0] * (r - 1) + extra[0] + 1
    w = (q - 1) * strides[1] - 2 * pads[1] + dilations[1] * (s - 1) + extra[1] + 1
    if min(h, w, p, q) < 1:
        raise ShapeError(
            message(op, "the output must not be empty", x__shape=input_shape, kernel_size=(r, s), padding=pads)
        )
    require_countable(op, x=input_shape, weight=weight_shape, output=(n, c, h, w))
    full = (pads[0], pads[0], pads[1], pads[1])
    return Conv2dProblem((n, c, h, w), (k, c_per_group, r, s), (n, k, p, q), strides, full, dilations, groups)


@remembered
def pool2d_problem(
    input_shape: tuple[int, ...],
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    *,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    op: str = "max_pool2d",
) -> Pool2dProblem:
    """Checks the arguments of a pooling (PyTorch's rules) and works out its shapes. `stride` None: kernel_size."""
    _rank(op, "x", input_shape, 4, "N, C, H, W")
    kernel = pair(op, "kernel_size", kernel_size, 1)
    strides = kernel if stride is None else pair(op, "stride", stride, 1)
    pads, dilations = pair(op, "padding", padding, 0), pair(op, "dilation", dilation, 1)
    n, c, h, w = input_shape
    if any(2 * pad > size for pad, size in zip(pads, kernel, strict=True)):
        raise ArgumentError(
            message(op, "padding must be at most half of kernel_size", padding=pads, kernel_size=kernel)
        )
    sizes = [
        window_output_size(
            size, kernel[i], stride=strides[i], padding=pads[i], dilation=dilations[i], ceil_mode=ceil_mode
        )
        for i, size in enumerate((h, w))
    ]
    if min(sizes) < 1 or min(c, h, w) < 1:
        raise ShapeError(
            message(
                op,
                "the window must not be larger than the padded input",
                x__shape=input_shape,
                kernel_size=kernel,
                padding=pads,
                dilation=dilations,
            )
        )
    output_shape = (n, c, sizes[0], sizes[1])
    require_countable(op, x=input_shape, output=output_shape)
    return Pool2dProblem((n, c, h, w), output_shape, kernel, strides, pads, dilations, count_include_pad)


@remembered
def pad_problem(input_shape: tuple[int, ...], padding: Any, mode: str, op: str = "pad") -> PadProblem:
    """Checks the arguments of `functional.pad`. `padding`: int, (vertical, horizontal), or pairs per axis."""
    _rank(op, "x", input_shape, 4, "N, C, H, W")
    if mode not in PAD_MODES:
        raise ArgumentError(message(op, f"mode must be one of {', '.join(PAD_MODES)}", mode=mode))
    if isinstance(padding, str):
        raise ArgumentError(message(op, "padding must be ints or pairs", padding=padding))
    top, bottom, left, right = conv_padding(op, padding, (0, 0), (1, 1), (1, 1), (1, 1))
    n, c, h, w = input_shape
    for before, after, size in ((top, bottom, h), (left, right, w)):
        limit = {"reflect": size - 1, "circular": size}.get(mode)
        if limit is not None and max(before, after) > limit:
            raise ArgumentError(
                message(op, f"{mode} padding must be at most {limit} here", padding=padding, x__shape=input_shape)
            )
        if mode == "replicate" and size < 1:
            raise ShapeError(message(op, "replicate needs at least one row and column", x__shape=input_shape))
    output_shape = (n, c, h + top + bottom, w + left + right)
    require_countable(op, x=input_shape, output=output_shape)
    return PadProblem((n, c, h, w), output_shape, (top, bottom, left, right), mode)
