"""Weights packed for the register tile: panels of as many columns as a tile is wide.

A packed weight is flat ``[group][block][tap][depth][block width]``, the columns beyond the last one filled with
zeros. The tile then reads it front to back, one vector after the other, whatever the weight's own order was.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..jit import kernel, launch, never_inline, parallel_kernel, prange
from .layout import contiguous, flat
from .memory import buffer
from .simd import NARROW, VECTOR_BYTES, WIDE

STREAMS = 8


class Columns(NamedTuple):
    """How the columns of a result are cut into blocks as wide as a tile."""

    wide: bool
    rows: int  # of the tile
    block: int  # columns of one block
    blocks: int


def columns_for(width: int, itemsize: int) -> Columns:
    """The tile for results of `width` columns.

    The wide tile needs fewer loads per multiply-add, the narrow one wastes fewer columns: 96 columns are one and a
    half wide blocks but six narrow ones.
    """
    lanes = VECTOR_BYTES // itemsize
    wide, narrow = WIDE.vectors * lanes, NARROW.vectors * lanes
    wide_cost, narrow_cost = -(-width // wide) * wide, -(-width // narrow) * narrow * 1.15
    if wide_cost <= narrow_cost:
        return Columns(True, WIDE.rows, wide, -(-width // wide))
    return Columns(False, NARROW.rows, narrow, -(-width // narrow))


class Packing(NamedTuple):
    """What goes where: all strides and offsets are in elements of a C-contiguous weight."""

    groups: int
    blocks: int
    block: int
    width: int  # columns of one group
    depth: int  # terms of one tap
    group_stride: int
    column_stride: int
    depth_stride: int


def pack(weight: np.ndarray, packing: Packing, tap_offsets: np.ndarray, kept: bool = False) -> np.ndarray:
    """The packed weight, in scratch unless `kept`.

    `tap_offsets` (taps,) int64 says where in `weight` each tap begins.
    """
    size = packing.groups * packing.blocks * tap_offsets.size * packing.depth * packing.block
    packed = buffer("packed weight", size, weight.dtype, kept)
    tasks = packing.groups * packing.blocks
    launch(_pack, _pack_parallel, tasks, size * 1.0, flat(contiguous(weight)), packed, packing, tap_offsets)
    return packed


@kernel
def _pack(first, end, weight, packed, packing, tap_offsets):
    """Task: one block. `STREAMS` columns at a time: each is read front to back, and so few do not evict each other.

    (All columns of a block at once are as many lines a power of two apart, in the same cache set: 5x slower at
    4096 inputs. Tap by tap instead of depth by depth reads every line of a 3x3 filter nine times.)
    """
    never_inline()
    taps, depth, block = tap_offsets.size, packing.depth, packing.block
    for task in range(first, end):
        group = task // packing.blocks
        column = (task - group * packing.blocks) * block
        count = min(block, packing.width - column)
        panel = packed[task * taps * depth * block : (task + 1) * taps * depth * block]
        if count < block:
            panel[:] = 0
        start = group * packing.group_stride + column * packing.column_stride
        most = block if packing.column_stride == 1 else STREAMS
        for v in range(0, count, most):
            streams = min(most, count - v)
            for j in range(depth):
                for tap in range(taps):
                    at = start + v * packing.column_stride + j * packing.depth_stride + tap_offsets[tap]
                    to = (tap * depth + j) * block + v
                    for i in range(streams):
                        panel[to + i] = weight[at + i * packing.column_stride]


@parallel_kernel
def _pack_parallel(first, end, weight, packed, packing, tap_offsets):
    for task in prange(first, end):
        _pack(task, task + 1, weight, packed, packing, tap_offsets)


class Packed(NamedTuple):
    """Weight and bias as the register tile reads them."""

    weight: np.ndarray
    bias: np.ndarray


def pack_bias(
    bias: np.ndarray | None, groups: int, columns: Columns, width: int, dtype: np.dtype, kept: bool = False
) -> np.ndarray:
    """The bias in the same blocks, in scratch unless `kept`; zeros where there is none."""
    packed = buffer("packed bias", groups * columns.blocks * columns.block, dtype, kept)
    packed[:] = 0
    if bias is not None:
        blocks = packed.reshape(groups, columns.blocks * columns.block)
        blocks[:, :width] = bias.reshape(groups, width)
    return packed
