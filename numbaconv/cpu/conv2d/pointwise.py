"""1x1 convolution at stride 1: a matrix product of pixels by channels.

There is no neighbourhood, so images and rows do not matter: all N * H * W pixels are one line. Tiles and tasks
then run across image borders, and 7x7 images waste nothing. `linear` is the same with one pixel per row. Channels-first
images have a kernel of their own (`pointwise_planes`).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...shapes import Conv2dProblem
from ..layout import CHANNELS_FIRST, channels_last, empty, flat, in_layout, layout_of
from ..packing import Packed
from . import direct, weight_gradient
from .algorithm import Algorithm
from .pointwise_planes import FEWEST_PIXELS, multiply_planes


def supports(problem: Conv2dProblem) -> str:
    """Empty for 1x1 at stride 1 without padding."""
    if problem.weight_shape[2:] != (1, 1):
        return f"the kernel is {problem.weight_shape[2]}x{problem.weight_shape[3]}, not 1x1"
    if problem.stride != (1, 1):
        return f"the stride is {problem.stride}, not 1"
    if problem.input_shape[2:] != problem.output_shape[2:]:
        return "input and output differ in size"  # a transposed problem with output_padding
    return "there is padding" if any(problem.padding) else ""


@functools.lru_cache(maxsize=1024)
def _one_image(problem: Conv2dProblem, lines: int = 1) -> Conv2dProblem:
    """The same problem as one image of `lines` lines."""
    n, c, h, w = problem.input_shape
    length = n * h * w // lines
    return problem._replace(
        input_shape=(1, c, lines, length), output_shape=(1, problem.weight_shape[0], lines, length), dilation=(1, 1)
    )


def as_lines(x: np.ndarray, lines: int = 1) -> np.ndarray:
    """(N, C, H, W) seen as (1, C, lines, N * H * W // lines); copied only if it is not channels_last."""
    n, c, h, w = x.shape
    pixels = channels_last(x).transpose(0, 2, 3, 1).reshape(1, lines, n * h * w // lines, c)
    return pixels.transpose(0, 3, 1, 2)


def _from_line(out: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """Back to (N, K, H, W), channels_last; `size` is N, H, W."""
    n, h, w = size
    return out.transpose(0, 2, 3, 1).reshape(n, h, w, out.shape[1]).transpose(0, 3, 1, 2)


class _Weights(NamedTuple):
    """As they came, and, if they are kept, packed."""

    weight: np.ndarray
    bias: np.ndarray | None
    packed: Packed | None


def pack_weight(problem: Conv2dProblem, weight: np.ndarray, bias: np.ndarray | None, kept: bool) -> _Weights:
    packed = direct.pack_weight(_one_image(problem), weight, bias, True) if kept else None
    return _Weights(weight, bias, packed)


def _in_planes(problem: Conv2dProblem, x: np.ndarray) -> bool:
    pixels = x.shape[2] * x.shape[3]
    return problem.groups == 1 and pixels >= FEWEST_PIXELS and layout_of(x) == CHANNELS_FIRST


def forward(problem: Conv2dProblem, x: np.ndarray, weights: _Weights, relu: bool) -> np.ndarray:
    k, c, _, _ = problem.weight_shape
    if _in_planes(problem, x):
        return multiply_planes(x, weights.weight, k, (c, 1), weights.bias, relu)
    packed = weights.packed or direct.pack_weight(_one_image(problem), weights.weight, weights.bias, False)
    out = direct.forward(_one_image(problem), as_lines(x), packed, relu)
    n, _, h, w = problem.output_shape
    return _from_line(out, (n, h, w))


def backward_input(
    problem: Conv2dProblem, grad_output: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> np.ndarray:
    c = problem.weight_shape[1]
    if _in_planes(problem, grad_output):
        return multiply_planes(grad_output, weight, c, (1, c), bias, False)
    out = direct.backward_input(_one_image(problem), as_lines(grad_output), weight, bias)
    n, _, h, w = problem.input_shape
    return in_layout(_from_line(out, (n, h, w)), layout_of(grad_output))


def backward_weight(problem: Conv2dProblem, grad_output: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(K, C, 1, 1). The side with fewer channels is transposed; as the rows, or, exchanged, as the columns."""
    k, c, _, _ = problem.weight_shape
    if c <= k or problem.groups > 1:
        problem = in_lines(problem)
        lines = problem.output_shape[2]
        return weight_gradient.backward_weight(problem, as_lines(grad_output, lines), as_lines(x, lines))
    out = empty(problem.weight_shape, x.dtype)
    n, _, h, w = problem.input_shape
    exchanged = in_lines(
        problem._replace(input_shape=(n, k, h, w), weight_shape=(c, k, 1, 1), output_shape=(n, c, h, w))
    )
    lines = exchanged.output_shape[2]
    weight_gradient.weight_gradient(exchanged, as_lines(x, lines), as_lines(grad_output, lines), flat(out), (1, c))
    return out


def in_lines(problem: Conv2dProblem) -> Conv2dProblem:
    """The same problem as one image of lines that the weight-gradient can split over its tasks."""
    n, _, h, w = problem.input_shape
    return _one_image(problem, _lines(n * h * w))


@functools.lru_cache(maxsize=1024)
def _lines(pixels: int) -> int:
    """The fewest equal lines of at most 512 pixels, so that the weight-gradient can split them over its tasks."""
    if pixels == 0:
        return 1
    fewest = max(1, -(-pixels // 512))
    return next((lines for lines in range(fewest, min(pixels, 8 * fewest) + 1) if pixels % lines == 0), 1)


ALGORITHM = Algorithm(
    name="pointwise",
    supports=supports,
    pack_weight=pack_weight,
    forward=forward,
    backward_input=backward_input,
    backward_weight=backward_weight,
)
