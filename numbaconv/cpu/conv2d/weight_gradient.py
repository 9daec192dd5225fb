"""The weight-gradient of a convolution, for every algorithm that has none of its own.

grad_weight[k, c, r, s] sums x[n, c, p * stride + r * dilation - pad, ...] * grad_output[n, k, p, q] over the pixels
(n, p, q): a matrix product with rows (c, r, s), columns k, and pixels as the terms.

Some lines of output pixels at a time (a chunk), the input rows they read are first transposed into planes,
[channel][row][column] with the padding's zeros written in: a tap is then a shift within its plane, terms follow each
other in memory, and 16 of them share a cache line. (Read in place, every term was another line: 165 instead of 220
GFLOP/s a core, and a padded copy of all of x.) The columns of a block of grad_output are read as they lie; of many
channels they are copied side by side first, a segment at a time, for all rows of a task. (Pixels of 2,048 channels are
a power of two apart and share a few lines of the cache: 122 instead of 255 GFLOP/s.) Then the tile: six rows, four
vectors of columns.

Tasks of the product: (split of the chunk's lines, group, block of columns, run of rows), in this order, so that threads
get as many narrow last blocks each, and lines of their own; segments of at most `TERMS`
terms are added to the task's sums. Splits, only there where tasks would be too few, are added in order at the end. The
cut depends on the problem only, so the bits do not depend on the number of threads.

Cost: 2 * terms * rows * columns flops; planes are written once and read once per block of columns.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...jit import inline, kernel
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem
from ..correlate import TERMS, rows_of
from ..layout import channels_last, empty, flat
from ..local_array import local_array
from ..memory import scratch
from ..packing import columns_for
from ..plane import copy_line
from ..register_tile import (
    MIDDLE_ROWS,
    MIDDLE_VECTORS,
    NARROW_ROWS,
    NARROW_VECTORS,
    WIDE_ROWS,
    WIDE_VECTORS,
    multiply_lines,
)
from ..simd import VECTOR_BYTES
from ..sizes import sizes_of, unpack
from ..transpose import copy_vectors, fetch_vectors, transpose_block

_TASKS = 16  # enough to balance a few threads
_FAR_BYTES = 2048  # from pixel to pixel: few share a page, many a cache set
_RUN = 288  # rows of a task, at most; whole tiles. (With 144 pixels of 4 KB were copied twice: 1.16 times the time.)
_CHUNK_BYTES = 4_000_000  # of planes
_CHANNELS = 64  # of a task that transposes
_FINISH_ROWS = 128  # of a task that writes the result


class Reduction(NamedTuple):
    """The sizes of one weight-gradient, for the kernels. Pitches are in elements."""

    height: int
    width: int
    channels: int
    out_channels: int
    line_length: int  # q
    left: int
    row_step: int  # input rows from one row of a plane to the next
    column_step: int
    term_step: int  # columns of a plane from one term to the next
    plane_width: int
    plane: int  # from plane to plane
    groups: int
    depth: int  # channels of a group
    rows: int  # of a group: channels times taps
    columns: int  # output channels of a group
    blocks: int
    block: int
    splits: int
    runs: int
    run: int  # rows of a task

    @property
    def sums(self) -> int:
        """Of one split."""
        return self.groups * self.blocks * self.runs * self.run * self.block


class _Chunk(NamedTuple):
    first_line: int
    line_offsets: np.ndarray  # where in a plane each of its lines begins
    row_images: np.ndarray  # of each row of its planes
    row_inputs: np.ndarray  # the input row, perhaps outside the image


class _Plan(NamedTuple):
    tile: tuple[int, ...]
    reduction: Reduction
    row_offsets: np.ndarray  # from channel 0's plane, of each row (c, r, s) of a group
    chunks: tuple[_Chunk, ...]
    plane_rows: int


def backward_weight(problem: Conv2dProblem, grad_output: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(K, C // groups, R, S), C-contiguous."""
    _, c, r, s = problem.weight_shape
    out = empty(problem.weight_shape, x.dtype)
    weight_gradient(problem, grad_output, x, flat(out), (c * r * s, r * s))
    return out


def weight_gradient(
    problem: Conv2dProblem, grad_output: np.ndarray, x: np.ndarray, out: np.ndarray, strides: tuple[int, int]
) -> None:
    """Fills flat `out`; `strides` say how far k and c are apart in it, in elements. Taps follow each other."""
    if grad_output.size == 0 or out.size == 0:
        out[:] = 0
        return
    plan = _plan(problem, x.itemsize)
    reduction = plan.reduction
    source = flat(channels_last(x))
    grad = flat(channels_last(grad_output))
    planes = scratch("planes", reduction.plane * reduction.channels + 64, x.dtype)
    sums = scratch("sums", reduction.splits * reduction.sums, x.dtype)
    lanes = VECTOR_BYTES // x.itemsize
    parts = -(-reduction.channels // _CHANNELS)
    copy_ns = 0.2 if reduction.channels >= lanes else 0.9
    line_ns = reduction.sums * reduction.line_length / lanes * 0.2
    tasks = reduction.splits * reduction.groups * reduction.blocks * reduction.runs
    for chunk in plan.chunks:
        rows, lines = chunk.row_inputs.size, chunk.line_offsets.size
        launch(
            _transpose, rows * parts, rows * reduction.plane_width * reduction.channels * copy_ns,
            source, planes, chunk.row_images, chunk.row_inputs, parts, sizes_of(reduction),
        )  # fmt: skip
        launch(
            _accumulate, tasks, lines * line_ns,
            planes, grad, sums, plan.row_offsets, chunk.line_offsets, chunk.first_line, chunk.first_line == 0,
            sizes_of(reduction), plan.tile, (0,) if reduction.term_step > 1 else (),
        )  # fmt: skip
    parts = -(-reduction.rows // _FINISH_ROWS)
    taps = problem.weight_shape[2] * problem.weight_shape[3]
    launch(
        _finish, reduction.groups * reduction.blocks * parts, out.size * reduction.splits * 0.5,
        sums, out, parts, sizes_of(reduction), taps, strides,
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _plan(problem: Conv2dProblem, itemsize: int) -> _Plan:
    n, c, h, w = problem.input_shape
    k, depth, r, s = problem.weight_shape
    _, _, p, q = problem.output_shape
    (sh, sw), (dh, dw) = problem.stride, problem.dilation
    top, _, left, _ = problem.padding
    cut = columns_for(k // problem.groups, itemsize)
    # With one tap along an axis only every stride-th row or column is read: only those are transposed.
    row_step, column_step = sh if r == 1 else 1, sw if s == 1 else 1
    plane_width = ((q - 1) * sw + (s - 1) * dw) // column_step + 1
    row_bytes = plane_width * c * itemsize
    lines = max(1, min(n * p, _CHUNK_BYTES // (row_bytes * (sh // row_step))))
    lines = -(-n * p // -(-n * p // lines))
    runs = -(-depth * r * s // _RUN)
    run = -(-depth * r * s // runs)
    run = -(-run // cut.rows) * cut.rows
    splits = min(lines, max(1, _TASKS // (problem.groups * cut.blocks * runs)))
    chunks = tuple(
        _chunk(first, min(first + lines, n * p), p, (sh // row_step, row_step), (r - 1) * dh, top, plane_width)
        for first in range(0, n * p, lines)
    )
    plane_rows = max(chunk.row_inputs.size for chunk in chunks)
    plane = -(-plane_rows * plane_width // 16) * 16
    plane += 16 if plane // 16 % 2 == 0 else 0  # planes a power of two apart share a cache set
    offsets = [
        d * plane + i * dh // row_step * plane_width + j * dw // column_step
        for d in range(depth) for i in range(r) for j in range(s)
    ]  # fmt: skip
    reduction = Reduction(
        h, w, c, k, q, left, row_step, column_step, sw // column_step, plane_width, plane,
        problem.groups, depth, depth * r * s, k // problem.groups, cut.blocks, cut.block, splits, runs, run,
    )  # fmt: skip
    return _Plan(cut.tile, reduction, np.array(offsets, np.int64), chunks, plane_rows)


def _chunk(
    first: int, end: int, lines_per_image: int, steps: tuple[int, int], reach: int, top: int, plane_width: int
) -> _Chunk:
    """`steps`: plane rows from line to line, input rows from plane row to plane row; `reach` of the filter, in rows."""
    line_step, row_step = steps
    offsets: list[int] = []
    images: list[int] = []
    inputs: list[int] = []
    for image in range(first // lines_per_image, -(-end // lines_per_image)):
        start = max(first - image * lines_per_image, 0)
        stop = min(end - image * lines_per_image, lines_per_image)
        offsets += [(len(inputs) + i * line_step) * plane_width for i in range(stop - start)]
        rows = (stop - start - 1) * line_step + reach // row_step + 1
        inputs += [(start * line_step + i) * row_step - top for i in range(rows)]
        images += [image] * rows
    return _Chunk(first, *(np.array(a, np.int64) for a in (offsets, images, inputs)))


@kernel
def _transpose(first, end, x, planes, row_images, row_inputs, parts, sizes):
    """Task: one row of the planes, some channels."""
    if on_threads_flushing():
        return
    z = unpack(sizes, Reduction)
    none, one = np.int64(0), np.int64(1)  # literals would be types of their own
    for task in range(first, end):
        row = task // parts
        start = (task - row * parts) * _CHANNELS
        stop = min(z.channels, start + _CHANNELS)
        h = row_inputs[row]
        to = row * z.plane_width
        # Columns j of the plane with 0 <= j * column_step - left < width.
        j0 = min(z.plane_width, max(0, (z.left + z.column_step - 1) // z.column_step))
        j1 = max(j0, min(z.plane_width, (z.width - 1 + z.left) // z.column_step + 1))
        if h < 0 or h >= z.height:
            j0, j1 = z.plane_width, z.plane_width
        step = z.column_step * z.channels
        at = ((row_images[row] * z.height + h) * z.width + j0 * z.column_step - z.left) * z.channels + start
        copy_line(x, at, step, one, stop - start, j0, j1, z.plane_width, planes, to + start * z.plane, z.plane, none)


@inline
def _tile(tile, planes, start, rows, row, lines, line, step, b, b_start, b_line, b_step, sums, out_start, block,
          columns, count, length, first, ahead):  # fmt: skip
    if len(tile) == 1:
        lanes = block // WIDE_VECTORS
        if columns > (WIDE_VECTORS - 1) * lanes:
            multiply_lines(planes, start, rows, row, lines, line, step, b, b_start, b_line, b_step, sums,
                           out_start, block, count, length, first, ahead, WIDE_ROWS, WIDE_VECTORS)  # fmt: skip
        elif WIDE_VECTORS > 3 and columns > 2 * lanes:
            multiply_lines(planes, start, rows, row, lines, line, step, b, b_start, b_line, b_step, sums,
                           out_start, block, count, length, first, ahead, WIDE_ROWS, 3)  # fmt: skip
        elif WIDE_VECTORS > 2 and columns > lanes:
            multiply_lines(planes, start, rows, row, lines, line, step, b, b_start, b_line, b_step, sums,
                           out_start, block, count, length, first, ahead, WIDE_ROWS, 2)  # fmt: skip
        else:
            multiply_lines(planes, start, rows, row, lines, line, step, b, b_start, b_line, b_step, sums,
                           out_start, block, count, length, first, ahead, WIDE_ROWS, 1)  # fmt: skip
    elif len(tile) == 2:
        multiply_lines(planes, start, rows, row, lines, line, step, b, b_start, b_line, b_step, sums,
                       out_start, block, count, length, first, ahead, MIDDLE_ROWS, MIDDLE_VECTORS)  # fmt: skip
    else:
        multiply_lines(planes, start, rows, row, lines, line, step, b, b_start, b_line, b_step, sums,
                       out_start, block, count, length, first, ahead, NARROW_ROWS, NARROW_VECTORS)  # fmt: skip


@inline
def _copy_columns(grad, start, pitch, terms, columns, panel, to, block):
    """A segment's line of a block of columns; what is beside the last one ends up in sums that nobody reads."""
    vectors = block // (VECTOR_BYTES // grad.itemsize)
    for term in range(terms):
        at = start + term * pitch
        if at + block <= grad.size:
            copy_vectors(grad, at, panel, to + term * block, vectors)
        else:
            for v in range(block):
                panel[to + term * block + v] = grad[at + v] if v < columns else 0


@kernel
def _accumulate(first, end, planes, grad, sums, row_offsets, line_offsets, first_line, initial, sizes, tile, strided):
    """Segment (some lines, or a part of one) > tile of rows: the segment of grad stays in cache."""
    if on_threads_flushing():
        return
    z = unpack(sizes, Reduction)
    tile_rows = rows_of(tile)
    step = z.term_step if len(strided) > 0 else 1  # known to be 1, it needs no pointer for each row of the tile
    length = min(z.line_length, TERMS)
    most = max(1, TERMS // z.line_length)  # lines of a segment
    rows = local_array(z.run, np.int64)
    panel = local_array(most * length * z.block, grad.dtype)
    lanes = VECTOR_BYTES // grad.itemsize
    far = z.out_channels * grad.itemsize >= _FAR_BYTES
    lines = line_offsets.size
    for task in range(first, end):
        split = task // (z.groups * z.blocks * z.runs)
        run = task % z.runs
        block = task // z.runs - split * (z.groups * z.blocks)  # over groups and their blocks
        group = block // z.blocks
        column = group * z.columns + (block - group * z.blocks) * z.block
        columns = min(z.block, (group + 1) * z.columns - column)
        count = min(z.run, z.rows - run * z.run)
        for i in range(z.run):  # those beyond the last repeat it
            rows[i] = row_offsets[run * z.run + min(i, count - 1)]
        out_start = ((split * z.groups * z.blocks + block) * z.runs + run) * z.run * z.block
        begin, stop = lines * split // z.splits, lines * (split + 1) // z.splits
        for line in range(begin, stop, most):
            here = min(most, stop - line)
            for q in range(0, z.line_length, length):
                terms = min(length, z.line_length - q)
                b_start = ((first_line + line) * z.line_length + q) * z.out_channels + column
                b_line, b_step = z.line_length * z.out_channels, z.out_channels
                b, next_segment = grad, here * terms * z.out_channels
                soon, fetched = b_start + next_segment, 0
                if far or b_start + (here - 1) * b_line + (terms - 1) * b_step + z.block > grad.size:
                    for i in range(here):
                        to = i * terms * z.block
                        _copy_columns(grad, b_start + i * b_line, b_step, terms, columns, panel, to, z.block)
                    b, b_start, b_line, b_step, next_segment = panel, 0, terms * z.block, z.block, 0
                    fetched = (here * terms * tile_rows + count - 1) // count
                a_start = group * z.depth * z.plane + q * z.term_step
                for row in range(0, count, tile_rows):
                    # Each tile of rows fetches one line of the next segment's pixels, into the second-level cache; of
                    # one that will be copied, some pixels.
                    fetch_vectors(grad, soon, z.out_channels, fetched, z.block // lanes)
                    soon += fetched * z.out_channels
                    beside = row // tile_rows * (64 // grad.itemsize)
                    ahead = next_segment + beside if beside < z.block else 0
                    _tile(tile, planes, a_start, rows, row, line_offsets, line, step,
                          b, b_start, b_line, b_step, sums, out_start + row * z.block, z.block, columns, here, terms,
                          initial and line == begin and q == 0, ahead)  # fmt: skip


@kernel
def _finish(first, end, sums, out, parts, sizes, taps, strides):
    """Adds the splits in order and writes the rows (c, tap) of every column k. Task: a block, some of its rows."""
    if on_threads_flushing():
        return
    z = unpack(sizes, Reduction)
    k_stride, c_stride = strides
    lanes = VECTOR_BYTES // sums.itemsize
    pitch = z.groups * z.blocks * z.runs * z.run * z.block
    for task in range(first, end):
        block = task // parts
        part = task - block * parts
        group = block // z.blocks
        column = (block - group * z.blocks) * z.block
        columns = min(z.block, z.columns - column)
        begin, stop = part * _FINISH_ROWS, min(z.rows, (part + 1) * _FINISH_ROWS)
        at = block * z.runs * z.run * z.block
        for split in range(1, z.splits):
            total = sums[at + begin * z.block : at + stop * z.block]
            other = sums[split * pitch + at + begin * z.block :][: total.size]
            for i in range(total.size):
                total[i] += other[i]
        to = (group * z.columns + column) * k_stride
        if k_stride == 1:
            for row in range(begin, stop):
                line = out[to + row // taps * c_stride + row % taps :][:columns]
                for v in range(columns):
                    line[v] = sums[at + row * z.block + v]
            continue
        for v in range(0, columns, lanes):
            for row in range(begin, stop, lanes):
                if v + lanes <= columns and row + lanes <= stop and c_stride == taps:
                    transpose_block(sums, at + row * z.block + v, z.block, out, to + v * k_stride + row, k_stride)
                    continue
                for i in range(v, min(v + lanes, columns)):
                    for j in range(row, min(row + lanes, stop)):
                        place = to + i * k_stride + j // taps * c_stride + j % taps
                        out[place] = sums[at + j * z.block + i]
