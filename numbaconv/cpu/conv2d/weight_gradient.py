"""The weight-gradient of a convolution, for every algorithm that has none of its own.

grad_weight[k, c, r, s] sums x[n, c, p * stride + r * dilation - pad, ...] * grad_output[n, k, p, q] over the pixels
(n, p, q): the register tile with its rows in the filter (r, s, c), its columns in k, and pixels as the terms.

x is padded first, so that every pixel is valid for every tap; where there is no padding it is read as it is.

Tasks: (split of the pixels, group, block of columns, run of filter rows). Each adds up its pixels in segments of at
most `TERMS` into its own part of a partial result; the splits are then added in order. The cut depends on the
problem only, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...jit import inline, kernel, launch, never_inline, parallel_kernel, prange
from ...shapes import Conv2dProblem, Shape4
from ..convert import SMALL, STREAMS, copy_to_channels_last
from ..correlate import TERMS, zeros
from ..layout import dense, element_strides, empty, flat, padded_channels_last
from ..memory import scratch
from ..packing import Columns, columns_for
from ..simd import NARROW_ROWS, NARROW_VECTORS, VECTOR_BYTES, WIDE_ROWS, WIDE_VECTORS, multiply_tile

TASKS = 16  # enough to balance a few threads
FILTER_ROWS = 384  # of a task: 384 x 64 sums are 98 KB of float32


class Reduction(NamedTuple):
    """The sizes of one weight-gradient, for the kernel. Pitches are in elements."""

    lines: int  # n * p
    lines_per_image: int
    line_length: int  # q
    x_image: int
    x_line: int  # from output line to output line
    x_step: int  # from output column to output column
    grad_channels: int
    groups: int
    x_group: int
    filter_rows: int  # r * s * c of one group
    width: int  # k of one group
    blocks: int
    block: int
    splits: int
    runs: int  # of filter rows

    @property
    def tasks(self) -> int:
        return self.splits * self.groups * self.blocks * self.runs


class _Plan(NamedTuple):
    columns: Columns
    reduction: Reduction
    row_offsets: np.ndarray  # where in padded x each filter row (r, s, c) begins
    x_padding: Shape4


def backward_weight(problem: Conv2dProblem, grad_output: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(K, C // groups, R, S), C-contiguous."""
    _, c, r, s = problem.weight_shape
    out = empty(problem.weight_shape, x.dtype)
    weight_gradient(problem, grad_output, x, flat(out), (c * r * s, r * s, 1))
    return out


def weight_gradient(
    problem: Conv2dProblem, grad_output: np.ndarray, x: np.ndarray, out: np.ndarray, strides: tuple[int, int, int]
) -> None:
    """Fills flat `out`; `strides` say where k, c and the tap (r, s) go in it, in elements."""
    if grad_output.size == 0:
        out[:] = 0
        return
    plan = _plan(problem, x.itemsize)
    reduction = plan.reduction
    padded_x = padded_channels_last(dense(x), plan.x_padding, "padded source")
    grad = _readable_to_the_block(dense(grad_output), reduction)
    size = reduction.groups * reduction.blocks * reduction.filter_rows * reduction.block
    partial = scratch("partial weight gradient", reduction.splits * size, x.dtype)
    lanes = VECTOR_BYTES // x.itemsize
    work_ns = size * reduction.lines * reduction.line_length / lanes * 0.4
    launch(
        _accumulate, _accumulate_parallel, reduction.tasks, work_ns,
        padded_x, grad, partial, zeros(reduction.block, x.dtype), reduction, plan.row_offsets, plan.columns.wide,
    )  # fmt: skip
    launch(
        _reduce, _reduce_parallel, reduction.groups * reduction.blocks, size * reduction.splits * 0.7,
        partial, out, reduction, problem.weight_shape[1], strides,
    )  # fmt: skip


def _readable_to_the_block(grad_output: np.ndarray, reduction: Reduction) -> np.ndarray:
    """grad_output, flat and channels-last, with memory behind it where a tile reads beyond its columns.

    What is read there ends up in columns of the partial result that nobody reads.
    """
    if reduction.width % reduction.block == 0:
        return padded_channels_last(grad_output, (0, 0, 0, 0), "gradient")
    n, k, p, q = grad_output.shape
    padded = scratch("gradient", grad_output.size + reduction.block, grad_output.dtype)
    padded[grad_output.size :] = 0
    if grad_output.size > SMALL:
        copy_to_channels_last(flat(grad_output), padded, (n, k, p, q), element_strides(grad_output))
    else:
        padded[: grad_output.size].reshape(n, p, q, k)[...] = grad_output.transpose(0, 2, 3, 1)
    return padded


@functools.lru_cache(maxsize=1024)
def _plan(problem: Conv2dProblem, itemsize: int) -> _Plan:
    n, c, h, w = problem.input_shape
    k, c_group, r, s = problem.weight_shape
    _, _, p, q = problem.output_shape
    (sh, sw), (dh, dw) = problem.stride, problem.dilation
    top, _, left, _ = problem.padding
    # Rows and columns that the last window reaches; what lies beyond is never read, what is read before is padding.
    bottom = max(0, (p - 1) * sh + (r - 1) * dh + 1 - top - h)
    right = max(0, (q - 1) * sw + (s - 1) * dw + 1 - left - w)
    rows, columns = h + top + bottom, w + left + right
    width = k // problem.groups
    cut = columns_for(width, itemsize)
    filter_rows = r * s * c_group
    runs = -(-filter_rows // FILTER_ROWS)
    splits = max(1, min(n * p, -(-TASKS // (problem.groups * cut.blocks * runs))))
    row_offsets = [(i * dh * columns + j * dw) * c + d for i in range(r) for j in range(s) for d in range(c_group)]
    reduction = Reduction(
        lines=n * p, lines_per_image=p, line_length=q,
        x_image=rows * columns * c, x_line=sh * columns * c, x_step=sw * c,
        grad_channels=k,
        groups=problem.groups, x_group=c_group, filter_rows=filter_rows, width=width,
        blocks=cut.blocks, block=cut.block, splits=splits, runs=runs,
    )  # fmt: skip
    return _Plan(cut, reduction, np.array(row_offsets, np.int64), (top, bottom, left, right))


@inline
def _tile(wide, x, x_offsets, x_step, grad, grad_offsets, grad_step, out, out_start, out_offsets, zeros, block, lines,
          length, first):  # fmt: skip
    if wide:
        multiply_tile(x, 0, x_offsets, 0, x_step, grad, 0, grad_offsets, 0, grad_step, out, out_start, out_offsets,
                      zeros, 0, block, lines, length, first, -np.inf, WIDE_ROWS, WIDE_VECTORS)  # fmt: skip
    else:
        multiply_tile(x, 0, x_offsets, 0, x_step, grad, 0, grad_offsets, 0, grad_step, out, out_start, out_offsets,
                      zeros, 0, block, lines, length, first, -np.inf, NARROW_ROWS, NARROW_VECTORS)  # fmt: skip


@kernel
def _accumulate(first, end, x, grad, partial, zeros, reduction, row_offsets, wide):
    """Segment (some lines, or a part of one) > tile of filter rows: the segment of grad stays in cache."""
    never_inline()
    rows = WIDE_ROWS if wide else NARROW_ROWS
    length = min(reduction.line_length, TERMS)
    most = max(1, TERMS // reduction.line_length)  # lines of a segment
    x_offsets = np.empty(most * rows, np.int64)
    grad_offsets = np.empty(most, np.int64)
    out_offsets = np.empty(rows, np.int64)
    run_length = (reduction.filter_rows + reduction.runs - 1) // reduction.runs
    for task in range(first, end):
        split = task % reduction.splits
        run = task // reduction.splits % reduction.runs
        column_block = task // (reduction.splits * reduction.runs)
        group = column_block // reduction.blocks
        grad_start = group * reduction.width + (column_block - group * reduction.blocks) * reduction.block
        out_start = (split * reduction.groups * reduction.blocks + column_block) * (
            reduction.filter_rows * reduction.block
        )
        first_row, end_row = run * run_length, min((run + 1) * run_length, reduction.filter_rows)
        first_line = reduction.lines * split // reduction.splits
        end_line = reduction.lines * (split + 1) // reduction.splits
        for line in range(first_line, end_line, most):
            lines = min(most, end_line - line)
            for column in range(0, reduction.line_length, length):
                count = min(length, reduction.line_length - column)
                for i in range(lines):
                    grad_offsets[i] = grad_start + (
                        ((line + i) * reduction.line_length + column) * reduction.grad_channels
                    )
                for row in range(first_row, end_row, rows):
                    for m in range(rows):
                        filter_row = min(row + m, end_row - 1)
                        out_offsets[m] = filter_row * reduction.block
                        for i in range(lines):
                            image = (line + i) // reduction.lines_per_image
                            x_offsets[i * rows + m] = (
                                image * reduction.x_image
                                + (line + i - image * reduction.lines_per_image) * reduction.x_line
                                + column * reduction.x_step
                                + group * reduction.x_group
                                + row_offsets[filter_row]
                            )
                    _tile(wide, x, x_offsets, reduction.x_step, grad, grad_offsets, reduction.grad_channels, partial,
                          out_start, out_offsets, zeros, reduction.block, lines, count,
                          line == first_line and column == 0)  # fmt: skip


@parallel_kernel
def _accumulate_parallel(first, end, x, grad, partial, zeros, reduction, row_offsets, wide):
    for task in prange(first, end):
        _accumulate(task, task + 1, x, grad, partial, zeros, reduction, row_offsets, wide)


@kernel
def _reduce(first, end, partial, out, reduction, channels, strides):
    """Adds the splits in order and puts (r, s, c, k) where it belongs. Task: a block of columns.

    A few columns at a time, so that each is written front to back (see `packing`).
    """
    never_inline()
    k_stride, c_stride, tap_stride = strides
    size = reduction.filter_rows * reduction.block
    pitch = reduction.groups * reduction.blocks * size
    for task in range(first, end):
        group = task // reduction.blocks
        column = (task - group * reduction.blocks) * reduction.block
        count = min(reduction.block, reduction.width - column)
        most = reduction.block if k_stride == 1 else STREAMS
        for v in range(0, count, most):
            streams = min(most, count - v)
            for c in range(channels):
                for tap in range(reduction.filter_rows // channels):
                    at = task * size + (tap * channels + c) * reduction.block + v
                    to = (group * reduction.width + column + v) * k_stride + c * c_stride + tap * tap_stride
                    for i in range(streams):
                        total = partial[at + i]
                        for split in range(1, reduction.splits):
                            total += partial[at + i + split * pitch]
                        out[to + i * k_stride] = total


@parallel_kernel
def _reduce_parallel(first, end, partial, out, reduction, channels, strides):
    for task in prange(first, end):
        _reduce(task, task + 1, partial, out, reduction, channels, strides)
