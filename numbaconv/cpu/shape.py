"""Borders, flattening, joining and adding.

Copies are NumPy slice assignments, which run at the speed of memory in either order; so is a border, which is
a few rows and columns copied one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..jit import kernel
from ..parallel import on_threads
from ..shapes import PadProblem
from .activation import part, run_binary
from .layout import contiguous, empty, layout_of

# --- pad --------------------------------------------------------------------------------------------------


def pad(problem: PadProblem, x, value):
    (_, _, h, w), (_, _, p, q) = problem.input_shape, problem.output_shape
    top, _, left, _ = problem.padding
    out = empty(problem.output_shape, x.dtype, layout_of(x))
    np.copyto(out[:, :, top : top + h, left : left + w], x)
    if problem.mode == "zeros":
        out[:, :, :top] = out[:, :, top + h :] = value
        out[:, :, top : top + h, :left] = out[:, :, top : top + h, left + w :] = value
        return out
    for row, source in _border(problem.mode, top, h, p):
        out[:, :, row, left : left + w] = out[:, :, source, left : left + w]
    for column, source in _border(problem.mode, left, w, q):  # after the rows: corners come along
        out[:, :, :, column] = out[:, :, :, source]
    return out


def pad_backward(problem: PadProblem, grad_output):
    """The forward's copies in reverse order, each an addition the other way."""
    (_, _, h, w), (_, _, p, q) = problem.input_shape, problem.output_shape
    top, _, left, _ = problem.padding
    layout = layout_of(grad_output)
    if problem.mode != "zeros":
        padded = empty(problem.output_shape, grad_output.dtype, layout)
        np.copyto(padded, grad_output)
        for column, source in _border(problem.mode, left, w, q):
            padded[:, :, :, source] += padded[:, :, :, column]
        for row, source in _border(problem.mode, top, h, p):
            padded[:, :, source, left : left + w] += padded[:, :, row, left : left + w]
        grad_output = padded
    out = empty(problem.input_shape, grad_output.dtype, layout)
    np.copyto(out, grad_output[:, :, top : top + h, left : left + w])
    return out


def _border(mode: str, before: int, size: int, padded_size: int) -> Iterator[tuple[int, int]]:
    """(place in the border, place inside that it repeats), both along one axis of the padded array."""
    for place in (*range(before), *range(before + size, padded_size)):
        i = place - before  # of the input, were it larger
        if mode == "reflect":
            source = -i if i < 0 else 2 * (size - 1) - i
        elif mode == "replicate":
            source = min(max(i, 0), size - 1)
        else:
            source = i % size
        yield place, before + source


# --- flatten and concat -----------------------------------------------------------------------------------


def flatten(x):
    return contiguous(x).reshape(x.shape[0], math.prod(x.shape[1:]))


def concat(arrays):
    first = arrays[0]
    size = sum(a.shape[1] for a in arrays)
    out = empty((first.shape[0], size, *first.shape[2:]), first.dtype, layout_of(first))
    for piece, source in zip(concat_backward(out, tuple(a.shape[1] for a in arrays)), arrays, strict=True):
        np.copyto(piece, source)
    return out


def concat_backward(grad_output, sizes):
    ends = np.cumsum(sizes).tolist()
    return tuple(grad_output[:, end - size : end] for size, end in zip(sizes, ends, strict=True))


# --- add --------------------------------------------------------------------------------------------------


def add(x, y):
    return run_binary(_add, 0.3, y, x)


@kernel
def _add(first, end, y, x, out):
    if on_threads():
        return
    x, y, out = part(x, first, end), part(y, first, end), part(out, first, end)
    for i in range(x.size):
        out[i] = x[i] + y[i]
