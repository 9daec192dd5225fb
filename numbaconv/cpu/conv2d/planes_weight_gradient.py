"""The weight-gradient with few results a pixel: dot products along pixels.

grad_weight[k, c, r, s] is the dot product of plane k of grad_output and plane c of x, shifted by (r, s). Some lines of
an image at a time, both are copied into planes (see `planes`); a register tile then takes six planes k and four taps
(c, r, s). `weight_gradient` has a vector of k's instead: of 6 it computes 16.

Tasks (splits) are runs of such units of lines, each with sums of its own, a vector for each weight, which are added at
the end, lanes first, splits in order. The cut depends on the problem only.

Cost: 2 * pixels * (k rounded up to 6) * (c * r * s rounded up to 4) flops.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...jit import kernel
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem
from ..dot_tile import dot_lines
from ..layout import element_strides, empty, flat
from ..line_tile import sum_line
from ..local_array import local_array, zeroed_local_array
from ..memory import scratch
from ..plane import copy_line
from ..register_tile import WIDE_VECTORS
from ..simd import VECTOR_BYTES
from ..sizes import sizes_of, unpack

_SPLITS = 16  # enough to balance a few threads
_PLANE_BYTES = 1 << 17  # of a unit; half of the smallest second-level cache
MOST_TAPS = 640  # of all channels: sums of a split, a vector for each and result, that fit a second-level cache
_MOST_TERMS = 2048  # 512 a lane of the narrowest vectors
# The register tile: 24 sums, and 10 vectors loaded for 24 multiply-adds. With 16 registers 12, and 8 for 12.
TILE_RESULTS, TILE_TAPS = 6, WIDE_VECTORS


class _Planes(NamedTuple):
    """The sizes of one weight-gradient, for the kernel. Strides are in elements."""

    rows: int  # of the output
    columns: int
    results: int
    depth: int  # channels of x
    height: int
    width: int
    top: int
    left: int
    filter_rows: int
    filter_columns: int
    row_dilation: int
    column_dilation: int
    lines: int  # of a unit
    units_per_image: int
    units: int
    splits: int
    pitch: int  # from row to row of a plane of x
    plane: int  # of x
    grad_plane: int
    lanes: int

    @property
    def results_padded(self) -> int:
        return -(-self.results // TILE_RESULTS) * TILE_RESULTS

    @property
    def sums(self) -> int:
        """Of a split."""
        return self.results_padded * -(-self.taps // TILE_TAPS) * TILE_TAPS * self.lanes

    @property
    def taps(self) -> int:
        """Of all channels."""
        return self.depth * self.filter_rows * self.filter_columns


def backward_weight(problem: Conv2dProblem, grad_output: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(K, C, R, S), C-contiguous."""
    out = empty(problem.weight_shape, x.dtype)
    if grad_output.size == 0 or out.size == 0:
        out[...] = 0
        return out
    z = _planes(problem, x.itemsize)
    sums = scratch("sums", z.splits * z.sums, x.dtype)
    copied = problem.input_shape[0] * z.rows * z.pitch * (z.depth + z.results)
    work_ns = problem.input_shape[0] * z.rows * z.columns * z.sums / z.lanes**2 * 0.3 + copied * 0.4
    launch(_accumulate, z.splits, work_ns, flat(x), flat(grad_output), sums, sizes_of(z), element_strides(x),
           element_strides(grad_output))  # fmt: skip
    with np.errstate(all="ignore"):
        total = np.add.reduce(sums.reshape(z.splits, z.sums)[:, : z.sums // z.lanes], axis=0)
    # [block of k][block of taps][k][tap]
    total = total.reshape(-1, -(-z.taps // TILE_TAPS), TILE_RESULTS, TILE_TAPS)
    total = total.transpose(0, 2, 1, 3).reshape(z.results_padded, -1)
    out.reshape(z.results, -1)[...] = total[: z.results, : z.taps]
    return out


@functools.lru_cache(maxsize=1024)
def _planes(problem: Conv2dProblem, itemsize: int) -> _Planes:
    n, c, h, w = problem.input_shape
    k, _, r, s = problem.weight_shape
    _, _, p, q = problem.output_shape
    top, _, left, _ = problem.padding
    (dh, dw), pitch = problem.dilation, q + (s - 1) * problem.dilation[1]
    reach = (r - 1) * dh
    lanes = VECTOR_BYTES // itemsize
    fit = (_PLANE_BYTES // itemsize - c * reach * pitch) // (c * pitch + k * q)
    lines = max(1, min(p, max(fit, reach), 512 * lanes // q, -(-p * n // _SPLITS)))
    units_per_image = -(-p // lines)
    units = n * units_per_image
    return _Planes(
        p, q, k, c, h, w, top, left, r, s, dh, dw, lines, units_per_image, units, min(units, _SPLITS),
        pitch, (lines + reach) * pitch + lanes, lines * q + lanes, lanes,
    )  # fmt: skip


@kernel
def _accumulate(first, end, x, grad, sums, sizes, x_strides, grad_strides):
    """Task: a split, some units of lines."""
    if on_threads_flushing():
        return
    z = unpack(sizes, _Planes)
    lanes = VECTOR_BYTES // x.itemsize
    reach = (z.filter_rows - 1) * z.row_dilation
    padded = (z.results + TILE_RESULTS - 1) // TILE_RESULTS * TILE_RESULTS
    room, grad_room = max(z.depth, lanes), max(padded, lanes)
    planes = local_array(room * z.plane, x.dtype)
    grads = zeroed_local_array(grad_room * z.grad_plane, x.dtype)
    none = np.int64(0)  # a literal would be a type of its own
    taps = z.depth * z.filter_rows * z.filter_columns
    tap_blocks = (taps + TILE_TAPS - 1) // TILE_TAPS
    offsets = local_array(tap_blocks * TILE_TAPS, np.int64)
    for i in range(offsets.size):
        tap = min(i, taps - 1)  # those beyond the last repeat it
        c = tap // (z.filter_rows * z.filter_columns)
        r = tap // z.filter_columns % z.filter_rows
        s = tap % z.filter_columns
        offsets[i] = c * z.plane + r * z.row_dilation * z.pitch + s * z.column_dilation
    tile = TILE_RESULTS * TILE_TAPS * lanes
    j0 = min(z.pitch, max(0, z.left))
    j1 = max(j0, min(z.pitch, z.width + z.left))
    for split in range(first, end):
        begin, stop = z.units * split // z.splits, z.units * (split + 1) // z.splits
        for unit in range(begin, stop):
            image = unit // z.units_per_image
            row = (unit - image * z.units_per_image) * z.lines
            lines = min(z.lines, z.rows - row)
            for i in range(lines + reach):
                h = row + i - z.top
                outside = h < 0 or h >= z.height
                at = image * x_strides[0] + h * x_strides[2] + (j0 - z.left) * x_strides[3]
                copy_line(x, at, x_strides[3], x_strides[1], z.depth, z.pitch if outside else j0,
                          z.pitch if outside else j1, z.pitch, planes, i * z.pitch, z.plane, room)  # fmt: skip
            for i in range(lines):
                at = image * grad_strides[0] + (row + i) * grad_strides[2]
                copy_line(grad, at, grad_strides[3], grad_strides[1], z.results, none, z.columns, z.columns,
                          grads, i * z.columns, z.grad_plane, grad_room)  # fmt: skip
            to = split * (padded // TILE_RESULTS) * tap_blocks * tile
            for k in range(0, padded, TILE_RESULTS):
                for block in range(tap_blocks):
                    for q in range(0, z.columns, _MOST_TERMS):
                        dot_lines(grads, k * z.grad_plane + q, z.grad_plane, z.columns,
                                  planes, q, offsets, block * TILE_TAPS, z.pitch,
                                  lines, min(_MOST_TERMS, z.columns - q), sums, to, unit == begin and q == 0,
                                  TILE_RESULTS, TILE_TAPS)  # fmt: skip
                    to += tile
        at = split * (padded // TILE_RESULTS) * tap_blocks * tile
        for i in range(padded * tap_blocks * TILE_TAPS):  # each vector to its sum, side by side
            sums[at + i] = sum_line(sums, at + i * lanes, lanes)
