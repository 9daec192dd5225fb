"""Copies between arrays of any strides, at the speed of memory where strides allow it.

Axes are merged on the host until neighbours in memory are one axis. What is then one dense run is a plain copy; where
the axis that is dense in the source is another than the one that is dense in the target (channels-first to
channels-last and back) a tile goes through shared memory; all else is one thread for an element, in the target's
order. Bytes: one read, one write; the tile reads and writes whole lines of 128 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numba import cuda, int32, int64, uint32

from . import memory
from .array import DeviceArray
from .indexing import blocks_for, divided, divisor, quotient, thread_number
from .launch import T, inline, kernel, launch
from .limits import LARGEST
from .runtime import runtime
from .streams import current_stream

_INT32 = np.dtype(np.int32)
_CARRIERS = {4: np.dtype(np.float32), 8: np.dtype(np.float64)}  # copies move bits, whatever these stand for
_MOST_AXES = 4  # of a kernel

TILE = 32  # elements of a side
_ROWS = 8  # of a tile, at a time: 256 threads
_PITCH = TILE + 1  # of a row in shared memory: elements of a column lie in 32 different banks
_TILE_ELEMENTS = TILE * _PITCH
_SMALLEST_SIDE = 16  # below, a tile is mostly empty, and a line is shared by few elements anyway


class Axis(NamedTuple):
    """Elements along one axis, and the units from one to the next in the source and in the target."""

    size: int
    source: int
    target: int


class Part(NamedTuple):
    """What one kernel copies: arrays from their lowest address on, and where in them the first element is.

    So no index is negative, whatever the strides. Axes are in the target's order, outermost first.
    """

    source: DeviceArray
    target: DeviceArray
    source_first: int
    target_first: int
    axes: list[Axis]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(a.size for a in self.axes)

    def arguments(self):
        """Those of `_copy`."""
        axes = [Axis(1, 0, 0)] * (_MOST_AXES - len(self.axes)) + self.axes
        sizes = (number for axis in axes[1:] for number in divisor(axis.size))
        return (*self[:4], self.size, *sizes, *(a.source for a in axes), *(a.target for a in axes))


def copy(source: DeviceArray, target: DeviceArray) -> None:
    """target[...] = source, for two arrays of one shape and dtype, of 4 or 8 bytes."""
    for part in _parts(source, target, source.itemsize):
        across = [a for a in part.axes if a.source == 1]
        down = [a for a in part.axes if a.target == 1]
        if not part.axes or (len(part.axes) == 1 and across and down):
            _copy_run(part)
        elif across and down and across != down and min(across[0].size, down[0].size) >= _SMALLEST_SIDE:
            _copy_tiles(part, across[0], down[0])
        else:
            launch(_copy, _CARRIERS[source.itemsize], blocks_for(part.size, _copy), *part.arguments())


def to_int32(x: DeviceArray) -> DeviceArray:
    """Integers of any dtype and strides as int32, C-contiguous; itself if they are. Too large ones become -2^31."""
    if x.dtype == _INT32 and x.c_contiguous:
        return x
    out = memory.empty(x.shape, _INT32, x.device)
    for part in _parts(x, out, 1):
        kind = x.itemsize, int(x.dtype.kind == "i")
        launch(_to_int32, _CARRIERS[4], blocks_for(part.size, _to_int32), *part.arguments(), *kind)
    return out


def _parts(source: DeviceArray, target: DeviceArray, source_unit: int) -> Iterator[Part]:
    """Parts of as few axes as can be. The source's indices are in units of so many bytes."""
    if source.size == 0:
        return
    units = source_unit, target.itemsize
    steps = zip(source.shape, source.strides, target.strides, strict=True)
    yield from _split(source, target, merged([Axis(n, s // units[0], t // units[1]) for n, s, t in steps]), units)


def _split(source: DeviceArray, target: DeviceArray, axes: list[Axis], units: tuple[int, int]) -> Iterator[Part]:
    """The outermost axis is cut up as long as there are too many axes or elements for a kernel."""
    inner = math.prod(a.size for a in axes[1:])
    if len(axes) > _MOST_AXES or (axes and inner * axes[0].size > LARGEST):
        outer, whole = axes[0], len(axes) <= _MOST_AXES and inner <= LARGEST
        step = LARGEST // inner if whole else 1  # as many at once as a kernel can count
        for i in range(0, outer.size, step):
            parts = source.view((), (), i * outer.source * units[0]), target.view((), (), i * outer.target * units[1])
            some = [outer._replace(size=min(step, outer.size - i))] if whole else []
            yield from _split(*parts, some + axes[1:], units)
        return
    firsts = [sum(-a[k] * (a.size - 1) for a in axes if a[k] < 0) for k in (1, 2)]
    lowest = source.view((), (), -firsts[0] * units[0]), target.view((), (), -firsts[1] * units[1])
    yield Part(*lowest, firsts[0], firsts[1], axes)


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


def _copy_run(part: Part) -> None:
    device = part.target.device
    stream = current_stream(device)
    part.source.owner.used_on(stream)
    part.target.owner.used_on(stream)
    nbytes = part.size * part.target.itemsize
    runtime().copy(device, part.target.address, part.source.address, nbytes, stream)


def _copy_tiles(part: Part, across: Axis, down: Axis) -> None:
    """`across` is the axis that is dense in the source, `down` the one that is dense in the target."""
    rest = [a for a in part.axes if a not in (across, down)]
    outer, inner = [Axis(1, 0, 0)] * (2 - len(rest)) + rest
    tiles = -(-down.size // TILE), -(-across.size // TILE)
    grid = outer.size * inner.size * tiles[0] * tiles[1]
    launch(_transpose, _CARRIERS[part.target.itemsize], grid, *part[:4], down.size, across.size, *tiles, inner.size,
           outer.source, inner.source, down.source, outer.target, inner.target, across.target)  # fmt: skip


@inline
def _places(
    i, source_first, target_first,
    n1, multiplier1, shift1, n2, multiplier2, shift2, n3, multiplier3, shift3, s0, s1, s2, s3, t0, t1, t2, t3,
):  # fmt: skip
    """Where element i of the target's order is in the source, and in the target."""
    rows, i3 = divided(i, n3, multiplier3, shift3)
    planes, i2 = divided(rows, n2, multiplier2, shift2)
    i0, i1 = divided(planes, n1, multiplier1, shift1)
    return (
        source_first + i0 * s0 + i1 * s1 + i2 * s2 + i3 * s3,
        target_first + i0 * t0 + i1 * t1 + i2 * t2 + i3 * t3,
    )


@kernel(threads=256)
def _copy(
    source: "T*", target: "T*", source_first: "i64", target_first: "i64", size: "i32",
    n1: "i32", multiplier1: "u32", shift1: "u32", n2: "i32", multiplier2: "u32", shift2: "u32",
    n3: "i32", multiplier3: "u32", shift3: "u32",
    s0: "i64", s1: "i64", s2: "i64", s3: "i64", t0: "i64", t1: "i64", t2: "i64", t3: "i64",
):  # fmt: skip
    i = thread_number()
    if i < size:
        at, to = _places(i, source_first, target_first, n1, multiplier1, shift1, n2, multiplier2, shift2,
                         n3, multiplier3, shift3, s0, s1, s2, s3, t0, t1, t2, t3)  # fmt: skip
        target[to] = source[at]


@kernel(threads=256, dtypes=("float32",))
def _to_int32(
    source: "u8*", target: "i32*", source_first: "i64", target_first: "i64", size: "i32",
    n1: "i32", multiplier1: "u32", shift1: "u32", n2: "i32", multiplier2: "u32", shift2: "u32",
    n3: "i32", multiplier3: "u32", shift3: "u32",
    s0: "i64", s1: "i64", s2: "i64", s3: "i64", t0: "i64", t1: "i64", t2: "i64", t3: "i64",
    itemsize: "i32", signed: "i32",
):  # fmt: skip
    i = thread_number()
    if i < size:
        at, to = _places(i, source_first, target_first, n1, multiplier1, shift1, n2, multiplier2, shift2,
                         n3, multiplier3, shift3, s0, s1, s2, s3, t0, t1, t2, t3)  # fmt: skip
        value = integer_at(source, at, itemsize, signed)
        target[to] = int32(value) if int64(-2147483648) <= value <= int64(2147483647) else int32(-2147483648)


@inline
def integer_at(source, at, itemsize, signed):
    """The integer of 1 to 8 bytes that begins at a byte, as int64; 2^63 - 1 where it does not fit."""
    value = int64(0)
    for k in range(itemsize):
        value |= int64(source[at + k]) << int64(8 * k)
    if signed != 0:
        above = int64(64 - 8 * itemsize)
        value = (value << above) >> above
    elif value < int64(0):
        value = int64(9223372036854775807)
    return value


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
    lane = int32(cuda.threadIdx.x - line * TILE)
    inner_index = batch - outer * inner
    at = source_first + outer * outer_source + inner_index * inner_source + first_across + lane
    to = target_first + outer * outer_target + inner_index * inner_target + first_down + lane
    for k in range(0, TILE, _ROWS):
        if first_down + line + k < down and first_across + lane < across:
            tile[uint32((line + k) * _PITCH + lane)] = source[at + (first_down + line + k) * down_source]
    cuda.syncthreads()
    for k in range(0, TILE, _ROWS):
        if first_across + line + k < across and first_down + lane < down:
            target[to + (first_across + line + k) * across_target] = tile[uint32(lane * _PITCH + line + k)]
