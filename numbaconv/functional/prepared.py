"""Convolution and linear layers with weights that are copied and packed once, for prediction.

What `conv2d` and `linear` do in every call, and what depends on the weights alone, is done when they are prepared: what
is left for a call is to check x. Weights that change later change nothing here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from ..arguments import batched, integer
from ..backend import enter
from ..shapes import Conv2dProblem, conv2d_problem
from .linear import check_linear, rows

Array = Any

_MOST_SHAPES = 256  # of x, whose problems one layer remembers
_ANY_SIZE = 1 << 20  # height and width of an x that every kernel fits


def _stand_in(array: Array) -> Array:
    """The shape and dtype of an array, to check x against, without its memory."""
    if not isinstance(array, np.ndarray):
        return array
    return np.broadcast_to(np.empty((), array.dtype), array.shape)


class PreparedConv2d:
    """`conv2d` with everything but x given; see `prepare_conv2d`. Nothing in it changes what a call returns."""

    __slots__ = ("_arguments", "_bias", "_convolve", "_dtype", "_problems", "_relu", "_weight")

    def __init__(self, convolve: Any, weight: Array, bias: Array | None, arguments: tuple[Any, ...], relu: bool):
        self._convolve, self._arguments, self._relu = convolve, arguments, relu
        self._weight, self._bias = _stand_in(weight), None if bias is None else _stand_in(bias)
        self._dtype = weight.dtype if isinstance(weight, np.ndarray) else None
        self._problems: dict[tuple[int, ...], Conv2dProblem] = {}

    def __call__(self, x: Array, layout: str | None = None) -> Array:
        """The result for x, in `layout`; None: in that of x."""
        # The usual case: an array like one that was checked before.
        if type(x) is ndarray and x.dtype is self._dtype and x.flags.aligned:
            problem = self._problems.get(x.shape)
            if problem is not None:
                return self._convolve(problem, x, self._relu, layout)
        _, x, _, _ = enter("conv2d", x=x, weight=self._weight, bias=self._bias)
        if not batched("conv2d", x.shape):
            return self(x[None])[0]
        bias_shape = None if self._bias is None else self._bias.shape
        problem = conv2d_problem.of_arrays(x.shape, self._weight.shape, bias_shape, *self._arguments)
        if len(self._problems) >= _MOST_SHAPES:
            self._problems.clear()
        self._problems[problem.input_shape] = problem
        return self._convolve(problem, x, self._relu, layout)


def prepare_conv2d(
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    relu: bool = False,
) -> PreparedConv2d:
    """`conv2d` for one layer, with its weights copied and packed once; for prediction.

    Args:
        weight, bias, stride, padding, dilation, groups: as `conv2d` takes them. What they hold now counts: later
            changes of the arrays are not seen.
        relu: whether the results are max(result, 0), which then costs nothing.

    Returns:
        A function of x, which gives what `conv2d` does, and refuses what it refuses. Several threads may call it.

    Raises:
        ShapeError, ArgumentError, DTypeError, DeviceError: as `conv2d`.
    """
    op = "prepare_conv2d"
    backend, weight, bias = enter(op, weight=weight, bias=bias)
    arguments = stride, padding, dilation, groups
    # Says now what would be wrong with every x.
    channels = weight.shape[1] * integer(op, "groups", groups, 1) if len(weight.shape) == 4 else 1
    bias_shape = None if bias is None else bias.shape
    conv2d_problem((1, channels, _ANY_SIZE, _ANY_SIZE), weight.shape, bias_shape, *arguments, op)
    return PreparedConv2d(backend.prepare_conv2d(weight, bias), weight, bias, arguments, bool(relu))


class PreparedLinear:
    """`linear` with everything but x given; see `prepare_linear`. Nothing in it changes what a call returns."""

    __slots__ = ("_bias", "_dtype", "_features", "_multiply", "_relu", "_weight")

    def __init__(self, multiply: Any, weight: Array, bias: Array | None, relu: bool) -> None:
        self._multiply, self._relu = multiply, relu
        self._weight, self._bias = _stand_in(weight), None if bias is None else _stand_in(bias)
        self._dtype = weight.dtype if isinstance(weight, np.ndarray) else None
        self._features = weight.shape[1]

    def __call__(self, x: Array) -> Array:
        """The result for x."""
        if type(x) is ndarray and x.dtype is self._dtype and x.flags.aligned:
            shape = x.shape
            if len(shape) == 2 and shape[1] == self._features:
                return self._multiply(x, self._relu)
        backend, x, weight, _ = enter("linear", x=x, weight=self._weight, bias=self._bias)
        check_linear("linear", x, weight)
        if len(x.shape) == 2:
            return self._multiply(x, self._relu)
        return self._multiply(rows(backend, x), self._relu).reshape(*x.shape[:-1], weight.shape[0])


def prepare_linear(weight: Array, bias: Array | None = None, *, relu: bool = False) -> PreparedLinear:
    """`linear` for one layer, with its weights copied and packed once; for prediction.

    Args:
        weight, bias: as `linear` takes them. What they hold now counts: later changes of the arrays are not seen.
        relu: whether the results are max(result, 0).

    Returns:
        A function of x, which gives what `linear` does, and refuses what it refuses. Several threads may call it.

    Raises:
        ShapeError, DTypeError, DeviceError: as `linear`.
    """
    op = "prepare_linear"
    backend, weight, bias = enter(op, weight=weight, bias=bias)
    check_linear(op, None, weight, bias)
    return PreparedLinear(backend.prepare_linear(weight, bias), weight, bias, bool(relu))
