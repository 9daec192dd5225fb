"""The weight-gradient by Winograd: r x s results of an m x m "filter", which is a tile of grad_output.

The tiles are those of the forward pass, and so are the patches: F(r x s, m x m) and F(m x m, r x s) interpolate at the
same points. For every point, a matrix product [channel][tile] x [tile][column] sums over the tiles of all images; the
sums are transformed once, at the end:

    grad_weight = A^T [ sum over tiles of (B^T d B) * (G g G^T) ] A

Some megabytes of tiles are transformed at a time; a task of the products is then one point, block of columns and run
of channels, and adds this chunk to its sums: in the order of the tiles, whatever the number of threads.

Cost: 2 P C K flops a tile of P points (4 times fewer than direct for 4x4 tiles and 3x3 filters); P * C * K sums.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, section 4.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from ...jit import helper, inline, kernel, never_inline
from ...parallel import launch, on_threads_flushing
from ...shapes import Conv2dProblem
from ..correlate import TERMS, zeros
from ..layout import channels_last, empty, flat
from ..local_array import local_array
from ..memory import address_of, scratch
from ..register_tile import (
    MIDDLE_ROWS,
    MIDDLE_VECTORS,
    NARROW_ROWS,
    NARROW_VECTORS,
    WIDE_ROWS,
    WIDE_VECTORS,
    multiply_panel,
)
from ..simd import VECTOR_BYTES
from ..sizes import sizes_of, unpack
from ..transpose import transpose_block
from .winograd_tile import transform_products, transform_taps
from .winograd_tiling import (
    PITCH_PADDING,
    Shape,
    Tiling,
    block_of,
    blocks_for,
    place,
    shape_of,
    tile_of,
    tiles_along,
    transform_run,
)

# Of transformed patches and gradients; with 3 or 8 million up to 1.08 times the time. But each chunk reads and writes
# all sums, so it has at least as many bytes: with a third of them, 384 channels took up to 1.6 times as long.
_CHUNK_BYTES = 5_000_000
_TILES = 8  # of a task that transforms
_CHANNELS = 48  # of a task of the products
_LINES = 8  # channels whose results are written together


class _Plan(NamedTuple):
    tiling: Tiling
    tiles: int
    chunk: int
    shape: Shape
    sum_rows: int  # channels of a group, rounded up to whole register tiles


@functools.lru_cache(maxsize=1024)
def _plan(results: int, problem: Conv2dProblem, itemsize: int) -> _Plan:
    n, c, h, w = problem.input_shape
    k, depth, r, s = problem.weight_shape
    _, _, p, q = problem.output_shape
    (dh, dw), (top, _, left, _) = problem.dilation, problem.padding
    shape = shape_of(results, (r, s))
    cut = blocks_for(k // problem.groups, itemsize)
    tile_rows, tile_columns = tiles_along(p, dh, len(shape.results_h)), tiles_along(q, dw, len(shape.results_w))
    tiles = n * dh * dw * tile_rows * tile_columns
    points = len(shape.points_h) * len(shape.points_w)
    most = max(_CHUNK_BYTES, points * depth * k * itemsize)
    chunks = -(-tiles * points * (c + k) * itemsize // most)
    tiling = Tiling(
        h, w, c, p, q, k, top, left, dh, dw, tile_rows, tile_columns,
        problem.groups, depth, k // problem.groups, cut.blocks, cut.block, cut.rows, 0, 0,
    )  # fmt: skip
    chunk = max(1, -(-tiles // max(chunks, 1)))
    return _Plan(tiling, tiles, chunk, shape, -(-depth // cut.rows) * cut.rows)


def backward_weight(results: int, problem: Conv2dProblem, grad_output: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(K, C // groups, R, S), C-contiguous."""
    out = empty(problem.weight_shape, x.dtype)
    if grad_output.size == 0 or out.size == 0:
        out[...] = 0
        return out
    plan = _plan(results, problem, x.itemsize)
    tiling, shape = plan.tiling, plan.shape
    points = len(shape.points_h) * len(shape.points_w)
    blocks = tiling.groups * tiling.blocks
    x, grad = flat(channels_last(x)), flat(channels_last(grad_output))
    patch_pitch = (plan.chunk + 1) * tiling.channels + PITCH_PADDING
    grad_pitch = (plan.chunk + 1) * tiling.out_channels + PITCH_PADDING
    patches = scratch("patches", points * patch_pitch + NARROW_ROWS, x.dtype)
    grads = scratch("gradients", points * grad_pitch + tiling.block, x.dtype)
    sum_pitch = blocks * plan.sum_rows * tiling.block + PITCH_PADDING
    sums = scratch("sums", points * sum_pitch, x.dtype)
    page = zeros(max(tiling.channels, tiling.out_channels), x.dtype)
    address = address_of(page)
    zeros_at = tuple((address - address_of(a)) // a.itemsize for a in (x, grad))
    parts = -(-tiling.depth // _CHANNELS)
    lanes = VECTOR_BYTES // x.itemsize
    multiply_ns = points * blocks * plan.sum_rows * tiling.block / lanes * 0.2
    for first in range(0, plan.tiles, plan.chunk):
        tiles = min(plan.chunk, plan.tiles - first)
        args: tuple[Any, ...] = (
            x, grad, zeros_at, patches, grads, (patch_pitch, grad_pitch), first, tiles, sizes_of(tiling), *shape
        )  # fmt: skip
        work_ns = tiles * points * (tiling.channels + tiling.out_channels) * 0.1
        launch(_transform, -(-tiles // _TILES), work_ns, *args)
        args = (
            patches, grads, sums, (patch_pitch, grad_pitch, sum_pitch), first == 0, tiles,
            parts, plan.sum_rows, sizes_of(tiling),
        )  # fmt: skip
        launch(_multiply, points * blocks * parts, tiles * multiply_ns, *args)
    taps_h, taps_w = ((0,) * size for size in problem.weight_shape[2:])
    tasks = blocks * -(-tiling.depth // _LINES)
    launch(
        _finish, tasks, out.size * 1.5,
        sums, page, flat(out), plan.sum_rows, sizes_of(tiling), shape.points_h, shape.points_w, taps_h, taps_w,
    )  # fmt: skip
    return out


@helper
def _transform_gradients(
    grad, zeros, grads, start, pitch, first_tile, tiles, tiling, points_h, points_w, results_h, results_w
):
    """grads: [point][tile][output channel]."""
    never_inline()
    offsets = local_array(len(results_h) * len(results_w), np.int64)
    for t in range(tiles):
        n, p, q = place(first_tile + t, tiling, len(results_h), len(results_w))
        for i in range(len(results_h)):
            row = p + i * tiling.dilation_h
            for j in range(len(results_w)):
                w = q + j * tiling.dilation_w
                inside = row < tiling.out_height and w < tiling.out_width
                at = ((n * tiling.out_height + row) * tiling.out_width + w) * tiling.out_channels
                offsets[i * len(results_w) + j] = at if inside else zeros
        transform_taps(grad, offsets, tiling.out_channels, grads, start + t * tiling.out_channels, pitch,
                       points_h, points_w, results_h, results_w)  # fmt: skip


@kernel
def _transform(
    first, end, x, grad, zeros, patches, grads, pitches, first_tile, tiles, sizes,
    points_h, points_w, results_h, results_w,
):  # fmt: skip
    if on_threads_flushing():
        return
    tiling = unpack(sizes, Tiling)
    for task in range(first, end):
        t = task * _TILES
        count = min(_TILES, tiles - t)
        transform_run(x, zeros[0], patches, t * tiling.channels, pitches[0], first_tile + t, count, 1,
                      tiling.channels, tiling, tiling.top, tiling.left,
                      points_h, points_w, results_h, results_w)  # fmt: skip
        _transform_gradients(grad, zeros[1], grads, t * tiling.out_channels, pitches[1], first_tile + t, count, tiling,
                             points_h, points_w, results_h, results_w)  # fmt: skip


@inline
def _panel(vectors, patches, a_start, a_step, grads, b_start, b_step, sums, out_start, block, terms, first):
    if vectors == WIDE_VECTORS:
        multiply_panel(patches, a_start, 1, a_step, grads, b_start, b_step, sums, out_start, block, terms, first,
                       WIDE_ROWS, WIDE_VECTORS)  # fmt: skip
    elif WIDE_VECTORS > 3 and vectors == 3:
        multiply_panel(patches, a_start, 1, a_step, grads, b_start, b_step, sums, out_start, block, terms, first,
                       WIDE_ROWS, 3)  # fmt: skip
    elif vectors == MIDDLE_VECTORS:
        multiply_panel(patches, a_start, 1, a_step, grads, b_start, b_step, sums, out_start, block, terms, first,
                       MIDDLE_ROWS, MIDDLE_VECTORS)  # fmt: skip
    else:
        multiply_panel(patches, a_start, 1, a_step, grads, b_start, b_step, sums, out_start, block, terms, first,
                       NARROW_ROWS, NARROW_VECTORS)  # fmt: skip


@kernel
def _multiply(first, end, patches, grads, sums, pitches, initial, tiles, parts, sum_rows, sizes):
    """sums: [point][group and block][channel][column]. Task: one point, block and part of the channels."""
    if on_threads_flushing():
        return
    tiling = unpack(sizes, Tiling)
    patch_pitch, grad_pitch, sum_pitch = pitches
    blocks = tiling.groups * tiling.blocks
    for task in range(first, end):
        place = task // parts
        part = task - place * parts
        e = place // blocks
        block = place - e * blocks
        group, column, _, width = block_of(block, tiling.blocks, tiling.block, tiling.columns, sums.itemsize)
        rows, vectors = tile_of(width, sums.itemsize)
        column += group * tiling.columns
        for t in range(0, tiles, TERMS):
            b_start = e * grad_pitch + t * tiling.out_channels + column
            a_start = e * patch_pitch + t * tiling.channels + group * tiling.depth
            for c in range(part * _CHANNELS, min((part + 1) * _CHANNELS, tiling.depth), rows):
                out_start = e * sum_pitch + block * sum_rows * tiling.block + c * width
                _panel(vectors, patches, a_start + c, tiling.channels, grads, b_start, tiling.out_channels,
                       sums, out_start, width, min(TERMS, tiles - t), initial and t == 0)  # fmt: skip


@kernel
def _finish(first, end, sums, zeros, out, sum_rows, sizes, points_h, points_w, taps_h, taps_w):
    """The sums transformed, to out[k][c][tap]. Task: a block and `_LINES` channels, so that runs of out are written."""
    if on_threads_flushing():
        return
    tiling = unpack(sizes, Tiling)
    lanes = VECTOR_BYTES // out.itemsize
    taps = len(taps_h) * len(taps_w)
    pitch = tiling.groups * tiling.blocks * sum_rows * tiling.block + PITCH_PADDING
    lines = local_array(_LINES * taps * tiling.block, out.dtype)
    offsets = local_array(taps, np.int64)
    parts = (tiling.depth + _LINES - 1) // _LINES
    for task in range(first, end):
        block = task // parts
        start = (task - block * parts) * _LINES
        count = min(_LINES, tiling.depth - start)
        group, column, columns, width = block_of(block, tiling.blocks, tiling.block, tiling.columns, out.itemsize)
        first_sum = block * sum_rows * tiling.block
        for c in range(count):
            for tap in range(taps):
                offsets[tap] = (c * taps + tap) * width
            transform_products(sums, first_sum + (start + c) * width, pitch, zeros, 0, width,
                               -np.inf, lines, offsets, points_h, points_w, taps_h, taps_w, ())  # fmt: skip
        to = ((group * tiling.columns + column) * tiling.depth + start) * taps
        pitch_out = tiling.depth * taps
        for v in range(0, columns, lanes):
            if v + lanes <= columns and count * taps >= lanes:
                for i in range(0, count * taps, lanes):
                    i = min(i, count * taps - lanes)  # the last block overlaps the one before
                    transpose_block(lines, i * width + v, width, out, to + v * pitch_out + i, pitch_out)
                continue
            for j in range(v, min(v + lanes, columns)):
                for i in range(count * taps):
                    out[to + j * pitch_out + i] = lines[i * width + j]
