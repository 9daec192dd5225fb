"""Losses: cross-entropy of logits (outer, channels, inner) and squared error.

The cross-entropy of a position is taken from the logits with a shifted log-sum-exp, and its gradient is softmax -
target (see softmax.py for who does which position). Sums and means are float64, in a fixed order: each block its
positions, then one block those sums. They stay on the device, as arrays of shape (): nothing waits for them.
Labels are read as bytes, so that any integer dtype is one kernel; one out of range is noted in the error word.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import cuda, float64, int32, int64, uint32

from ..errors import LabelError, message
from . import elementwise, errorword, memory
from .array import DeviceArray
from .convert import integer_at, to_int32
from .elementwise import run_binary
from .errorword import report
from .functions import exp, log
from .indexing import divided
from .launch import T, inline, kernel, launch
from .layout import contiguous, dense, empty_like, match
from .reduce import block_sum, lane_number, warp_sum
from .softmax import THREADS, Positions, Ways, largest, positions_of, sum_of_exponentials

_FLOAT64, _INT32 = np.dtype(np.float64), np.dtype(np.int32)
_MOST_BLOCKS = 1024  # whose sums one block adds
_FEW = 512  # labels that every warp of the gradient counts itself: a launch takes longer
_MOST_COUNTS = 64  # blocks that count labels: every warp of the gradient adds their counts

# --- cross-entropy ----------------------------------------------------------------------------------------


class _Labels(NamedTuple):
    """Class indices as kernels take them."""

    bytes: DeviceArray
    itemsize: int
    signed: int


def _labels(target: DeviceArray) -> _Labels:
    if not target.c_contiguous:
        target = to_int32(target)
    return _Labels(target, target.itemsize, int(target.dtype.kind == "i"))


def _errors(op: str, x: DeviceArray, ignore_index: int) -> tuple[DeviceArray, int]:
    """The error word, and the slot of a call whose labels are checked."""
    shape, channels = x.shape[:1] + x.shape[2:], x.shape[1]

    def describe(position: int, value: int) -> Exception:
        where = ", ".join(map(str, np.unravel_index(position, shape)))
        return LabelError(
            message(
                op,
                f"target must hold class indices from 0 to {channels - 1}, or ignore_index = {ignore_index}",
                "Count classes from 0.",
                **{f"target[{where}]": value},
            )
        )

    return errorword.words(x.device), errorword.expect(x.device, describe)


def cross_entropy(x, target, label_smoothing, ignore_index, reduction):
    x = dense(x, any_address=True)
    positions = positions_of("cross_entropy", x, 1)
    each = reduction == "none"
    losses = memory.empty(x.shape[:1] + x.shape[2:] if each else (0,), x.dtype, x.device)
    ways = _PROBABILITY_LOSS if target.dtype.kind == "f" else _CLASS_LOSS
    run, blocks = ways.chosen(positions)
    blocks = min(blocks, _MOST_BLOCKS)
    sums = memory.empty((2 * blocks,), _FLOAT64, x.device)
    outputs = losses, int(each), sums
    if ways is _PROBABILITY_LOSS:
        target = match(target, x, any_address=True)
        launch(run, x.dtype, blocks, x, target, *outputs, *positions.arguments(), label_smoothing)
    elif blocks:
        errors = _errors("cross_entropy", x, ignore_index)
        launch(run, x.dtype, blocks, x, *_labels(target), *outputs, *positions.arguments(), label_smoothing,
               ignore_index, *errors)  # fmt: skip
    return losses if each else _reduced(sums, blocks, reduction)


def _reduced(sums: DeviceArray, blocks: int, reduction: str) -> DeviceArray:
    """Of the sums and the counts of all blocks: the sum, or the mean; an array of shape ()."""
    result = memory.empty((1,), _FLOAT64, sums.device)
    launch(_add_blocks, _FLOAT64, 1, sums, blocks, result, int(reduction == "mean"))
    return result[0]


@kernel(threads=THREADS, dtypes=("float64",))
def _add_blocks(sums: "f64*", blocks: "i32", result: "f64*", mean: "i32"):
    total, count = float64(0), float64(0)
    for i in range(cuda.threadIdx.x, blocks, THREADS):
        total += sums[2 * i]
        count += sums[2 * i + 1]
    total, count = block_sum(total), block_sum(count)
    if cuda.threadIdx.x == 0:
        result[0] = total / count if mean != 0 else total


@inline
def _store_sums(sums, total, count):
    """The sums over a block, by its first thread."""
    total, count = block_sum(total), block_sum(count)
    if cuda.threadIdx.x == 0:
        sums[2 * cuda.blockIdx.x] = total
        sums[2 * cuda.blockIdx.x + 1] = count


def _class_loss(way, name):
    place, maximum_of, sum_of = way.place, way.maximum, way.sum

    @kernel(threads=THREADS, name=name)
    def run(
        x: "T*", labels: "u8*", itemsize: "i32", signed: "i32", losses: "T*", each: "i32", sums: "f64*",
        number: "i32", channels: "i32", inner: "i32", inner_multiplier: "u32", inner_shift: "u32",
        smoothing: "T", ignore_index: "i64", errors: "i64*", slot: "i32",
    ):  # fmt: skip
        begin, workers, first, step = place()
        total, used = float64(0), float64(0)
        position = begin
        while uint32(position) < uint32(number):  # a step after the last position may be 2^31 and more
            label = integer_at(labels, int64(position) * itemsize, itemsize, signed)
            loss = T(0)
            if label != ignore_index:
                outer, i = divided(position, inner, inner_multiplier, inner_shift)
                start = int32(outer * channels * inner + i)
                most = maximum_of(largest(x, start, inner, channels, first, step))
                log_sum = log(sum_of(sum_of_exponentials(x, start, inner, channels, first, step, most)))
                if 0 <= label < channels:
                    loss = log_sum - (x[start + label * inner] - most)
                elif first == 0:
                    report(errors, slot, position, label)
                if smoothing > T(0):
                    every = T(0)
                    for c in range(first, channels, step):
                        every += log_sum - (x[start + c * inner] - most)
                    loss = (T(1) - smoothing) * loss + smoothing / T(channels) * sum_of(every)
                if first == 0:
                    used += float64(1)
            if first == 0:
                total += float64(loss)
                if each != 0:
                    losses[position] = loss
            position = int32(position + workers * cuda.gridDim.x)
        _store_sums(sums, total, used)

    return run


def _probability_loss(way, name):
    place, maximum_of, sum_of = way.place, way.maximum, way.sum

    @kernel(threads=THREADS, name=name)
    def run(
        x: "T*", target: "T*", losses: "T*", each: "i32", sums: "f64*",
        number: "i32", channels: "i32", inner: "i32", inner_multiplier: "u32", inner_shift: "u32", smoothing: "T",
    ):  # fmt: skip
        begin, workers, first, step = place()
        total, used = float64(0), float64(0)
        position = begin
        while uint32(position) < uint32(number):
            outer, i = divided(position, inner, inner_multiplier, inner_shift)
            start = int32(outer * channels * inner + i)
            most = maximum_of(largest(x, start, inner, channels, first, step))
            log_sum = log(sum_of(sum_of_exponentials(x, start, inner, channels, first, step, most)))
            loss = T(0)
            for c in range(first, channels, step):
                at = int32(start + c * inner)
                share = target[at] * (T(1) - smoothing) + smoothing / T(channels)
                loss += share * (log_sum - (x[at] - most))
            loss = sum_of(loss)
            if first == 0:
                total += float64(loss)
                used += float64(1)
                if each != 0:
                    losses[position] = loss
            position = int32(position + workers * cuda.gridDim.x)
        _store_sums(sums, total, used)

    return run


_CLASS_LOSS, _PROBABILITY_LOSS = Ways(_class_loss), Ways(_probability_loss)


def cross_entropy_backward(grad_output, x, target, label_smoothing, ignore_index, reduction):
    x = dense(x, any_address=True)
    out, positions = empty_like(x), positions_of("cross_entropy_backward", x, 1)
    each = isinstance(grad_output, DeviceArray)
    weights = (contiguous(grad_output), 1.0, 1) if each else (x, float(grad_output), 0)
    if target.dtype.kind == "f":
        number = max(positions.number, 1) if reduction == "mean" else 1
        run, blocks = _PROBABILITY_GRADIENT.chosen(positions)
        target = match(target, x, any_address=True)
        launch(run, x.dtype, blocks, x, target, out, weights[0], weights[1] / number, weights[2],
               *positions.arguments(), label_smoothing)  # fmt: skip
    elif x.size:
        labels = _labels(target)
        counts, count_blocks = memory.empty((0,), _INT32, x.device), 0
        if reduction == "mean" and positions.number <= _FEW:
            count_blocks = -1
        elif reduction == "mean":
            counts = _counted(labels, positions, ignore_index)
            count_blocks = counts.size
        run, blocks = _CLASS_GRADIENT.chosen(positions)
        errors = _errors("cross_entropy_backward", x, ignore_index)
        launch(run, x.dtype, blocks, x, *labels, out, *weights, counts, count_blocks, *positions.arguments(),
               label_smoothing, ignore_index, *errors)  # fmt: skip
    return out


def _counted(labels: _Labels, positions: Positions, ignore_index: int) -> DeviceArray:
    """How many labels are not ignored: one count for each of some blocks."""
    blocks = min(-(-positions.number // THREADS), _MOST_COUNTS)
    counts = memory.empty((blocks,), _INT32, labels.bytes.device)
    launch(_count_labels, np.dtype(np.float32), blocks, *labels, positions.number, ignore_index, counts)
    return counts


@kernel(threads=THREADS, dtypes=("float32",))
def _count_labels(
    labels: "u8*", itemsize: "i32", signed: "i32", number: "i32", ignore_index: "i64", counts: "i32*"
):  # fmt: skip
    used = float64(0)
    for position in range(int32(cuda.grid(1)), number, int32(cuda.gridsize(1))):
        if integer_at(labels, int64(position) * itemsize, itemsize, signed) != ignore_index:
            used += float64(1)
    used = block_sum(used)
    if cuda.threadIdx.x == 0:
        counts[cuda.blockIdx.x] = int32(used)


def _class_gradient(way, name):
    place, maximum_of, sum_of = way.place, way.maximum, way.sum

    @kernel(threads=THREADS, name=name)
    def run(
        x: "T*", labels: "u8*", itemsize: "i32", signed: "i32", out: "T*", weights: "T*", weight: "T", each: "i32",
        counts: "i32*", count_blocks: "i32", number: "i32", channels: "i32",
        inner: "i32", inner_multiplier: "u32", inner_shift: "u32",
        smoothing: "T", ignore_index: "i64", errors: "i64*", slot: "i32",
    ):  # fmt: skip
        """weight * (softmax - target) of each position; an ignored position's weight is 0."""
        if count_blocks != 0:
            used = int32(0)
            k = lane_number()
            while k < count_blocks:  # (of a range numba works out the length, in code that outweighs the loop)
                used = int32(used + counts[k])
                k = int32(k + 32)
            if count_blocks < 0:  # not counted yet
                k = lane_number()
                while k < number:
                    if integer_at(labels, int64(k) * itemsize, itemsize, signed) != ignore_index:
                        used = int32(used + 1)
                    k = int32(k + 32)
            weight = weight / T(max(warp_sum(used), 1))
        position, _, first, step = place()
        if position < number:
            label = integer_at(labels, int64(position) * itemsize, itemsize, signed)
            factor = weight * weights[position] if each != 0 else weight
            if label == ignore_index:
                factor = T(0)
            elif first == 0 and (label < 0 or label >= channels):
                report(errors, slot, position, label)
            outer, i = divided(position, inner, inner_multiplier, inner_shift)
            start = int32(outer * channels * inner + i)
            most = maximum_of(largest(x, start, inner, channels, first, step))
            total = sum_of(sum_of_exponentials(x, start, inner, channels, first, step, most))
            for c in range(first, channels, step):
                at = int32(start + c * inner)
                wanted = smoothing / T(channels)
                if label == c:
                    wanted += T(1) - smoothing
                out[at] = factor * (exp(x[at] - most) / total - wanted)

    return run


def _probability_gradient(way, name):
    place, maximum_of, sum_of = way.place, way.maximum, way.sum

    @kernel(threads=THREADS, name=name)
    def run(
        x: "T*", target: "T*", out: "T*", weights: "T*", weight: "T", each: "i32", number: "i32", channels: "i32",
        inner: "i32", inner_multiplier: "u32", inner_shift: "u32", smoothing: "T",
    ):  # fmt: skip
        """weight * (softmax * sum(target) - target) of each position."""
        position, _, first, step = place()
        if position < number:
            factor = weight * weights[position] if each != 0 else weight
            outer, i = divided(position, inner, inner_multiplier, inner_shift)
            start = int32(outer * channels * inner + i)
            most = maximum_of(largest(x, start, inner, channels, first, step))
            total = sum_of(sum_of_exponentials(x, start, inner, channels, first, step, most))
            target_sum = T(0)
            for c in range(first, channels, step):
                target_sum += target[start + c * inner] * (T(1) - smoothing) + smoothing / T(channels)
            target_sum = sum_of(target_sum)
            for c in range(first, channels, step):
                at = int32(start + c * inner)
                wanted = target[at] * (T(1) - smoothing) + smoothing / T(channels)
                out[at] = factor * (exp(x[at] - most) / total * target_sum - wanted)

    return run


_CLASS_GRADIENT, _PROBABILITY_GRADIENT = Ways(_class_gradient), Ways(_probability_gradient)


# --- squared error ----------------------------------------------------------------------------------------


@inline
def _squared_difference(target, value):
    return (value - target) * (value - target)


@inline
def _scaled_difference(target, value, factor):
    return factor * (value - target)


@inline
def _weighted(grad, value):
    return grad * value


_SQUARED_DIFFERENCE = elementwise.binary(_squared_difference)
_SCALED_DIFFERENCE, _WEIGHTED = elementwise.binary_with_number(_scaled_difference), elementwise.binary(_weighted)


def mse_loss(x, target, reduction):
    if reduction == "none":
        return run_binary(_SQUARED_DIFFERENCE, target, x)
    x = dense(x, any_address=True)
    target = match(target, x, any_address=True)
    blocks = min(-(-x.size // THREADS), _MOST_BLOCKS)
    sums = memory.empty((2 * blocks,), _FLOAT64, x.device)
    rounds = -(-x.size // max(blocks * THREADS, 1))
    launch(_squared_error, x.dtype, blocks, x, target, x.size, rounds, sums)
    return _reduced(sums, blocks, reduction)


@kernel(threads=THREADS)
def _squared_error(x: "T*", target: "T*", size: "i64", rounds: "i32", sums: "f64*"):
    total, count = float64(0), float64(0)
    i, step = int64(cuda.grid(1)), int64(cuda.gridsize(1))
    for _ in range(rounds):  # given, since i to size in steps would be a division of 64 bits
        if i < size:
            difference = float64(x[i]) - float64(target[i])
            total += difference * difference
            count += float64(1)
        i += step
    _store_sums(sums, total, count)


def mse_loss_backward(grad_output, x, target, reduction):
    scale = 2 / max(x.size, 1) if reduction == "mean" else 2.0
    if isinstance(grad_output, DeviceArray):
        return run_binary(_WEIGHTED, grad_output, run_binary(_SCALED_DIFFERENCE, target, x, scale))
    return run_binary(_SCALED_DIFFERENCE, target, x, scale * grad_output)
