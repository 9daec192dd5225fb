"""Losses: cross-entropy of logits (outer, channels, inner) and squared error.

The cross-entropy of a position is taken from the logits with a shifted log-sum-exp, and its gradient is
softmax - target, tile by tile (see softmax.py). Losses are float64 until they are reduced.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import LabelError, message
from ..jit import kernel
from ..parallel import launch, on_threads
from . import cross_entropy_rows, memory
from .layout import contiguous, dense, empty_like, flat, match
from .local_array import local_array, zeroed_local_array
from .sizes import sizes_of, unpack
from .softmax import (
    NS_PER_ELEMENT,
    WIDTH,
    Blocks,
    block_range,
    blocks_of,
    load_tile,
    store_tile,
    tile_exponentials,
)

_FLOAT64 = np.dtype(np.float64)


# --- cross-entropy ----------------------------------------------------------------------------------------


def cross_entropy(x, target, label_smoothing, ignore_index, reduction):
    x = dense(x)
    blocks, work_ns = blocks_of(x, 1), x.size * NS_PER_ELEMENT
    shape = x.shape[:1] + x.shape[2:]
    losses = np.empty(math.prod(shape), _FLOAT64)
    used = losses.size
    arguments: tuple[Any, ...]
    if target.dtype.kind == "f":
        arguments = flat(x), flat(match(target, x)), losses, label_smoothing, sizes_of(blocks)
        launch(_probability_loss, blocks.tasks, work_ns, *arguments)
    else:
        labels, ignored = _labels("cross_entropy", target, x, ignore_index)
        used -= 0 if ignored is None else int(np.count_nonzero(ignored))
        if cross_entropy_rows.pays(x):
            cross_entropy_rows.class_losses(x, labels, losses, label_smoothing, ignore_index)
        else:
            arguments = flat(x), labels, losses, label_smoothing, ignore_index, sizes_of(blocks)
            launch(_class_loss, blocks.tasks, work_ns, *arguments)
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
    shape = x.shape[:1] + x.shape[2:]
    used = math.prod(shape)
    by_class, ignored = target.dtype.kind != "f", None
    if by_class:
        labels, ignored = _labels("cross_entropy_backward", target, x, ignore_index)
        used -= 0 if ignored is None else int(np.count_nonzero(ignored))
    each = grad_output / max(used, 1) if reduction == "mean" else grad_output
    weights = np.full(shape, each, _FLOAT64).reshape(-1)
    if ignored is not None:
        weights[ignored] = 0
    if by_class and cross_entropy_rows.pays(x):
        return cross_entropy_rows.class_gradients(x, labels, weights, label_smoothing)
    out, blocks, work_ns = empty_like(x), blocks_of(x, 1), x.size * NS_PER_ELEMENT
    if by_class:
        arguments = flat(x), labels, weights, flat(out), label_smoothing, sizes_of(blocks)
        launch(_class_gradient, blocks.tasks, work_ns, *arguments)
    else:
        arguments = flat(x), flat(match(target, x)), weights, flat(out), label_smoothing, sizes_of(blocks)
        launch(_probability_gradient, blocks.tasks, work_ns, *arguments)
    return out


def _labels(op: str, target: np.ndarray, x: np.ndarray, ignore_index: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Class indices as flat int64 in C order, and which are ignored (None: none).

    Raises:
        LabelError: with the first that is outside 0 .. channels - 1 and not `ignore_index`, and its position.
    """
    channels = x.shape[1]
    labels = flat(contiguous(target.astype(np.int64, copy=False)))
    # One pass for the usual case: as numbers without a sign, negative ones are the largest.
    if (labels.view(np.uint64).max() if labels.size else 0) >= channels:
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
    elif not 0 <= ignore_index < channels:
        return labels, None
    ignored = labels == ignore_index
    return labels, ignored if ignored.any() else None


@kernel
def _class_loss(first, end, x, target, losses, label_smoothing, ignore_index, sizes):
    if on_threads():
        return
    blocks = unpack(sizes, Blocks)
    channels = blocks.channels
    tile, exponentials, total = local_array(channels * WIDTH), local_array(channels * WIDTH), local_array(WIDTH)
    for block in range(first * blocks.per_task, min(end * blocks.per_task, blocks.number)):
        position, count, start = block_range(block, blocks)
        load_tile(x, start, count, blocks, tile)
        tile_exponentials(tile, channels, exponentials, total)
        for j in range(count):
            label = target[position + j]
            if label == ignore_index:
                losses[position + j] = 0.0
                continue
            log_total = math.log(total[j])
            loss = log_total - tile[label * WIDTH + j]
            if label_smoothing > 0:
                every = 0.0
                for c in range(channels):
                    every += log_total - tile[c * WIDTH + j]
                loss = (1 - label_smoothing) * loss + label_smoothing / channels * every
            losses[position + j] = loss


@kernel
def _probability_loss(first, end, x, target, losses, label_smoothing, sizes):
    if on_threads():
        return
    blocks = unpack(sizes, Blocks)
    channels = blocks.channels
    tile, wanted = local_array(channels * WIDTH), local_array(channels * WIDTH)
    exponentials = local_array(channels * WIDTH)
    total, loss = local_array(WIDTH), local_array(WIDTH)
    for block in range(first * blocks.per_task, min(end * blocks.per_task, blocks.number)):
        position, count, start = block_range(block, blocks)
        load_tile(x, start, count, blocks, tile)
        load_tile(target, start, count, blocks, wanted)
        tile_exponentials(tile, channels, exponentials, total)
        loss[:] = 0.0
        for j in range(WIDTH):
            total[j] = math.log(total[j])
        for c in range(channels):
            for j in range(WIDTH):
                share = wanted[c * WIDTH + j] * (1 - label_smoothing) + label_smoothing / channels
                loss[j] += share * (total[j] - tile[c * WIDTH + j])
        for j in range(count):
            losses[position + j] = loss[j]


@kernel
def _class_gradient(first, end, x, target, weights, out, label_smoothing, sizes):
    """weight * (softmax - target) of each position; an ignored position's weight is 0."""
    if on_threads():
        return
    blocks = unpack(sizes, Blocks)
    channels = blocks.channels
    tile, exponentials, total = local_array(channels * WIDTH), local_array(channels * WIDTH), local_array(WIDTH)
    weight, label = local_array(WIDTH), local_array(WIDTH, np.int64)
    for j in range(WIDTH):
        weight[j], label[j] = 0.0, 0
    everywhere, at_label = label_smoothing / channels, 1 - label_smoothing
    for block in range(first * blocks.per_task, min(end * blocks.per_task, blocks.number)):
        position, count, start = block_range(block, blocks)
        load_tile(x, start, count, blocks, tile)
        tile_exponentials(tile, channels, exponentials, total)
        for j in range(count):
            weight[j], label[j] = weights[position + j], target[position + j]
        for j in range(WIDTH):
            total[j] = 1 / total[j]
        for c in range(channels):
            for j in range(WIDTH):
                wanted = everywhere + (at_label if label[j] == c else 0.0)
                tile[c * WIDTH + j] = weight[j] * (exponentials[c * WIDTH + j] * total[j] - wanted)
        store_tile(tile, start, count, blocks, out)


@kernel
def _probability_gradient(first, end, x, target, weights, out, label_smoothing, sizes):
    """weight * (softmax * sum(target) - target) of each position."""
    if on_threads():
        return
    blocks = unpack(sizes, Blocks)
    channels = blocks.channels
    tile, wanted = local_array(channels * WIDTH), local_array(channels * WIDTH)
    exponentials = local_array(channels * WIDTH)
    total, target_sum, weight = local_array(WIDTH), local_array(WIDTH), zeroed_local_array(WIDTH)
    for block in range(first * blocks.per_task, min(end * blocks.per_task, blocks.number)):
        position, count, start = block_range(block, blocks)
        load_tile(x, start, count, blocks, tile)
        load_tile(target, start, count, blocks, wanted)
        tile_exponentials(tile, channels, exponentials, total)
        for j in range(count):
            weight[j] = weights[position + j]
        for j in range(WIDTH):
            total[j] = 1 / total[j]
        target_sum[:] = 0.0
        for c in range(channels):
            for j in range(WIDTH):
                share = wanted[c * WIDTH + j] * (1 - label_smoothing) + label_smoothing / channels
                wanted[c * WIDTH + j] = share
                target_sum[j] += share
        for c in range(channels):
            for j in range(WIDTH):
                i = c * WIDTH + j
                tile[i] = weight[j] * (exponentials[i] * total[j] * target_sum[j] - wanted[i])
        store_tile(tile, start, count, blocks, out)


# --- squared error ----------------------------------------------------------------------------------------

_CHUNK = 16384  # elements of a task
_LANES = 64  # partial sums of a task


def mse_loss(x, target, reduction):
    x = dense(x)
    target = match(target, x)
    if reduction == "none":
        with np.errstate(all="ignore"):
            difference = np.subtract(x, target, out=empty_like(x))
            return np.multiply(difference, difference, out=difference)
    tasks = -(-x.size // _CHUNK)
    lanes = memory.scratch("loss.lanes", tasks * _LANES, _FLOAT64)
    launch(_squared_error, tasks, x.size * 0.3, flat(x), flat(target), lanes)
    total = float(lanes.sum())
    if reduction == "sum":
        return total
    return total / x.size if x.size else math.nan


@kernel
def _squared_error(first, end, x, target, lanes):
    """`lanes`: _LANES partial sums for each task, so that an add need not wait for the last."""
    if on_threads():
        return
    for task in range(first, end):
        mine = lanes[task * _LANES : (task + 1) * _LANES]
        mine[:] = 0.0
        for start in range(task * _CHUNK, min((task + 1) * _CHUNK, x.size), _LANES):
            x_run, target_run = x[start : start + _LANES], target[start : start + _LANES]
            for lane in range(len(x_run)):
                difference = np.float64(x_run[lane]) - np.float64(target_run[lane])
                mine[lane] += difference * difference


def mse_loss_backward(grad_output, x, target, reduction):
    # Two passes over memory without a kernel of its own: the loss of small outputs, at the end of a network.
    x = dense(x)
    scale = 2 / max(x.size, 1) if reduction == "mean" else 2.0
    with np.errstate(all="ignore"):
        out = np.subtract(x, target, out=empty_like(x))
        return np.multiply(out, x.dtype.type(scale) * grad_output, out=out)
