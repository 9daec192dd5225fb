"""Convolution forward on tensor cores, and backward to the input: an implicit matrix product.

A block's rows are 128 output pixels, its columns 64 or 128 output channels, its terms those of the sum: (tap row, tap
column, channel), the channel innermost; `tensor_tile` multiplies. A thread copies 4 channels of one term for 4 pixels
a stage, and knows for each pixel a pointer to its first tap, and as bits which tap rows and columns are outside of the
image. So per pixel and stage it takes a test of bits, an address, and the copy, which writes zeros for what is
outside. The other operand, the weights, comes from `tensor_pack` in the order in which it lies in shared memory,
rounded to TF32 and padded with zeros to whole tiles: copied without a test.

Loop order: stages, of 16 terms > the 8 terms of a product. With 128 columns a thread issues per stage 64 products, 16
loads from shared memory, 32 roundings, 8 copies, and about 80 instructions for addresses and the loop: 31 % products
on sm_80 by count (CUTLASS's kernel: 19.6 %).
"""

from __future__ import annotations

from numba import cuda, float32, int32, uint32

from ..indexing import divided, quotient
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
    add_products,
    add_products_3x,
    first_column_piece,
    first_row_piece,
    load_32,
    load_64,
    make_multiply,
    place_of_piece,
    store_line,
)

LARGEST_WINDOW = 15  # taps in a row or column; all bits beyond them are set in a pixel's mask, 15 and 31 too
_ALL = 0xFFFFFFFF


@inline
def _taps_before(distance, taps, dilation, multiplier, shift):
    """How many of the taps 0, dilation, 2 * dilation ... are less than `distance`."""
    number, _ = divided(int32(max(distance, int32(0)) + dilation - 1), dilation, multiplier, shift)
    return min(number, taps)


@inline
def _taps_inside(first, size, taps, dilation):
    """A bit for each tap that is inside of an axis, whose first tap is at position `first`. They follow each other."""
    before, end = _taps_before(int32(-first), taps, *dilation), _taps_before(int32(size - first), taps, *dilation)
    return uint32((uint32(1) << uint32(end)) - (uint32(1) << uint32(before)))


@inline
def _pixel(x, number, pixels, image, grid, window):
    """A pointer to the first tap of an output pixel, and the taps outside: bit r of rows, bit 16 + s of columns."""
    height, width, channels = image
    p_count, q_count = grid
    stride_h, stride_w, top, left, dilation_h, dilation_w, taps_h, taps_w = window
    n = quotient(number, int32(p_count * q_count))
    in_image = int32(number - n * p_count * q_count)
    p = quotient(in_image, q_count)
    h = int32(p * stride_h - top)
    w = int32((in_image - p * q_count) * stride_w - left)
    rows, columns = _taps_inside(h, height, taps_h, dilation_h), _taps_inside(w, width, taps_w, dilation_w)
    outside = uint32(~(rows | columns << uint32(16)))
    if number >= pixels:
        outside = uint32(_ALL)
    return advance(x, int32(((n * height + h) * width + w) * channels)), outside


@inline
def _copy(shared, place, pixel, offset, taps):
    pointer, outside = pixel
    copy_async_16(shared, place, pointer, offset, int32(0) if outside & taps else int32(16))


@inline
def _start_stage(shared, stage, places, four_pixels, moving, fixed, column_count):
    """Starts the copies of a stage; beyond the last one only zeros are written. Returns `moving` for the next."""
    to_rows, to_columns = places
    columns, first, r, s, c = moving
    end, channels, taps_w, row_step, column_step, step_r, step_s, step_c = fixed
    # After the last term r is from taps_h to 15: outside.
    taps = uint32((uint32(1) << uint32(r)) | (uint32(1 << 16) << uint32(s))) if first < end else uint32(_ALL)
    offset = int32(r * row_step + s * column_step + c)
    place = int32(stage + to_rows)
    _copy(shared, place, four_pixels[0], offset, taps)
    _copy(shared, int32(place + 32 * DEPTH), four_pixels[1], offset, taps)
    _copy(shared, int32(place + 64 * DEPTH), four_pixels[2], offset, taps)
    _copy(shared, int32(place + 96 * DEPTH), four_pixels[3], offset, taps)
    place = int32(stage + to_columns)
    wanted = int32(16) if first < end else int32(0)
    for k in range(0, column_count * DEPTH, 4 * THREADS):
        copy_async_16(shared, int32(place + k), columns, int32(k), wanted)
    copy_async_commit()
    # 16 terms on: each of r, s and c by its part of it, with carries.
    c, s, r = int32(c + step_c), int32(s + step_s), int32(r + step_r)
    if c >= channels:
        c, s = int32(c - channels), int32(s + 1)
    if s >= taps_w:
        s, r = int32(s - taps_w), int32(r + 1)
    columns = advance(columns, int32(column_count * DEPTH))
    return columns, int32(first + DEPTH), r, s, c


@inline
def _store_row(to, sums, products, line):
    """Stores a thread's row `line` of 8, which are 8 pixels apart."""
    out, number, pixels, grid, strides, column, columns, bias, flags = to
    number = int32(number + line * 8)
    if number < pixels:
        p_count, q_count = grid
        n = quotient(number, int32(p_count * q_count))
        in_image = int32(number - n * p_count * q_count)
        p = quotient(in_image, q_count)
        start = int32(n * strides[0] + p * strides[1] + (in_image - p * q_count) * strides[2])
        store_line(out, start, column, columns, bias, flags, sums, products, line)


def _make(name, columns, exact):
    SHARED = STAGES * (ROWS + columns) * DEPTH
    COLUMNS, WARP_COLUMNS, PRODUCTS = columns, columns // 2, columns // 16
    load_columns = load_64 if columns == 128 else load_32
    add = add_products_3x if exact else add_products
    multiply = make_multiply(columns, exact, _start_stage, load_64, load_columns, add)

    @kernel(threads=THREADS, blocks_per_sm=2, dtypes=("float32",), name=name)
    def correlate(
        x: "T*",
        packed: "T*",
        bias: "T*",
        out: "T*",
        pixels: "i32",
        height: "i32",
        width: "i32",
        channels: "i32",
        p_count: "i32",
        q_count: "i32",
        out_channels: "i32",
        stride_h: "i32",
        stride_w: "i32",
        top: "i32",
        left: "i32",
        dilation_h: "i32",
        multiplier_h: "u32",
        shift_h: "u32",
        dilation_w: "i32",
        multiplier_w: "u32",
        shift_w: "u32",
        taps_h: "i32",
        taps_w: "i32",
        terms: "i32",
        split_terms: "i32",
        step_r: "i32",
        step_s: "i32",
        step_c: "i32",
        out_image: "i32",
        out_row: "i32",
        out_column: "i32",
        out_split: "i32",
        flags: "i32",
    ):
        """Grid: tiles of pixels x tiles of output channels x parts of the sum."""
        shared = cuda.shared.array(SHARED, float32, alignment=16)
        thread = int32(cuda.threadIdx.x)
        lane = int32(thread & 31)
        warp_row, warp_column = int32((thread >> 5 & 1) * 64), int32((thread >> 6) * WARP_COLUMNS)
        block_row, block_column = int32(cuda.blockIdx.x * ROWS), int32(cuda.blockIdx.y)
        grid = p_count, q_count
        image = height, width, channels
        dilations = (dilation_h, multiplier_h, shift_h), (dilation_w, multiplier_w, shift_w)
        window = stride_h, stride_w, top, left, *dilations, taps_h, taps_w
        line, piece = int32(thread >> 2), int32(thread & 3)
        number = int32(block_row + line)
        four_pixels = (
            _pixel(x, number, pixels, image, grid, window),
            _pixel(x, int32(number + 32), pixels, image, grid, window),
            _pixel(x, int32(number + 64), pixels, image, grid, window),
            _pixel(x, int32(number + 96), pixels, image, grid, window),
        )
        first = int32(cuda.blockIdx.z * split_terms)
        end = min(int32(first + split_terms), terms)
        count = quotient(int32(end - first + DEPTH - 1), int32(DEPTH))
        term = int32(first + piece * 4)
        tap = quotient(term, channels)
        r = quotient(tap, taps_w)
        stages = quotient(int32(terms + DEPTH - 1), int32(DEPTH))
        stage = int32(block_column * stages + quotient(first, int32(DEPTH)))
        columns = advance(packed, int32(stage * (COLUMNS * DEPTH) + thread * 4))
        moving = columns, first, r, int32(tap - r * taps_w), int32(term - tap * channels)
        row_step, column_step = int32(dilation_h * width * channels), int32(dilation_w * channels)
        fixed = end, channels, taps_w, row_step, column_step, step_r, step_s, step_c
        places = place_of_piece(line, piece), int32(ROW_PART + thread * 4)
        firsts = (
            first_row_piece(warp_row, lane, 0),
            first_row_piece(warp_row, lane, 1),
            first_column_piece(warp_column, lane, 0),
            first_column_piece(warp_column, lane, 1),
        )
        sums = multiply(shared, count, places, four_pixels, moving, fixed, firsts)
        number = int32(block_row + warp_row + (lane >> 2))
        column = int32(block_column * COLUMNS + warp_column + (lane & 3) * 4)
        strides = out_image, out_row, out_column
        out = advance(out, int32(cuda.blockIdx.z * out_split))
        to = out, number, pixels, grid, strides, column, out_channels, bias, flags
        _store_row(to, sums, PRODUCTS, 0)
        _store_row(to, sums, PRODUCTS, 1)
        _store_row(to, sums, PRODUCTS, 2)
        _store_row(to, sums, PRODUCTS, 3)
        _store_row(to, sums, PRODUCTS, 4)
        _store_row(to, sums, PRODUCTS, 5)
        _store_row(to, sums, PRODUCTS, 6)
        _store_row(to, sums, PRODUCTS, 7)

    return correlate


_TF32 = {columns: _make(f"correlate_tf32_{columns}", columns, False) for columns in (64, 128)}
_3XTF32 = _make("correlate_3xtf32_64", 64, True)


def kernel_for(exact, columns):
    """The kernel for so many output channels, and the columns of its blocks: the more that the last one can fill."""
    if exact:
        return _3XTF32, 64
    block = 64 if -columns % 128 >= 64 else 128
    return _TF32[block], block
