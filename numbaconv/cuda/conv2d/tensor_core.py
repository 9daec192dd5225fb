"""Convolution on tensor cores, in TF32 or, in three products for one, as exact as float32. Compute capability 8.0.

The kernels are in `tensor_correlate` and `tensor_weight_gradient`; here it is said what their rows, columns and terms
are. Forward is one correlation. Backward to the input is a correlation of grad_output for each residue of (h, w) by
the stride: those input pixels see the same taps, every (stride / gcd)th, and step by one. So nothing is multiplied by
a zero that the stride put between. With stride 1 there is one.

Sums are split into parts, for two reasons: a part is at most 512 stages, because tensor cores cut off a sum's last
bits; and a problem of few tiles gets more blocks. What is split depends on the shapes alone, so every GPU gives the
same result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from ...shapes import Conv2dProblem
from .. import memory
from ..array import DeviceArray
from ..indexing import divisor
from ..launch import launch
from ..layout import CHANNELS_LAST, channels_last, empty
from ..limits import require_32_bit
from . import tensor_correlate, tensor_weight_gradient
from .tensor_correlate import LARGEST_WINDOW
from .tensor_pack import pack, sum_pixels, sum_weights
from .tensor_tile import DEPTH, HAS_BIAS, RELU, ROWS

_ENOUGH_BLOCKS = 264  # two for each of the 132 multiprocessors of an H100
_LARGEST_STRIDE = 16  # of 2^18 the input-gradient would be as many launches, most of which fill in zeros
_FEWEST_STAGES = 8  # of a part: below, filling the pipeline and adding parts up take longer
_MOST_STAGES = 512


class Window(NamedTuple):
    """A correlation along one axis: output i, tap r read position i * stride - before + r * dilation."""

    outputs: int
    taps: int
    stride: int
    before: int
    dilation: int


class Residue(NamedTuple):
    """The input positions ``first, first + step, ...`` of one axis, whose gradients are a `Window` over grad_output.

    `weights` are the taps they see, as a slice of the weight's axis.
    """

    first: int
    step: int
    window: Window
    weights: slice


def _axes(problem: Conv2dProblem) -> tuple[tuple[int, int, int, int, int], ...]:
    """(outputs, taps, stride, padding before, dilation) of the two axes."""
    (_, _, p, q), (_, _, r, s), (top, _, left, _) = problem.output_shape, problem.weight_shape, problem.padding
    stride, dilation = problem.stride, problem.dilation
    return (p, r, stride[0], top, dilation[0]), (q, s, stride[1], left, dilation[1])


def residues(size: int, outputs: int, taps: int, stride: int, before: int, dilation: int) -> Iterator[Residue]:
    """Backward to the input along one axis.

    Position h = p * stride - before + r * dilation was read by output p with tap r. So r * dilation = h + before modulo
    stride: none, or every (stride / gcd)th r from one on; from one to the next p is less by dilation / gcd. Taps are
    given in falling order, so that positions rise.
    """
    divisor = math.gcd(stride, dilation)
    apart, dilated = stride // divisor, dilation // divisor
    for first in range(min(stride, size)):
        seen = [r for r in range(min(apart, taps)) if (first + before - r * dilation) % stride == 0]
        count = (size - 1 - first) // stride + 1
        if not seen:
            yield Residue(first, stride, Window(count, 0, 1, 0, 1), slice(0, 0))
            continue
        last = range(seen[0], taps, apart)[-1]
        most = (last - seen[0]) // apart
        start = (first + before - seen[0] * dilation) // stride
        window = Window(count, most + 1, 1, most * dilated - start, dilated)
        yield Residue(first, stride, window, slice(last, None, -apart))


def parts_of(tiles: int, stages: int) -> int:
    """How many parts the sums of so many blocks are split into."""
    most = max(1, stages // _FEWEST_STAGES)
    return max(min(-(-_ENOUGH_BLOCKS // max(tiles, 1)), most), -(-stages // _MOST_STAGES))


def _split(tiles: int, stages: int) -> tuple[int, int]:
    """(parts, stages of a part), none of them empty."""
    each = max(1, -(-stages // parts_of(tiles, stages)))
    return max(1, -(-stages // each)), each


def supports(problem: Conv2dProblem) -> str:
    """Empty, or why tensor cores do not take the problem."""
    k, c, r, s = problem.weight_shape
    if problem.groups != 1:
        return f"there are {problem.groups} groups"
    if c % 4 or k % 4:
        return f"channels are copied by four: {c} in, {k} out"
    if max(r, s) > LARGEST_WINDOW:
        return f"the kernel is {r}x{s}: larger than {LARGEST_WINDOW}"
    if max(problem.stride) > _LARGEST_STRIDE:
        return f"the stride is {problem.stride}: the input-gradient takes a launch for each residue of it"
    return ""


class TensorCores:
    """The three directions, in TF32 (`exact` false) or in float32's precision."""

    def __init__(self, exact: bool) -> None:
        self.exact = exact

    # --- forward ------------------------------------------------------------------------------------------------

    def pack_weight(self, problem: Conv2dProblem, weight: DeviceArray, bias: DeviceArray | None, kept: bool) -> Any:
        return self._packed(weight), bias, weight.shape

    def forward(self, problem: Conv2dProblem, x: DeviceArray, packed: Any, relu: bool) -> DeviceArray:
        weights, bias, _ = packed
        out = empty(problem.output_shape, x.dtype, x.device, CHANNELS_LAST)
        rows, columns = (Window(*axis) for axis in _axes(problem))
        self._correlate("conv2d", (rows, columns), channels_last(x), weights, bias, out, relu)
        return out

    # --- backward -----------------------------------------------------------------------------------------------

    def backward_input(
        self, problem: Conv2dProblem, grad_output: DeviceArray, weight: DeviceArray, bias: DeviceArray | None
    ) -> DeviceArray:
        grad_output = channels_last(grad_output)
        out = empty(problem.input_shape, grad_output.dtype, grad_output.device, CHANNELS_LAST)
        sizes = problem.input_shape[2:]
        rows, columns = (list(residues(size, *axis)) for size, axis in zip(sizes, _axes(problem), strict=True))
        exchanged = weight.transpose(1, 0, 2, 3)
        for row in rows:
            for column in columns:
                weights = self._packed(exchanged[:, :, row.weights, column.weights])
                part = out[:, :, row.first :: row.step, column.first :: column.step]
                windows = row.window, column.window
                self._correlate("conv2d_backward_input", windows, grad_output, weights, bias, part, False)
        return out

    def backward_weight(self, problem: Conv2dProblem, grad_output: DeviceArray, x: DeviceArray) -> DeviceArray:
        grad_output, x = channels_last(grad_output), channels_last(x)
        out = memory.empty(problem.weight_shape, x.dtype, x.device)
        _, k, p, q = problem.output_shape
        top, _, left, _ = problem.padding
        if math.prod(problem.weight_shape[2:]) == 1 and x.shape[2:] == (p, q) and problem.stride == (1, 1):
            # Both operands are matrices of pixels. With x as the columns, results are in the order of `out`.
            parts = self._products("conv2d_backward_weight", x, grad_output, (1, 1), (1, 1), (0, 0), (1, 1), out)
            if parts is not out:
                sum_pixels(parts, parts, out, (1, k), (0, 0, out.shape[1]), 0)
            return out
        window = problem.weight_shape[2:], problem.stride, (top, left), problem.dilation
        parts = self._products("conv2d_backward_weight", grad_output, x, *window, None)
        sum_weights(parts, out)
        return out

    def _products(
        self,
        op: str,
        columns: DeviceArray,
        x: DeviceArray,
        taps: tuple[int, int],
        stride: tuple[int, int],
        before: tuple[int, int],
        dilation: tuple[int, int],
        out: DeviceArray | None,
    ) -> DeviceArray:
        """Parts (count, taps * channels of x, channels of `columns`) of the sums over pixels. One part is in `out`."""
        n, k, p, q = columns.shape
        pixels, terms = n * p * q, x.shape[1] * math.prod(taps)
        kernel, block = tensor_weight_gradient.kernel_for(self.exact, k)
        tiles = -(-terms // ROWS), -(-k // block)
        count, each = _split(math.prod(tiles), -(-pixels // DEPTH))
        parts = memory.empty((count, terms, k), x.dtype, x.device) if out is None or count > 1 else out
        require_32_bit(op, x, columns, parts)
        step_p, step_q = divmod(DEPTH, q)
        step_n, step_p = divmod(step_p, p)
        sizes = pixels, k, *x.shape[2:], x.shape[1], p, q
        window = *stride, *before, *dilation, taps[1]
        steps = terms, each * DEPTH, step_n, step_p, step_q, k * terms
        launch(kernel, x.dtype, (*tiles, count), columns, x, parts, *sizes, *window, *steps)
        return parts

    # --- both ---------------------------------------------------------------------------------------------------

    def _packed(self, weight: DeviceArray) -> DeviceArray:
        """Weights (columns, channels, R, S), packed for the correlation."""
        columns, channels, r, s = weight.shape
        _, block = tensor_correlate.kernel_for(self.exact, columns)
        shape = -(-columns // block), -(-channels * r * s // DEPTH), block, DEPTH
        packed = memory.empty(shape, weight.dtype, weight.device)
        require_32_bit("conv2d", packed)
        pack(weight, packed, block, not self.exact)
        return packed

    def _correlate(
        self,
        op: str,
        windows: tuple[Window, Window],
        x: DeviceArray,
        packed: DeviceArray,
        bias: DeviceArray | None,
        out: DeviceArray,
        relu: bool,
    ) -> None:
        """Correlates x with packed weights into `out`, a view whose channels follow each other."""
        n, channels, height, width = x.shape
        columns = out.shape[1]
        kernel, block = tensor_correlate.kernel_for(self.exact, columns)
        rows, cols = windows
        pixels, terms = n * rows.outputs * cols.outputs, channels * rows.taps * cols.taps
        tiles = -(-pixels // ROWS), -(-columns // block)
        count, each = _split(math.prod(tiles), -(-terms // DEPTH))
        strides = tuple(out.strides[axis] // out.itemsize for axis in (0, 2, 3))
        grid = rows.outputs, cols.outputs
        flags = (HAS_BIAS if bias is not None else 0) | (RELU if relu else 0)
        ending = x if bias is None else bias
        sizes = pixels, height, width, channels, *grid, columns
        taps_h, taps_w = max(rows.taps, 1), max(cols.taps, 1)
        dilation_h, dilation_w = (divisor(axis.dilation if axis.taps > 1 else 1) for axis in windows)
        window = rows.stride, cols.stride, rows.before, cols.before, *dilation_h, *dilation_w
        step_s, step_c = divmod(DEPTH, channels)
        step_r, step_s = divmod(step_s, taps_w)
        steps = taps_h, taps_w, terms, each * DEPTH, step_r, step_s, step_c
        require_32_bit(op, x, out, count * pixels * columns)
        if count == 1:
            launch(kernel, x.dtype, (*tiles, 1), x, packed, ending, out, *sizes, *window, *steps, *strides, 0, flags)
            return
        parts = memory.empty((count, pixels, columns), x.dtype, x.device)
        dense = rows.outputs * cols.outputs * columns, cols.outputs * columns, columns, pixels * columns
        launch(kernel, x.dtype, (*tiles, count), x, packed, ending, parts, *sizes, *window, *steps, *dense, 0)
        sum_pixels(parts, ending, out, grid, strides, flags)
