"""Which tile, and into how many parts the terms are split: by an estimate of the time.

A pure function of the sizes, not of the GPU, so that the same call gives the same bits on every one. The estimate is of
a GPU with `MULTIPROCESSORS`; a unit of time is what one of them takes for one result of a stage. A multiprocessor with
few blocks waits more than it computes, so a block takes no less than its results divided by the first `_EFFICIENCY`;
many blocks share it, at the second. These are guesses from instruction counts (see `tile`), not measured on a GPU.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from .tile import LARGE, MEDIUM, SMALL, Tile

MULTIPROCESSORS = 108
# Parts of a multiprocessor's peak: of one block alone, and of as many as fit.
_EFFICIENCY = {LARGE: (0.7, 1.0), MEDIUM: (0.3, 0.95), SMALL: (0.12, 0.6)}
_LAUNCH = 50_000  # units of time of a second launch, 3 us
_BYTES = 0.2  # units for a byte to or from memory, all multiprocessors together
_MOST_SPLITS = 64
_FEWEST_STAGES = 8  # of a split


class Tiling(NamedTuple):
    """A tile, the number of splits and the stages of each."""

    tile: Tile
    splits: int
    split_stages: int


@functools.lru_cache(maxsize=4096)
def choose_tiling(tiles: tuple[Tile, ...], rows: int, columns: int, parts: int, stages: int, itemsize: int) -> Tiling:
    """The quickest tiling by the estimate.

    Args:
        tiles: to choose from.
        rows, columns, stages: of one product.
        parts: how many such products there are.
        itemsize: bytes of an element.
    """
    best, least = Tiling(tiles[0], 1, stages), float("inf")
    for tile in tiles:
        shape = tile.shape(itemsize)
        blocks = -(-rows // shape.rows) * -(-columns // shape.columns) * parts
        alone, together = _EFFICIENCY[tile]
        splits = 1
        while splits <= _MOST_SPLITS and (splits == 1 or stages >= splits * _FEWEST_STAGES):
            split_stages = -(-stages // splits)
            on_each = -(-blocks * splits // MULTIPROCESSORS)
            results = shape.rows * shape.columns
            time = split_stages * results * max(1 / alone, on_each / together)
            if splits > 1:
                time += _LAUNCH + _BYTES * (splits + 1) * rows * columns * parts * itemsize
            if time < least:
                best, least = Tiling(tile, -(-stages // max(split_stages, 1)) or 1, split_stages), time
            splits *= 2
    return best
