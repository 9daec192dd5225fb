"""Around the products on tensor cores: weights into the order of shared memory, and parts of sums added up.

All three run once over their arrays, which are small beside a convolution's: 4 numbers a thread.
"""

from __future__ import annotations

from numba import cuda, float32, int32, uint32

from ..indexing import blocks_for, quotient, thread_number
from ..intrinsics import load_vector, map_vector, store_vector
from ..launch import inline, kernel, launch
from ..matrix_intrinsics import float_of, to_tf32
from .tensor_tile import DEPTH, column_of, finished


@inline
def _rounded(value):
    return float_of(to_tf32(value))


@kernel(threads=256, dtypes=("float32",))
def _pack(
    weight: "T*",
    packed: "T*",
    vectors: "i32",
    columns: "i32",
    channels: "i32",
    taps_w: "i32",
    terms: "i32",
    stages: "i32",
    block_columns: "i32",
    column_step: "i32",
    channel_step: "i32",
    row_step: "i32",
    tap_step: "i32",
    rounds: "i32",
):
    """One piece of 4 terms of one column: (block, stage, place of the column, place of the piece) in packed order."""
    i = thread_number()
    if i < vectors:
        piece, line = int32(i & 3), int32(i >> 2)
        number = quotient(line, block_columns)  # of the stage, over all blocks
        place = int32(line - number * block_columns)
        block = quotient(number, stages)
        column = int32(block * block_columns + column_of(place))
        term = int32((number - block * stages) * DEPTH + (piece ^ (place >> 1 & 3)) * 4)
        values = (float32(0), float32(0), float32(0), float32(0))
        if column < columns and term < terms:
            tap = quotient(term, channels)
            r = quotient(tap, taps_w)
            start = int32(column * column_step + r * row_step + (tap - r * taps_w) * tap_step)
            start = int32(start + (term - tap * channels) * channel_step)
            values = (
                weight[start],
                weight[int32(start + channel_step)],
                weight[int32(start + 2 * channel_step)],
                weight[int32(start + 3 * channel_step)],
            )
            if rounds:
                values = map_vector(_rounded, (values,))
        store_vector(packed, int32(i * 4), values)


def pack(weight, packed, block_columns, rounds):
    """Packs weights (columns, channels, taps in a column, taps in a row), of any strides, for `tensor_correlate`.

    Args:
        packed: (blocks, stages, columns of a block, terms of a stage).
        rounds: to TF32.
    """
    columns, channels, taps_h, taps_w = weight.shape
    vectors = packed.size // 4
    steps = (s // weight.itemsize for s in weight.strides)
    sizes = columns, channels, taps_w, channels * taps_h * taps_w, packed.shape[1], block_columns
    launch(_pack, weight.dtype, blocks_for(vectors, _pack), weight, packed, vectors, *sizes, *steps, int(rounds))


@inline
def _sum(a, b):
    return a + b


@inline
def _total(parts, start, size, count):
    total = load_vector(parts, start)
    for _ in range(1, count):
        start = int32(start + size)
        total = map_vector(_sum, (total, load_vector(parts, start)))
    return total


@kernel(threads=256, dtypes=("float32",))
def _sum_pixels(
    parts: "T*",
    bias: "T*",
    out: "T*",
    vectors: "i32",
    count: "i32",
    columns: "i32",
    p_count: "i32",
    q_count: "i32",
    out_image: "i32",
    out_row: "i32",
    out_column: "i32",
    flags: "i32",
):
    i = thread_number()
    if i < vectors:
        total = _total(parts, int32(i * 4), int32(vectors * 4), count)
        number = quotient(int32(i * 4), columns)
        column = int32(i * 4 - number * columns)
        n = quotient(number, int32(p_count * q_count))
        in_image = int32(number - n * p_count * q_count)
        p = quotient(in_image, q_count)
        start = int32(n * out_image + p * out_row + (in_image - p * q_count) * out_column + column)
        store_vector(out, start, finished(total, bias, column, flags))


@kernel(threads=256, dtypes=("float32",))
def _sum_weights(parts: "T*", out: "T*", count: "i32", columns: "i32", channels: "i32", taps: "i32"):
    """A tile of 64 places (channel, tap) of `out` by 32 columns, which in `parts` are (tap, channel) by columns."""
    tile = cuda.shared.array(64 * 33, float32)
    thread = int32(cuda.threadIdx.x)
    lane, warp = int32(thread & 31), int32(thread >> 5)
    first, column = int32(cuda.blockIdx.x * 64), int32(cuda.blockIdx.y * 32 + lane)
    terms = int32(channels * taps)
    for turn in range(8):
        line = int32(warp + 8 * turn)
        place = int32(first + line)
        if place < terms and column < columns:
            channel = quotient(place, taps)
            start = int32(((place - channel * taps) * channels + channel) * columns + column)
            total = parts[start]
            for k in range(1, count):
                total += parts[int32(start + k * terms * columns)]
            tile[uint32(line * 33 + lane)] = total
    cuda.syncthreads()
    for turn in range(8):
        line = int32(warp + 8 * turn)
        column, place = int32(cuda.blockIdx.y * 32 + (line >> 1)), int32(first + (line & 1) * 32 + lane)
        if place < terms and column < columns:
            out[int32(column * terms + place)] = tile[uint32(((line & 1) * 32 + lane) * 33 + (line >> 1))]


def sum_pixels(parts, bias, out, grid, strides, flags):
    """Parts (count, pixels, columns) added up in order, finished as `tensor_correlate` would have done."""
    vectors = parts.size // parts.shape[0] // 4
    sizes = vectors, parts.shape[0], parts.shape[2], *grid, *strides, flags
    launch(_sum_pixels, parts.dtype, blocks_for(vectors, _sum_pixels), parts, bias, out, *sizes)


def sum_weights(parts, out):
    """Parts (count, R, S, channels, output channels) added up in order into (output channels, channels, R, S)."""
    columns, channels, r, s = out.shape
    grid = -(-channels * r * s // 64), -(-columns // 32)
    launch(_sum_weights, parts.dtype, grid, parts, out, parts.shape[0], columns, channels, r * s)
