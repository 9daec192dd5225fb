"""Losses: cross-entropy of logits (outer, channels, inner) and squared error.

The cross-entropy of a position is taken from the logits with a shifted log-sum-exp, and its gradient is
softmax - target, in one pass that holds a block of positions in the first-level cache. Losses are float64 until
they are reduced.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import LabelError, message
from ..jit import kernel, launch, never_inline, parallel_kernel, prange
from . import memory
from .layout import contiguous, dense, empty_like, flat, match
from .softmax import (
    COLUMNS,
    NS_PER_ELEMENT,
    block_exponentials,
    block_maximum,
    block_range,
    block_total,
    block_work,
    blocks_of,
)

_FLOAT64 = np.dtype(np.float64)


# --- cross-entropy ----------------------------------------------------------------------------------------


def cross_entropy(x, target, label_smoothing, ignore_index, reduction):
    x = dense(x)
    blocks = blocks_of(x, 1)
    shape = x.shape[:1] + x.shape[2:]
    losses = np.empty(math.prod(shape), _FLOAT64)
    used = losses.size
    if target.dtype.kind == "f":
        kernels, target = (_probability_loss, _probability_loss_parallel), flat(match(target, x))
    else:
        kernels, target = (_class_loss, _class_loss_parallel), _labels("cross_entropy", target, x, ignore_index)
        used -= int(np.count_nonzero(target == ignore_index))
    arguments = flat(x), target, losses, blocks.work, label_smoothing, ignore_index, blocks
    launch(*kernels, blocks.tasks, x.size * NS_PER_ELEMENT, *arguments)
    return _reduced(losses, used, reduction, shape, x.dtype)


def _reduced(
    losses: np.ndarray, used: int, reduction: str, shape: tuple[int, ...], dtype: np.dtype
) -> float | np.ndarray:
    with np.errstate(all="ignore"):
        if reduction == "none":
            return losses.reshape(shape).astype(dtype)
        total = float(losses.sum())
    if reduction == "sum":
        return total
    return total / used if used else math.nan


def cross_entropy_backward(grad_output, x, target, label_smoothing, ignore_index, reduction):
    x = dense(x)
    out, blocks = empty_like(x), blocks_of(x, 1)
    weights = np.empty(x.shape[:1] + x.shape[2:], _FLOAT64)
    weights[...] = grad_output
    weights = weights.reshape(-1)
    used = weights.size
    if target.dtype.kind == "f":
        kernels, target = (_probability_gradient, _probability_gradient_parallel), flat(match(target, x))
    else:
        target = _labels("cross_entropy_backward", target, x, ignore_index)
        kernels, ignored = (_class_gradient, _class_gradient_parallel), target == ignore_index
        weights[ignored] = 0
        used -= int(np.count_nonzero(ignored))
    if reduction == "mean":
        weights /= max(used, 1)
    arguments = flat(x), target, weights, flat(out), blocks.work, label_smoothing, blocks
    launch(*kernels, blocks.tasks, x.size * NS_PER_ELEMENT, *arguments)
    return out


def _labels(op: str, target: np.ndarray, x: np.ndarray, ignore_index: int) -> np.ndarray:
    """Class indices as flat int64 in C order.

    Raises:
        LabelError: with the first that is outside 0 .. channels - 1 and not `ignore_index`, and its position.
    """
    channels = x.shape[1]
    if target.size and (target.min() < 0 or target.max() >= channels):
        bad = ((target < 0) | (target >= channels)) & (target != ignore_index)
        if bad.any():
            position = tuple(int(i) for i in np.argwhere(bad)[0])
            where = ", ".join(str(i) for i in position)
            raise LabelError(
                message(
                    op,
                    f"target must hold class indices from 0 to {channels - 1}, or ignore_index = {ignore_index}",
                    "Count classes from 0.",
                    **{f"target[{where}]": int(target[position])},
                )
            )
    return flat(contiguous(target.astype(np.int64, copy=False)))


@kernel
def _class_loss(first, end, x, target, losses, work, label_smoothing, ignore_index, blocks):
    never_inline()
    channels = blocks.channels
    for task in range(first, end):
        maximum, total = block_work(work, task)
        for block in range(task * blocks.per_task, min((task + 1) * blocks.per_task, blocks.number)):
            position, count, start, channel_step, step = block_range(block, blocks)
            block_maximum(x, start, channels, channel_step, count, step, maximum)
            block_total(x, start, channels, channel_step, count, step, maximum, total)
            for j in range(count):
                label = target[position + j]
                if label == ignore_index:
                    losses[position + j] = 0.0
                    continue
                log_total = math.log(total[j])
                loss = log_total - (np.float64(x[start + label * channel_step + j * step]) - maximum[j])
                if label_smoothing > 0:
                    smooth = 0.0
                    for c in range(channels):
                        smooth += log_total - (np.float64(x[start + c * channel_step + j * step]) - maximum[j])
                    loss = (1 - label_smoothing) * loss + label_smoothing / channels * smooth
                losses[position + j] = loss


@parallel_kernel
def _class_loss_parallel(tasks, x, target, losses, work, label_smoothing, ignore_index, blocks):
    for task in prange(tasks):
        _class_loss(np.int64(task), np.int64(task + 1), x, target, losses, work, label_smoothing, ignore_index, blocks)


@kernel
def _probability_loss(first, end, x, target, losses, work, label_smoothing, ignore_index, blocks):
    never_inline()
    channels = blocks.channels
    for task in range(first, end):
        maximum, total = block_work(work, task)
        for block in range(task * blocks.per_task, min((task + 1) * blocks.per_task, blocks.number)):
            position, count, start, channel_step, step = block_range(block, blocks)
            block_maximum(x, start, channels, channel_step, count, step, maximum)
            block_total(x, start, channels, channel_step, count, step, maximum, total)
            for j in range(count):
                log_total, loss = math.log(total[j]), 0.0
                for c in range(channels):
                    i = start + c * channel_step + j * step
                    probability = target[i] * (1 - label_smoothing) + label_smoothing / channels
                    loss += probability * (log_total - (np.float64(x[i]) - maximum[j]))
                losses[position + j] = loss


@parallel_kernel
def _probability_loss_parallel(tasks, x, target, losses, work, label_smoothing, ignore_index, blocks):
    for task in prange(tasks):
        _probability_loss(
            np.int64(task), np.int64(task + 1), x, target, losses, work, label_smoothing, ignore_index, blocks
        )


@kernel
def _class_gradient(first, end, x, target, weights, out, work, label_smoothing, blocks):
    """weight * (softmax - target) of each position; an ignored position's weight is 0."""
    never_inline()
    channels = blocks.channels
    for task in range(first, end):
        maximum, total = block_work(work, task)
        for block in range(task * blocks.per_task, min((task + 1) * blocks.per_task, blocks.number)):
            position, count, start, channel_step, step = block_range(block, blocks)
            block_maximum(x, start, channels, channel_step, count, step, maximum)
            block_exponentials(x, start, channels, channel_step, count, step, maximum, total, out)
            for c in range(channels):
                for j in range(count):
                    i = start + c * channel_step + j * step
                    wanted = label_smoothing / channels
                    if target[position + j] == c:
                        wanted += 1 - label_smoothing
                    out[i] = weights[position + j] * (out[i] / total[j] - wanted)


@parallel_kernel
def _class_gradient_parallel(tasks, x, target, weights, out, work, label_smoothing, blocks):
    for task in prange(tasks):
        _class_gradient(np.int64(task), np.int64(task + 1), x, target, weights, out, work, label_smoothing, blocks)


@kernel
def _probability_gradient(first, end, x, target, weights, out, work, label_smoothing, blocks):
    """weight * (softmax * sum(target) - target) of each position."""
    never_inline()
    channels = blocks.channels
    for task in range(first, end):
        # `maximum` holds the sums of the targets once the exponentials are there.
        maximum, total = block_work(work, task)
        for block in range(task * blocks.per_task, min((task + 1) * blocks.per_task, blocks.number)):
            position, count, start, channel_step, step = block_range(block, blocks)
            block_maximum(x, start, channels, channel_step, count, step, maximum)
            block_exponentials(x, start, channels, channel_step, count, step, maximum, total, out)
            maximum[:count] = 0.0
            for c in range(channels):
                for j in range(count):
                    wanted = target[start + c * channel_step + j * step]
                    maximum[j] += wanted * (1 - label_smoothing) + label_smoothing / channels
            for c in range(channels):
                for j in range(count):
                    i = start + c * channel_step + j * step
                    wanted = target[i] * (1 - label_smoothing) + label_smoothing / channels
                    out[i] = weights[position + j] * (out[i] / total[j] * maximum[j] - wanted)


@parallel_kernel
def _probability_gradient_parallel(tasks, x, target, weights, out, work, label_smoothing, blocks):
    for task in prange(tasks):
        _probability_gradient(
            np.int64(task), np.int64(task + 1), x, target, weights, out, work, label_smoothing, blocks
        )


# --- squared error ----------------------------------------------------------------------------------------

_CHUNK = 16384  # elements of a task


def mse_loss(x, target, reduction):
    x = dense(x)
    target = match(target, x)
    if reduction == "none":
        with np.errstate(all="ignore"):
            difference = np.subtract(x, target, out=empty_like(x))
            return np.multiply(difference, difference, out=difference)
    tasks = -(-x.size // _CHUNK)
    lanes = memory.scratch("loss.lanes", tasks * COLUMNS, _FLOAT64)
    launch(_squared_error, _squared_error_parallel, tasks, x.size * 0.3, flat(x), flat(target), lanes)
    total = float(lanes.sum())
    if reduction == "sum":
        return total
    return total / x.size if x.size else math.nan


@kernel
def _squared_error(first, end, x, target, lanes):
    """`lanes`: COLUMNS partial sums for each task, so that an add need not wait for the last."""
    never_inline()
    for task in range(first, end):
        mine = lanes[task * COLUMNS : (task + 1) * COLUMNS]
        mine[:] = 0.0
        for start in range(task * _CHUNK, min((task + 1) * _CHUNK, x.size), COLUMNS):
            x_run, target_run = x[start : start + COLUMNS], target[start : start + COLUMNS]
            for lane in range(len(x_run)):
                difference = np.float64(x_run[lane]) - np.float64(target_run[lane])
                mine[lane] += difference * difference


@parallel_kernel
def _squared_error_parallel(tasks, x, target, lanes):
    for task in prange(tasks):
        _squared_error(np.int64(task), np.int64(task + 1), x, target, lanes)


def mse_loss_backward(grad_output, x, target, reduction):
    # Two passes over memory without a kernel of its own: the loss of small outputs, at the end of a network.
    x = dense(x)
    scale = 2 / max(x.size, 1) if reduction == "mean" else 2.0
    with np.errstate(all="ignore"):
        out = np.subtract(x, target, out=empty_like(x))
        return np.multiply(out, x.dtype.type(scale) * grad_output, out=out)
