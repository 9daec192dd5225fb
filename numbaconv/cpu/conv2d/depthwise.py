"""Depthwise convolution, and grouped convolution with a few channels a group: no register tile has a use.

Channels-last (for the rest see `depthwise_planes`). A run of `PIXELS` results of one vector of channels stays in
registers while all taps are added, up to 8 of a filter row at once, so that 14 results with 7 taps take 20 loads of x
and 7 of weights for 98 multiply-adds. (One tap after the other, a load of x each, 7x7 took 1.6 times and 17x17 2.4
times as long, waiting for the second-level cache; adding tap by tap into a row in memory four times.) Runs that touch
the left or right border look every pixel up in a table, where those outside point to a page of zeros; the others step
by a stride.

Forward is one grid of results; the input-gradient one per residue class of the stride, with the taps that reach it.
Cost: 2 * R * S * g flops per element, g channels a group, against 8 bytes of traffic: 3x3 is bound by memory.

Tried and lost: copies of the source rows with zeros beside them, so that no run meets a border (1.5 times slower at
3x3); the pixels of a run at the border copied into a strip with zeros (1.1 times); all rows of one vector of channels
before the next (2 times: every line is fetched in another order than it lies), or 2, 4, 8 rows (1.1 to 1.4 times).
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

from ...jit import kernel
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem, Shape4
from ..correlate import lowest, zeros
from ..layout import CHANNELS_FIRST, CHANNELS_LAST, channels_last, empty, flat, layout_of
from ..local_array import local_array
from ..memory import address_of, buffer
from ..packing import Packed
from ..simd import VECTOR_BYTES
from ..sizes import unpack
from . import depthwise_planes
from .algorithm import Algorithm
from .depthwise_tile import BORDER, INSIDE, PIXELS, group_run, run_length, sets_of, table_of
from .depthwise_weight_gradient import LONG_ROW, MOST_SUMS, backward_weight
from .residues import fill, residue_classes

FEWEST_CHANNELS = 16  # a vector
WIDEST_GROUP = VECTOR_BYTES // 8  # channels: whole groups in a vector of float64 too


class Sizes(NamedTuple):
    """Of all grids of results."""

    grids: int
    rows: int  # most of a grid
    channels: int
    source_height: int
    source_width: int
    out_image: int  # pitch, in elements


class Grid(NamedTuple):
    """One grid of results. Pitches are in elements; the rest is where its tables begin, each behind the one before."""

    rows: int
    row_step: int
    column_step: int
    out_start: int
    out_row: int
    inside_first: int  # runs that begin from here ...
    inside_last: int  # ... to here touch no border
    row_shifts: int  # of the taps: in the source
    row_weights: int  # of the taps: place in the weight
    column_shifts: int
    column_weights: int
    sets: int  # of columns, for `group_run`
    runs: int  # first column of each; the last one overlaps the one before
    border_offsets: int  # [run][set][tap + pixel]: source offset in row, or -1
    results: int  # [run][pixel]: where in the row of results
    ahead: int  # of long rows: what the next row of results is the first to read, from the source's next row on
    end: int


class _Part(NamedTuple):
    """What a grid is made of."""

    size: tuple[int, int]  # rows, columns
    out: tuple[int, int, int]  # pitch of a row, of a column, and the start
    rows: list[tuple[int, int]]  # taps: shift, place in the weight
    columns: list[tuple[int, int]]


class _Plan(NamedTuple):
    sizes: np.ndarray
    grids: np.ndarray
    tables: np.ndarray
    run: tuple[int, ...]  # as long as one has pixels
    tasks: int
    work_ns: float
    covers: bool  # whether every result is of a grid


_FIELDS = len(Grid._fields)


def supports(problem: Conv2dProblem) -> str:
    """Empty for groups of few channels, as many out as in."""
    channels, group = problem.input_shape[1], problem.weight_shape[1]
    if problem.groups == 1 or problem.weight_shape[0] != channels:
        return "it is not grouped, with as many output as input channels"
    if group > WIDEST_GROUP or group & (group - 1):
        return f"{group} channels a group, not 1, 2, ... {WIDEST_GROUP}"
    if channels < FEWEST_CHANNELS:
        return f"fewer than {FEWEST_CHANNELS} channels"
    sums = problem.weight_shape[3] * group
    return f"{sums} sums for a filter row, more than {MOST_SUMS}" if sums > MOST_SUMS else ""


def pack_weight(problem: Conv2dProblem, weight: np.ndarray, bias: np.ndarray | None, kept: bool) -> Packed:
    """(K, g, R, S) as flat [tap][channel of its group][k]."""
    return _pack(weight, bias, kept)


def _pack(weight: np.ndarray, bias: np.ndarray | None, kept: bool) -> Packed:
    channels = weight.shape[0]
    packed = Packed(
        buffer("packed weight", weight.size, weight.dtype, kept), buffer("packed bias", channels, weight.dtype, kept)
    )
    _, group, r, s = weight.shape
    packed.weight.reshape(r, s, group, channels)[...] = weight.transpose(2, 3, 1, 0)
    packed.bias[:] = 0 if bias is None else bias
    return packed


def forward(problem: Conv2dProblem, x: np.ndarray, packed: Packed, relu: bool) -> np.ndarray:
    """(N, C, P, Q): channels-last, or as x where its planes are convolved as they lie."""
    if layout_of(x) == CHANNELS_FIRST and depthwise_planes.pays(problem, x.itemsize):
        return depthwise_planes.forward(problem, x, packed, relu)
    return _run(_forward_plan(problem), problem, problem.output_shape, x, packed, relu)


def backward_input(
    problem: Conv2dProblem, grad_output: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> np.ndarray:
    """(N, C, H, W), channels-last."""
    k, group, r, s = weight.shape
    # Within a group, input and output channels change places.
    exchanged = weight.reshape(k // group, group, group, r, s).swapaxes(1, 2).reshape(weight.shape)
    packed = _pack(exchanged, bias, False)
    return _run(_backward_input_plan(problem), problem, problem.input_shape, grad_output, packed, False, bias)


def _run(
    plan: _Plan, problem: Conv2dProblem, out_shape: Shape4, source: np.ndarray, packed: Packed, relu: bool,
    bias: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    out = empty(out_shape, source.dtype, CHANNELS_LAST)
    if not plan.covers:
        fill(out, bias)
    x = flat(channels_last(source))
    page = zeros(out_shape[1], source.dtype)
    distance = (address_of(page) - address_of(x)) // x.itemsize
    group = (0,) * problem.weight_shape[1]
    args = x, distance, *packed, flat(out), lowest(relu, out.dtype), plan.sizes, plan.grids, plan.tables
    launch(_convolve, plan.tasks, plan.work_ns, *args, group, plan.run)
    return out


@functools.lru_cache(maxsize=1024)
def _forward_plan(problem: Conv2dProblem) -> _Plan:
    _, c, _, _ = problem.input_shape
    _, _, p, q = problem.output_shape
    _, group, r, s = problem.weight_shape
    (dh, dw), (top, _, left, _) = problem.dilation, problem.padding
    rows = [(i * dh - top, i * s * group * c) for i in range(r)]
    columns = [(j * dw - left, j * group * c) for j in range(s)]
    part = _Part((p, q), (q * c, c, 0), rows, columns)
    return _plan(problem, problem.input_shape, problem.output_shape, problem.stride, [part])


@functools.lru_cache(maxsize=1024)
def _backward_input_plan(problem: Conv2dProblem) -> _Plan:
    """As in `direct`: input row h gets the gradients of rows (h + top - r * dilation) / stride, where that is whole."""
    _, c, h, w = problem.input_shape
    _, group, r, s = problem.weight_shape
    (sh, sw), (dh, dw), (top, _, left, _) = problem.stride, problem.dilation, problem.padding
    step = group * c
    all_rows, every_row = residue_classes(h, sh, dh, top, r)
    all_columns, every_column = residue_classes(w, sw, dw, left, s)
    parts = []
    for row, row_taps in all_rows:
        rows = [(shift, i * s * step) for shift, i in row_taps]
        for column, column_taps in all_columns:
            columns = [(shift, j * step) for shift, j in column_taps]
            size = -(-(h - row) // sh), -(-(w - column) // sw)
            parts.append(_Part(size, (sh * w * c, sw * c, (row * w + column) * c), rows, columns))
    covers = every_row and every_column
    return _plan(problem, problem.output_shape, problem.input_shape, (1, 1), parts, covers)


def _plan(
    problem: Conv2dProblem, source: Shape4, out: Shape4, step: tuple[int, int], parts: list[_Part], covers: bool = True
) -> _Plan:  # fmt: skip
    """`step`: in the source, from one result of a grid to the next."""
    images, channels, height, width = source
    group = problem.weight_shape[1]
    sets = [sets_of([shift for shift, _ in part.columns], step[1]) for part in parts]
    lengths = [
        run_length(part.size[1], [len(one) for one in of_part], group)
        for part, of_part in zip(parts, sets, strict=True)
    ]
    pixels = min(lengths, default=PIXELS[0])
    grids: list[int] = []
    tables: list[int] = []
    for part, of_part in zip(parts, sets, strict=True):
        grid, of_grid = _grid(part, of_part, pixels, step, width, channels)
        starts = itertools.accumulate((len(table) for table in of_grid), initial=len(tables))
        grids += [*grid, *starts]
        tables += itertools.chain(*of_grid)
    rows = max((part.size[0] for part in parts), default=0)
    sizes = Sizes(len(parts), rows, channels, height, width, math.prod(out[1:]))
    results = [images * channels * math.prod(part.size) for part in parts]
    taps = [len(part.rows) * len(part.columns) * group for part in parts]
    work_ns = sum(size * (0.2 + 0.02 * many) for size, many in zip(results, taps, strict=True))
    numbers = np.array(sizes, np.int64), np.array(grids, np.int64), np.array(tables, np.int64)
    return _Plan(*numbers, (0,) * pixels, images * rows, work_ns, covers)


def _grid(
    part: _Part, sets: list[list[int]], pixels: int, step: tuple[int, int], source_width: int, channels: int
) -> tuple[tuple[int, ...], tuple[list[int], ...]]:  # fmt: skip
    """Its numbers, and its tables."""
    width = part.size[1]
    rows, columns = sorted(part.rows), [part.columns[s] for one in sets for s in one]
    shifts = [shift for shift, _ in columns]
    table = table_of(sets, pixels)
    first = -(min(shifts) // step[1]) if min(shifts) < 0 else 0
    last = (source_width - 1 - max(shifts)) // step[1] - pixels + 1 if width >= pixels else -1
    runs = [min(q, max(0, width - pixels)) for q in range(0, width, pixels)]
    offsets, results = [], []
    for q in runs:
        for s, count in zip(table[::3], table[1::3], strict=True):
            read = [(q + j) * step[1] + shifts[s] for j in range(pixels + count - 1)]
            offsets += [w * channels if 0 <= w < source_width else -1 for w in read]
        results += [min(q + j, width - 1) * part.out[1] for j in range(pixels)]
    row, ahead = source_width * channels, []
    if row >= LONG_ROW:
        new = itertools.product(range(min(step[0], len(rows))), range(min(step[1], len(shifts))))
        ahead = [i * row + j * channels for i, j in new]
    return (part.size[0], *step, part.out[2], part.out[0], first, last), (
        [shift for shift, _ in rows], [place for _, place in rows],
        [shift * channels for shift, _ in columns], [place for _, place in columns], table,
        runs, offsets, results, ahead,
    )  # fmt: skip


@kernel
def _convolve(first, end, x, zeros, weight, bias, out, floor, sizes, grids, tables, group, pixels):
    """Task: a row of results of each grid, so that those of an input-gradient are written nearly in order."""
    if on_threads_flushing():
        return
    z = unpack(sizes, Sizes)
    lanes = VECTOR_BYTES // x.itemsize
    source_row = z.source_width * z.channels
    taps = 0
    for g in range(z.grids):
        grid = unpack(grids[g * _FIELDS :], Grid)
        taps = max(taps, grid.row_weights - grid.row_shifts)
    row_offsets = local_array(taps + 1, np.int64)
    row_weights = local_array(taps + 1, np.int64)
    for task in range(first, end):
        image = task // z.rows
        i = task - image * z.rows
        for g in range(z.grids):
            grid = unpack(grids[g * _FIELDS :], Grid)
            if i >= grid.rows:
                continue
            # Slices out of the inner loops: each counts references to the array, an atomic operation.
            column_shifts = tables[grid.column_shifts :]
            column_weights = tables[grid.column_weights :]
            sets = tables[grid.sets : grid.runs]
            lines_ahead = tables[grid.ahead : grid.end]
            rows = 0
            row_offsets[0] = 0
            for tap in range(grid.row_weights - grid.row_shifts):
                h = i * grid.row_step + tables[grid.row_shifts + tap]
                if 0 <= h < z.source_height:
                    row_offsets[rows] = (image * z.source_height + h) * source_row
                    row_weights[rows] = tables[grid.row_weights + tap]
                    rows += 1
            ahead = row_offsets[max(rows - 1, 0)] + source_row
            results = out[grid.out_start + image * z.out_image + i * grid.out_row :]
            step = grid.column_step * z.channels
            runs = grid.border_offsets - grid.runs
            border_size = (grid.results - grid.border_offsets) // max(1, runs)
            for run in range(runs):
                q = tables[grid.runs + run]
                inside = grid.inside_first <= q <= grid.inside_last
                borders = tables[grid.border_offsets + run * border_size :]
                places = tables[grid.results + run * len(pixels) :]
                source = x[q * step :] if inside else x
                soon = ahead if inside else ahead + q * step
                for c in range(0, z.channels, lanes):
                    channel = min(c, z.channels - lanes)  # the last vector overlaps the one before
                    if inside:
                        group_run(
                            source, zeros, row_offsets, row_weights, rows, column_shifts, column_weights, sets, step,
                            weight, z.channels, bias, floor, results, places, channel, soon, lines_ahead,
                            grid.out_row, group, pixels, INSIDE, lanes,
                        )  # fmt: skip
                    else:
                        group_run(
                            source, zeros, row_offsets, row_weights, rows, borders, column_weights, sets, step,
                            weight, z.channels, bias, floor, results, places, channel, soon, lines_ahead,
                            grid.out_row, group, pixels, BORDER, lanes,
                        )  # fmt: skip


ALGORITHM = Algorithm(
    name="depthwise",
    supports=supports,
    pack_weight=pack_weight,
    forward=forward,
    backward_input=backward_input,
    backward_weight=backward_weight,
)
