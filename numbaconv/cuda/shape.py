"""Borders, flattening, joining and adding. A border is gathered, forward and backward: nothing is added by two threads.

Joined arrays are copied into views of the result (see convert.py). Bytes: each array once.
"""

from __future__ import annotations

import math

from numba import int32

from ..shapes import PAD_MODES, PadProblem
from . import elementwise
from .convert import copy
from .elementwise import run_binary
from .indexing import blocks_for, divided, divisor, thread_number
from .intrinsics import load_lanes, map_vector, store_lanes
from .lanes import Twin
from .launch import T, inline, kernel, launch
from .layout import contiguous, dense, empty, layout_of, planes
from .limits import require_32_bit

# --- pad --------------------------------------------------------------------------------------------------

_ZEROS, _REFLECT, _REPLICATE, _CIRCULAR = range(4)
assert PAD_MODES == ("zeros", "reflect", "replicate", "circular")


def pad(problem: PadProblem, x, value):
    x = dense(x, any_address=True)
    _, inner = planes(x)
    (_, _, h, w), (_, _, p, q) = problem.input_shape, problem.output_shape
    top, _, left, _ = problem.padding
    out = empty(problem.output_shape, x.dtype, x.device, layout_of(x))
    require_32_bit("pad", x, out)
    run, lanes = _PAD.chosen(inner, x)
    size = out.size // lanes
    launch(run, x.dtype, blocks_for(size, run), x, out, size, *divisor(inner // lanes), *divisor(q), *divisor(p), h, w,
           top, left, PAD_MODES.index(problem.mode), value)  # fmt: skip
    return out


@inline
def _source(place, size, mode):
    """What a place outside of 0 .. size - 1 repeats; -1 for nothing."""
    inside = place
    if place < 0 or place >= size:
        if mode == _ZEROS:
            inside = int32(-1)
        elif mode == _REFLECT:
            inside = int32(-place) if place < 0 else int32(2 * (size - 1) - place)
        elif mode == _REPLICATE:
            inside = int32(0) if place < 0 else int32(size - 1)
        else:
            inside = int32(place + size) if place < 0 else int32(place - size)
    return inside


@inline
def _constant(like, value):
    return T(value)


def _padded(like, name):
    @kernel(threads=256, name=name)
    def run(
        x: "T*", out: "T*", size: "i32",
        inner: "i32", inner_multiplier: "u32", inner_shift: "u32",
        out_width: "i32", width_multiplier: "u32", width_shift: "u32",
        out_height: "i32", height_multiplier: "u32", height_shift: "u32",
        height: "i32", width: "i32", top: "i32", left: "i32", mode: "i32", value: "T",
    ):  # fmt: skip
        i = thread_number()
        if i < size:
            pixel, lane = divided(i, inner, inner_multiplier, inner_shift)
            row, q = divided(pixel, out_width, width_multiplier, width_shift)
            plane, p = divided(row, out_height, height_multiplier, height_shift)
            h, w = _source(int32(p - top), height, mode), _source(int32(q - left), width, mode)
            values = map_vector(_constant, (like, value))
            if h >= 0 and w >= 0:
                values = load_lanes(x, int32(((plane * height + h) * width + w) * inner + lane) * len(like), like)
            store_lanes(out, i * len(like), values)

    return run


_PAD = Twin(_padded)


def pad_backward(problem: PadProblem, grad_output):
    grad_output = dense(grad_output, any_address=True)
    _, inner = planes(grad_output)
    (_, _, h, w), (_, _, p, q) = problem.input_shape, problem.output_shape
    top, _, left, _ = problem.padding
    out = empty(problem.input_shape, grad_output.dtype, grad_output.device, layout_of(grad_output))
    require_32_bit("pad_backward", grad_output, out)
    run, lanes = _PAD_BACKWARD.chosen(inner, grad_output)
    size = out.size // lanes
    launch(run, out.dtype, blocks_for(size, run), grad_output, out, size, *divisor(inner // lanes), *divisor(w),
           *divisor(h), p, q, top, left, PAD_MODES.index(problem.mode))  # fmt: skip
    return out


@inline
def _repeats(place, size, before, padded_size, mode):
    """Which places of the padded axis repeat `place`: (first, end) of a run, and two more, negative for none."""
    first, one, other = int32(before + place), int32(-1), int32(-1)
    end = int32(first + 1)
    if mode == _REPLICATE:
        if place == 0:
            first = int32(0)
        if place == size - 1:
            end = padded_size
    elif mode == _CIRCULAR:
        one, other = int32(before + place - size), int32(before + place + size)
    elif mode == _REFLECT:
        if place > 0:
            one = int32(before - place)
        if place < size - 1:
            other = int32(before + 2 * (size - 1) - place)
    return first, end, one, other if other < padded_size else int32(-1)


@inline
def _chosen(number, end, one, other):
    """The place at a number from the first of a run on: of the run, or one of the two after it."""
    place = number
    if number >= end:
        place = one if number == end else other
    return place


@inline
def _zero(like):
    return T(0)


@inline
def _sum(a, b):
    return a + b


def _padded_backward(like, name):
    @kernel(threads=256, blocks_per_sm=4, name=name)
    def run(
        grad_output: "T*", out: "T*", size: "i32",
        inner: "i32", inner_multiplier: "u32", inner_shift: "u32",
        width: "i32", width_multiplier: "u32", width_shift: "u32",
        height: "i32", height_multiplier: "u32", height_shift: "u32",
        out_height: "i32", out_width: "i32", top: "i32", left: "i32", mode: "i32",
    ):  # fmt: skip
        i = thread_number()
        if i < size:
            pixel, lane = divided(i, inner, inner_multiplier, inner_shift)
            row, w = divided(pixel, width, width_multiplier, width_shift)
            plane, h = divided(row, height, height_multiplier, height_shift)
            total = map_vector(_zero, (like,))
            more = int32(0)
            if mode == _REFLECT:
                more = int32(2)
            if mode == _CIRCULAR:
                more = int32(2)
            p_number, p_end, p_one, p_other = _repeats(h, height, top, out_height, mode)
            q_first, q_end, q_one, q_other = _repeats(w, width, left, out_width, mode)
            while p_number < p_end + more:
                p = _chosen(p_number, p_end, p_one, p_other)
                if p >= 0:
                    q_number = q_first
                    while q_number < q_end + more:
                        q = _chosen(q_number, q_end, q_one, q_other)
                        if q >= 0:
                            at = int32(((plane * out_height + p) * out_width + q) * inner + lane) * len(like)
                            total = map_vector(_sum, (total, load_lanes(grad_output, at, like)))
                        q_number = int32(q_number + 1)
                p_number = int32(p_number + 1)
            store_lanes(out, i * len(like), total)

    return run


_PAD_BACKWARD = Twin(_padded_backward)


# --- flatten and concat -----------------------------------------------------------------------------------


def flatten(x):
    return contiguous(x).reshape(x.shape[0], math.prod(x.shape[1:]))


def concat(arrays):
    first = arrays[0]
    size = sum(a.shape[1] for a in arrays)
    out = empty((first.shape[0], size, *first.shape[2:]), first.dtype, first.device, layout_of(first))
    for piece, source in zip(concat_backward(out, tuple(a.shape[1] for a in arrays)), arrays, strict=True):
        copy(source, piece)
    return out


def concat_backward(grad_output, sizes):
    pieces, end = [], 0
    for size in sizes:
        pieces.append(grad_output[:, end : end + size])
        end += size
    return tuple(pieces)


# --- add --------------------------------------------------------------------------------------------------


@inline
def _add(y, x):
    return x + y


_ADD = elementwise.binary(_add)


def add(x, y):
    return run_binary(_ADD, y, x)
