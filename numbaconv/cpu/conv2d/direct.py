"""Direct convolution: any stride, padding, dilation and groups, in all three directions.

Forward and input-gradient are correlations with packed weights (`correlate`); this file works out their grids and
taps, once per problem. The weight-gradient is `weight_gradient`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...shapes import Conv2dProblem, Shape4
from ..correlate import Grid, chunk_size, correlate
from ..layout import CHANNELS_LAST, empty, flat, in_layout, layout_of, padded_channels_last
from ..packing import Columns, Packed, Packing, columns_for, pack, pack_bias
from .algorithm import Algorithm
from .residues import fill, residue_classes
from .weight_gradient import backward_weight

# With fewer channels than this a tap's inner loop is too short: the taps of one filter row, which are
# neighbours in memory, are folded into one tap, on a padded copy of the (small) source.
FOLD_BELOW = 17


class _Plan(NamedTuple):
    """Everything about one direction of one problem that does not depend on the data."""

    columns: Columns
    packing: Packing
    tap_offsets: np.ndarray
    grids: tuple[tuple[Grid, np.ndarray], ...]
    source_padding: Shape4  # zeros to put around the source first
    covers: bool = True  # every result is of a grid


class _Taps(NamedTuple):
    """The taps of one grid: one of `rows` with one of `columns`; each a (source shift, filter index)."""

    rows: list[tuple[int, int]]
    columns: list[tuple[int, int]]


def pack_weight(problem: Conv2dProblem, weight: np.ndarray, bias: np.ndarray | None, kept: bool) -> Packed:
    """For `forward`."""
    return _pack(forward_plan(problem, weight.itemsize), weight, bias, kept)


def _pack(plan: _Plan, weight: np.ndarray, bias: np.ndarray | None, kept: bool = False) -> Packed:
    packing = plan.packing
    return Packed(
        pack(weight, packing, plan.tap_offsets, kept),
        pack_bias(bias, packing.groups, plan.columns, packing.width, weight.dtype, kept),
    )


def forward(problem: Conv2dProblem, x: np.ndarray, packed: Packed, relu: bool) -> np.ndarray:
    """(N, K, P, Q), channels_last."""
    return _run(forward_plan(problem, x.itemsize), problem.output_shape, x, packed, relu)


def backward_input(
    problem: Conv2dProblem, grad_output: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> np.ndarray:
    """(N, C, H, W) in the layout of grad_output."""
    plan = _backward_input_plan(problem, grad_output.itemsize)
    grad_input = _run(plan, problem.input_shape, grad_output, _pack(plan, weight, bias), False, bias)
    return in_layout(grad_input, layout_of(grad_output))


def _run(
    plan: _Plan, out_shape: Shape4, source: np.ndarray, packed: Packed, relu: bool, bias: np.ndarray | None = None
) -> np.ndarray:
    out = empty(out_shape, source.dtype, CHANNELS_LAST)
    if not plan.covers:
        fill(out, bias)
    if out.size:
        flat_source = padded_channels_last(source, plan.source_padding, "padded source")
        for grid, taps in plan.grids:
            correlate(grid, taps, flat_source, packed.weight, packed.bias, flat(out), plan.columns.tile, relu)
    return out


@functools.lru_cache(maxsize=1024)
def forward_plan(problem: Conv2dProblem, itemsize: int) -> _Plan:
    n, c, h, w = problem.input_shape
    k, depth, r, s = problem.weight_shape
    _, _, p, q = problem.output_shape
    groups, width = problem.groups, k // problem.groups
    columns = columns_for(width, itemsize)
    packing = Packing(
        groups, columns.blocks, columns.block, width, depth,
        group_stride=width * depth * r * s, column_stride=depth * r * s, depth_stride=r * s,
    )  # fmt: skip
    (sh, sw), (dh, dw), (top, _, left, _) = problem.stride, problem.dilation, problem.padding
    taps = _Taps([(i * dh - top, i) for i in range(r)], [(j * dw - left, j) for j in range(s)])
    grid = _grid(n, p, q, (sh, sw), (h, w, c), (p * q * k, q * k, k, 0), packing, columns, r * s, group_depth=depth)
    return _finish([(grid, taps)], columns, packing, (r, s))


@functools.lru_cache(maxsize=1024)
def _backward_input_plan(problem: Conv2dProblem, itemsize: int) -> _Plan:
    """Input row h gets grad_output row (h + top - r * dilation) / stride, where that is whole.

    There is a grid for each class of rows and class of columns (see `residues`).
    """
    n, c, h, w = problem.input_shape
    k, width, r, s = problem.weight_shape
    _, _, p, q = problem.output_shape
    groups, depth = problem.groups, k // problem.groups
    columns = columns_for(width, itemsize)
    packing = Packing(
        groups, columns.blocks, columns.block, width, depth,
        group_stride=depth * width * r * s, column_stride=r * s, depth_stride=width * r * s,
    )  # fmt: skip
    (sh, sw), (dh, dw), (top, _, left, _) = problem.stride, problem.dilation, problem.padding
    all_rows, every_row = residue_classes(h, sh, dh, top, r)
    all_columns, every_column = residue_classes(w, sw, dw, left, s)
    grids = []
    for row, row_taps in all_rows:
        for column, column_taps in all_columns:
            pitches = (h * w * c, sh * w * c, sw * c, (row * w + column) * c)
            rows_here, columns_here = -(-(h - row) // sh), -(-(w - column) // sw)
            grid = _grid(
                n, rows_here, columns_here, (1, 1), (p, q, k), pitches, packing, columns, r * s, group_depth=depth
            )
            grids.append((grid, _Taps(row_taps, column_taps)))
    return _finish(grids, columns, packing, (r, s))._replace(covers=every_row and every_column)


def _grid(
    images: int, rows: int, columns: int, step: tuple[int, int], source: tuple[int, int, int],
    out: tuple[int, int, int, int], packing: Packing, cut: Columns, taps: int, group_depth: int,
) -> Grid:  # fmt: skip
    """`source`: height, width, channels. `out`: pitches of image, row and column, and the start."""
    return Grid(
        images=images, rows=rows, columns=columns, row_step=step[0], column_step=step[1],
        source_height=source[0], source_width=source[1], source_pixel=source[2],
        out_start=out[3], out_image=out[0], out_row=out[1], out_column=out[2],
        groups=packing.groups, depth=packing.depth, group_depth=group_depth, width=packing.width,
        blocks=cut.blocks, block=cut.block, weight_block=taps * packing.depth * cut.block,
        chunk=chunk_size(rows * columns, cut.rows),
    )  # fmt: skip


def _finish(grids: list[tuple[Grid, _Taps]], columns: Columns, packing: Packing, filter_size: tuple[int, int]) -> _Plan:
    r, s = filter_size
    if len(grids) == 1 and packing.groups == 1 and packing.depth < FOLD_BELOW and s > 1:
        grid, taps = grids[0]
        # Neighbours in memory: shifts 1 apart, in the order the filter columns are packed in. All rows of the filter:
        # of an image lower than the stride there is one grid too, and some rows do not reach it.
        order = sorted(taps.columns)
        if len(taps.rows) == r and len(order) == s and order[-1][0] - order[0][0] == s - 1:
            return _folded(grid, _Taps(sorted(taps.rows), order), columns, packing, filter_size)
    tap_offsets = np.arange(r * s, dtype=np.int64)
    tables = [
        (grid, np.array([(h, w, i * s + j) for h, i in taps.rows for w, j in taps.columns], np.int64).reshape(-1, 3))
        for grid, taps in grids
    ]
    return _Plan(columns, packing, tap_offsets, tuple(tables), (0, 0, 0, 0))


def _folded(grid: Grid, taps: _Taps, columns: Columns, packing: Packing, filter_size: tuple[int, int]) -> _Plan:
    """One tap per filter row, s times as deep, on a source padded so that every tap stays inside."""
    _, s = filter_size
    top = max(0, -taps.rows[0][0])
    left = max(0, -taps.columns[0][0])
    bottom = max(0, (grid.rows - 1) * grid.row_step + taps.rows[-1][0] - (grid.source_height - 1))
    right = max(0, (grid.columns - 1) * grid.column_step + taps.columns[-1][0] - (grid.source_width - 1))
    grid = grid._replace(
        depth=s * packing.depth,
        source_height=grid.source_height + top + bottom,
        source_width=grid.source_width + left + right,
    )
    table = [(h + top, taps.columns[0][0] + left, row) for row, (h, _) in enumerate(taps.rows)]
    tap_offsets = np.array([i * s + j for _, i in taps.rows for _, j in taps.columns], np.int64)
    padding = (top, bottom, left, right)
    return _Plan(columns, packing, tap_offsets, ((grid, np.array(table, np.int64)),), padding)


ALGORITHM = Algorithm(
    name="direct",
    supports=lambda problem: "",
    pack_weight=pack_weight,
    forward=forward,
    backward_input=backward_input,
    backward_weight=backward_weight,
)
