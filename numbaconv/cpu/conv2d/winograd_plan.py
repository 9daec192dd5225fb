"""How a Winograd convolution is cut: runs of tiles, chunks, segments of channels, and who transforms the filters."""

from __future__ import annotations

import functools
from typing import NamedTuple

from ...parallel import get_num_threads
from ...shapes import Conv2dProblem, Shape4
from ..correlate import TERMS
from ..simd import VECTOR_BYTES
from .winograd_tiling import Shape, Tiling, blocks_for, count_runs, count_tiles, shape_of, tiles_along

# Transformed filters of a fused task. With 192 and 256 channels, whose are more, two threads took 1.05 to 1.1 times as
# long fused; with 800,000, a second-level cache, 96 channels took 1.3 times as long as so.
_FUSED_FILTER_BYTES = 2_500_000
_FUSED_BYTES = 400_000  # patches and products of a fused task
_CHUNK_BYTES = 4_000_000  # patches transformed at a time where not fused; 8 million: up to 1.1 times the time
_RUN_TILES = 96  # of a task where not fused
_MANY_BLOCKS = 8  # of columns: tasks enough for one run of tiles
# Of two runs where each transforms the filters again, for one block of columns. For more, which two threads share as
# they are, if not evenly, two and three times as many.
_FEWEST_TILES_OF_TWO = 24
FEW_THREADS = 4  # of which each transforms all filters for itself
_MOST_READS = 2  # of filters that tasks transform
_SEGMENT_BYTES = 16384  # filters of one point: a third of a first-level cache
_SEGMENT_ALL_BYTES = 600_000  # and of all points


class Plan(NamedTuple):
    """Everything about one direction of one problem that does not depend on the data."""

    tiling: Tiling
    tiles: int
    chunk: int  # tiles transformed at a time; 0: fused
    shape: Shape
    out_shape: Shape4
    transformed: bool  # filters, beforehand


@functools.lru_cache(maxsize=1024)
def plan_for(results: int, problem: Conv2dProblem, flipped: bool, transformed: bool | None, itemsize: int) -> Plan:
    """`flipped`: of the input-gradient, a convolution of grad_output with the filters flipped.

    `transformed`: whether the filters are beforehand; None: as is faster.
    """
    _, _, r, s = problem.weight_shape
    dilation, groups, (top, _, left, _) = problem.dilation, problem.groups, problem.padding
    source, out_shape = problem.input_shape, problem.output_shape
    if flipped:
        source, out_shape = out_shape, source
        top, left = (r - 1) * dilation[0] - top, (s - 1) * dilation[1] - left
    n, c, h, w = source
    _, k, p, q = out_shape
    depth, columns = c // groups, k // groups
    shape = shape_of(results, (r, s))
    cut = blocks_for(columns, itemsize)
    tiles = count_tiles(n, (p, q), dilation, shape)
    fused_run = _FUSED_BYTES // (shape.points * (c + cut.block) * itemsize) // cut.rows * cut.rows
    lanes = VECTOR_BYTES // itemsize
    fits = shape.points * c * -(-columns // lanes) * lanes * itemsize <= _FUSED_FILTER_BYTES
    fused = fits and fused_run > 0 and tiles >= _FEWEST_TILES_OF_TWO
    if transformed is None:
        transformed = not fused and tiles > _MOST_READS * _RUN_TILES
    chunk, segment = 0, depth
    if fused:
        runs, run = count_runs(tiles, fused_run, cut, alone=False)
    else:
        most = max(2 * _RUN_TILES, _CHUNK_BYTES // (shape.points * c * itemsize))
        chunk = max(1, -(-tiles // max(1, -(-tiles // most))))
        blocks = groups * cut.blocks
        even = blocks % 2 == 0 and (groups % 2 == 0 or columns > cut.blocks * cut.block - lanes)
        enough = transformed or tiles >= _FEWEST_TILES_OF_TWO * min(blocks, 3)
        alone = even or blocks >= _MANY_BLOCKS or not enough
        runs, run = count_runs(min(chunk, tiles), _RUN_TILES, cut, alone)
        row = cut.block * itemsize
        most = TERMS if transformed else max(32, min(_SEGMENT_BYTES, _SEGMENT_ALL_BYTES // shape.points) // row)
        segment = _segment(depth, most, lanes)
    tiling = Tiling(
        h, w, c, p, q, k, top, left, *dilation,
        tiles_along(p, dilation[0], len(shape.results_h)), tiles_along(q, dilation[1], len(shape.results_w)),
        groups, depth, columns, cut.blocks, cut.block, cut.rows, runs, run, segment,
    )  # fmt: skip
    return Plan(tiling, tiles, chunk, shape, out_shape, transformed)


def plan_of_filters(results: int, problem: Conv2dProblem, flipped: bool, kept: bool, itemsize: int) -> Plan:
    """The plan as filters are packed; `kept`: for many calls, so transformed beforehand.

    Of many threads the sum of what each transforms would exceed what it saves.
    """
    plan = plan_for(results, problem, flipped, kept or None, itemsize)
    if not plan.chunk and get_num_threads() > FEW_THREADS:  # (bits are the same)
        return plan_for(results, problem, flipped, True, itemsize)
    return plan


def _segment(depth: int, most: int, lanes: int) -> int:
    """Channels multiplied at a time: about equal segments, of at least a vector each."""
    even = -(-depth // -(-depth // most))
    return next(size for size in range(even, depth + 1) if depth % size == 0 or depth % size >= lanes)
