"""Softmax and its logarithm along one axis of an array seen as (outer, channels, inner).

A *position* is one (outer, inner): one softmax over the channels. Positions are done `WIDTH` at a time, as a *tile*
(channels, WIDTH) of float64 in cache, whatever the memory order: with inner > 1 its rows are neighbours in memory,
with inner == 1 loading transposes. In the tile every loop runs over positions and is vectorised, exponentials
included. Tiles, `Blocks` and the helpers also serve the cross-entropy.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from ..jit import helper, inline, kernel
from ..parallel import launch, on_threads
from .exponential import exponential
from .layout import around_axis, dense, empty_like, flat, match
from .local_array import local_array
from .sizes import sizes_of, unpack

WIDTH = 16  # positions of a tile: two AVX-512 vectors of float64, a cache line of float32
_TASK = 16384  # elements of a task, about
NS_PER_ELEMENT = 2.0


class Blocks(NamedTuple):
    """How the positions are cut: into blocks of WIDTH or fewer, and those into tasks of `per_task` blocks."""

    outer: int
    channels: int
    inner: int
    number: int
    per_task: int

    @property
    def tasks(self) -> int:
        return -(-self.number // self.per_task)


def blocks_of(x: np.ndarray, axis: int) -> Blocks:
    return _blocks(x.shape[axis], *around_axis(x, axis))


@functools.lru_cache(maxsize=4096)
def _blocks(channels: int, outer: int, inner: int) -> Blocks:
    number = -(-outer // WIDTH) if inner == 1 else outer * -(-inner // WIDTH)
    return Blocks(outer, channels, inner, number, max(_TASK // (WIDTH * max(channels, 1)), 1))


@inline
def block_range(block, blocks):
    """Of a block: its first position, how many there are, and where the first is in memory."""
    if blocks.inner == 1:
        position = block * WIDTH
        return position, min(WIDTH, blocks.outer - position), position * blocks.channels
    per_row = -(-blocks.inner // WIDTH)
    o, i = block // per_row, block % per_row * WIDTH
    return o * blocks.inner + i, min(WIDTH, blocks.inner - i), o * blocks.channels * blocks.inner + i


@inline
def load_tile(x, start, count, blocks, tile):
    """tile[c * WIDTH + j] = channel c of position j; positions beyond `count` are 0."""
    channels, inner = blocks.channels, blocks.inner
    if count < WIDTH:
        tile[:] = 0.0
    if inner == 1:
        for j in range(count):
            row = x[start + j * channels : start + (j + 1) * channels]
            for c in range(channels):
                tile[c * WIDTH + j] = row[c]
    else:
        for c in range(channels):
            row = x[start + c * inner : start + c * inner + count]
            for j in range(count):
                tile[c * WIDTH + j] = row[j]


@inline
def store_tile(tile, start, count, blocks, out):
    """The inverse of `load_tile`."""
    channels, inner = blocks.channels, blocks.inner
    if inner == 1:
        for j in range(count):
            row = out[start + j * channels : start + (j + 1) * channels]
            for c in range(channels):
                row[c] = tile[c * WIDTH + j]
    else:
        for c in range(channels):
            row = out[start + c * inner : start + c * inner + count]
            for j in range(count):
                row[j] = tile[c * WIDTH + j]


@helper
def tile_exponentials(tile, channels, exponentials, total):
    """Subtracts each position's maximum from the tile; then the exponentials of that, and their sums."""
    total[:] = -np.inf
    for c in range(channels):
        for j in range(WIDTH):
            # A NaN is passed over: it comes back in the sum.
            total[j] = tile[c * WIDTH + j] if tile[c * WIDTH + j] > total[j] else total[j]
    for c in range(channels):
        for j in range(WIDTH):
            tile[c * WIDTH + j] -= total[j]
    for i in range(channels * WIDTH):
        exponentials[i] = exponential(tile[i])
    total[:] = 0.0
    for c in range(channels):
        for j in range(WIDTH):
            total[j] += exponentials[c * WIDTH + j]


def softmax(x, axis):
    return _forward(x, axis, False)


def log_softmax(x, axis):
    return _forward(x, axis, True)


def softmax_backward(grad_output, output, axis):
    return _backward(grad_output, output, axis, False)


def log_softmax_backward(grad_output, output, axis):
    return _backward(grad_output, output, axis, True)


def _forward(x: np.ndarray, axis: int, logarithm: bool) -> np.ndarray:
    x = dense(x)
    out, blocks = empty_like(x), blocks_of(x, axis)
    arguments = flat(x), flat(out), logarithm, sizes_of(blocks)
    launch(_softmax, blocks.tasks, x.size * NS_PER_ELEMENT, *arguments)
    return out


def _backward(grad_output: np.ndarray, output: np.ndarray, axis: int, logarithm: bool) -> np.ndarray:
    output = dense(output)
    out, blocks = empty_like(output), blocks_of(output, axis)
    arguments = flat(match(grad_output, output)), flat(output), flat(out), logarithm, sizes_of(blocks)
    launch(_softmax_backward, blocks.tasks, output.size * NS_PER_ELEMENT, *arguments)
    return out


@kernel
def _softmax(first, end, x, out, logarithm, sizes):
    if on_threads():
        return
    blocks = unpack(sizes, Blocks)
    channels = blocks.channels
    tile, exponentials, total = local_array(channels * WIDTH), local_array(channels * WIDTH), local_array(WIDTH)
    for block in range(first * blocks.per_task, min(end * blocks.per_task, blocks.number)):
        _, count, start = block_range(block, blocks)
        load_tile(x, start, count, blocks, tile)
        tile_exponentials(tile, channels, exponentials, total)
        for j in range(WIDTH):
            total[j] = math.log(total[j]) if logarithm else 1 / total[j]
        for c in range(channels):
            for j in range(WIDTH):
                i = c * WIDTH + j
                tile[i] = tile[i] - total[j] if logarithm else exponentials[i] * total[j]
        store_tile(tile, start, count, blocks, out)


@kernel
def _softmax_backward(first, end, grad_output, output, out, logarithm, sizes):
    if on_threads():
        return
    blocks = unpack(sizes, Blocks)
    channels = blocks.channels
    gradients, tile, total = local_array(channels * WIDTH), local_array(channels * WIDTH), local_array(WIDTH)
    for block in range(first * blocks.per_task, min(end * blocks.per_task, blocks.number)):
        _, count, start = block_range(block, blocks)
        load_tile(grad_output, start, count, blocks, gradients)
        load_tile(output, start, count, blocks, tile)
        total[:] = 0.0
        for c in range(channels):
            for j in range(WIDTH):
                i = c * WIDTH + j
                total[j] += gradients[i] if logarithm else gradients[i] * tile[i]
        for c in range(channels):
            for j in range(WIDTH):
                i = c * WIDTH + j
                if logarithm:
                    tile[i] = gradients[i] - exponential(tile[i]) * total[j]
                else:
                    tile[i] *= gradients[i] - total[j]
        store_tile(tile, start, count, blocks, out)
