"""Winograd convolution at stride 2: a sum of four convolutions at stride 1, of every other row and column.

The taps at even rows of a filter see only rows of one parity, those at odd rows the other; so do columns. So a filter
of three taps along an axis is F(m, 2) on one half of the inputs and F(m, 1), which needs no transform, on the other:
with m = 4, 5 + 4 products for 4 results, 81 for 4 x 4 where direct has 144; with four taps F(m, 2) on both, 100 for
256. These are the four *phases*, by the parity of rows and columns. Their results are added up in the output, by tasks
of so few tiles that they stay in the second-level cache.

The input-gradient is the mirror image: from the same gradients four convolutions at stride 1, each to the pixels of one
parity of rows and columns.

Cost per tile of m x m: 2 (2 m + 1)^2 C K flops for 3x3. Rounding is little above direct's (relative L2 error in float32
5e-7, 1.3e-6 with 1,024 channels, where direct has 4e-7, Winograd at stride 1 2e-6), since half of each axis is direct
and the points of F(4, 2) are only +-1, +-1/2 and infinity.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from ...jit import helper, inline, kernel, never_inline
from ...parallel import get_num_threads, launch, on_threads_flushing
from ...shapes import Conv2dProblem, Pair, Shape4
from ..correlate import lowest, zeros
from ..layout import CHANNELS_LAST, channels_last, contiguous, empty, flat, in_layout, layout_of
from ..local_array import local_array, zeroed_local_array
from ..memory import address_of, buffer
from ..packing import columns_for, pack_bias, read_columns
from ..simd import VECTOR_BYTES
from ..sizes import sizes_of, unpack
from .algorithm import Algorithm
from .winograd import FEWEST_CHANNELS, multiply_run
from .winograd_filters import (
    CHANNELS,
    TRANSFORMED,
    Filters,
    FilterStrides,
    channels_together,
    filter_pitch,
    filter_strides,
    lines_for,
)
from .winograd_plan import FEW_THREADS
from .winograd_points import has_transforms
from .winograd_tile import transform_taps
from .winograd_tiling import PITCH_PADDING, Tiling, block_of, blocks_for, count_runs, filters_along, run_of, tiles_along

# Of a tile, along both axes. With 5, 121 products for 225, images of 14x14 results (of 256 channels) took 0.9 of the
# time, others longer; not worth a variant.
_RESULTS = 4
_PATCH_BYTES = 1_000_000  # of a run of tiles
_RUN_TILES = 12, 24  # fewest and most; the fewest wherever tasks are few
_TASKS = 32
_FEWEST_TERMS = 32
_LEAST_SAVED = {"forward": 1.45, "backward_input": 1.35}
_FEWEST_TILES = {"forward": 64, "backward_input": 32}
_PRIVATE_BYTES = 6_000_000  # of filters that each thread transforms for itself (winograd.py)
_FEWEST_TASKS = 6  # with fewer runs their columns are cut too; patches are then transformed for each part

Lengths = tuple[int, ...]  # of which a kernel knows the length (winograd_tile.py)


class Phases(NamedTuple):
    """By parity of the taps: how far before a tile patches begin, how far after it results, both along each axis."""

    top_even: int
    top_odd: int
    left_even: int
    left_odd: int
    down_even: int
    down_odd: int
    right_even: int
    right_odd: int


class Shape(NamedTuple):
    """A variant for the compiler: numbers of points and of taps of each parity, and of results along both axes."""

    even_h: Lengths
    odd_h: Lengths
    even_w: Lengths
    odd_w: Lengths
    taps_even_h: Lengths
    taps_odd_h: Lengths
    taps_even_w: Lengths
    taps_odd_w: Lengths
    results: Lengths

    @property
    def filters(self) -> int:
        """Transformed, of all phases."""
        h, w = (sum(1 if len(p) == len(self.results) else len(p) for p in pair) for pair in (self[:2], self[2:4]))
        return h * w


class _Plan(NamedTuple):
    tiling: Tiling
    phases: Phases
    shape: Shape
    tiles: int
    parts: int  # of the columns
    filter_pitch: int
    strides: FilterStrides
    out_shape: Shape4


def supports(problem: Conv2dProblem) -> str:
    """Empty for a filter at stride 2 whose halves have transforms."""
    taps = problem.weight_shape[2:]
    if problem.stride != (2, 2):
        return f"the stride is {problem.stride}, not (2, 2)"
    if problem.dilation != (1, 1):
        return f"the dilation is {problem.dilation}, not (1, 1)"
    if not all(t > 2 and has_transforms(_RESULTS, half) for t in taps for half in _halves(t)):
        return f"there are no transforms for {taps[0]}x{taps[1]} taps at stride 2"
    channels = min(problem.weight_shape[1], problem.weight_shape[0] // problem.groups)
    return f"fewer than {FEWEST_CHANNELS} channels a group" if channels < FEWEST_CHANNELS else ""


def pays(problem: Conv2dProblem, direction: str) -> str:
    """Empty where products are saved, and not lost again in cut tiles, columns, or transforms of the filters.

    Measured with 1,343 random layers on one and two threads: where taken, the forward pass was 1.21 (prepared 1.26)
    times as fast as direct in the mean, at worst 0.71, the input-gradient 1.26 times, at worst 0.95.
    """
    k, c, r, s = problem.weight_shape
    depth, columns, size = c, k // problem.groups, list(problem.output_shape[2:])
    if direction == "backward_input":
        depth, columns, size = columns, depth, [-(-length // 2) for length in problem.input_shape[2:]]
    if depth < _FEWEST_TERMS:
        return f"{depth} channels a group to sum over, fewer than {_FEWEST_TERMS}"
    tiles = math.prod(tiles_along(length, 1, _RESULTS) for length in size)
    products = tiles * (2 * _RESULTS + r - 2) * (2 * _RESULTS + s - 2) * blocks_for(columns, 4).cost
    saved = math.prod(problem.output_shape[2:]) * r * s * columns_for(columns, 4).cost / products
    if saved < _LEAST_SAVED[direction]:
        return f"{saved:.2f} times fewer products, less than {_LEAST_SAVED[direction]}"
    tiles, fewest = tiles * problem.input_shape[0], _FEWEST_TILES[direction]
    return f"{tiles} tiles, fewer than {fewest}" if tiles < fewest else ""


def _halves(taps: int) -> tuple[int, int]:
    """How many taps are even, and odd."""
    return -(-taps // 2), taps // 2


def _shape_of(taps: Pair) -> Shape:
    """The variant for filters of `taps`."""
    parts = [half for t in taps for half in _halves(t)]
    lengths = *(_RESULTS + half - 1 for half in parts), *parts, _RESULTS
    return Shape._make((0,) * length for length in lengths)


def _sides(before: int, taps: int, flipped: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """(starts of patches, starts of results) of an axis, as in `Phases`.

    Result p gets inputs 2 p + tap - before. In the input-gradient position h gets gradients (h + before - tap) / 2, so
    that taps of one parity reach every other position; the last tap comes first.
    """
    if not flipped:
        return (before, before - 1), (0, 0)
    firsts = [(parity - before) % 2 for parity in (0, 1)]
    last = [parity + 2 * (half - 1) for parity, half in enumerate(_halves(taps))]
    starts = [-((first + before - tap) // 2) for first, tap in zip(firsts, last, strict=True)]
    return (starts[0], starts[1]), (firsts[0], firsts[1])


@functools.lru_cache(maxsize=1024)
def _plan(problem: Conv2dProblem, flipped: bool, itemsize: int) -> _Plan:
    """`flipped`: of the input-gradient."""
    r, s = problem.weight_shape[2:]
    groups, source, out_shape = problem.groups, problem.input_shape, problem.output_shape
    size = out_shape[2], out_shape[3]
    if flipped:
        source, out_shape = out_shape, source
        size = -(-out_shape[2] // 2), -(-out_shape[3] // 2)  # of the larger parity
    n, channels, h, w = source
    _, out_channels, p, q = out_shape
    shape = _shape_of((r, s))
    depth, columns = channels // groups, out_channels // groups
    cut = blocks_for(columns, itemsize)
    rows, across = (tiles_along(length, 1, _RESULTS) for length in size)
    tiles = n * rows * across
    most = min(_RUN_TILES[1], _PATCH_BYTES // (len(shape.even_h) * len(shape.even_w) * channels * itemsize))
    runs, run = count_runs(tiles, max(_RUN_TILES[0], min(most, tiles // _TASKS)), cut, alone=True)
    blocks = groups * cut.blocks
    tiling = Tiling(
        h, w, channels, p, q, out_channels, 0, 0, 1, 1, rows, across, groups, depth, columns, cut.blocks, cut.block,
        cut.rows, runs, run, step=1 if flipped else 2, out_step=2 if flipped else 1,
    )  # fmt: skip
    starts = [_sides(before, taps, flipped) for before, taps in zip(problem.padding[::2], (r, s), strict=True)]
    phases = Phases(*starts[0][0], *starts[1][0], *starts[0][1], *starts[1][1])
    strides = filter_strides(problem, flipped)
    parts = next(p for p in range(1, blocks + 1) if blocks % p == 0 and (runs * p >= _FEWEST_TASKS or p == blocks))
    pitch = filter_pitch(blocks, depth, cut.block)
    return _Plan(tiling, phases, shape, tiles, parts, pitch, strides, out_shape)


def pack_weight(problem: Conv2dProblem, weight: np.ndarray, bias: np.ndarray | None, kept: bool) -> Filters:
    return _pack(_plan(problem, False, weight.itemsize), weight, bias, kept)


def forward(problem: Conv2dProblem, x: np.ndarray, filters: Filters, relu: bool) -> np.ndarray:
    return _run(_plan(problem, False, x.itemsize), x, filters, relu)


def backward_input(
    problem: Conv2dProblem, grad_output: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> np.ndarray:
    plan = _plan(problem, True, grad_output.itemsize)
    filters = _pack(plan, weight, bias, False)
    return in_layout(_run(plan, grad_output, filters, False), layout_of(grad_output))


def _pack(plan: _Plan, weight: np.ndarray, bias: np.ndarray | None, kept: bool) -> Filters:
    """Filters as they come, or transformed: [phase][point][group and block][channel][column]."""
    tiling, dtype = plan.tiling, weight.dtype
    cut = blocks_for(tiling.columns, weight.itemsize)
    packed_bias = pack_bias(bias, tiling.groups, cut, tiling.columns, dtype, kept)
    weight = flat(contiguous(weight))
    count = plan.shape.filters * plan.filter_pitch
    if not kept and get_num_threads() <= FEW_THREADS and count * weight.itemsize <= _PRIVATE_BYTES:
        return Filters(weight, packed_bias, plan.strides)
    filters = buffer("packed weight", count, dtype, kept)
    tasks = tiling.groups * tiling.blocks * -(-tiling.depth // CHANNELS)
    args = plan.filter_pitch, sizes_of(tiling), sizes_of(plan.strides), *plan.shape
    launch(_transform, tasks, count * 0.1, weight, filters, *args)
    return Filters(filters, packed_bias, None)


def _run(plan: _Plan, source: np.ndarray, filters: Filters, relu: bool) -> np.ndarray:
    tiling, shape, bias = plan.tiling, plan.shape, filters.bias
    out = empty(plan.out_shape, source.dtype, CHANNELS_LAST)
    if not out.size:
        return out
    x = flat(channels_last(source))
    page = zeros(max(tiling.channels, bias.size), source.dtype)
    distance = (address_of(page) - address_of(x)) // source.itemsize
    added = tiling.out_step == 1
    lanes = VECTOR_BYTES // source.itemsize
    points = (len(shape.even_h) + len(shape.odd_h)) * (len(shape.even_w) + len(shape.odd_w))
    work_ns = plan.tiles * points * tiling.depth * tiling.groups * tiling.blocks * tiling.block / lanes * 0.2
    launch(
        _multiply, tiling.runs * plan.parts, work_ns,
        x, distance, plan.tiles, plan.parts, filters.weight, sizes_of(filters.strides or TRANSFORMED), shape.filters,
        plan.filter_pitch, bias, page if added else bias, flat(out),
        sizes_of(tiling), sizes_of(plan.phases), lowest(relu, out.dtype), *shape, (int(added),),
    )  # fmt: skip
    return out


@inline
def _phase_starts(even_h, odd_h, even_w, odd_w, results):
    """How many filters are before those of the second phase, the third and the fourth."""
    h, w = filters_along(even_h, results), filters_along(even_w, results)
    third = h * (w + filters_along(odd_w, results))
    return h * w, third, third + filters_along(odd_h, results) * w


@helper
def _phase_taps(offsets, taps, flipped, down, right, block, taps_h, taps_w):
    """Where the taps of a phase, which begin at row `down` and column `right`, are in a channel's lines."""
    never_inline()
    for i in range(len(taps_h)):
        row = down + 2 * (len(taps_h) - 1 - i if flipped else i)
        for j in range(len(taps_w)):
            column = right + 2 * (len(taps_w) - 1 - j if flipped else j)
            offsets[i * len(taps_w) + j] = (row * taps[1] + column) * block


@helper
def _transform_phase(
    lines, pitch, offsets, channels, block, filters, first, filter_pitch, points_h, points_w, taps_h, taps_w
):
    """Filters of one phase of some channels: [point][channel][column] from `first`."""
    never_inline()
    for c in range(channels):
        transform_taps(lines[c * pitch :], offsets, block, filters, first + c * block, filter_pitch,
                       points_h, points_w, taps_h, taps_w)  # fmt: skip


@helper
def _transform_filters(
    first, end, weight, filters, pitch, tiling, strides,
    even_h, odd_h, even_w, odd_w, taps_even_h, taps_odd_h, taps_even_w, taps_odd_w, results,
):  # fmt: skip
    """Filters of all phases: some channels of a block are one of `_transform`'s tasks."""
    never_inline()
    block, depth, flipped = tiling.block, tiling.depth, strides.flipped != 0
    taps = len(taps_even_h) + len(taps_odd_h), len(taps_even_w) + len(taps_odd_w)
    lines = lines_for(weight, taps[0] * taps[1], block)
    most = len(taps_even_h) * len(taps_even_w)
    offsets = local_array(4 * most, np.int64)
    parts = (depth + CHANNELS - 1) // CHANNELS
    second, third, fourth = _phase_starts(even_h, odd_h, even_w, odd_w, results)
    step = channels_together(strides, taps[0] * taps[1])
    for task in range(first, end):
        place = task // parts
        first_channel = (task - place * parts) * CHANNELS
        group, column, count, width = block_of(place, tiling.blocks, block, tiling.columns, weight.itemsize)
        line_pitch = taps[0] * taps[1] * width
        _phase_taps(offsets, taps, flipped, 0, 0, width, taps_even_h, taps_even_w)
        _phase_taps(offsets[most:], taps, flipped, 0, 1, width, taps_even_h, taps_odd_w)
        _phase_taps(offsets[2 * most :], taps, flipped, 1, 0, width, taps_odd_h, taps_even_w)
        _phase_taps(offsets[3 * most :], taps, flipped, 1, 1, width, taps_odd_h, taps_odd_w)
        last_channel = min(first_channel + CHANNELS, depth)
        for c in range(first_channel, last_channel, step):
            some = min(step, last_channel - c)
            at = group * strides.group + column * strides.column + c * strides.depth
            read_columns(weight, at, strides.column, count, some * taps[0] * taps[1], lines, width)
            to = place * depth * block + c * width
            _transform_phase(lines, line_pitch, offsets, some, width, filters, to, pitch,
                             even_h, even_w, taps_even_h, taps_even_w)  # fmt: skip
            _transform_phase(lines, line_pitch, offsets[most:], some, width, filters, to + second * pitch, pitch,
                             even_h, odd_w, taps_even_h, taps_odd_w)  # fmt: skip
            _transform_phase(lines, line_pitch, offsets[2 * most :], some, width, filters, to + third * pitch, pitch,
                             odd_h, even_w, taps_odd_h, taps_even_w)  # fmt: skip
            _transform_phase(lines, line_pitch, offsets[3 * most :], some, width, filters, to + fourth * pitch, pitch,
                             odd_h, odd_w, taps_odd_h, taps_odd_w)  # fmt: skip


@kernel
def _transform(
    first, end, weight, filters, pitch, sizes, strides,
    even_h, odd_h, even_w, odd_w, taps_even_h, taps_odd_h, taps_even_w, taps_odd_w, results,
):  # fmt: skip
    if on_threads_flushing():
        return
    _transform_filters(first, end, weight, filters, pitch, unpack(sizes, Tiling), unpack(strides, FilterStrides),
                       even_h, odd_h, even_w, odd_w,
                       taps_even_h, taps_odd_h, taps_even_w, taps_odd_w, results)  # fmt: skip


@kernel
def _multiply(
    first, end, x, zeros, tiles, parts, weight, strides, filter_count, filter_pitch, bias, other_bias, out,
    sizes, phase_sizes, floor,
    even_h, odd_h, even_w, odd_w, taps_even_h, taps_odd_h, taps_even_w, taps_odd_w, results, added,
):  # fmt: skip
    """Task: a run of tiles, some blocks of columns."""
    if on_threads_flushing():
        return
    tiling = unpack(sizes, Tiling)
    z = unpack(phase_sizes, Phases)
    points = len(even_h) * len(even_w)
    blocks = tiling.groups * tiling.blocks
    strides = unpack(strides, FilterStrides)
    filters = weight
    if strides.column > 0:  # not transformed
        filters = local_array(filter_count * filter_pitch, x.dtype)
        transforms = blocks * ((tiling.depth + CHANNELS - 1) // CHANNELS)
        _transform_filters(0, transforms, weight, filters, filter_pitch, tiling, strides, even_h, odd_h, even_w, odd_w,
                           taps_even_h, taps_odd_h, taps_even_w, taps_odd_w, results)  # fmt: skip
    products = local_array(points * (tiling.run * tiling.block + PITCH_PADDING) + tiling.block, x.dtype)
    pitch = tiling.run * tiling.channels + PITCH_PADDING
    patches = zeroed_local_array(points * pitch, x.dtype)
    second, third, fourth = _phase_starts(even_h, odd_h, even_w, odd_w, results)
    lowest = -np.inf if added[0] else floor
    for task in range(first, end):
        run = task // parts
        part = task - run * parts
        t, count = run_of(run, tiling, tiles)
        a, b = part * blocks // parts, (part + 1) * blocks // parts
        multiply_run(x, zeros, patches, pitch, t, count, a, b, tiling,
                     (z.top_even, z.left_even), (z.down_even, z.right_even),
                     filters, 0, filter_pitch, bias, products, out, lowest,
                     even_h, even_w, results, results, (0,))  # fmt: skip
        multiply_run(x, zeros, patches, pitch, t, count, a, b, tiling,
                     (z.top_even, z.left_odd), (z.down_even, z.right_odd),
                     filters, second * filter_pitch, filter_pitch, other_bias, products, out, lowest,
                     even_h, odd_w, results, results, added)  # fmt: skip
        multiply_run(x, zeros, patches, pitch, t, count, a, b, tiling,
                     (z.top_odd, z.left_even), (z.down_odd, z.right_even),
                     filters, third * filter_pitch, filter_pitch, other_bias, products, out, lowest,
                     odd_h, even_w, results, results, added)  # fmt: skip
        multiply_run(x, zeros, patches, pitch, t, count, a, b, tiling,
                     (z.top_odd, z.left_odd), (z.down_odd, z.right_odd),
                     filters, fourth * filter_pitch, filter_pitch, other_bias, products, out, floor,
                     odd_h, odd_w, results, results, added)  # fmt: skip


ALGORITHM = Algorithm(
    name="winograd_strided",
    supports=supports,
    pack_weight=pack_weight,
    forward=forward,
    backward_input=backward_input,
    backward_weight=None,  # (as at stride 1, by phases: 0.66 to 1.08 times direct's speed)
    pays=pays,
)
