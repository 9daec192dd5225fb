"""The tiles of a Winograd convolution: how many, where they lie, and their sizes for the kernels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...jit import helper, inline, never_inline
from ...shapes import Pair
from ..local_array import local_array
from ..packing import TILES, Columns
from ..register_tile import MIDDLE_ROWS, MIDDLE_VECTORS, WIDE, WIDE_ROWS, WIDE_VECTORS
from ..simd import VECTOR_BYTES
from .winograd_tile import transform_patch

# Elements between the values of one point and the next: at a distance of a power of two, 36 points share a cache set.
PITCH_PADDING = 16


class Tiling(NamedTuple):
    """The sizes of one Winograd convolution, for the kernels."""

    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    out_channels: int
    top: int
    left: int
    dilation_h: int
    dilation_w: int
    tile_rows: int  # of one image and residue class
    tile_columns: int
    groups: int
    depth: int  # channels of a group
    columns: int  # output channels of a group
    blocks: int  # of a group
    block: int
    unit: int  # tiles that are a multiple of every register tile's rows
    runs: int  # of whole units, about equally long; a task is of one of them
    run: int  # tiles of the longest
    segment: int = 0  # channels of a group that are multiplied at a time
    step: int = 1  # from input to input, but for the dilation
    out_step: int = 1  # from result to result


class Shape(NamedTuple):
    """A variant for the compiler: tuples whose lengths are numbers of points, results and taps (winograd_tile.py)."""

    points_h: tuple[int, ...]
    points_w: tuple[int, ...]
    results_h: tuple[int, ...]
    results_w: tuple[int, ...]

    @property
    def points(self) -> int:
        return len(self.points_h) * len(self.points_w)


def axis_results(results: int, taps: int) -> int:
    """Results of a tile along an axis: a filter of one tap needs no transform."""
    return 1 if taps == 1 else results


def shape_of(results: int, taps: Pair) -> Shape:
    """The variant for `results` and a filter of `taps`."""
    m = tuple(axis_results(results, t) for t in taps)
    h, w = ((0,) * (m[i] + taps[i] - 1) for i in (0, 1))
    return Shape(h, w, (0,) * m[0], (0,) * m[1])


def tiles_along(size: int, dilation: int, results: int) -> int:
    """Tiles that cover one residue class of an axis."""
    class_size = -(-size // dilation)
    return -(-class_size // results)


def count_tiles(images: int, size: Pair, dilation: Pair, shape: Shape) -> int:
    """Tiles of all images and residue classes."""
    rows, columns = (
        d * tiles_along(s, d, len(m))
        for s, d, m in zip(size, dilation, (shape.results_h, shape.results_w), strict=True)
    )
    return images * rows * columns


# What a column costs in a tile of 1, 2, 3 or 4 vectors (with AVX-512; see `packing.TILES`).
_PRICES = {1: TILES[2][1], 2: TILES[1][1], 3: 1.05, WIDE_VECTORS: 1.0}


def blocks_for(columns: int, itemsize: int) -> Columns:
    """The cut of columns that costs least. The last block is as wide as it has columns, rounded up to vectors."""
    lanes = VECTOR_BYTES // itemsize
    cuts = []
    for number, (tile, price) in enumerate(TILES, start=1):
        block = tile.vectors * lanes
        blocks = -(-columns // block)
        last = -(-(columns - (blocks - 1) * block) // lanes)
        cost = (blocks - 1) * block * price + last * lanes * _PRICES[last]
        rows = WIDE_ROWS if tile == WIDE and last > MIDDLE_VECTORS else MIDDLE_ROWS  # a multiple of every tile's
        cuts.append(Columns((0,) * number, rows, block, blocks, cost))
    return min(cuts, key=lambda cut: cut.cost)


@inline
def block_of(place, blocks, block, columns, itemsize):
    """The group of a block, its first column, columns and width: of `columns` of a group, in `blocks` of `block`."""
    group = place // blocks
    column = (place - group * blocks) * block
    count = min(block, columns - column)
    lanes = VECTOR_BYTES // itemsize
    return group, column, count, (count + lanes - 1) // lanes * lanes


@inline
def tile_of(width, itemsize):
    """Rows and vectors of the register tile for so many columns; kernels have all tiles and are compiled once."""
    vectors = width * itemsize // VECTOR_BYTES
    return WIDE_ROWS if vectors > MIDDLE_VECTORS else MIDDLE_ROWS, vectors


def count_runs(tiles: int, most: int, cut: Columns, alone: bool) -> tuple[int, int]:
    """(runs, tiles of the longest). More than one are an even number, so that two threads get equal shares.

    `alone`: whether there may be one.
    """
    units = max(1, -(-tiles // cut.rows))
    runs = -(-units // max(1, most // cut.rows))
    if runs % 2 and runs < units and not (alone and runs == 1):
        runs += 1
    return runs, -(-units // runs) * cut.rows


@inline
def run_of(number, tiling, tiles):
    """First tile of a run of so many tiles, and how many it has."""
    units = (tiles + tiling.unit - 1) // tiling.unit
    first = number * units // tiling.runs * tiling.unit
    return first, min((number + 1) * units // tiling.runs * tiling.unit, tiles) - first


@inline
def filters_along(points, results):
    """How many filters an axis has: all points of a filter of one tap have the same."""
    return 1 if len(points) == len(results) else len(points)


@inline
def place(tile, tiling, results_h, results_w):
    """Image, first row and first column of a tile's results."""
    across = tile // tiling.tile_columns
    column = tile - across * tiling.tile_columns
    down = across // tiling.tile_rows
    row = across - down * tiling.tile_rows
    right = down // tiling.dilation_w
    n = right // tiling.dilation_h
    p = (right - n * tiling.dilation_h) + tiling.dilation_h * results_h * row
    q = (down - right * tiling.dilation_w) + tiling.dilation_w * results_w * column
    return n, p, q


@helper
def transform_run(
    x, zeros, patches, start, pitch, first_tile, tiles, groups, segment, tiling, top, left,
    points_h, points_w, results_h, results_w,
):  # fmt: skip
    """patches: [group and segment][point][tile][channel of it], `pitch` from point to point."""
    never_inline()
    points = len(points_h) * len(points_w)
    offsets = local_array(points, np.int64)
    depth = tiling.channels // groups
    for t in range(tiles):
        n, p, q = place(first_tile + t, tiling, len(results_h), len(results_w))
        for i in range(len(points_h)):
            h = (p + i * tiling.dilation_h) * tiling.step - top
            for j in range(len(points_w)):
                w = (q + j * tiling.dilation_w) * tiling.step - left
                inside = 0 <= h < tiling.height and 0 <= w < tiling.width
                at = ((n * tiling.height + h) * tiling.width + w) * tiling.channels
                offsets[i * len(points_w) + j] = at if inside else zeros
        to = start + t * segment
        for group in range(groups):
            for c in range(0, depth, segment):
                transform_patch(x[group * depth + c :], offsets, min(segment, depth - c), patches, to, pitch,
                                points_h, points_w, results_h, results_w)  # fmt: skip
                to += points * pitch
