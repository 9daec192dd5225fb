"""Fully connected layers: the pointwise convolution of M pixels, on the same register tile.

The tile multiplies rows, read as they are, by packed columns. Which operand plays which part is chosen so that the
small one is packed: with fewer samples than outputs the weight's rows are the "pixels" and x is the "filter", and a
weight of any size is read once, in order. (Packing a 4096 x 4096 weight in every call took longer than multiplying 64
samples by it.)
"""

from __future__ import annotations

import functools

import numpy as np

from ..shapes import Conv2dProblem
from . import activation, linear_blocks, linear_unpacked
from .conv2d import direct, pointwise
from .conv2d.weight_gradient import weight_gradient
from .correlate import correlate
from .layout import contiguous, empty, flat
from .packing import Packed
from .reduce import channel_sums


@functools.lru_cache(maxsize=1024)
def _problem(rows: int, weight_shape: tuple[int, int]) -> Conv2dProblem:
    outputs, inputs = weight_shape
    shapes = (1, inputs, 1, rows), (outputs, inputs, 1, 1), (1, outputs, 1, rows)
    return Conv2dProblem(*shapes, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1)


def _as_pixels(x: np.ndarray) -> np.ndarray:
    """(M, features) as the channels_last image (1, features, 1, M)."""
    return contiguous(x)[None, None].transpose(0, 3, 1, 2)


def _product(rows: np.ndarray, columns: np.ndarray, bias: np.ndarray | None, relu: bool = False) -> np.ndarray:
    """rows (M, features) times columns (N, features) transposed: (M, N). The columns are packed."""
    problem = _problem(rows.shape[0], columns.shape)
    packed = pointwise.pack_weight(problem, columns[:, :, None, None], bias, False)
    out = pointwise.forward(problem, _as_pixels(rows), packed, relu)
    return out.transpose(0, 2, 3, 1).reshape(rows.shape[0], columns.shape[0])


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, relu: bool = False) -> np.ndarray:
    if x.shape[0] <= linear_unpacked.MOST_DOTS:
        return linear_unpacked.linear(x, weight, bias, relu)
    if x.shape[0] * weight.size <= linear_blocks.MOST:
        return linear_blocks.linear(x, weight, bias, relu)
    if x.shape[0] >= weight.shape[0]:
        return _product(x, weight, bias, relu)
    out = empty((x.shape[0], weight.shape[0]), x.dtype)
    transposed = _product(weight, x, None).T if x.shape[0] else out
    if bias is None:
        np.copyto(out, transposed)
    else:
        with np.errstate(all="ignore"):
            np.add(transposed, bias, out=out)
    return activation.relu(out) if relu else out


class PreparedLinear:
    """A linear layer for prediction: its weights are the columns, packed once, for any number of samples.

    Of few samples and a weight that stays in a cache, dot products of its rows as they are take down to half the time.
    """

    def __init__(self, weight: np.ndarray, bias: np.ndarray | None) -> None:
        few = weight.size <= linear_unpacked.MOST_OF_DOTS
        self._shape = weight.shape
        self._weight = weight.copy() if few else None
        self._bias = None if bias is None else bias.copy()
        self._packed = None if few else self._pack(weight)

    def _pack(self, weight: np.ndarray) -> Packed:
        return direct.pack_weight(_problem(1, self._shape), weight[:, :, None, None], self._bias, True)

    def __call__(self, x: np.ndarray, relu: bool) -> np.ndarray:
        weight, packed = self._weight, self._packed
        if weight is not None and x.shape[0] <= linear_unpacked.FEW_DOTS:
            return linear_unpacked.linear(x, weight, self._bias, relu)
        if packed is None:  # two threads may both do it: the results are the same
            assert weight is not None
            packed = self._packed = self._pack(weight)
        out = empty((x.shape[0], self._shape[0]), x.dtype)
        if out.size:
            plan = direct.forward_plan(_problem(x.shape[0], self._shape), x.itemsize)
            ((grid, taps),) = plan.grids
            correlate(grid, taps, flat(contiguous(x)), *packed, flat(out), plan.columns.tile, relu)
        return out


def prepare_linear(weight: np.ndarray, bias: np.ndarray | None) -> PreparedLinear:
    return PreparedLinear(weight, bias)


def linear_backward(
    grad_output: np.ndarray, x: np.ndarray, weight: np.ndarray, needs: tuple[bool, bool, bool]
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    if linear_unpacked.pays_backward(x.shape[0], weight.shape):
        return linear_unpacked.gradients(grad_output, x, weight, needs)
    grad_output = contiguous(grad_output)
    grad_input = grad_weight = None
    if needs[0]:
        problem = _problem(x.shape[0], weight.shape)
        image = pointwise.backward_input(problem, _as_pixels(grad_output), weight[:, :, None, None], None)
        grad_input = image.transpose(0, 2, 3, 1).reshape(x.shape)
    if needs[1]:
        # The inputs are the columns, so that rows of grad_weight are written as they lie.
        outputs, inputs = weight.shape
        grad_weight = empty(weight.shape, weight.dtype)
        problem = pointwise.in_lines(_problem(x.shape[0], (inputs, outputs)))
        lines = problem.output_shape[2]
        args = pointwise.as_lines(_as_pixels(x), lines), pointwise.as_lines(_as_pixels(grad_output), lines)
        weight_gradient(problem, *args, flat(grad_weight), (1, inputs))
    return grad_input, grad_weight, channel_sums(grad_output) if needs[2] else None
