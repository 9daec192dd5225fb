"""Depthwise convolution, and grouped convolution with a few channels a group: no tile has a use for so few.

Channels-last, one thread for `RUN` neighbouring results of a row: of a vector of channels where each channel is its
own group (depthwise), else of one channel. Neighbouring threads have neighbouring channels, so what they read of x and
of the weights, which are packed (tap, channel of the group, out channel), is next to each other, or the same. Forward
and input-gradient are correlations by classes of the stride (`taps`).

Cost of a tap of a depthwise vector: 4 multiply-adds for each result, 1 + 1 / RUN loads of 16 bytes, from the first
cache but once. 3 x 3 is bound by memory, larger filters by that cache.
"""

from __future__ import annotations

from typing import Any

from numba import cuda, int32, uint32

from ...shapes import Conv2dProblem
from .. import memory
from ..array import DeviceArray
from ..convert import copy
from ..indexing import blocks_for, divided, divisor, thread_number
from ..intrinsics import load_vector, put_vector, store_vector, vector_at
from ..launch import PerType, T, inline, kernel, launch
from ..layout import CHANNELS_LAST, aligned, channels_last, empty
from ..limits import require_32_bit
from .algorithm import Algorithm
from .grouped_weight_gradient import backward_weight
from .pack import Packed
from .splits import HAS_BIAS, RELU
from .tables import device_table
from .taps import Taps, backward_taps, forward_taps
from .tile import SMALL

RUN = 4  # results of a thread
_FEW = SMALL.float32.columns // 4  # channels of a group that fill less than a quarter of the smallest tile
# The table: for each class its first and last tap and place, then for each tap its shifts and its place in the weights
FIRST_TAP, END_TAP, CLASS_ROW, CLASS_COLUMN, CLASS_FIELDS = 0, 1, 2, 3, 4
ROW_SHIFT, COLUMN_SHIFT, WEIGHTS, TAP_FIELDS = 0, 1, 2, 3


def supports(problem: Conv2dProblem) -> str:
    """Empty for more than one group."""
    return "" if problem.groups > 1 else "it is not grouped"


def pays(problem: Conv2dProblem) -> str:
    """Empty for few channels a group."""
    k, c, _, _ = problem.weight_shape
    most = max(c, k // problem.groups)
    return f"{most} channels a group are enough for a tile" if most > _FEW else ""


def pack_weight(problem: Conv2dProblem, weight: DeviceArray, bias: DeviceArray | None, kept: bool) -> Packed:
    k, c, r, s = problem.weight_shape
    packed = memory.empty((r, s, c, k), weight.dtype, weight.device)
    copy(weight.transpose(2, 3, 1, 0), packed)
    return Packed(packed, bias, row=k, tap_rows=c)


def forward(problem: Conv2dProblem, x: DeviceArray, packed: Packed, relu: bool) -> DeviceArray:
    out = empty(problem.output_shape, x.dtype, x.device, CHANNELS_LAST)
    _, _, p, q = problem.output_shape
    _correlate_all(problem, forward_taps(problem), channels_last(x), packed, out, problem.stride, (p, q), relu)
    return out


def backward_input(
    problem: Conv2dProblem, grad_output: DeviceArray, weight: DeviceArray, bias: DeviceArray | None
) -> DeviceArray:
    out = empty(problem.input_shape, weight.dtype, weight.device, CHANNELS_LAST)
    k, c, r, s = problem.weight_shape
    groups, depth = problem.groups, k // problem.groups
    packed = memory.empty((r, s, depth, groups, c), weight.dtype, weight.device)
    ks, cs, rs, ss = weight.strides
    copy(weight.view(packed.shape, (rs, ss, ks, depth * ks, cs)), packed)
    taps = backward_taps(problem)
    _, _, h, w = problem.input_shape
    size = -(-h // taps.row_classes), -(-w // taps.column_classes)
    weights = Packed(packed, bias, row=groups * c, tap_rows=depth)
    _correlate_all(problem, taps, channels_last(grad_output), weights, out, (1, 1), size, False)
    return out


def _correlate_all(
    problem: Conv2dProblem, taps: Taps, source: DeviceArray, packed: Packed, out: DeviceArray, step: tuple[int, int],
    size: tuple[int, int], relu: bool,
) -> None:  # fmt: skip
    """Writes all of `out`; `size` is the rows and columns of each class, the largest one's."""
    require_32_bit("conv2d", source, out)
    images, channels, height, width = source.shape
    _, out_channels, out_height, out_width = out.shape
    depth, columns = packed.tap_rows, out_channels // problem.groups
    vector = 16 // out.itemsize
    depthwise = depth == columns == 1 and out_channels % vector == 0 and aligned(source, out, packed.weight)
    body = _depthwise if depthwise else _grouped
    across = out_channels // vector if depthwise else out_channels
    runs = -(-size[1] // RUN)
    threads = images * size[0] * runs * across
    bias, flags = packed.bias, (HAS_BIAS if packed.bias is not None else 0) | (RELU if relu else 0)
    launch(
        body, out.dtype, (blocks_for(threads, body), len(taps.classes)), source, packed.weight,
        out if bias is None else bias, out, device_table(_table(problem, taps), out.device),
        threads, *divisor(across), *divisor(runs), *divisor(size[0]), *divisor(columns), height,
        width * channels, step[0], step[1] * channels, depth, out_channels, len(taps.classes), taps.row_classes,
        taps.column_classes, out_height, out_width, flags,
    )  # fmt: skip


def _table(problem: Conv2dProblem, taps: Taps) -> tuple[int, ...]:
    numbers, first = [], 0
    for c in taps.classes:
        numbers += [first, first + len(c.taps), c.row, c.column]
        first += len(c.taps)
    for tap in (tap for c in taps.classes for tap in c.taps):
        numbers += [tap.row_shift, tap.column_shift, tap.r * problem.weight_shape[3] + tap.s]
    return tuple(numbers)


def _make(vectors: bool) -> Any:
    LANES: Any = PerType(4, 2) if vectors else 1
    SUMS: Any = PerType(4 * RUN, 2 * RUN) if vectors else RUN

    @inline
    def load_vectors(source, at, values):
        put_vector(values, 0, load_vector(source, at))

    @inline
    def load_scalar(source, at, values):
        values[0] = source[at]

    @inline
    def store_vectors(target, at, values):
        store_vector(target, at, vector_at(values, 0))

    @inline
    def store_scalar(target, at, values):
        target[at] = values[0]

    load, store = (load_vectors, store_vectors) if vectors else (load_scalar, store_scalar)

    @kernel(threads=256, name="depthwise" if vectors else "grouped")
    def correlate(
        x: "T*", weight: "T*", bias: "T*", out: "T*", table: "i32*", size: "i32",
        across: "i32", across_multiplier: "u32", across_shift: "u32",
        runs: "i32", runs_multiplier: "u32", runs_shift: "u32",
        rows: "i32", rows_multiplier: "u32", rows_shift: "u32",
        group_columns: "i32", group_multiplier: "u32", group_shift: "u32",
        height: "i32", width: "i32", row_step: "i32", column_step: "i32", depth: "i32",
        out_channels: "i32", classes: "i32", row_classes: "i32", column_classes: "i32",
        out_height: "i32", out_width: "i32", flags: "i32",
    ):  # fmt: skip
        sums, values = cuda.local.array(SUMS, T), cuda.local.array(LANES, T)
        weights = cuda.local.array(LANES, T)
        i = thread_number()
        if i < size:
            rest, lane = divided(i, across, across_multiplier, across_shift)
            rest, run = divided(rest, runs, runs_multiplier, runs_shift)
            image, row = divided(rest, rows, rows_multiplier, rows_shift)
            channel = int32(lane * LANES)
            group, _ = divided(channel, group_columns, group_multiplier, group_shift)
            this_class = int32(cuda.blockIdx.y * CLASS_FIELDS)
            for k in range(SUMS):
                sums[k] = T(0)
            for tap in range(table[this_class + FIRST_TAP], table[this_class + END_TAP]):
                at_tap = int32(classes * CLASS_FIELDS + tap * TAP_FIELDS)
                h = int32(row * row_step + table[at_tap + ROW_SHIFT])
                if uint32(h) < uint32(height):
                    line = int32((image * height + h) * width)
                    first = int32(run * RUN * column_step + table[at_tap + COLUMN_SHIFT] + group * depth)
                    for d in range(depth):
                        place = int32((table[at_tap + WEIGHTS] * depth + d) * out_channels + channel)
                        load(weight, place, weights)
                        for u in range(RUN):
                            element = int32(first + d + u * column_step)
                            if uint32(element) < uint32(width):
                                load(x, int32(line + element), values)
                                for k in range(LANES):
                                    sums[u * LANES + k] += values[k] * weights[k]
            if flags & HAS_BIAS:
                load(bias, channel, weights)
            h = int32(row * row_classes + table[this_class + CLASS_ROW])
            for u in range(RUN):
                j = int32(run * RUN + u)
                w = int32(j * column_classes + table[this_class + CLASS_COLUMN])
                if h < out_height and w < out_width:
                    for k in range(LANES):
                        value = sums[u * LANES + k]
                        if flags & HAS_BIAS:
                            value += weights[k]
                        if flags & RELU and value <= T(0):
                            value = T(0)
                        values[k] = value
                    store(out, int32(((image * out_height + h) * out_width + w) * out_channels + channel), values)

    return correlate


_depthwise, _grouped = _make(True), _make(False)

ALGORITHM = Algorithm(
    name="grouped",
    supports=supports,
    pack_weight=pack_weight,
    forward=forward,
    backward_input=backward_input,
    backward_weight=backward_weight,
    pays=pays,
)
