"""Fully connected layers of few samples, and the gradients of some hundreds. Nothing is packed.

With few samples a layer is bound by reading the weight, or by the call itself. Forward: dot products of its rows, read
in the order they lie. Input-gradient: eight of its rows at a time are added, scaled, to the result. More samples, up to
`MOST` of them: in the gradients the rows of the weight, or of x, are what the register tile wants beside each other,
and packing them would take longer than it saves. (A batch of 64 into 4,096 x 4,096 takes half the time.)
"""

from __future__ import annotations

import functools

import numpy as np

from ..jit import inline, kernel
from ..parallel import launch, on_threads_flushing
from . import memory
from .dot_tile import DOT_COLUMNS, dot_tile
from .layout import contiguous, empty, flat, flat_contiguous
from .local_array import local_array, zeroed_local_array
from .reduce import channel_sums
from .register_tile import WIDE_ROWS, WIDE_VECTORS, multiply_panel
from .simd import VECTOR_BYTES

# Samples: with more, a task that packs its block of the weight is quicker (linear_blocks). With tiles of 4x4 sums it is
# not up to 64 (400 to 120: 62 us, 72).
MOST_DOTS = 64 if DOT_COLUMNS == 4 else 16
FEW_DOTS, MOST_OF_DOTS = 8, 1 << 22  # samples, and elements of the weight, where it could be packed beforehand
_FEW = 8  # samples, of the input-gradient
MOST = 512  # samples: with more, rows of the weight too far apart are read too often
_TERMS = 512 * VECTOR_BYTES // 8  # of a dot product before it joins the outer sum: at most 512 a lane
_OUTPUTS = 48  # of a task: whole tiles
_SAMPLES = 16  # of a task, where outputs are few
_SMALL = 1 << 18  # multiply-adds that are done before threads begin
_INPUTS = 512  # of a task of few samples' input-gradient
_BLOCKS, _SEGMENT = 4, 256  # blocks of a task of a product; terms that a block stays in cache for
_FAR_BYTES = 2048  # from one row to the next: few share a page, many a cache set
_TOGETHER = 8  # rows of the weight read side by side


def pays_backward(rows: int, weight_shape: tuple[int, int]) -> bool:
    """Whether it is for the gradients, whose tiles must fit."""
    outputs, inputs = weight_shape
    return 0 < rows <= MOST and outputs >= WIDE_ROWS and inputs >= VECTOR_BYTES // 4 * WIDE_VECTORS


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, relu: bool) -> np.ndarray:
    outputs, inputs = weight.shape
    rows = x.shape[0]
    parts = -(-rows // _SAMPLES)
    if outputs <= _OUTPUTS and (parts == 1 or rows * weight.size < _SMALL):
        # To ask `empty` and `launch` takes as long as the layer.
        out = memory.small_empty((rows, outputs), x.dtype)
        results = out.ravel()
        x = x.ravel() if x.flags.carray else flat_contiguous(x)
        weight = weight.ravel() if weight.flags.carray else flat_contiguous(weight)
        bias = results[:0] if bias is None else bias if bias.flags.carray else flat_contiguous(bias)
        _dots(-1, parts, x, weight, bias, results, relu, outputs, _SAMPLES)
        return out
    out = empty((rows, outputs), x.dtype)
    results = out.ravel()
    bias = results[:0] if bias is None else flat_contiguous(bias)
    blocks, run = -(-outputs // _OUTPUTS), _SAMPLES
    if blocks > 1:
        parts, run = 1, rows
    work_ns = outputs * inputs * (0.1 + 0.02 * rows)
    args = flat_contiguous(x), flat_contiguous(weight), bias, results, relu, outputs, run
    launch(_dots, blocks * parts, work_ns, *args)
    return out


@kernel
def _dots(first, end, x, weight, bias, out, relu, outputs, run):
    """Task: some outputs, of a run of samples. An empty bias is none."""
    if on_threads_flushing():
        return
    rows, inputs = out.size // outputs, weight.size // outputs
    blocks = (outputs + _OUTPUTS - 1) // _OUTPUTS
    for task in range(first, end):
        part = task // blocks
        start, end_row = part * run, min(rows, (part + 1) * run)
        o = (task - part * blocks) * _OUTPUTS
        stop = min(outputs, o + _OUTPUTS)
        while o < stop:
            columns = 4 if o + 4 <= stop else 1
            m = start
            while m < end_row:
                together = 4 if m + 4 <= end_row and columns == 4 else 1
                for j in range(0, max(inputs, 1), _TERMS):
                    terms = min(_TERMS, inputs - j)
                    a, b, to = m * inputs + j, o * inputs + j, m * outputs + o
                    if together == 4:
                        for k in range(0, 4, DOT_COLUMNS):
                            dot_tile(x, a, inputs, weight, b + k * inputs, inputs, terms, out, to + k, outputs, j == 0,
                                     4, DOT_COLUMNS)  # fmt: skip
                    elif columns == 4:
                        dot_tile(x, a, inputs, weight, b, inputs, terms, out, to, outputs, j == 0, 1, 4)
                    else:
                        dot_tile(x, a, inputs, weight, b, inputs, terms, out, to, outputs, j == 0, 1, 1)
                m += together
            if bias.size > 0:
                for m in range(start, end_row):
                    for k in range(o, o + columns):
                        out[m * outputs + k] += bias[k]
            if relu:
                for m in range(start, end_row):
                    for k in range(o, o + columns):
                        if out[m * outputs + k] <= 0:  # NaN is not: it passes
                            out[m * outputs + k] = 0
            o += columns


def gradients(
    grad_output: np.ndarray, x: np.ndarray, weight: np.ndarray, needs: tuple[bool, bool, bool]
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Of a small layer all three in one call: three take longer than what they compute."""
    rows, outputs = grad_output.shape
    inputs = x.shape[1]
    dtype = x.dtype
    grad_output = contiguous(grad_output)
    a, nothing = flat(grad_output), _nothing(dtype)
    grad_input = empty(x.shape, dtype) if needs[0] else None
    grad_weight = empty(weight.shape, dtype) if needs[1] else None
    of_input = nothing if grad_input is None else grad_input.ravel()
    of_weight = nothing if grad_weight is None else grad_weight.ravel()
    arrays = a, flat_contiguous(x), flat_contiguous(weight)
    blocks = inputs * x.itemsize // (WIDE_VECTORS * VECTOR_BYTES)
    parts = -(-blocks // _BLOCKS)
    if rows * weight.size <= _SMALL:
        grad_bias = empty((outputs,), dtype) if needs[2] else None
        of_bias = nothing if grad_bias is None else grad_bias
        tasks = (needs[0] + needs[1]) * parts + needs[2]
        _gradients(-1, tasks, *arrays, of_input, of_weight, of_bias, rows, outputs)
        return grad_input, grad_weight, grad_bias
    if needs[0] and rows <= _FEW:
        work_ns = weight.size * (0.1 + 0.03 * rows)
        launch(_scaled_rows, -(-inputs // _INPUTS), work_ns, a, arrays[2], of_input, outputs, inputs)
    elif needs[0]:
        work_ns = weight.size * (0.1 + 0.03 * rows)
        launch(_gradients, parts, work_ns, *arrays, of_input, nothing, nothing, rows, outputs)
    if needs[1]:
        work_ns = weight.size * (0.2 + 0.03 * rows)
        launch(_gradients, parts, work_ns, *arrays, nothing, of_weight, nothing, rows, outputs)
    return grad_input, grad_weight, channel_sums(grad_output) if needs[2] else None


@functools.cache
def _nothing(dtype: np.dtype) -> np.ndarray:
    """Stands for a result that is not needed."""
    return np.empty(0, dtype)


@inline
def _tile(a, a_strides, b, b_start, b_step, out, row, to, pitch, j, terms):
    a_row, a_step = a_strides
    multiply_panel(a, row * a_row + j * a_step, a_row, a_step, b, b_start, b_step, out, to, pitch, terms, j == 0,
                   WIDE_ROWS, WIDE_VECTORS)  # fmt: skip


@inline
def _scale_rows(grad_output, weight, out, rows, outputs, inputs, start, stop):
    """out[m][i] for all m and start <= i < stop."""
    block = WIDE_VECTORS * (VECTOR_BYTES // out.itemsize)
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


@kernel
def _scaled_rows(first, end, grad_output, weight, out, outputs, inputs):
    """Task: some inputs, of all samples. (As a task of `_gradients` large ones take 1.1 times as long.)"""
    if on_threads_flushing():
        return
    for task in range(first, end):
        start, stop = task * _INPUTS, min(inputs, (task + 1) * _INPUTS)
        _scale_rows(grad_output, weight, out, out.size // inputs, outputs, inputs, start, stop)


@inline
def _add_rows(grad_output, grad_bias):
    outputs = grad_bias.size
    sums = zeroed_local_array(outputs, np.float64)
    for start in range(0, grad_output.size if outputs > 0 else 0, max(outputs, 1)):
        line = grad_output[start:][:outputs]
        for k in range(outputs):
            sums[k] += line[k]
    for k in range(outputs):
        grad_bias[k] = sums[k]


@kernel
def _gradients(first, end, grad_output, x, weight, grad_input, grad_weight, grad_bias, samples, outputs):
    """Task: some inputs, of the input-gradient, then of the weight-gradient; the last one is the bias-gradient.

    A result without elements has no task.

    Both are products a b of whole rows of b. Segments of their terms go outermost, so that a block of b stays in cache
    for all rows; rows of b that are far apart, perhaps by a power of two, would not, and are copied side by side first
    (twice as fast at 4,096 columns). What is left beside whole tiles is covered by tiles that overlap others, which
    have sums of their own or begin anew, and gives the same bits.
    """
    if on_threads_flushing():
        return
    block = WIDE_VECTORS * (VECTOR_BYTES // x.itemsize)
    columns = weight.size // outputs
    blocks = columns // block
    parts = (blocks + _BLOCKS - 1) // _BLOCKS
    of_input, of_weight = parts if grad_input.size > 0 else 0, parts if grad_weight.size > 0 else 0
    copies = columns * x.itemsize >= _FAR_BYTES
    panel = local_array(_SEGMENT * block if copies else 0, x.dtype)
    rest = local_array(_BLOCKS * WIDE_ROWS * block, x.dtype)
    for task in range(first, end):
        if task >= of_input + of_weight:
            _add_rows(grad_output, grad_bias)
            continue
        to_input = task < of_input
        part = task if to_input else task - of_input
        if to_input and samples <= _FEW:
            start, stop = part * _BLOCKS * block, (part + 1) * _BLOCKS * block if part + 1 < parts else columns
            _scale_rows(grad_output, weight, grad_input, samples, outputs, columns, start, stop)
            continue
        b, out = (weight, grad_input) if to_input else (x, grad_weight)
        rows, terms = (samples, outputs) if to_input else (outputs, samples)
        a, a_strides = grad_output, (outputs, 1) if to_input else (1, outputs)
        stop = min(blocks, (part + 1) * _BLOCKS)
        for j in range(0, terms, _SEGMENT):
            count = min(_SEGMENT, terms - j)
            for i in range(part * _BLOCKS, stop):
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
                    to = (i - part * _BLOCKS) * WIDE_ROWS * block
                    _tile(a, a_strides, source, start, pitch, rest, rows - WIDE_ROWS, to, block, j, count)
        for row in range(rows - rows % WIDE_ROWS, rows):
            for i in range(part * _BLOCKS, stop):
                at = ((i - part * _BLOCKS) * WIDE_ROWS + row - rows + WIDE_ROWS) * block
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
