"""Fully connected layers of few samples, and the gradients of some hundreds. Nothing is packed.

With few samples a layer is bound by reading the weight, or by the call itself. Forward: dot products of its rows, read
in the order they lie. Input-gradient: eight of its rows at a time are added, scaled, to the result. More samples, up to
`MOST` of them: in the gradients the rows of the weight, or of x, are what the register tile wants beside each other,
and packing them would take longer than it saves. (A batch of 64 into 4,096 x 4,096 takes half the time.)
"""

from __future__ import annotations

import numpy as np

from ..jit import inline, kernel
from ..parallel import launch, on_threads_flushing
from .dot_tile import dot_tile
from .layout import empty, flat_contiguous
from .local_array import local_array
from .register_tile import WIDE_ROWS, WIDE_VECTORS, multiply_panel
from .simd import VECTOR_BYTES

MOST_DOTS = 16  # samples: with more, a task that packs its block of the weight is quicker (linear_blocks)
FEW = 8  # samples, of the input-gradient
MOST = 512  # samples: with more, rows of the weight too far apart are read too often
_TERMS = 512 * VECTOR_BYTES // 8  # of a dot product before it joins the outer sum: at most 512 a lane
_OUTPUTS = 48  # of a task: whole tiles
_INPUTS = 512  # of a task of the input-gradient
_BLOCKS, _SEGMENT = 4, 256  # blocks of a task of the product; terms that a block stays in cache for
_FAR_BYTES = 2048  # from one row to the next: few share a page, many a cache set
_TOGETHER = 8  # rows of the weight read side by side


def pays_backward(rows: int, weight_shape: tuple[int, int]) -> bool:
    """Whether it is for the gradients, whose tiles must fit."""
    outputs, inputs = weight_shape
    return 0 < rows <= MOST and outputs >= WIDE_ROWS and inputs >= VECTOR_BYTES // 4 * WIDE_VECTORS


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, relu: bool) -> np.ndarray:
    outputs, inputs = weight.shape
    rows = x.shape[0]
    out = empty((rows, outputs), x.dtype)
    results = out.ravel()
    arrays = flat_contiguous(x), flat_contiguous(weight), results if bias is None else flat_contiguous(bias), results
    work_ns = outputs * inputs * (0.1 + 0.02 * rows)
    launch(_dots, -(-outputs // _OUTPUTS), work_ns, *arrays, bias is not None, relu, outputs, inputs)
    return out


@kernel
def _dots(first, end, x, weight, bias, out, has_bias, relu, outputs, inputs):
    """Task: some outputs, of all samples."""
    if on_threads_flushing():
        return
    rows = out.size // outputs
    for task in range(first, end):
        stop = min(outputs, (task + 1) * _OUTPUTS)
        o = task * _OUTPUTS
        while o < stop:
            columns = 4 if o + 4 <= stop else 1
            m = 0
            while m < rows:
                together = 4 if m + 4 <= rows and columns == 4 else 1
                for j in range(0, max(inputs, 1), _TERMS):
                    terms = min(_TERMS, inputs - j)
                    a, b, to = m * inputs + j, o * inputs + j, m * outputs + o
                    if together == 4:
                        dot_tile(x, a, inputs, weight, b, inputs, terms, out, to, outputs, j == 0, 4, 2)
                        dot_tile(x, a, inputs, weight, b + 2 * inputs, inputs, terms, out, to + 2, outputs, j == 0,
                                 4, 2)  # fmt: skip
                    elif columns == 4:
                        dot_tile(x, a, inputs, weight, b, inputs, terms, out, to, outputs, j == 0, 1, 4)
                    else:
                        dot_tile(x, a, inputs, weight, b, inputs, terms, out, to, outputs, j == 0, 1, 1)
                m += together
            if has_bias:
                for m in range(rows):
                    for k in range(o, o + columns):
                        out[m * outputs + k] += bias[k]
            if relu:
                for m in range(rows):
                    for k in range(o, o + columns):
                        if out[m * outputs + k] <= 0:  # NaN is not: it passes
                            out[m * outputs + k] = 0
            o += columns


def grad_input(grad_output: np.ndarray, weight: np.ndarray) -> np.ndarray:
    outputs, inputs = weight.shape
    rows = grad_output.shape[0]
    out = empty((rows, inputs), grad_output.dtype)
    a, b = flat_contiguous(grad_output), flat_contiguous(weight)
    if rows <= FEW:
        work_ns = weight.size * (0.1 + 0.03 * rows)
        args = a, b, out.reshape(-1), outputs, inputs
        launch(_scaled_rows, -(-inputs // _INPUTS), work_ns, *args)
    else:
        _multiply(a, (outputs, 1), b, out.reshape(-1), rows, outputs, inputs)
    return out


def grad_weight(grad_output: np.ndarray, x: np.ndarray) -> np.ndarray:
    rows, outputs = grad_output.shape
    inputs = x.shape[1]
    out = empty((outputs, inputs), x.dtype)
    a, b = flat_contiguous(grad_output), flat_contiguous(x)
    _multiply(a, (1, outputs), b, out.reshape(-1), outputs, rows, inputs)
    return out


def _multiply(
    a: np.ndarray, a_strides: tuple[int, int], b: np.ndarray, out: np.ndarray, rows: int, terms: int, columns: int
) -> None:
    """out (rows, columns) = a (rows, terms) of any strides times b (terms, columns)."""
    blocks = columns // (WIDE_VECTORS * VECTOR_BYTES // out.itemsize)
    work_ns = columns * (0.2 * rows + 0.03 * rows * terms + 0.1 * terms)
    launch(_product, -(-blocks // _BLOCKS), work_ns, a, a_strides, b, out, rows, terms, columns)


@kernel
def _scaled_rows(first, end, grad_output, weight, out, outputs, inputs):
    """Task: some inputs, of all samples."""
    if on_threads_flushing():
        return
    rows = out.size // inputs
    block = WIDE_VECTORS * (VECTOR_BYTES // out.itemsize)
    for task in range(first, end):
        start, stop = task * _INPUTS, min(inputs, (task + 1) * _INPUTS)
        for o in range(0, outputs, _TOGETHER):
            terms = min(_TOGETHER, outputs - o)
            for m in range(rows):
                for i in range(start, stop - block + 1, block):
                    multiply_panel(grad_output, m * outputs + o, 0, 1, weight, o * inputs + i, inputs,
                                   out, m * inputs + i, 0, terms, o == 0, 1, WIDE_VECTORS)  # fmt: skip
                for i in range(start + (stop - start) // block * block, stop):
                    total = out.dtype.type(0) if o == 0 else out[m * inputs + i]
                    for j in range(terms):
                        total += grad_output[m * outputs + o + j] * weight[(o + j) * inputs + i]
                    out[m * inputs + i] = total


@inline
def _tile(a, a_strides, b, b_start, b_step, out, row, to, pitch, j, terms):
    a_row, a_step = a_strides
    multiply_panel(a, row * a_row + j * a_step, a_row, a_step, b, b_start, b_step, out, to, pitch, terms, j == 0,
                   WIDE_ROWS, WIDE_VECTORS)  # fmt: skip


@kernel
def _product(first, end, a, a_strides, b, out, rows, terms, columns):
    """Task: some blocks of columns, of all rows.

    Segments of the terms go outermost, so that a block of b stays in cache for all rows; rows of b that are far apart,
    perhaps by a power of two, would not, and are copied side by side first (twice as fast at 4,096 columns). What is
    left beside whole tiles is covered by tiles that overlap others, which have sums of their own or begin anew, and
    gives the same bits.
    """
    if on_threads_flushing():
        return
    block = WIDE_VECTORS * (VECTOR_BYTES // out.itemsize)
    blocks = columns // block
    copies = columns * b.itemsize >= _FAR_BYTES
    panel = local_array(_SEGMENT * block, b.dtype)
    rest = local_array(_BLOCKS * WIDE_ROWS * block, b.dtype)
    for task in range(first, end):
        stop = min(blocks, (task + 1) * _BLOCKS)
        for j in range(0, terms, _SEGMENT):
            count = min(_SEGMENT, terms - j)
            for i in range(task * _BLOCKS, stop):
                source, start, pitch = (panel, 0, block) if copies else (b, j * columns + i * block, columns)
                if copies:
                    for term in range(count):
                        line = panel[term * block :][:block]
                        values = b[(j + term) * columns + i * block :][:block]
                        for v in range(block):
                            line[v] = values[v]
                for row in range(0, rows - WIDE_ROWS + 1, WIDE_ROWS):
                    _tile(a, a_strides, source, start, pitch, out, row, row * columns + i * block, columns, j, count)
                if rows % WIDE_ROWS:
                    to = (i - task * _BLOCKS) * WIDE_ROWS * block
                    _tile(a, a_strides, source, start, pitch, rest, rows - WIDE_ROWS, to, block, j, count)
        for row in range(rows - rows % WIDE_ROWS, rows):
            for i in range(task * _BLOCKS, stop):
                at = ((i - task * _BLOCKS) * WIDE_ROWS + row - rows + WIDE_ROWS) * block
                line = out[row * columns + i * block :][:block]
                values = rest[at:][:block]
                for v in range(block):
                    line[v] = values[v]
        if stop == blocks and columns % block:
            for row in range(0, rows, WIDE_ROWS):
                for j in range(0, terms, _SEGMENT):
                    count = min(_SEGMENT, terms - j)
                    first_row = min(row, rows - WIDE_ROWS)
                    _tile(a, a_strides, b, (j + 1) * columns - block, columns, out, first_row,
                          (first_row + 1) * columns - block, columns, j, count)  # fmt: skip
