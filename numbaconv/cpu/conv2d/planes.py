"""Convolution with few results a pixel: vectors run along pixels, not along channels.

The register tile of `direct` has a vector of result channels in each row; of 6 channels it computes 16. Here the image
is copied into planes first, [channel][row][column] with the padding's zeros, whose rows are a *pitch* apart: the result
of a pixel and its neighbours is then the same tile with the operands exchanged, six channels by four vectors of pixels,
the weights broadcast as they lie. A filter element is a shift in the planes. Tiles run across the ends of rows, so
(filter columns - 1) of `pitch` results are computed for nothing; what a tile reads behind the planes ends up in such
results.

The input-gradient at stride 1 is the same with the filter's elements in reverse order and c and k exchanged.

Cost: 2 * pixels * (channels rounded up to tiles of 5 or 6) * terms flops, times pitch / columns; planes are written
once and read from the first two cache levels.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...jit import kernel
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem
from ..correlate import TERMS, lowest, zeros
from ..layout import CHANNELS_FIRST, empty, flat, flat_contiguous, layout_of
from ..local_array import local_array, zeroed_local_array
from ..packing import Packed, columns_for
from ..plane import copy_line, write_line
from ..register_tile import WIDE_ROWS, WIDE_VECTORS, multiply_near_tile
from ..simd import VECTOR_BYTES
from ..sizes import sizes_of, unpack
from ..transpose import split_padded
from .algorithm import Algorithm
from .planes_weight_gradient import MOST_TAPS, backward_weight

_PLANE_BYTES = 1 << 17  # of a task; half of the smallest second-level cache
_FEWEST_TASKS = 8  # enough to balance a few threads
# Of a vector's lane, to that of the wide tile over channels: results computed for nothing, and copies (measured).
_COST = {"forward": 1.25, "backward_input": 1.25, "backward_weight": 3.0}
_SHORT_ROWS = 5  # of a tile: ten results are two of these, sixteen two and one of six
_FEWEST_TERMS = 16  # below, copying takes longer than multiplying


class Planes(NamedTuple):
    """The sizes of one correlation, for the kernel. Strides are in elements."""

    rows: int  # of the result
    columns: int
    results: int  # channels of the result
    depth: int  # channels of the source
    height: int  # of the source
    width: int
    top: int  # padding; negative: what is cropped
    left: int
    lines: int  # rows of a task
    reach: int  # source rows of a result beyond the first
    pitch: int  # from row to row of a plane
    plane: int
    inner: int  # terms of the inner loop: the source's channels, or a filter's columns
    weight_step: int  # from one to the next
    plane_step: int
    weight_start: int
    weight_row: int  # from one result channel to the next

    @property
    def tasks_per_image(self) -> int:
        return -(-self.rows // self.lines)


class _Plan(NamedTuple):
    planes: Planes
    weight_offsets: np.ndarray  # of each turn of the outer loop
    plane_offsets: np.ndarray
    work_ns: float  # of an image


def supports(problem: Conv2dProblem) -> str:
    if problem.groups != 1:
        return f"there are {problem.groups} groups"
    return "" if problem.stride == (1, 1) else f"the stride is {problem.stride}, not 1"


def pays(problem: Conv2dProblem, direction: str) -> str:
    """Empty where vectors of channels would waste more than those of pixels do."""
    k, c, r, s = problem.weight_shape
    results, depth = (c, k) if direction == "backward_input" else (k, c)
    if s == 1:
        return "the filter has one column"
    if direction == "backward_weight" and depth * r * s > MOST_TAPS:
        return f"{depth * r * s} taps, more than {MOST_TAPS}: a vector of sums for each"
    if depth * r * s < _FEWEST_TERMS:
        return f"{depth * r * s} terms, fewer than {_FEWEST_TERMS}"
    wasteful = columns(problem, direction) >= columns_for(results, 4).cost
    return f"vectors of {results} channels waste less than those of pixels" if wasteful else ""


def columns(problem: Conv2dProblem, direction: str) -> float:
    """Its time by that of a multiply-add of the tile over channels, for each term and result (measured)."""
    results = problem.weight_shape[1 if direction == "backward_input" else 0]
    return -(-results // WIDE_ROWS) * WIDE_ROWS * _COST[direction]


def pack_weight(problem: Conv2dProblem, weight: np.ndarray, bias: np.ndarray | None, kept: bool) -> Packed:
    """As they are, in C order."""
    weight = flat_contiguous(weight)
    return Packed(weight, zeros(problem.weight_shape[0], weight.dtype) if bias is None else flat_contiguous(bias))


def forward(problem: Conv2dProblem, x: np.ndarray, packed: Packed, relu: bool) -> np.ndarray:
    """(N, K, P, Q) in the layout of x."""
    return _run(_forward_plan(problem, x.itemsize), problem.output_shape, x, packed, relu)


def backward_input(
    problem: Conv2dProblem, grad_output: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> np.ndarray:
    """(N, C, H, W) in the layout of grad_output."""
    plan = _backward_input_plan(problem, grad_output.itemsize)
    bias = zeros(problem.weight_shape[1], weight.dtype) if bias is None else flat_contiguous(bias)
    return _run(plan, problem.input_shape, grad_output, Packed(flat_contiguous(weight), bias), False)


def _run(
    plan: _Plan, out_shape: tuple[int, int, int, int], source: np.ndarray, packed: Packed, relu: bool
) -> np.ndarray:
    out = empty(out_shape, source.dtype, layout_of(source))
    if out.size:
        images = source.shape[0]
        launch(
            _correlate, images * plan.planes.tasks_per_image, images * plan.work_ns,
            flat(source), packed.weight, packed.bias, flat(out), sizes_of(plan.planes), plan.weight_offsets,
            plan.plane_offsets, _strides(source.shape, layout_of(source)), _strides(out_shape, layout_of(source)),
            lowest(relu, out.dtype),
        )  # fmt: skip
    return out


@functools.lru_cache(maxsize=4096)
def _strides(shape: tuple[int, int, int, int], layout: str) -> tuple[int, int, int, int]:
    """Of image, channel, row and column, in elements."""
    _, c, h, w = shape
    return (c * h * w, h * w, w, 1) if layout == CHANNELS_FIRST else (c * h * w, 1, w * c, c)


@functools.lru_cache(maxsize=1024)
def _forward_plan(problem: Conv2dProblem, itemsize: int) -> _Plan:
    _, depth, r, s = problem.weight_shape
    top, _, left, _ = problem.padding
    return _plan(
        problem, problem.input_shape, problem.output_shape, (top, left), (depth * r * s, r * s), False, itemsize
    )


@functools.lru_cache(maxsize=1024)
def _backward_input_plan(problem: Conv2dProblem, itemsize: int) -> _Plan:
    """Input row h gets grad_output row h + top - r * dilation: a correlation whose padding is what is left of the
    filter's extent, with the filter turned by half a circle.
    """
    _, c, r, s = problem.weight_shape
    (dh, dw), (top, _, left, _) = problem.dilation, problem.padding
    padding = (r - 1) * dh - top, (s - 1) * dw - left
    return _plan(problem, problem.output_shape, problem.input_shape, padding, (r * s, c * r * s), True, itemsize)


def _plan(
    problem: Conv2dProblem, source: tuple[int, int, int, int], out: tuple[int, int, int, int],
    padding: tuple[int, int], weight_strides: tuple[int, int], turned: bool, itemsize: int,
) -> _Plan:  # fmt: skip
    """`weight_strides`: from one result channel to the next, and from one term's channel to the next."""
    images, depth, height, width = source
    _, results, rows, columns = out
    r, s = problem.weight_shape[2:]
    dh, dw = problem.dilation
    reach, pitch = (r - 1) * dh, columns + (s - 1) * dw
    tasks = -(-_FEWEST_TASKS // max(images, 1))
    fit = _PLANE_BYTES // (depth * pitch * itemsize) - reach
    lines = max(1, min(rows, -(-rows // tasks), max(fit, reach)))
    # Behind a plane's rows: what the last tile reads beyond the last result.
    slack = WIDE_VECTORS * VECTOR_BYTES // itemsize
    plane = (lines + reach) * pitch + slack
    start, sign = (r * s - 1, -1) if turned else (0, 1)
    if depth >= s:  # the longer of the two is the inner loop
        inner, weight_step, plane_step = depth, weight_strides[1], plane
        outer = [(sign * (i * s + j), i * dh * pitch + j * dw) for i in range(r) for j in range(s)]
    else:
        inner, weight_step, plane_step = s, sign, dw
        outer = [
            (d * weight_strides[1] + sign * i * s, d * plane + i * dh * pitch) for d in range(depth) for i in range(r)
        ]
    planes = Planes(
        rows, columns, results, depth, height, width, *padding, lines, reach, pitch, plane,
        inner, weight_step, plane_step, start, weight_strides[0],
    )  # fmt: skip
    lanes = VECTOR_BYTES // itemsize
    multiplied = rows * pitch * (results + WIDE_ROWS - 1) * depth * r * s / lanes * 0.2
    work_ns = multiplied + rows * pitch * depth * 0.3 + rows * columns * results * 0.4
    weight_offsets, plane_offsets = (np.array(a, np.int64) for a in zip(*outer, strict=True))
    return _Plan(planes, weight_offsets, plane_offsets, work_ns)


@kernel
def _correlate(
    first, end, source, weight, bias, out, sizes, weight_offsets, plane_offsets, source_strides, out_strides, floor
):
    """Task: some rows of an image."""
    if on_threads_flushing():
        return
    z = unpack(sizes, Planes)
    lanes = VECTOR_BYTES // source.itemsize
    step = WIDE_VECTORS * lanes
    tasks_per_image = (z.rows + z.lines - 1) // z.lines
    room = max(z.depth, lanes)
    planes = local_array(room * z.plane + step, source.dtype)
    panel_pitch = (z.lines * z.pitch + step - 1) // step * step + lanes
    panel = local_array(max(z.results, WIDE_ROWS, lanes) * panel_pitch, source.dtype)
    panel_rows = local_array(WIDE_ROWS, np.int64)
    outer = weight_offsets.size
    weight_rows = local_array(outer * WIDE_ROWS, np.int64)
    short_rows = local_array(outer * _SHORT_ROWS, np.int64)
    for m in range(WIDE_ROWS):
        panel_rows[m] = m * panel_pitch
        for i in range(outer):  # rows beyond the last result repeat it
            at = min(m, z.results - 1) * z.weight_row + weight_offsets[i]
            weight_rows[i * WIDE_ROWS + m] = at
            if m < _SHORT_ROWS:
                short_rows[i * _SHORT_ROWS + m] = at
    tiles = (z.results + WIDE_ROWS - 1) // WIDE_ROWS
    tall = tiles - (tiles * WIDE_ROWS - z.results)  # the others are short
    tall = tall if tall >= 0 else tiles
    initial = zeroed_local_array(step, source.dtype)
    per_call = max(1, TERMS // z.inner)
    none = out.dtype.type(-np.inf)
    none_before = np.int64(0)
    # Columns j of a plane with 0 <= j - left < width.
    j0 = min(z.pitch, max(0, z.left))
    j1 = max(j0, min(z.pitch, z.width + z.left))
    for task in range(first, end):
        image = task // tasks_per_image
        row = (task - image * tasks_per_image) * z.lines
        lines = min(z.lines, z.rows - row)
        for i in range(lines + z.reach):
            h = row + i - z.top
            outside = h < 0 or h >= z.height
            at = image * source_strides[0] + h * source_strides[2] + (j0 - z.left) * source_strides[3]
            copy_line(source, at, source_strides[3], source_strides[1], z.depth, z.pitch if outside else j0,
                      z.pitch if outside else j1, z.pitch, planes, i * z.pitch, z.plane, room)  # fmt: skip
        for start in range(0, (lines - 1) * z.pitch + z.columns, step):
            for t in range(tiles):
                k = t * WIDE_ROWS - max(0, t - tall)
                k = max(0, min(k, z.results - WIDE_ROWS)) if t < tall else k  # the last ones overlap those before
                to = k * panel_pitch + start
                for turn in range(0, outer, per_call):
                    turns = min(per_call, outer - turn)
                    for d in range(0, z.inner, TERMS):
                        at = z.weight_start + k * z.weight_row + d * z.weight_step
                        terms, initially = min(TERMS, z.inner - d), turn == 0 and d == 0
                        if t < tall:
                            multiply_near_tile(weight, at, weight_rows, turn * WIDE_ROWS, z.weight_step,
                                               planes, start + d * z.plane_step, plane_offsets, turn, z.plane_step,
                                               panel, to, panel_rows, initial, 0, step, turns, terms, initially,
                                               none, True, WIDE_ROWS, WIDE_VECTORS)  # fmt: skip
                        else:
                            multiply_near_tile(weight, at, short_rows, turn * _SHORT_ROWS, z.weight_step,
                                               planes, start + d * z.plane_step, plane_offsets, turn, z.plane_step,
                                               panel, to, panel_rows, initial, 0, step, turns, terms, initially,
                                               none, True, _SHORT_ROWS, WIDE_VECTORS)  # fmt: skip
        positions = (lines - 1) * z.pitch + z.columns
        for k in range(z.results):
            line = panel[k * panel_pitch :][:positions]
            value = bias[k]
            for j in range(positions):
                total = line[j] + value
                line[j] = floor if total < floor else total
        end_of_task = image * out_strides[0] + (row + lines) * out_strides[2]
        for i in range(lines):
            to = image * out_strides[0] + (row + i) * out_strides[2]
            if out_strides[3] == 1:
                for k in range(z.results):
                    split_padded(panel, k * panel_pitch + i * z.pitch, none_before, z.columns,
                                 out, to + k * out_strides[1], none_before, z.columns, 1)  # fmt: skip
            else:
                write_line(panel, i * z.pitch, panel_pitch, z.results, z.columns, out, to, out_strides[3], end_of_task)


ALGORITHM = Algorithm(
    name="planes",
    supports=supports,
    pack_weight=pack_weight,
    forward=forward,
    backward_input=backward_input,
    backward_weight=backward_weight,
    pays=pays,
)
