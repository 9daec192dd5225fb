"""Weights packed for `correlate`: (group, tap, element of the tap, column), columns next to each other.

A tap's rows are filled up with zeros to whole stages, a row's columns to whole vectors, so that no load of weights
needs a bound. One thread an element: writes are next to each other; reads are a column's stride apart, each in a
sector of 32 bytes whose other elements the neighbouring taps read. Bytes: the weights twice, or their sectors.
"""

from __future__ import annotations

from typing import NamedTuple

from ...shapes import Conv2dProblem
from .. import memory
from ..array import DeviceArray
from ..indexing import blocks_for, divided, divisor, thread_number
from ..launch import T, kernel, launch
from ..limits import require_32_bit
from .tables import device_table
from .taps import Taps

PACK_FIELDS = 4  # of a tap in the table: r, s, s_step, elements


class Packed(NamedTuple):
    """Weights as a correlation reads them, and a bias.

    Attributes:
        row: elements from one row of weights to the next.
        tap_rows: rows of a tap (elements, if `across`).
        across: a row is all weights of a column, not of a term.
    """

    weight: DeviceArray
    bias: DeviceArray | None
    row: int
    tap_rows: int
    across: bool = False


class _Strides(NamedTuple):
    """Of the weight in elements, by what its axes are to a correlation."""

    group: int
    column: int
    depth: int
    r: int
    s: int


def pack_forward(problem: Conv2dProblem, taps: Taps, weight: DeviceArray, bias: DeviceArray | None) -> Packed:
    """Columns are output channels, elements of a pixel input channels."""
    k, depth, _, _ = problem.weight_shape
    ks, cs, rs, ss = (stride // weight.itemsize for stride in weight.strides)
    columns = k // problem.groups
    return _pack(taps, weight, bias, problem.groups, columns, depth, _Strides(columns * ks, ks, cs, rs, ss))


def pack_backward(problem: Conv2dProblem, taps: Taps, weight: DeviceArray, bias: DeviceArray | None) -> Packed:
    """Columns are input channels, elements of a pixel output channels."""
    k, columns, _, _ = problem.weight_shape
    ks, cs, rs, ss = (stride // weight.itemsize for stride in weight.strides)
    depth = k // problem.groups
    return _pack(taps, weight, bias, problem.groups, columns, depth, _Strides(depth * ks, cs, ks, rs, ss))


def _pack(
    taps: Taps, weight: DeviceArray, bias: DeviceArray | None, groups: int, columns: int, depth: int, strides: _Strides
) -> Packed:
    vector = 16 // weight.itemsize
    row = -(-columns // vector) * vector
    size = groups * taps.total * taps.tap_rows * row
    require_32_bit("conv2d", size + taps.tap_rows * row)  # a stage after the last one is asked for, and not read
    out = memory.empty((max(size, 1),), weight.dtype, weight.device)
    table = device_table(taps.table(), weight.device)
    first = len(taps.table()) - PACK_FIELDS * taps.total
    launch(
        _pack_kernel, weight.dtype, blocks_for(size, _pack_kernel), weight, out, table, first, size,
        *divisor(row), *divisor(taps.tap_rows), *divisor(max(taps.total, 1)), *divisor(depth), columns, *strides,
    )  # fmt: skip
    return Packed(out, bias, row, taps.tap_rows)


@kernel(threads=256, name="pack")
def _pack_kernel(
    weight: "T*", out: "T*", table: "i32*", first: "i32", size: "i32",
    row: "i32", row_multiplier: "u32", row_shift: "u32",
    tap_rows: "i32", tap_multiplier: "u32", tap_shift: "u32",
    taps: "i32", taps_multiplier: "u32", taps_shift: "u32",
    depth: "i32", depth_multiplier: "u32", depth_shift: "u32", columns: "i32",
    group_stride: "i64", column_stride: "i64", depth_stride: "i64", r_stride: "i64", s_stride: "i64",
):  # fmt: skip
    i = thread_number()
    if i < size:
        rows, column = divided(i, row, row_multiplier, row_shift)
        group_and_tap, element = divided(rows, tap_rows, tap_multiplier, tap_shift)
        group, tap = divided(group_and_tap, taps, taps_multiplier, taps_shift)
        pixel, channel = divided(element, depth, depth_multiplier, depth_shift)
        at = first + tap * PACK_FIELDS
        value = T(0)
        if column < columns and element < table[at + 3]:
            s = table[at + 1] + pixel * table[at + 2]
            value = weight[
                group * group_stride + column * column_stride + channel * depth_stride
                + table[at] * r_stride + s * s_stride
            ]  # fmt: skip
        out[i] = value
