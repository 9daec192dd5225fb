"""Cross-entropy with class labels where a position's classes follow each other in memory, and are many.

Vectors run along the classes, in x's own dtype: a maximum, exponentials and their sum.
(The tiles of `softmax`, which turn rows into columns and take exponentials in float64, need three times as long for
1,000 classes.) Bytes: x is read twice from cache, the gradient written twice.
"""

from __future__ import annotations

import math

import numpy as np

from ..jit import helper, kernel
from ..parallel import launch, on_threads
from .layout import around_axis, empty_like, flat
from .line_tile import max_line, sum_line
from .local_array import local_array
from .transcendental import decay

FEWEST = 64  # classes
_TASK = 16384  # elements of a task, about
_NS_PER_ELEMENT = 1.0


def pays(x: np.ndarray) -> bool:
    """Whether dense x (N, C, ...) is such."""
    return x.shape[1] >= FEWEST and around_axis(x, 1)[1] == 1


def _tasks(x: np.ndarray) -> tuple[int, int]:
    """Tasks, and rows of each."""
    rows = max(1, _TASK // x.shape[1])
    return -(-(x.size // x.shape[1]) // rows), rows


def class_losses(
    x: np.ndarray, labels: np.ndarray, losses: np.ndarray, label_smoothing: float, ignore_index: int
) -> None:
    """Fills `losses` (float64), one a row."""
    tasks, rows = _tasks(x)
    args = flat(x), labels, losses, label_smoothing, ignore_index, rows
    launch(_losses, tasks, x.size * _NS_PER_ELEMENT, *args)


def class_gradients(x: np.ndarray, labels: np.ndarray, weights: np.ndarray, label_smoothing: float) -> np.ndarray:
    """weight * (softmax - target) of each row; a weight that is 0 ignores it."""
    tasks, rows = _tasks(x)
    out = empty_like(x)
    args = flat(x), labels, weights, flat(out), label_smoothing, rows
    launch(_gradients, tasks, x.size * _NS_PER_ELEMENT, *args)
    return out


@helper
def _exponentials(x, start, count, out, out_start):
    """out = exp(x - largest) of one row; returns (largest, the sum of out). A NaN is passed over, and comes back in the
    sum.
    """
    largest = max_line(x, start, count)
    values, results = x[start : start + count], out[out_start : out_start + count]
    for c in range(count):
        results[c] = decay(values[c] - largest)
    return largest, np.float64(sum_line(out, out_start, count))


@kernel
def _losses(first, end, x, target, losses, label_smoothing, ignore_index, rows):
    if on_threads():
        return
    channels = x.size // losses.size
    exponentials = local_array(channels, x.dtype)
    for row in range(first * rows, min(end * rows, losses.size)):
        label = target[row]
        if label == ignore_index:
            losses[row] = 0.0
            continue
        values = x[row * channels : (row + 1) * channels]
        largest, total = _exponentials(x, row * channels, channels, exponentials, 0)
        log_total = math.log(total)
        loss = log_total - (np.float64(values[label]) - np.float64(largest))
        if label_smoothing > 0:
            every = 0.0
            for c in range(channels):
                every += log_total - (np.float64(values[c]) - np.float64(largest))
            loss = (1 - label_smoothing) * loss + label_smoothing / channels * every
        losses[row] = loss


@kernel
def _gradients(first, end, x, target, weights, out, label_smoothing, rows):
    if on_threads():
        return
    channels = x.size // weights.size
    for row in range(first * rows, min(end * rows, weights.size)):
        grads = out[row * channels : (row + 1) * channels]
        weight = weights[row]
        if weight == 0:
            grads[:] = 0
            continue
        _, total = _exponentials(x, row * channels, channels, out, row * channels)
        factor = out.dtype.type(weight / total)
        everywhere = out.dtype.type(weight * (label_smoothing / channels))
        for c in range(channels):
            grads[c] = grads[c] * factor - everywhere
        grads[target[row]] -= out.dtype.type(weight * (1 - label_smoothing))
