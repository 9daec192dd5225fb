"""Depthwise and narrow grouped convolution of channels-first images, as they lie: vectors run along rows.

To bring x into channels-last and the result back takes three times as long as the convolution. Here some rows of the
planes of a group are copied, the padding's zeros beside them, and a run of results *below* each other stays in
registers: the tile of `depthwise` with rows for columns, a column of the filter for a row of it, and one weight for
all lanes. Of a column stride w there are w planes, each with every w-th column, so that neighbours are w apart.

Cost: 2 * R * S * g flops per result, g channels a group, columns rounded up to a vector; x and out are read and
written once, copies stay in the first-level cache.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...jit import inline, kernel
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem
from ..correlate import lowest
from ..layout import empty, flat
from ..local_array import local_array
from ..packing import Packed
from ..simd import VECTOR_BYTES
from ..sizes import sizes_of, unpack
from ..transpose import fetch_vectors, split_padded
from .depthwise_tile import PLANES, group_run, run_length, sets_of, table_of

_PLANE_BYTES = 1 << 15  # of a task: the smallest first-level cache
_FEWEST_TASKS = 8  # enough to balance a few threads
# Of a vector, the columns: with 12 of 16, copies to channels-last and back take as long, with 7 half.
_FULL_ENOUGH = 0.8


class Planes(NamedTuple):
    """The sizes of one convolution, for the kernel."""

    channels: int
    group: int
    rows: int  # of the result
    columns: int
    height: int
    width: int
    top: int  # padding
    left: int
    row_step: int
    column_step: int
    lines: int  # rows of a task
    tasks: int  # of a group's planes
    reach: int  # source rows of a result beyond the first
    pitch: int  # from row to row of a plane
    phase: int  # from one column of a stride to the next
    plane: int
    fetched: int  # vectors of the next task's x that are fetched during each run of this one


class _Taps(NamedTuple):
    """As in `depthwise`; of columns there is one for each channel of a group."""

    column_shifts: np.ndarray
    column_weights: np.ndarray
    row_shifts: np.ndarray
    row_weights: np.ndarray
    sets: np.ndarray
    ahead: np.ndarray  # nothing is fetched ahead


class _Plan(NamedTuple):
    planes: Planes
    taps: _Taps
    run: tuple[int, ...]
    work_ns: float


def pays(problem: Conv2dProblem, itemsize: int) -> bool:
    """Whether a row of results fills enough of a vector."""
    return problem.output_shape[3] * itemsize >= _FULL_ENOUGH * VECTOR_BYTES


def forward(problem: Conv2dProblem, x: np.ndarray, packed: Packed, relu: bool) -> np.ndarray:
    """(N, C, P, Q), channels-first as x is. `packed` is that of `depthwise`."""
    plan = _plan(problem, x.itemsize)
    out = empty(problem.output_shape, x.dtype)
    tasks = problem.input_shape[0] * problem.groups * plan.planes.tasks
    args = flat(x), packed.weight, packed.bias, flat(out), lowest(relu, out.dtype), sizes_of(plan.planes)
    launch(_convolve, tasks, plan.work_ns, *args, plan.taps, (0,), plan.run)
    return out


@functools.lru_cache(maxsize=1024)
def _plan(problem: Conv2dProblem, itemsize: int) -> _Plan:
    n, _, height, width = problem.input_shape
    channels, group, r, s = problem.weight_shape
    _, _, rows, columns = problem.output_shape
    (sh, sw), (dh, dw), (top, _, left, _) = problem.stride, problem.dilation, problem.padding
    lanes = VECTOR_BYTES // itemsize
    sets = sets_of([i * dh for i in range(r)], sh)
    reach, pitch = (r - 1) * dh, columns + (s - 1) * dw // sw
    fit = (_PLANE_BYTES // (group * sw * pitch * itemsize) - reach) // sh
    tasks = max(-(-_FEWEST_TASKS // max(1, n * problem.groups)), -(-rows // max(8, fit, reach // sh)))
    run = run_length(-(-rows // tasks), [len(one) for one in sets], 1)
    lines = min(rows, -(-rows // (tasks * run)) * run)
    runs = -(-lines // run) * -(-columns // lanes) * group
    fetched = -(-group * ((lines - 1) * sh + reach + 1) * width // (runs * lanes))
    # Behind the rows: what runs read beyond the last one, and vectors beyond the last column.
    phase = (max(lines, run) - 1) * sh * pitch + reach * pitch + pitch + lanes
    planes = Planes(
        channels, group, rows, columns, height, width, top, left, sh, sw, lines, -(-rows // lines), reach, pitch,
        phase, phase * sw, fetched,
    )  # fmt: skip
    of_column = [(j * dw % sw * phase + j * dw // sw, j * group * channels) for j in range(s)]
    tables: tuple[list[int], ...] = (
        [i * phase * sw + shift for i in range(group) for shift, _ in of_column],
        [i * channels + place for i in range(group) for _, place in of_column],
        [i * dh * pitch for one in sets for i in one], [i * s * group * channels for one in sets for i in one],
        table_of(sets, run), [],
    )  # fmt: skip
    results = n * channels * rows * -(-columns // lanes) * lanes
    work_ns = results * (0.2 + 0.01 * r * s * group)
    return _Plan(planes, _Taps(*(np.array(values, np.int64) for values in tables)), (0,) * run, work_ns)


@inline
def _copy_row(x, at, z, inside, planes, to):
    """A row of x, which begins at `at`, or zeros, to every plane of a stride."""
    end = z.left + z.width if inside else 0
    if z.column_step == 1:
        split_padded(x, at - z.left, z.left, end, planes, to, z.phase, z.pitch, 1)
    elif z.column_step == 2:
        split_padded(x, at - z.left, z.left, end, planes, to, z.phase, z.pitch, 2)
    else:
        for i in range(z.column_step):
            for j in range(z.pitch):
                u = j * z.column_step + i
                planes[to + i * z.phase + j] = x[at + u - z.left] if z.left <= u < end else 0


@kernel
def _convolve(first, end, x, weight, bias, out, floor, sizes, taps, one, run):
    """Task: some rows of the results of a group."""
    if on_threads_flushing():
        return
    z = unpack(sizes, Planes)
    lanes = VECTOR_BYTES // x.itemsize
    planes = local_array(z.group * z.plane, x.dtype)
    places = local_array(len(run), np.int64)
    groups = z.channels // z.group
    # Out of the loops: each look into a named tuple counts references to the array, an atomic operation.
    column_shifts, column_weights, row_shifts, row_weights, sets, ahead = taps
    for task in range(first, end):
        of_group = task // z.tasks
        row = (task - of_group * z.tasks) * z.lines
        lines = min(z.lines, z.rows - row)
        for c in range(z.group):
            for i in range((lines - 1) * z.row_step + z.reach + 1):
                h = row * z.row_step + i - z.top
                at = ((of_group * z.group + c) * z.height + h) * z.width
                _copy_row(x, at, z, 0 <= h < z.height, planes, c * z.plane + i * z.pitch)
        soon = (of_group * z.group + c) * z.height * z.width + (row + lines) * z.row_step * z.width
        for i in range(0, lines, len(run)):
            i = max(0, min(i, lines - len(run)))  # the last run overlaps the one before
            for j in range(len(run)):
                places[j] = min(j, lines - 1 - i) * z.columns
            source = planes[i * z.row_step * z.pitch :]
            for k in range(z.group):
                channel = of_group % groups * z.group + k
                here = ((of_group * z.group + k) * z.rows + row + i) * z.columns
                results = out[here:]
                for q in range(0, z.columns, lanes):
                    fetch_vectors(x, soon, lanes, z.fetched, 1)
                    soon += z.fetched * lanes
                    group_run(
                        source, 0, column_shifts, column_weights, column_shifts.size, row_shifts, row_weights, sets,
                        z.row_step * z.pitch, weight[channel:], 0, bias[channel:], floor, results, places, q, 0, ahead,
                        2 * len(run) * z.columns, one, run, PLANES, z.columns - q,
                    )  # fmt: skip
