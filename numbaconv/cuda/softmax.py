"""Softmax and its logarithm along one axis of an array seen as (outer, channels, inner).

A *position* is one (outer, inner): one softmax over the channels. Where the channels are neighbours in memory (inner =
1) a position has a warp, whose lanes take the channels in turn; else it has a thread, and neighbouring threads read
neighbouring positions. Both are one body (`ways`), which the cross-entropy has too. Bytes: the input once from memory
and twice from the caches, the output once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from numba import int32

from .array import DeviceArray
from .functions import exp, log
from .indexing import divided, divisor, thread_number
from .launch import Kernel, T, inline, kernel, launch
from .layout import around_axis, dense, empty_like, match
from .limits import require_32_bit
from .reduce import WARP, lane_number, warp_maximum, warp_number, warp_sum

_LOWEST = -math.inf
THREADS = 256


class Way(NamedTuple):
    """How the channels of a position are shared out: device functions.

    Attributes:
        name: suffix of the kernels' names.
        place: () -> (first position of this worker, workers of a block, its first channel, channels from one to the
            next).
        maximum, sum: of what the threads of a worker found.
    """

    name: str
    place: Any
    maximum: Any
    sum: Any


@inline
def _place_of_warp():
    return warp_number(), int32(THREADS // WARP), lane_number(), int32(WARP)


@inline
def _place_of_thread():
    return thread_number(), int32(THREADS), int32(0), int32(1)


@inline
def _same(value):
    return value


_BY_WARP = Way("rows", _place_of_warp, warp_maximum, warp_sum)
_BY_THREAD = Way("columns", _place_of_thread, _same, _same)


class Ways:
    """Two kernels of one body: a warp or a thread for each position."""

    def __init__(self, make: Callable[[Way, str], Kernel]) -> None:
        name = make.__name__.strip("_")
        self.by_warp, self.by_thread = (make(way, f"{name}_{way.name}") for way in (_BY_WARP, _BY_THREAD))

    def chosen(self, positions: Positions) -> tuple[Kernel, int]:
        """The kernel, and its blocks."""
        run, workers = (self.by_warp, THREADS // WARP) if positions.inner == 1 else (self.by_thread, THREADS)
        return run, -(-positions.number // workers)


class Positions(NamedTuple):
    """An array's axes as a kernel sees them."""

    outer: int
    channels: int
    inner: int

    @property
    def number(self) -> int:
        """Of positions."""
        return self.outer * self.inner

    def arguments(self):
        """number, channels, inner and its divisor."""
        return self.number, self.channels, *divisor(self.inner)


def positions_of(op: str, x: DeviceArray, axis: int) -> Positions:
    """Those of a dense array."""
    require_32_bit(op, x)
    outer, inner = around_axis(x, axis)
    return Positions(outer, x.shape[axis], inner)


@inline
def largest(x, start, inner, channels, first, step):
    """The largest channel of those a thread looks at. A NaN is passed over: it comes back in the sum."""
    most = T(_LOWEST)
    for c in range(first, channels, step):
        value = x[start + c * inner]
        most = value if value > most else most
    return most


@inline
def sum_of_exponentials(x, start, inner, channels, first, step, most):
    """The sum of exp(x - most) over the channels that a thread looks at."""
    total = T(0)
    for c in range(first, channels, step):
        total += exp(x[start + c * inner] - most)
    return total


def softmax(x, axis):
    return _forward("softmax", x, axis, 0)


def log_softmax(x, axis):
    return _forward("log_softmax", x, axis, 1)


def softmax_backward(grad_output, output, axis):
    return _backward("softmax_backward", grad_output, output, axis, 0)


def log_softmax_backward(grad_output, output, axis):
    return _backward("log_softmax_backward", grad_output, output, axis, 1)


def _forward(op: str, x: DeviceArray, axis: int, logarithm: int) -> DeviceArray:
    x = dense(x, any_address=True)
    out, positions = empty_like(x), positions_of(op, x, axis)
    run, blocks = _SOFTMAX.chosen(positions)
    launch(run, x.dtype, blocks, x, out, *positions.arguments(), logarithm)
    return out


def _backward(op: str, grad_output: DeviceArray, output: DeviceArray, axis: int, logarithm: int) -> DeviceArray:
    output = dense(output, any_address=True)
    grad_output = match(grad_output, output, any_address=True)
    out, positions = empty_like(output), positions_of(op, output, axis)
    run, blocks = _SOFTMAX_BACKWARD.chosen(positions)
    launch(run, output.dtype, blocks, grad_output, output, out, *positions.arguments(), logarithm)
    return out


def _softmax(way, name):
    place, maximum_of, sum_of = way.place, way.maximum, way.sum

    @kernel(threads=THREADS, name=name)
    def run(
        x: "T*", out: "T*", number: "i32", channels: "i32",
        inner: "i32", inner_multiplier: "u32", inner_shift: "u32", logarithm: "i32",
    ):  # fmt: skip
        position, _, first, step = place()
        if position < number:
            outer, i = divided(position, inner, inner_multiplier, inner_shift)
            start = int32(outer * channels * inner + i)
            most = maximum_of(largest(x, start, inner, channels, first, step))
            total = sum_of(sum_of_exponentials(x, start, inner, channels, first, step, most))
            shift = log(total)
            for c in range(first, channels, step):
                at = int32(start + c * inner)
                out[at] = x[at] - most - shift if logarithm != 0 else exp(x[at] - most) / total

    return run


_SOFTMAX = Ways(_softmax)


def _softmax_backward(way, name):
    place, sum_of = way.place, way.sum

    @kernel(threads=THREADS, name=name)
    def run(
        grad_output: "T*", output: "T*", out: "T*", number: "i32", channels: "i32",
        inner: "i32", inner_multiplier: "u32", inner_shift: "u32", logarithm: "i32",
    ):  # fmt: skip
        position, _, first, step = place()
        if position < number:
            outer, i = divided(position, inner, inner_multiplier, inner_shift)
            start = int32(outer * channels * inner + i)
            total = T(0)
            for c in range(first, channels, step):
                at = int32(start + c * inner)
                total += grad_output[at] if logarithm != 0 else grad_output[at] * output[at]
            total = sum_of(total)
            for c in range(first, channels, step):
                at = int32(start + c * inner)
                if logarithm != 0:
                    out[at] = grad_output[at] - exp(output[at]) * total
                else:
                    out[at] = output[at] * (grad_output[at] - total)

    return run


_SOFTMAX_BACKWARD = Ways(_softmax_backward)
