"""Convolution backward to the weights on tensor cores: an implicit matrix product whose terms are output pixels.

A block's rows are 128 of (tap row, tap column, channel), its columns 64 or 128 output channels; `tensor_tile`
multiplies. Both operands lie with rows, or columns, innermost. A thread copies, for one pixel a stage, 16 channels of
x in four pieces, each of a tap that stays the same, and 8 or 16 of grad_output. The pixel's position in x moves on by
16 output pixels, with carries; per piece of x it takes two additions and two comparisons to know whether it is inside.

Loop order: stages, of 16 pixels > the 8 of a product. A part of the pixels (`split_pixels`) has its own results, which
`tensor_pack` adds up in order: (tap row, tap column, channel, output channel).
"""

from __future__ import annotations

from numba import cuda, float32, int32, uint32

from ..indexing import quotient
from ..launch import inline, kernel
from ..matrix_intrinsics import (
    advance,
    copy_async_16,
    copy_async_commit,
)
from .tensor_tile import (
    DEPTH,
    ROW_PART,
    ROWS,
    STAGES,
    THREADS,
    add_products_3x_moved,
    add_products_rounding_both,
    first_line_piece,
    load_32_column_lines,
    load_64_column_lines,
    load_64_row_lines,
    make_multiply,
    place_of_line,
    store_line,
)

_OUTSIDE = -(1 << 30)


@inline
def _tap_of(number, width, channels, dilation_h, dilation_w, taps_w):
    """Of four rows: their tap's place below and right of the first one, and their elements' from the first tap's.

    Rows beyond the last are of taps below the window, whose elements are tested as all are; they are not stored.
    """
    tap = quotient(number, channels)
    r = quotient(tap, taps_w)
    down, right = int32(r * dilation_h), int32((tap - r * taps_w) * dilation_w)
    return down, right, int32((down * width + right) * channels + number - tap * channels)


@inline
def _copy_x(shared, place, x, position, tap, height, width):
    h, w, start = position
    down, right, offset = tap
    inside = uint32(int32(h + down)) < uint32(height) and uint32(int32(w + right)) < uint32(width)
    copy_async_16(shared, place, x, int32(start + offset), int32(16) if inside else int32(0))


@inline
def _copy_grad(shared, place, grad, piece, missing):
    wanted = int32(0) if missing & uint32(uint32(1) << uint32(piece)) else int32(16)
    copy_async_16(shared, int32(place + 32 * piece), grad, int32(32 * piece), wanted)


@inline
def _start_stage(shared, stage, places, source, moving, fixed, column_count):
    """Starts the copies of a stage; beyond the last one only zeros are written. Returns `moving` for the next."""
    to_rows, to_columns = places
    x, taps = source
    grad, pixel, n, h, w = moving
    end, missing, grad_step, image, steps, limits, spans = fixed
    height, width, channels = image
    there = pixel < end
    position = h if there else int32(_OUTSIDE), w, int32(((n * height + h) * width + w) * channels)
    place = int32(stage + to_rows)
    _copy_x(shared, place, x, position, taps[0], height, width)
    _copy_x(shared, int32(place + 32), x, position, taps[1], height, width)
    _copy_x(shared, int32(place + 64), x, position, taps[2], height, width)
    _copy_x(shared, int32(place + 96), x, position, taps[3], height, width)
    place = int32(stage + to_columns)
    for piece in range(column_count // 32):
        _copy_grad(shared, place, grad, piece, missing if there else uint32(15))
    copy_async_commit()
    # 16 pixels on: each of n, h and w by its part of it, with carries.
    step_n, step_h, step_w, stride_h = steps
    n, h, w = int32(n + step_n), int32(h + step_h), int32(w + step_w)
    if w >= limits[1]:
        w, h = int32(w - spans[1]), int32(h + stride_h)
    if h >= limits[0]:
        h, n = int32(h - spans[0]), int32(n + 1)
    return advance(grad, grad_step), int32(pixel + DEPTH), n, h, w


@inline
def _store_row(to, sums, products, line):
    """Stores a thread's row `line` of 8, which are in two groups of four neighbours."""
    out, row, rows, column, columns = to
    row = int32(row + (line >> 2) * 32 + (line & 3))
    if row < rows:
        store_line(out, int32(row * columns), column, columns, out, 0, sums, products, line)


def _make(name, columns, exact):
    SHARED = STAGES * (ROWS + columns) * DEPTH
    COLUMNS, WARP_COLUMNS, PRODUCTS = columns, columns // 2, columns // 16
    load_columns = load_64_column_lines if columns == 128 else load_32_column_lines
    add = add_products_3x_moved if exact else add_products_rounding_both
    multiply = make_multiply(columns, exact, _start_stage, load_64_row_lines, load_columns, add)

    @kernel(threads=THREADS, blocks_per_sm=2, dtypes=("float32",), name=name)
    def weight_gradient(
        grad: "T*",
        x: "T*",
        out: "T*",
        pixels: "i32",
        out_channels: "i32",
        height: "i32",
        width: "i32",
        channels: "i32",
        p_count: "i32",
        q_count: "i32",
        stride_h: "i32",
        stride_w: "i32",
        top: "i32",
        left: "i32",
        dilation_h: "i32",
        dilation_w: "i32",
        taps_w: "i32",
        terms: "i32",
        split_pixels: "i32",
        step_n: "i32",
        step_p: "i32",
        step_q: "i32",
        out_split: "i32",
    ):
        """Grid: tiles of taps and channels x tiles of output channels x parts of the pixels."""
        shared = cuda.shared.array(SHARED, float32, alignment=16)
        thread = int32(cuda.threadIdx.x)
        lane = int32(thread & 31)
        warp_row, warp_column = int32((thread >> 5 & 1) * 64), int32((thread >> 6) * WARP_COLUMNS)
        block_row, block_column = int32(cuda.blockIdx.x * ROWS), int32(cuda.blockIdx.y * COLUMNS)
        line, piece = int32(thread >> 3), int32(thread & 7)
        number = int32(block_row + piece * 4)
        taps = (
            _tap_of(number, width, channels, dilation_h, dilation_w, taps_w),
            _tap_of(int32(number + 32), width, channels, dilation_h, dilation_w, taps_w),
            _tap_of(int32(number + 64), width, channels, dilation_h, dilation_w, taps_w),
            _tap_of(int32(number + 96), width, channels, dilation_h, dilation_w, taps_w),
        )
        column = int32(block_column + piece * 4)
        missing = uint32(0)
        for k in range(COLUMNS // 32):
            if int32(column + 32 * k) >= out_channels:
                missing |= uint32(uint32(1) << uint32(k))
        first = int32(cuda.blockIdx.z * split_pixels)
        end = min(int32(first + split_pixels), pixels)
        count = quotient(int32(end - first + DEPTH - 1), int32(DEPTH))
        pixel = int32(first + line)
        n = quotient(pixel, int32(p_count * q_count))
        in_image = int32(pixel - n * p_count * q_count)
        p = quotient(in_image, q_count)
        h, w = int32(p * stride_h - top), int32((in_image - p * q_count) * stride_w - left)
        moving = advance(grad, int32(pixel * out_channels + column)), pixel, n, h, w
        image = height, width, channels
        steps = step_n, int32(step_p * stride_h), int32(step_q * stride_w), stride_h
        spans = int32(p_count * stride_h), int32(q_count * stride_w)
        limits = int32(spans[0] - top), int32(spans[1] - left)
        fixed = end, missing, int32(DEPTH * out_channels), image, steps, limits, spans
        places = place_of_line(line, piece, ROWS), int32(ROW_PART + place_of_line(line, piece, COLUMNS))
        rows_0 = first_line_piece(warp_row, lane, ROWS)
        columns_0 = int32(ROW_PART + first_line_piece(warp_column, lane, COLUMNS))
        firsts = rows_0, int32(rows_0 + 8 * ROWS), columns_0, int32(columns_0 + 8 * COLUMNS)
        sums = multiply(shared, count, places, (x, taps), moving, fixed, firsts)
        row = int32(block_row + warp_row + (lane >> 2 & 1) * 16 + (lane >> 3) * 4)
        column = int32(block_column + warp_column + (lane & 3) * 4)
        to = advance(out, int32(cuda.blockIdx.z * out_split)), row, terms, column, out_channels
        _store_row(to, sums, PRODUCTS, 0)
        _store_row(to, sums, PRODUCTS, 1)
        _store_row(to, sums, PRODUCTS, 2)
        _store_row(to, sums, PRODUCTS, 3)
        _store_row(to, sums, PRODUCTS, 4)
        _store_row(to, sums, PRODUCTS, 5)
        _store_row(to, sums, PRODUCTS, 6)
        _store_row(to, sums, PRODUCTS, 7)

    return weight_gradient


_TF32 = {columns: _make(f"weight_gradient_tf32_{columns}", columns, False) for columns in (64, 128)}
_3XTF32 = _make("weight_gradient_3xtf32_64", 64, True)


def kernel_for(exact, columns):
    """The kernel for so many output channels, and the columns of its blocks."""
    if exact:
        return _3XTF32, 64
    block = 64 if -columns % 128 >= 64 else 128
    return _TF32[block], block
