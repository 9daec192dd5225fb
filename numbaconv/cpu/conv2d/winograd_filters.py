"""Filters transformed for Winograd convolution, in panels that the register tile reads front to back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...jit import kernel
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem, Pair
from ..layout import contiguous, flat
from ..local_array import local_array
from ..memory import buffer
from ..packing import WIDE_AND_NARROW, Packed, columns_for, pack_bias, read_columns
from ..sizes import sizes_of, unpack
from .winograd import filter_pitch, shape_of
from .winograd_tile import transform_taps

_CHANNELS = 16  # of a task; of one column they are one run in memory


class FilterStrides(NamedTuple):
    """Steps in the weight from group to group, column to column, channel to channel; whether filters are flipped."""

    group: int
    column: int
    depth: int
    flipped: bool


class _Packing(NamedTuple):
    """The sizes of it all, for the kernel."""

    blocks: int
    block: int
    columns: int
    depth: int
    pitch: int
    parts: int
    group_stride: int
    column_stride: int
    depth_stride: int
    flipped: int


def pack_filters(
    results: int, problem: Conv2dProblem, size: Pair, weight: np.ndarray, strides: FilterStrides,
    bias: np.ndarray | None, kept: bool,
) -> Packed:  # fmt: skip
    """`size`: columns and depth of a group."""
    columns, depth = size
    taps = problem.weight_shape[2], problem.weight_shape[3]
    shape = shape_of(results, taps)
    cut = columns_for(columns, weight.itemsize, WIDE_AND_NARROW)
    blocks = problem.groups * cut.blocks
    pitch = filter_pitch(blocks, depth, cut.block)
    count = len(shape.points_h) * len(shape.points_w) * pitch
    filters = buffer("packed weight", count, weight.dtype, kept)
    parts = -(-depth // _CHANNELS)
    packing = _Packing(cut.blocks, cut.block, columns, depth, pitch, parts, *strides)
    args = (
        flat(contiguous(weight)), filters, sizes_of(packing),
        shape.points_h, shape.points_w, (0,) * taps[0], (0,) * taps[1],
    )  # fmt: skip
    launch(_transform_filters, blocks * parts, count * 0.2, *args)
    return Packed(filters, pack_bias(bias, problem.groups, cut, columns, weight.dtype, kept))


def pack_weight(
    results: int, problem: Conv2dProblem, weight: np.ndarray, bias: np.ndarray | None, kept: bool
) -> Packed:
    """For the forward pass."""
    k, c, r, s = problem.weight_shape
    strides = FilterStrides(k // problem.groups * c * r * s, c * r * s, r * s, False)
    return pack_filters(results, problem, (k // problem.groups, c), weight, strides, bias, kept)


def pack_flipped(results: int, problem: Conv2dProblem, weight: np.ndarray, bias: np.ndarray | None) -> Packed:
    """For the input-gradient: flipped, input and output channels exchanged."""
    k, c, r, s = problem.weight_shape
    strides = FilterStrides(k // problem.groups * c * r * s, r * s, c * r * s, True)
    return pack_filters(results, problem, (c, k // problem.groups), weight, strides, bias, False)


@kernel
def _transform_filters(first, end, weight, filters, sizes, points_h, points_w, taps_h, taps_w):
    """filters: [point][group and block][channel][column]. Task: some channels of a block."""
    if on_threads_flushing():
        return
    packing = unpack(sizes, _Packing)
    block, depth = packing.block, packing.depth
    taps = len(taps_h) * len(taps_w)
    together = packing.depth_stride == taps  # the channels of a filter follow each other
    step = _CHANNELS if together else 1
    lines = local_array((step * taps + _CHANNELS) * block, weight.dtype)
    offsets = local_array(taps, np.int64)
    for tap in range(taps):
        offsets[tap] = (taps - 1 - tap if packing.flipped else tap) * block
    for task in range(first, end):
        place = task // packing.parts
        part = task - place * packing.parts
        group = place // packing.blocks
        column = (place - group * packing.blocks) * block
        count = min(block, packing.columns - column)
        start = group * packing.group_stride + column * packing.column_stride
        last = min(depth, (part + 1) * _CHANNELS)
        for c in range(part * _CHANNELS, last, step):
            channels = min(step, last - c)
            read_columns(
                weight, start + c * packing.depth_stride, packing.column_stride, count, channels * taps, lines, block
            )
            for i in range(channels):
                transform_taps(lines[i * taps * block :], offsets, block, filters, (place * depth + c + i) * block,
                               packing.pitch, points_h, points_w, taps_h, taps_w)  # fmt: skip
