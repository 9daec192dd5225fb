"""Softmax and its logarithm along one axis of an array seen as (outer, channels, inner).

A *position* is one (outer, inner): one softmax over the channels. Positions are done a block at a time, channel by
channel, so that both layouts are one loop nest: with inner > 1 a block is 64 neighbours in memory, with inner == 1
it is 8 rows, few enough that their cache lines stay in the first-level cache for any number of channels. Sums are
float64. `Blocks` and the helpers also serve the cross-entropy.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..jit import inline, kernel, launch, never_inline, parallel_kernel, prange
from . import memory
from .layout import around_axis, dense, empty_like, flat, match

COLUMNS = 64  # most positions of a block
_ROWS = 8
_TASK = 16384  # elements of a task, about
NS_PER_ELEMENT = 8.0  # an exponential and some


class Blocks(NamedTuple):
    """How the positions are cut: into blocks of `width`, and those into tasks of `per_task` blocks."""

    outer: int
    channels: int
    inner: int
    width: int
    number: int
    per_task: int

    @property
    def tasks(self) -> int:
        return -(-self.number // self.per_task)

    @property
    def work(self) -> np.ndarray:
        """Work space for `block_work`, uninitialised."""
        return memory.scratch("softmax.work", self.tasks * 2 * COLUMNS, np.dtype(np.float64))


def blocks_of(x: np.ndarray, axis: int) -> Blocks:
    outer, inner = around_axis(x, axis)
    channels = x.shape[axis]
    width = _ROWS if inner == 1 else COLUMNS
    number = -(-outer // width) if inner == 1 else outer * -(-inner // width)
    return Blocks(outer, channels, inner, width, number, max(_TASK // (width * max(channels, 1)), 1))


@inline
def block_range(block, blocks):
    """Of a block: its first position and their number; where it starts; the steps to the next channel and position."""
    if blocks.inner == 1:
        position = block * blocks.width
        count = min(blocks.width, blocks.outer - position)
        return position, count, position * blocks.channels, 1, blocks.channels
    per_row = -(-blocks.inner // blocks.width)
    o, i = block // per_row, block % per_row * blocks.width
    count = min(blocks.width, blocks.inner - i)
    return o * blocks.inner + i, count, o * blocks.channels * blocks.inner + i, blocks.inner, 1


@inline
def block_work(work, task):
    """Two rows of COLUMNS float64 that are a task's own."""
    begin = task * 2 * COLUMNS
    return work[begin : begin + COLUMNS], work[begin + COLUMNS : begin + 2 * COLUMNS]


@inline
def block_maximum(x, start, channels, channel_step, count, step, maximum):
    maximum[:count] = -np.inf
    for c in range(channels):
        for j in range(count):
            value = x[start + c * channel_step + j * step]
            if value > maximum[j]:  # a NaN is passed over: it comes back in the sum of exponentials
                maximum[j] = value


@inline
def block_total(x, start, channels, channel_step, count, step, maximum, total):
    """The sum of exp(x - maximum) of each position."""
    total[:count] = 0.0
    for c in range(channels):
        for j in range(count):
            value = x[start + c * channel_step + j * step]
            total[j] += math.exp(value - x.dtype.type(maximum[j]))


@inline
def block_exponentials(x, start, channels, channel_step, count, step, maximum, total, out):
    """The same, and every exponential in `out`."""
    total[:count] = 0.0
    for c in range(channels):
        for j in range(count):
            i = start + c * channel_step + j * step
            value = math.exp(x[i] - x.dtype.type(maximum[j]))
            out[i] = value
            total[j] += value


def softmax(x, axis):
    return _forward(_softmax, _softmax_parallel, x, axis)


def log_softmax(x, axis):
    return _forward(_log_softmax, _log_softmax_parallel, x, axis)


def softmax_backward(grad_output, output, axis):
    return _backward(_softmax_backward, _softmax_backward_parallel, grad_output, output, axis)


def log_softmax_backward(grad_output, output, axis):
    return _backward(_log_softmax_backward, _log_softmax_backward_parallel, grad_output, output, axis)


def _forward(body, parallel, x: np.ndarray, axis: int) -> np.ndarray:
    x = dense(x)
    out, blocks = empty_like(x), blocks_of(x, axis)
    launch(body, parallel, blocks.tasks, x.size * NS_PER_ELEMENT, flat(x), flat(out), blocks.work, blocks)
    return out


def _backward(body, parallel, grad_output: np.ndarray, output: np.ndarray, axis: int) -> np.ndarray:
    output = dense(output)
    out, blocks = empty_like(output), blocks_of(output, axis)
    arrays = flat(match(grad_output, output)), flat(output), flat(out), blocks.work
    launch(body, parallel, blocks.tasks, output.size * NS_PER_ELEMENT, *arrays, blocks)
    return out


@kernel
def _softmax(first, end, x, out, work, blocks):
    never_inline()
    channels = blocks.channels
    for task in range(first, end):
        maximum, total = block_work(work, task)
        for block in range(task * blocks.per_task, min((task + 1) * blocks.per_task, blocks.number)):
            _, count, start, channel_step, step = block_range(block, blocks)
            block_maximum(x, start, channels, channel_step, count, step, maximum)
            block_exponentials(x, start, channels, channel_step, count, step, maximum, total, out)
            for c in range(channels):
                for j in range(count):
                    out[start + c * channel_step + j * step] /= total[j]


@parallel_kernel
def _softmax_parallel(tasks, x, out, work, blocks):
    for task in prange(tasks):
        _softmax(np.int64(task), np.int64(task + 1), x, out, work, blocks)


@kernel
def _log_softmax(first, end, x, out, work, blocks):
    never_inline()
    channels = blocks.channels
    for task in range(first, end):
        maximum, total = block_work(work, task)
        for block in range(task * blocks.per_task, min((task + 1) * blocks.per_task, blocks.number)):
            _, count, start, channel_step, step = block_range(block, blocks)
            block_maximum(x, start, channels, channel_step, count, step, maximum)
            block_total(x, start, channels, channel_step, count, step, maximum, total)
            for j in range(count):
                total[j] = math.log(total[j])
            for c in range(channels):
                for j in range(count):
                    i = start + c * channel_step + j * step
                    out[i] = np.float64(x[i]) - maximum[j] - total[j]


@parallel_kernel
def _log_softmax_parallel(tasks, x, out, work, blocks):
    for task in prange(tasks):
        _log_softmax(np.int64(task), np.int64(task + 1), x, out, work, blocks)


@kernel
def _softmax_backward(first, end, grad_output, output, out, work, blocks):
    never_inline()
    channels = blocks.channels
    for task in range(first, end):
        total, _ = block_work(work, task)
        for block in range(task * blocks.per_task, min((task + 1) * blocks.per_task, blocks.number)):
            _, count, start, channel_step, step = block_range(block, blocks)
            total[:count] = 0.0
            for c in range(channels):
                for j in range(count):
                    i = start + c * channel_step + j * step
                    total[j] += np.float64(grad_output[i]) * output[i]
            for c in range(channels):
                for j in range(count):
                    i = start + c * channel_step + j * step
                    out[i] = output[i] * (grad_output[i] - total[j])


@parallel_kernel
def _softmax_backward_parallel(tasks, grad_output, output, out, work, blocks):
    for task in prange(tasks):
        _softmax_backward(np.int64(task), np.int64(task + 1), grad_output, output, out, work, blocks)


@kernel
def _log_softmax_backward(first, end, grad_output, output, out, work, blocks):
    never_inline()
    channels = blocks.channels
    for task in range(first, end):
        total, _ = block_work(work, task)
        for block in range(task * blocks.per_task, min((task + 1) * blocks.per_task, blocks.number)):
            _, count, start, channel_step, step = block_range(block, blocks)
            total[:count] = 0.0
            for c in range(channels):
                for j in range(count):
                    total[j] += grad_output[start + c * channel_step + j * step]
            for c in range(channels):
                for j in range(count):
                    i = start + c * channel_step + j * step
                    out[i] = grad_output[i] - math.exp(output[i]) * total[j]


@parallel_kernel
def _log_softmax_backward_parallel(tasks, grad_output, output, out, work, blocks):
    for task in prange(tasks):
        _log_softmax_backward(np.int64(task), np.int64(task + 1), grad_output, output, out, work, blocks)
