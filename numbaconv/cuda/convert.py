"""Copies between arrays of any strides, at the speed of memory where strides allow it.

Axes are merged on the host until neighbours in memory are one axis. What is then one dense run is a plain copy; where
the axis that is dense in the source is another than the one that is dense in the target (channels-first to
channels-last and back) a tile goes through shared memory; all else is one thread for an element, in the target's
order. Bytes: one read, one write; the tile reads and writes whole lines of 128 bytes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from numba import cuda, int32, uint32

from .array import DeviceArray
from .indexing import blocks_for, quotient, thread_number
from .launch import T, kernel, launch
from .limits import LARGEST
from .runtime import runtime
from .streams import current_stream

TILE = 32  # elements of a side
_PITCH = TILE + 1  # of a row in shared memory: elements of a column lie in 32 different banks
_TILE_ELEMENTS = TILE * _PITCH
_ROWS = 8  # of a tile, at a time: 256 threads
_SMALLEST_SIDE = 16  # below, a tile is mostly empty, and a line is shared by few elements anyway


class Axis(NamedTuple):
    """Elements along one axis, and the elements from one to the next in the source and in the target."""

    size: int
    source: int
    target: int


def copy(source: DeviceArray, target: DeviceArray) -> None:
    """target[...] = source, for two arrays of one shape and dtype."""
    if source.size:
        itemsize = source.itemsize
        steps = zip(source.shape, source.strides, target.strides, strict=True)
        axes = merged([Axis(n, s // itemsize, t // itemsize) for n, s, t in steps])
        _copy_axes(source, target, axes)


def merged(axes: list[Axis]) -> list[Axis]:
    """The same copy with as few axes as can be, in the target's order, outermost first."""
    result: list[Axis] = []
    for axis in sorted((a for a in axes if a.size != 1), key=lambda a: (-abs(a.target), -abs(a.source))):
        if result:
            outer = result[-1]
            if outer.source == axis.source * axis.size and outer.target == axis.target * axis.size:
                result[-1] = Axis(outer.size * axis.size, axis.source, axis.target)
                continue
        result.append(axis)
    return result


def _copy_axes(source: DeviceArray, target: DeviceArray, axes: list[Axis]) -> None:
    """`source` and `target` say where the first elements are; the axes where the others."""
    size = math.prod(a.size for a in axes)
    if not axes or (len(axes) == 1 and axes[0][1:] == (1, 1)):
        stream = current_stream(target.device)
        source.owner.used_on(stream)
        target.owner.used_on(stream)
        runtime().copy(target.device, target.address, source.address, size * source.itemsize, stream)
        return
    if len(axes) > 4 or size > LARGEST:
        outer, itemsize = axes[0], source.itemsize
        for i in range(outer.size):
            part = source.view((), (), i * outer.source * itemsize), target.view((), (), i * outer.target * itemsize)
            _copy_axes(*part, axes[1:])
        return
    # Pointers go to the lowest address: no index is negative, whatever the strides.
    firsts = [sum(-a[k] * (a.size - 1) for a in axes if a[k] < 0) for k in (1, 2)]
    lowest = [x.view((), (), -first * x.itemsize) for x, first in zip((source, target), firsts, strict=True)]
    tiled = [a for a in axes if a.source == 1], [a for a in axes if a.target == 1]
    if all(tiled) and tiled[0] != tiled[1] and min(tiled[0][0].size, tiled[1][0].size) >= _SMALLEST_SIDE:
        _transposed(lowest, firsts, axes, tiled[0][0], tiled[1][0])
        return
    padded = [Axis(1, 0, 0)] * (4 - len(axes)) + axes
    launch(_copy, source.dtype, blocks_for(size, _copy), *lowest, *firsts, size, *(a.size for a in padded[1:]),
           *(a.source for a in padded), *(a.target for a in padded))  # fmt: skip


def _transposed(lowest: list[DeviceArray], firsts: list[int], axes: list[Axis], across: Axis, down: Axis) -> None:
    """`across` is the axis that is dense in the source, `down` the one that is dense in the target."""
    rest = [a for a in axes if a not in (across, down)]
    outer, inner = [Axis(1, 0, 0)] * (2 - len(rest)) + rest
    tiles = -(-down.size // TILE), -(-across.size // TILE)
    grid = outer.size * inner.size * tiles[0] * tiles[1]
    launch(_transpose, lowest[0].dtype, grid, *lowest, *firsts, down.size, across.size, *tiles, inner.size,
           outer.source, inner.source, down.source, outer.target, inner.target, across.target)  # fmt: skip


@kernel(threads=256)
def _copy(
    source: "T*", target: "T*", source_first: "i64", target_first: "i64", size: "i32",
    n1: "i32", n2: "i32", n3: "i32", s0: "i64", s1: "i64", s2: "i64", s3: "i64",
    t0: "i64", t1: "i64", t2: "i64", t3: "i64",
):  # fmt: skip
    i = thread_number()
    if i < size:
        rows = quotient(i, n3)
        planes = quotient(rows, n2)
        i0 = quotient(planes, n1)
        i1, i2, i3 = planes - i0 * n1, rows - planes * n2, i - rows * n3
        to = target_first + i0 * t0 + i1 * t1 + i2 * t2 + i3 * t3
        target[to] = source[source_first + i0 * s0 + i1 * s1 + i2 * s2 + i3 * s3]


@kernel(threads=TILE * _ROWS)
def _transpose(
    source: "T*", target: "T*", source_first: "i64", target_first: "i64", down: "i32", across: "i32",
    tiles_down: "i32", tiles_across: "i32", inner: "i32",
    outer_source: "i64", inner_source: "i64", down_source: "i64",
    outer_target: "i64", inner_target: "i64", across_target: "i64",
):  # fmt: skip
    """One tile of a block: read along the source's rows, written along the target's."""
    tile = cuda.shared.array(_TILE_ELEMENTS, T)
    block = int32(cuda.blockIdx.x)
    row = quotient(block, tiles_across)
    batch = quotient(row, tiles_down)
    outer = quotient(batch, inner)
    first_down = int32((row - batch * tiles_down) * TILE)
    first_across = int32((block - row * tiles_across) * TILE)
    line = quotient(cuda.threadIdx.x, TILE)
    lane = cuda.threadIdx.x - line * TILE
    inner_index = batch - outer * inner
    read = source_first + outer * outer_source + inner_index * inner_source
    written = target_first + outer * outer_target + inner_index * inner_target
    for k in range(0, TILE, _ROWS):
        if first_down + line + k < down and first_across + lane < across:
            tile[uint32((line + k) * _PITCH + lane)] = source[
                read + (first_down + line + k) * down_source + first_across + lane
            ]
    cuda.syncthreads()
    for k in range(0, TILE, _ROWS):
        if first_across + line + k < across and first_down + lane < down:
            target[written + (first_across + line + k) * across_target + first_down + lane] = tile[
                uint32(lane * _PITCH + line + k)
            ]
