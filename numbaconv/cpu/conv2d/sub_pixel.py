"""The input-gradient of a strided convolution of few channels, as a convolution at stride 1 and a shuffle.

Input position h = i * stride + a gets gradient rows i + shift, for few shifts, whatever its residue a. So all residues
of both axes are computed together, as the output channels (a, b, c) of one convolution of the gradient at stride 1,
whose filters have zeros where a residue has no tap; its results are then shuffled into place (sub-pixel convolution:
Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution", and 2016, "Is the deconvolution layer the same as
a convolutional layer?").

A grid per residue, as in `direct`, fills a vector with the channels of an image, 3 of 16 lanes; here they are 48 of 48
(AlexNet's first layer, where 9 taps of 48 columns stand for 121 of 3).

Cost: stride^2 * C columns, times K, times the taps of the widest residue, per gradient pixel.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from ...jit import kernel
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem
from ..layout import CHANNELS_LAST, empty, layout_of
from ..memory import temporaries
from ..packing import columns_for
from ..sizes import sizes_of, unpack
from . import direct, planes, winograd_variants
from .algorithm import Algorithm
from .residues import residue_classes

# Of the convolution at stride 1, in order of preference.
_STRIDE_1 = planes.ALGORITHM, *winograd_variants.ALGORITHMS, direct.ALGORITHM
_MOST_RESULTS = 256
_MOST_ELEMENTS = 1 << 26  # of the result: there is a second array of its size before the shuffle
_MOST_SUPPORTED = 4096
# Of a multiply-add of it, the shuffle included, by algorithm and whether it has two taps along an axis, where Winograd
# saves less; others 1.2.
_COST = {("winograd_4", False): 0.55, ("winograd_4", True): 0.9, ("winograd_2", False): 0.8}


class Shuffle(NamedTuple):
    """Sizes of the shuffle. Strides are in elements; `source_channel` is of channel (a, b, c), with c innermost."""

    channels: int
    height: int
    width: int
    row_step: int
    column_step: int
    out_image: int
    out_channel: int
    out_row: int
    out_column: int
    source_image: int
    source_channel: int
    source_row: int
    source_column: int


class _Plan(NamedTuple):
    problem: Conv2dProblem  # at stride 1
    algorithm: Algorithm
    taps: np.ndarray  # [a][b][row][column] of its filters: which tap it is, R * S for none


def supports(problem: Conv2dProblem) -> str:
    if problem.groups != 1:
        return f"there are {problem.groups} groups"
    if problem.stride == (1, 1):
        return "the stride is 1"
    results = problem.stride[0] * problem.stride[1] * problem.weight_shape[1]
    return f"{results} results a pixel, more than {_MOST_SUPPORTED}" if results > _MOST_SUPPORTED else ""


def pays(problem: Conv2dProblem, direction: str) -> str:
    """Empty where vectors of the channels alone would be filled so badly that zeros among the filters cost less."""
    _, c, r, s = problem.weight_shape
    elements = math.prod(problem.input_shape)
    if elements > _MOST_ELEMENTS:
        return f"{elements} elements, more than {_MOST_ELEMENTS}: it needs as many again"
    plan = _plan(problem)
    results, _, rows, columns = plan.problem.weight_shape
    if results > _MOST_RESULTS and plan.algorithm is not direct.ALGORITHM:
        return f"{results} results a pixel, more than {_MOST_RESULTS}: to transform their filters takes long"
    merged = columns_for(results, 4).cost * rows * columns
    apart = columns_for(c, 4).cost * r * s
    cost = _COST.get((plan.algorithm.name, min(rows, columns) == 2), 1.2)
    return "" if merged * cost < apart else f"{c} channels fill a vector well enough"


@functools.lru_cache(maxsize=1024)
def _plan(problem: Conv2dProblem) -> _Plan:
    n, c, h, w = problem.input_shape
    k, _, r, s = problem.weight_shape
    _, _, p, q = problem.output_shape
    sides = []
    for axis, (size, gradients, count) in enumerate(((h, p, r), (w, q, s))):
        stride, before = problem.stride[axis], problem.padding[2 * axis]
        classes, _ = residue_classes(size, stride, problem.dilation[axis], before, count)
        shifts = [shift for residue in classes for shift, _ in residue.taps]
        first, last = min([0, *shifts]), max([0, *shifts])
        reached = -(-size // stride)
        table = np.full((stride, last - first + 1), -1)
        for residue in classes:
            for shift, tap in residue.taps:
                table[residue.first, shift - first] = tap
        after = max(0, reached + last - gradients)
        sides.append((table, -first, after, gradients + after - last))
    (rows, top, bottom, height), (columns, left, right, width) = sides
    taps = np.where(
        (rows[:, None, :, None] < 0) | (columns[None, :, None, :] < 0),
        r * s,
        rows[:, None, :, None] * s + columns[None, :, None, :],
    )
    results = taps.shape[0] * taps.shape[1] * c
    stride_1 = Conv2dProblem(
        input_shape=problem.output_shape, weight_shape=(results, k, *taps.shape[2:]),
        output_shape=(n, results, height, width), stride=(1, 1), padding=(top, bottom, left, right),
        dilation=(1, 1), groups=1,
    )  # fmt: skip
    algorithm = next(a for a in _STRIDE_1 if not (a.supports(stride_1) or a.pays(stride_1, "forward")))
    return _Plan(stride_1, algorithm, taps)


def _filters(plan: _Plan, weight: np.ndarray) -> np.ndarray:
    """(K, C, R, S) as filters (a * b * C, K, rows, columns)."""
    k, c, r, s = weight.shape
    padded = np.zeros((k, c, r * s + 1), weight.dtype)
    padded[:, :, :-1] = weight.reshape(k, c, r * s)
    return padded[:, :, plan.taps].transpose(2, 3, 1, 0, 4, 5).reshape(plan.problem.weight_shape)


def backward_input(
    problem: Conv2dProblem, grad_output: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> np.ndarray:
    """(N, C, H, W) in the layout of grad_output."""
    plan = _plan(problem)
    (sh, sw), (_, c, h, w) = problem.stride, problem.input_shape
    out = empty(problem.input_shape, grad_output.dtype, layout_of(grad_output))
    if not out.size:
        return out
    filters = _filters(plan, weight)
    offsets = None if bias is None else np.tile(bias, sh * sw)
    algorithm = plan.algorithm
    with temporaries():
        packed = algorithm.pack_weight(plan.problem, filters, offsets, False)
        source = algorithm.forward(plan.problem, grad_output, packed, False)
    strides = [stride // out.itemsize for array in (out, source) for stride in array.strides]
    sizes = sizes_of(Shuffle(c, h, w, sh, sw, *strides))
    launch(_shuffle, out.shape[0] * h, out.size * 0.5, _memory(source), _memory(out), sizes)
    return out


def _memory(x: np.ndarray) -> np.ndarray:
    """The elements of dense x as they lie."""
    return x.transpose(0, 2, 3, 1).reshape(-1) if layout_of(x) == CHANNELS_LAST else x.reshape(-1)


@kernel
def _shuffle(first, end, source, out, sizes):
    """Task: one row of one image."""
    if on_threads_flushing():
        return
    z = unpack(sizes, Shuffle)
    for task in range(first, end):
        image = task // z.height
        h = task - image * z.height
        i = h // z.row_step
        a = h - i * z.row_step
        at = image * z.source_image + i * z.source_row + a * z.column_step * z.channels * z.source_channel
        to = image * z.out_image + h * z.out_row
        if z.out_channel == 1 and z.source_channel == 1:  # the columns of a residue follow each other, in both
            for w in range(0, z.width, z.column_step):
                count = min(z.column_step, z.width - w) * z.channels
                line = source[at + w // z.column_step * z.source_column :][:count]
                results = out[to + w * z.out_column :][:count]
                for v in range(count):
                    results[v] = line[v]
            continue
        for c in range(z.channels):
            for b in range(z.column_step):
                start = at + (b * z.channels + c) * z.source_channel
                for j in range((z.width - b + z.column_step - 1) // z.column_step):
                    out[to + c * z.out_channel + (j * z.column_step + b) * z.out_column] = source[
                        start + j * z.source_column
                    ]


ALGORITHM = Algorithm(
    name="sub_pixel",
    supports=supports,
    pack_weight=None,
    forward=None,
    backward_input=backward_input,
    backward_weight=None,
    pays=pays,
)
