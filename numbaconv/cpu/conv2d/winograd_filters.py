"""Filters for Winograd convolution, transformed, in panels that the register tile reads front to back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...jit import helper, inline, kernel, never_inline
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem
from ..layout import contiguous, flat
from ..local_array import local_array
from ..memory import buffer
from ..packing import pack_bias, read_columns
from ..simd import VECTOR_BYTES
from ..sizes import sizes_of, unpack
from .winograd_tile import transform_taps
from .winograd_tiling import PITCH_PADDING, Shape, block_of, blocks_for

CHANNELS = 16  # of a task; of one column they are one run in memory


class FilterStrides(NamedTuple):
    """Steps in the weight from group to group, column to column, channel to channel; whether filters are flipped."""

    group: int
    column: int
    depth: int
    flipped: bool


TRANSFORMED = FilterStrides(0, 0, 0, False)  # what kernels get with filters that are transformed already


class Filters(NamedTuple):
    """Weight and bias of a Winograd convolution; with strides the weight is as it came, without it is transformed."""

    weight: np.ndarray
    bias: np.ndarray
    strides: FilterStrides | None


class _Packing(NamedTuple):
    """The sizes of it all, for the kernel."""

    blocks: int
    block: int
    columns: int
    depth: int
    pitch: int
    parts: int  # of `CHANNELS` channels


def filter_pitch(blocks: int, depth: int, block: int) -> int:
    """Elements from one point's transformed filters to the next's."""
    return blocks * depth * block + PITCH_PADDING


def filter_strides(problem: Conv2dProblem, flipped: bool) -> FilterStrides:
    """Those of a C-contiguous weight; `flipped`: its channels exchanged too, for the input-gradient."""
    k, c, r, s = problem.weight_shape
    taps = r * s
    column, channel = (taps, c * taps) if flipped else (c * taps, taps)
    return FilterStrides(k // problem.groups * c * taps, column, channel, flipped)


def pack_filters(
    problem: Conv2dProblem, shape: Shape, flipped: bool, weight: np.ndarray, bias: np.ndarray | None,
    transformed: bool, kept: bool,
) -> Filters:  # fmt: skip
    """`flipped`: input and output channels exchanged too, for the input-gradient."""
    k, c, r, s = problem.weight_shape
    groups, dtype = problem.groups, weight.dtype
    columns, depth = (c, k // groups) if flipped else (k // groups, c)
    cut = blocks_for(columns, weight.itemsize)
    strides = filter_strides(problem, flipped)
    packed_bias = pack_bias(bias, groups, cut, columns, dtype, kept)
    weight = flat(contiguous(weight))
    if not transformed:
        return Filters(weight, packed_bias, strides)
    blocks = groups * cut.blocks
    packing = _Packing(
        cut.blocks, cut.block, columns, depth, filter_pitch(blocks, depth, cut.block), -(-depth // CHANNELS)
    )
    count = shape.points * packing.pitch
    filters = buffer("packed weight", count, dtype, kept)
    args = sizes_of(packing), sizes_of(strides), shape.points_h, shape.points_w, (0,) * r, (0,) * s
    launch(_transform, blocks * packing.parts, count * 0.1, weight, filters, *args)
    return Filters(filters, packed_bias, None)


@helper
def _tap_offsets(offsets, flipped, block):
    """Where each tap is in a channel's lines."""
    never_inline()
    for tap in range(offsets.size):
        offsets[tap] = (offsets.size - 1 - tap if flipped else tap) * block


@inline
def channels_together(strides, taps):
    """How many channels follow each other, and are read as one run."""
    return CHANNELS if strides.depth == taps else 1


@helper
def transform_filters(
    weight, strides, group, column, count, block, channel, channels, lines, offsets, filters, first, pitch,
    points_h, points_w, taps_h, taps_w,
):  # fmt: skip
    """filters: [point][channel][column] from `first`, of some channels of a block. Scratch: lines, offsets."""
    never_inline()
    taps = len(taps_h) * len(taps_w)
    start = group * strides.group + column * strides.column + channel * strides.depth
    _tap_offsets(offsets, strides.flipped, block)
    step = channels_together(strides, taps)
    for c in range(0, channels, step):
        some = min(step, channels - c)
        at = start + c * strides.depth
        read_columns(weight, at, strides.column, count, some * taps, lines, block)
        for i in range(some):
            transform_taps(lines[i * taps * block :], offsets, block, filters, first + (c + i) * block, pitch,
                           points_h, points_w, taps_h, taps_w)  # fmt: skip


@inline
def lines_for(weight, taps, block):
    """The scratch of `transform_filters`."""
    return local_array((CHANNELS * taps + VECTOR_BYTES // weight.itemsize) * block, weight.dtype)


@kernel
def _transform(first, end, weight, filters, sizes, filter_sizes, points_h, points_w, taps_h, taps_w):
    """filters: [point][group and block][channel][column]. Task: some channels of a block."""
    if on_threads_flushing():
        return
    packing = unpack(sizes, _Packing)
    strides = unpack(filter_sizes, FilterStrides)
    block, depth = packing.block, packing.depth
    taps = len(taps_h) * len(taps_w)
    lines = lines_for(weight, taps, block)
    offsets = local_array(taps, np.int64)
    for task in range(first, end):
        place = task // packing.parts
        c = (task - place * packing.parts) * CHANNELS
        group, column, count, width = block_of(place, packing.blocks, block, packing.columns, weight.itemsize)
        transform_filters(weight, strides, group, column, count, width, c, min(CHANNELS, depth - c), lines, offsets,
                          filters, place * depth * block + c * width, packing.pitch,
                          points_h, points_w, taps_h, taps_w)  # fmt: skip
