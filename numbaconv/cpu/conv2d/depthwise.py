"""Depthwise convolution, and grouped convolution with a few channels a group: no register tile has a use.

Channels-last (for the rest see `depthwise_planes`). A run of `PIXELS` results of one vector of channels stays in registers while all taps are added, up to 8
of a filter row at once, so that 14 results with 7 taps take 20 loads of x and 7 of weights for 98 multiply-adds. (One
tap after the other, a load of x each, 7x7 took 1.6 times and 17x17 2.4 times as long, waiting for the second-level
cache; adding tap by tap into a row in memory four times.) Runs that touch the left or right border look every pixel up
in a table, where those outside point to a page of zeros; the others step by a stride.

Forward is one grid of results; the input-gradient one per residue class of the stride, with the taps that reach it.
Cost: 2 * R * S * g flops per element, g channels a group, against 8 bytes of traffic: 3x3 is bound by memory.

Tried and lost: copies of the source rows with zeros beside them, so that no run meets a border (1.5 times slower at
3x3); the pixels of a run at the border copied into a strip with zeros (1.1 times); all rows of one vector of channels
before the next (2 times: every line is fetched in another order than it lies), or 2, 4, 8 rows (1.1 to 1.4 times).
"""

from __future__ import annotations

import functools
import itertools
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
from ..sizes import sizes_of, unpack
from . import depthwise_planes
from .algorithm import Algorithm
from .depthwise_tile import BORDER, INSIDE, group_run, run_length, sets_of, table_of
from .depthwise_weight_gradient import LONG_ROW, MOST_SUMS, backward_weight
from .residues import fill, residue_classes

FEWEST_CHANNELS = 16  # a vector
WIDEST_GROUP = VECTOR_BYTES // 8  # channels: whole groups in a vector of float64 too


class Grid(NamedTuple):
    """One grid of results. Pitches are in elements."""

    channels: int
    images: int
    rows: int
    columns: int
    row_step: int
    column_step: int
    source_height: int
    source_width: int
    out_start: int
    out_image: int
    out_row: int
    inside_first: int  # runs that begin from here ...
    inside_last: int  # ... to here touch no border


class _Taps(NamedTuple):
    """Source shift and place in the weight of the taps of an axis; and the tables of every run of columns."""

    row_shifts: np.ndarray
    row_weights: np.ndarray
    column_shifts: np.ndarray
    column_weights: np.ndarray
    sets: np.ndarray  # of columns, for `group_run`
    runs: np.ndarray  # first column of each; the last one overlaps the one before
    border_offsets: np.ndarray  # [run][set][tap + pixel]: source offset in row, or -1
    results: np.ndarray  # [run][pixel]: where in the row of results
    ahead: np.ndarray  # of long rows: what the next row of results is the first to read, from the source's next row on


class _Plan(NamedTuple):
    grids: tuple[tuple[Grid, _Taps, tuple[int, ...]], ...]  # the last one is as long as a run has pixels
    covers: bool = True  # every result is of a grid


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
    if layout_of(x) == CHANNELS_FIRST and depthwise_planes.pays(problem):
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
    for grid, taps, run in plan.grids:
        size = grid.images * grid.rows * grid.columns * grid.channels
        work_ns = size * (0.2 + 0.02 * taps.row_shifts.size * taps.column_shifts.size * len(group))
        args = x, distance, *packed, flat(out), lowest(relu, out.dtype), sizes_of(grid), taps, group, run
        launch(_convolve, grid.images * grid.rows, work_ns, *args)
    return out


@functools.lru_cache(maxsize=1024)
def _forward_plan(problem: Conv2dProblem) -> _Plan:
    n, c, h, w = problem.input_shape
    _, _, p, q = problem.output_shape
    _, group, r, s = problem.weight_shape
    (sh, sw), (dh, dw), (top, _, left, _) = problem.stride, problem.dilation, problem.padding
    rows = [(i * dh - top, i * s * group * c) for i in range(r)]
    columns = [(j * dw - left, j * group * c) for j in range(s)]
    return _Plan((_grid(c, (n, p, q), (sh, sw), (h, w), (p * q * c, q * c, c, 0), rows, columns, group),))


@functools.lru_cache(maxsize=1024)
def _backward_input_plan(problem: Conv2dProblem) -> _Plan:
    """As in `direct`: input row h gets the gradients of rows (h + top - r * dilation) / stride, where that is whole."""
    n, c, h, w = problem.input_shape
    _, _, p, q = problem.output_shape
    _, group, r, s = problem.weight_shape
    (sh, sw), (dh, dw), (top, _, left, _) = problem.stride, problem.dilation, problem.padding
    step = group * c
    all_rows, every_row = residue_classes(h, sh, dh, top, r)
    all_columns, every_column = residue_classes(w, sw, dw, left, s)
    grids = []
    for row, row_taps in all_rows:
        rows = [(shift, i * s * step) for shift, i in row_taps]
        for column, column_taps in all_columns:
            columns = [(shift, j * step) for shift, j in column_taps]
            pitches = (h * w * c, sh * w * c, sw * c, (row * w + column) * c)
            size = n, -(-(h - row) // sh), -(-(w - column) // sw)
            grids.append(_grid(c, size, (1, 1), (p, q), pitches, rows, columns, group))
    return _Plan(tuple(grids), every_row and every_column)


def _grid(
    channels: int, size: tuple[int, int, int], step: tuple[int, int], source: tuple[int, int],
    out: tuple[int, int, int, int], rows: list[tuple[int, int]], columns: list[tuple[int, int]], group: int,
) -> tuple[Grid, _Taps, tuple[int, ...]]:  # fmt: skip
    """`size`: images, rows, columns. `out`: pitches of image, row, column, and the start. Taps: (shift, weight)."""
    width = size[2]
    rows = sorted(rows)
    sets = sets_of([shift for shift, _ in columns], step[1])
    columns = [columns[s] for one in sets for s in one]
    shifts = [shift for shift, _ in columns]
    pixels = run_length(width, [len(one) for one in sets], group)
    table = table_of(sets, pixels)
    first = -(min(shifts) // step[1]) if min(shifts) < 0 else 0
    last = (source[1] - 1 - max(shifts)) // step[1] - pixels + 1
    runs = [min(q, max(0, width - pixels)) for q in range(0, width, pixels)]
    if width < pixels:
        last = -1
    offsets, results = [], []
    for q in runs:
        for s, count in zip(table[::3], table[1::3], strict=True):
            read = [(q + j) * step[1] + shifts[s] for j in range(pixels + count - 1)]
            offsets += [w * channels if 0 <= w < source[1] else -1 for w in read]
        results += [min(q + j, width - 1) * out[2] for j in range(pixels)]
    row, ahead = source[1] * channels, []
    if row >= LONG_ROW:
        new = itertools.product(range(min(step[0], len(rows))), range(min(step[1], len(shifts))))
        ahead = [i * row + j * channels for i, j in new]
    arrays = (
        [shift for shift, _ in rows], [place for _, place in rows],
        [shift * channels for shift, _ in columns], [place for _, place in columns], table,
        runs, offsets, results, ahead,
    )  # fmt: skip
    grid = Grid(channels, *size, *step, *source, out[3], out[0], out[1], first, last)
    return grid, _Taps(*(np.array(values, np.int64) for values in arrays)), (0,) * pixels


@kernel
def _convolve(first, end, x, zeros, weight, bias, out, floor, sizes, taps, group, pixels):
    """Task: one row of results."""
    if on_threads_flushing():
        return
    grid = unpack(sizes, Grid)
    lanes = VECTOR_BYTES // x.itemsize
    source_row = grid.source_width * grid.channels
    row_offsets = local_array(taps.row_shifts.size + 1, np.int64)
    row_weights = local_array(taps.row_shifts.size + 1, np.int64)
    # Out of the loops: each look into a named tuple counts references to the array, an atomic operation.
    column_shifts, column_weights, sets = taps.column_shifts, taps.column_weights, taps.sets
    lines_ahead = taps.ahead
    border_size = taps.border_offsets.size // max(1, taps.runs.size)
    step = grid.column_step * grid.channels
    for task in range(first, end):
        image = task // grid.rows
        i = task - image * grid.rows
        rows = 0
        row_offsets[0] = 0
        for tap in range(taps.row_shifts.size):
            h = i * grid.row_step + taps.row_shifts[tap]
            if 0 <= h < grid.source_height:
                row_offsets[rows] = (image * grid.source_height + h) * source_row
                row_weights[rows] = taps.row_weights[tap]
                rows += 1
        ahead = row_offsets[max(rows - 1, 0)] + source_row
        results = out[grid.out_start + image * grid.out_image + i * grid.out_row :]
        for run in range(taps.runs.size):
            q = taps.runs[run]
            inside = grid.inside_first <= q <= grid.inside_last
            borders = taps.border_offsets[run * border_size :]
            places = taps.results[run * len(pixels) :]
            source = x[q * step :] if inside else x
            soon = ahead if inside else ahead + q * step
            for c in range(0, grid.channels, lanes):
                channel = min(c, grid.channels - lanes)  # the last vector overlaps the one before
                if inside:
                    group_run(
                        source, zeros, row_offsets, row_weights, rows, column_shifts, column_weights, sets, step,
                        weight, grid.channels, bias, floor, results, places, channel, soon, lines_ahead, group, pixels,
                        INSIDE, lanes,
                    )  # fmt: skip
                else:
                    group_run(
                        source, zeros, row_offsets, row_weights, rows, borders, column_weights, sets, step,
                        weight, grid.channels, bias, floor, results, places, channel, soon, lines_ahead, group, pixels,
                        BORDER, lanes,
                    )  # fmt: skip


ALGORITHM = Algorithm(
    name="depthwise",
    supports=supports,
    pack_weight=pack_weight,
    forward=forward,
    backward_input=backward_input,
    backward_weight=backward_weight,
)
