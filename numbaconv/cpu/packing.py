"""Weights packed for the register tile: panels of as many columns as a tile is wide.

A packed weight is flat ``[group][block][tap][depth][block width]``, the columns beyond the last one filled with
zeros. The tile then reads it front to back, one vector after the other, whatever the weight's own order was.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..jit import helper, kernel, never_inline
from ..parallel import launch, on_threads_flushing
from .layout import contiguous, flat
from .local_array import local_array
from .memory import buffer
from .register_tile import MIDDLE, NARROW, WIDE
from .simd import VECTOR_BYTES
from .sizes import sizes_of, unpack
from .transpose import transpose_block, transpose_rows


class Columns(NamedTuple):
    """How the columns of a result are cut into blocks as wide as a tile."""

    tile: tuple[int, ...]  # its length says which of `TILES`: a kernel is compiled for the one it is called with
    rows: int  # of the tile
    block: int  # columns of one block
    blocks: int
    cost: float  # of a row, in columns of the wide tile


# And what a column costs, measured with 96 columns and with 32: 12x1 loads 13 values for 12 multiply-adds, 12x2 14 for
# 24. With 16 registers there is no 12x2.
TILES = ((WIDE, 1.0), (MIDDLE, 1.05), (NARROW, 1.35))
if MIDDLE == NARROW:
    TILES = ((WIDE, 1.0), (NARROW, 1.15), (NARROW, 1.15))


def columns_for(width: int, itemsize: int, tiles: tuple[int, ...] = (1, 2, 3)) -> Columns:
    """The tile, of those allowed, for results of `width` columns.

    The wide tile needs fewer loads per multiply-add, the narrow one wastes fewer columns: 96 columns are one and a
    half wide blocks but three middle ones. Of the last wide block only the vectors that have columns are computed.
    """
    lanes = VECTOR_BYTES // itemsize
    cuts = []
    for number in tiles:
        tile, price = TILES[number - 1]
        block = tile.vectors * lanes
        blocks = -(-width // block)
        cost = blocks * block * price
        if number == 1 and width % block:
            vectors = -(-(width % block) // lanes)
            cost += vectors * lanes * TAILS[vectors - 1] - block
        cuts.append(Columns((0,) * number, tile.rows, block, blocks, cost))
    return min(cuts, key=lambda cut: cut.cost)


TAILS = (1.6, 1.1, 1.05, 1.0)  # what a column costs of a last wide block of 1, 2, 3 or 4 vectors


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
    channels: int = 128  # of a task


def pack(weight: np.ndarray, packing: Packing, tap_offsets: np.ndarray, kept: bool = False) -> np.ndarray:
    """The packed weight, in scratch unless `kept`.

    `tap_offsets` (taps,) int64 says where in `weight` each tap begins.
    """
    size = packing.groups * packing.blocks * tap_offsets.size * packing.depth * packing.block
    packed = buffer("packed weight", size, weight.dtype, kept)
    tasks = packing.groups * packing.blocks * -(-packing.depth // packing.channels)
    launch(_pack, tasks, size * 0.3, flat(contiguous(weight)), packed, sizes_of(packing), tap_offsets)
    return packed


@helper
def read_columns(weight, start, stride, count, terms, lines, block):
    """lines[f * block + v] = weight[start + v * stride + f] for f < terms and v < count; 0 up to v = block.

    `lines` has room for `terms` rounded up to whole vectors. Columns are read a vector's length at a time, so that few
    lines of memory are open at once: all 64 of a block are often as many lines a power of two apart, which share a
    cache set (5x slower at 4096 inputs).
    """
    never_inline()
    lanes = VECTOR_BYTES // weight.itemsize
    for v in range(0, block, lanes):
        columns = min(lanes, count - v)
        at = start + v * stride
        for f in range(0, terms, lanes):
            if columns > 0 and at + (columns - 1) * stride + f + lanes <= weight.size:
                if columns == lanes:
                    transpose_block(weight, at + f, stride, lines, f * block + v, block)
                else:
                    transpose_rows(weight, at + f, stride, lines, f * block + v, block, columns)
                continue
            for g in range(f, min(f + lanes, terms)):
                for i in range(lanes):
                    lines[g * block + v + i] = weight[at + i * stride + g] if i < columns else 0


@kernel
def _pack(first, end, weight, packed, sizes, tap_offsets):
    """Task: one block and some of its channels."""
    if on_threads_flushing():
        return
    packing = unpack(sizes, Packing)
    taps, depth, block = tap_offsets.size, packing.depth, packing.block
    # Whether the channels of a filter follow each other, in the order they are packed.
    together = packing.depth_stride == taps and packing.column_stride != 1
    step = 16 * max(1, 8 // taps) if together else 1
    lanes = VECTOR_BYTES // weight.itemsize
    lines = local_array((step * taps + lanes) * block, weight.dtype)  # fits the first two cache levels
    parts = (depth + packing.channels - 1) // packing.channels
    for task in range(first, end):
        place = task // parts
        part = task - place * parts
        group = place // packing.blocks
        column = (place - group * packing.blocks) * block
        count = min(block, packing.width - column)
        panel = packed[place * taps * depth * block : (place + 1) * taps * depth * block]
        start = group * packing.group_stride + column * packing.column_stride
        last = min(depth, (part + 1) * packing.channels)
        for j in range(part * packing.channels, last, step):
            at = start + j * packing.depth_stride
            channels = min(step, last - j)
            if packing.column_stride == 1:
                for tap in range(taps):
                    row = panel[(tap * depth + j) * block :][:block]
                    values = weight[at + tap_offsets[tap] :][:count]
                    for i in range(count):
                        row[i] = values[i]
                    for i in range(count, block):
                        row[i] = 0
                continue
            read_columns(weight, at, packing.column_stride, count, channels * taps, lines, block)
            for c in range(channels):
                for tap in range(taps):
                    row = panel[(tap * depth + j + c) * block :][:block]
                    line = lines[(c * taps + tap_offsets[tap]) * block :][:block]
                    for i in range(block):
                        row[i] = line[i]


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
