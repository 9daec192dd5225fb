"""Which elements of the source reach a result: the taps of a correlation, by residue class of the stride.

Forward, result (p, q) reads rows ``p * stride - pad + r * dilation``: one class. In the input-gradient a row h is
reached by the outputs ``p = (h + pad - r * dilation) / stride`` that are whole, so rows of one residue of h modulo the
stride share their taps: each class is a correlation at step 1.

A tap is a run of elements next to each other in a row of the channels-last source. Neighbouring filter columns make
one run where they are neighbours in the source too, and then the depth of a stage is seldom wasted: 7 x 7 filters on 3
channels are 7 runs of 21 elements, not 49 of 3.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from ...shapes import Conv2dProblem
from .tile import DEPTH


class Tap(NamedTuple):
    """A run of elements, and the filter column of each of its pixels: ``s + i * s_step``."""

    row_shift: int
    column_shift: int  # elements
    r: int
    s: int
    s_step: int


class Class(NamedTuple):
    """Results that share their taps: rows ``row + i * row_classes``, likewise columns."""

    row: int
    column: int
    elements: int  # of each tap
    taps: tuple[Tap, ...]


class Taps(NamedTuple):
    """All classes of a correlation, and how its weights are packed: (group, tap, element, column)."""

    row_classes: int
    column_classes: int
    classes: tuple[Class, ...]

    @property
    def total(self) -> int:
        """Taps of all classes."""
        return sum(len(c.taps) for c in self.classes)

    @property
    def tap_rows(self) -> int:
        """Packed rows of one tap: its elements, and zeros up to whole stages."""
        return -(-max(c.elements for c in self.classes) // DEPTH) * DEPTH

    @property
    def most_stages(self) -> int:
        """Stages of the class that has the most."""
        return max(-(-c.elements // DEPTH) * len(c.taps) for c in self.classes)

    def table(self) -> tuple[int, ...]:
        """For the kernels: the rows of the classes, of the taps as `correlate`, and as `pack` wants them."""
        numbers, first = [], 0
        for c in self.classes:
            numbers += [first, first + len(c.taps), c.row, c.column, c.elements]
            first += len(c.taps)
        taps = [(tap, c.elements) for c in self.classes for tap in c.taps]
        for tap, _ in taps:
            numbers += [tap.row_shift, tap.column_shift]
        for tap, elements in taps:
            numbers += [tap.r, tap.s, tap.s_step, elements]
        return tuple(numbers)


@functools.lru_cache(maxsize=1024)
def forward_taps(problem: Conv2dProblem) -> Taps:
    """The one class of the forward pass."""
    (_, c, _, _), (_, depth, r, s) = problem.input_shape, problem.weight_shape
    (dh, dw), (top, _, left, _) = problem.dilation, problem.padding
    rows = [(i * dh - top, i) for i in range(r)]
    columns = [(j * dw - left, j) for j in range(s)]
    return Taps(1, 1, (_class(0, 0, rows, columns, c, depth),))


@functools.lru_cache(maxsize=1024)
def backward_taps(problem: Conv2dProblem) -> Taps:
    """The classes of the input-gradient."""
    (_, _, h, w), (k, _, r, s) = problem.input_shape, problem.weight_shape
    (sh, sw), (dh, dw), (top, _, left, _) = problem.stride, problem.dilation, problem.padding
    rows, columns = _reaching(min(sh, h), r, sh, top, dh), _reaching(min(sw, w), s, sw, left, dw)
    depth = k // problem.groups
    classes = [
        _class(row, column, row_taps, column_taps, k, depth)
        for row, row_taps in enumerate(rows)
        for column, column_taps in enumerate(columns)
    ]
    return Taps(len(rows), len(columns), tuple(classes))


def _reaching(residues: int, kernel: int, stride: int, pad: int, dilation: int) -> list[list[tuple[int, int]]]:
    """For each residue the (source shift, filter index) that reach it, by shift."""
    distances = [[(residue + pad - i * dilation, i) for i in range(kernel)] for residue in range(residues)]
    return [sorted((far // stride, i) for far, i in every if far % stride == 0) for every in distances]


def _class(
    row: int, column: int, rows: list[tuple[int, int]], columns: list[tuple[int, int]], channels: int, depth: int
) -> Class:
    """`channels` of a source pixel, `depth` of them in a group."""
    shifts = [shift for shift, _ in columns]
    if depth == channels and len(columns) > 1 and shifts == list(range(shifts[0], shifts[0] + len(shifts))):
        s, s_step = columns[0][1], columns[1][1] - columns[0][1]
        taps = [Tap(up, shifts[0] * channels, r, s, s_step) for up, r in rows]
        return Class(row, column, len(columns) * depth, tuple(taps))
    taps = [Tap(up, left * channels, r, s, 0) for up, r in rows for left, s in columns]
    return Class(row, column, depth, tuple(taps))
