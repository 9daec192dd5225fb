"""What training writes in place: optimizer steps, clipping, gradient sums.

An optimizer step of all parameters is one launch (see tables.py). Bytes: SGD reads the parameter and its gradient and
writes the parameter, momentum and Adam also read and write their state. While the device's error word is set, nothing
is changed (see errorword.py).

The norm for clipping is summed in float64 and in a fixed order: each block its piece, then one block those sums. It
stays on the device, and so does the factor: clipping waits for nothing.
"""

from __future__ import annotations

import math

import numpy as np
from numba import cuda, float64, int64

from ..errors import ArgumentError, message
from . import errorword, memory, transfer
from .convert import copy
from .elementwise import binary, run, unary_with_number
from .functions import sqrt
from .intrinsics import load_vector, map_vector, pointer_at, store_vector
from .launch import VECTOR, T, inline, kernel, launch
from .layout import contiguous, dense, match
from .tables import blocks_of, launch_all, piece_of_block, row_of_block

_THREADS = 256
_FLOAT64 = np.dtype(np.float64)


def _in_place(op, name, x):
    if x.c_contiguous:
        return x
    raise ArgumentError(
        message(
            op,
            f"{name} must be C-contiguous, for it is changed in place",
            "Use a copy.",
            **{f"{name}__strides": x.strides},
        )
    )


# --- SGD --------------------------------------------------------------------------------------------------


def sgd_update(parameters, grads, velocities, lr, momentum, dampening, weight_decay, nesterov, first):
    lists = [[_in_place("sgd_update", "parameter", p) for p in parameters], [contiguous(g) for g in grads]]
    errors = errorword.words(parameters[0].device)
    if velocities is None:
        launch_all(_sgd, lists, errors, lr, weight_decay)
        return
    lists.append([_in_place("sgd_update", "velocity", v) for v in velocities])
    gain = 1.0 if first else 1 - dampening
    launch_all(_momentum, lists, errors, lr, momentum, gain, weight_decay, int(nesterov), int(first))


@inline
def _gradient(p, g, decay):
    # Without decay p must not enter: 0 * inf is NaN.
    return g + decay * p if decay != T(0) else g


@inline
def _sgd_step(p, g, lr, decay):
    return p - lr * _gradient(p, g, decay)


@kernel(threads=_THREADS)
def _sgd(table: "i64*", blocks: "i32", errors: "i64*", lr: "T", decay: "T"):
    if errors[0] == 0:
        row = row_of_block(table, blocks, 2)
        start, end = piece_of_block(table, row)
        parameter, grad = pointer_at(table[row + 1], T), pointer_at(table[row + 2], T)
        whole = ((table[row + 1] | table[row + 2]) & int64(15)) == 0
        for i in range(start + int64(cuda.threadIdx.x) * VECTOR, end, int64(_THREADS * VECTOR)):
            if whole and i + VECTOR <= end:
                vectors = load_vector(parameter, i), load_vector(grad, i), lr, decay
                store_vector(parameter, i, map_vector(_sgd_step, vectors))
            else:
                for j in range(i, i + VECTOR):  # of constant length: unrolled
                    if j < end:
                        parameter[j] = _sgd_step(parameter[j], grad[j], lr, decay)


@inline
def _speed(p, g, v, momentum, gain, decay, first):
    """velocity = momentum * velocity + gain * gradient."""
    gradient = gain * _gradient(p, g, decay)
    return gradient if first != 0 else momentum * v + gradient


@inline
def _momentum_step(p, g, speed, lr, momentum, decay, nesterov):
    """The step is the velocity, or one ahead of it."""
    return p - lr * (_gradient(p, g, decay) + momentum * speed if nesterov != 0 else speed)


@kernel(threads=_THREADS)
def _momentum(
    table: "i64*",
    blocks: "i32",
    errors: "i64*",
    lr: "T",
    momentum: "T",
    gain: "T",
    decay: "T",
    nesterov: "i32",
    first: "i32",
):
    if errors[0] == 0:
        row = row_of_block(table, blocks, 3)
        start, end = piece_of_block(table, row)
        parameter, grad, velocity = (
            pointer_at(table[row + 1], T),
            pointer_at(table[row + 2], T),
            pointer_at(table[row + 3], T),
        )
        whole = ((table[row + 1] | table[row + 2] | table[row + 3]) & int64(15)) == 0
        for i in range(start + int64(cuda.threadIdx.x) * VECTOR, end, int64(_THREADS * VECTOR)):
            if whole and i + VECTOR <= end:
                p, g = load_vector(parameter, i), load_vector(grad, i)
                speed = map_vector(_speed, (p, g, load_vector(velocity, i), momentum, gain, decay, first))
                store_vector(velocity, i, speed)
                store_vector(parameter, i, map_vector(_momentum_step, (p, g, speed, lr, momentum, decay, nesterov)))
            else:
                for j in range(i, i + VECTOR):  # of constant length: unrolled
                    if j < end:
                        speed_j = _speed(parameter[j], grad[j], velocity[j], momentum, gain, decay, first)
                        velocity[j] = speed_j
                        parameter[j] = _momentum_step(parameter[j], grad[j], speed_j, lr, momentum, decay, nesterov)


# --- Adam -------------------------------------------------------------------------------------------------


def adam_update(parameters, grads, means, squares, lr, beta1, beta2, eps, weight_decay, decoupled, step):
    lists = [[_in_place("adam_update", "parameter", p) for p in parameters], [contiguous(g) for g in grads]]
    lists.append([_in_place("adam_update", "mean", m) for m in means])
    lists.append([_in_place("adam_update", "square", s) for s in squares])
    rate = lr / (1 - beta1**step)
    root = math.sqrt(1 - beta2**step)
    keep = 1 - lr * weight_decay if decoupled else 1.0
    decay = 0.0 if decoupled else weight_decay
    launch_all(
        _adam, lists, errorword.words(parameters[0].device), rate, 1 - beta1, beta2, 1 - beta2, root, eps, keep, decay
    )


@inline
def _average(p, g, m, share, decay):
    return m + share * (_gradient(p, g, decay) - m)


@inline
def _spread(p, g, s, beta2, share, decay):
    gradient = _gradient(p, g, decay)
    return beta2 * s + share * gradient * gradient


@inline
def _adam_step(p, average, spread, rate, root, eps, keep):
    return keep * p - rate * average / (sqrt(spread) / root + eps)


@kernel(threads=_THREADS)
def _adam(
    table: "i64*",
    blocks: "i32",
    errors: "i64*",
    rate: "T",
    share1: "T",
    beta2: "T",
    share2: "T",
    root: "T",
    eps: "T",
    keep: "T",
    decay: "T",
):
    if errors[0] == 0:
        row = row_of_block(table, blocks, 4)
        start, end = piece_of_block(table, row)
        parameter, grad = pointer_at(table[row + 1], T), pointer_at(table[row + 2], T)
        mean, square = pointer_at(table[row + 3], T), pointer_at(table[row + 4], T)
        whole = ((table[row + 1] | table[row + 2] | table[row + 3] | table[row + 4]) & int64(15)) == 0
        for i in range(start + int64(cuda.threadIdx.x) * VECTOR, end, int64(_THREADS * VECTOR)):
            if whole and i + VECTOR <= end:
                p, g = load_vector(parameter, i), load_vector(grad, i)
                average = map_vector(_average, (p, g, load_vector(mean, i), share1, decay))
                spread = map_vector(_spread, (p, g, load_vector(square, i), beta2, share2, decay))
                store_vector(mean, i, average)
                store_vector(square, i, spread)
                store_vector(parameter, i, map_vector(_adam_step, (p, average, spread, rate, root, eps, keep)))
            else:
                for j in range(i, min(i + VECTOR, end)):  # (unrolled, as above, it takes 10 registers more)
                    m = _average(parameter[j], grad[j], mean[j], share1, decay)
                    s = _spread(parameter[j], grad[j], square[j], beta2, share2, decay)
                    mean[j] = m
                    square[j] = s
                    parameter[j] = _adam_step(parameter[j], m, s, rate, root, eps, keep)


# --- gradients --------------------------------------------------------------------------------------------


def assign(target, source):
    copy(source, target)


@inline
def _sum(y, x):
    return y + x


@inline
def _product(x, number):
    return x * number


_ADD, _SCALE = binary(_sum), unary_with_number(_product)


def accumulate(target, source):
    dense_target = dense(target, any_address=True)
    run(_ADD, (match(source, dense_target, any_address=True), dense_target, dense_target))
    if dense_target is not target:
        copy(dense_target, target)


def scale_update(array, factor):
    dense_array = dense(array, any_address=True)
    run(_SCALE, (dense_array, dense_array), factor)
    if dense_array is not array:
        copy(dense_array, array)


def zeros_like(x):
    return memory.zeros(x.shape, x.dtype, x.device)


# --- clipping ---------------------------------------------------------------------------------------------

# PyTorch's: keeps the clipped norm just below max_norm.
_CLIP_EPS = 1e-6


def sum_of_squares(x):
    result = memory.empty((1,), _FLOAT64, x.device)
    _sum_squares([x], result, _total)
    return float(transfer.to_host(result)[0])


def clip_update(arrays, max_norm):
    result = memory.empty((2,), _FLOAT64, arrays[0].device)  # the norm, and the factor
    _sum_squares(arrays, result, _norm, float(max_norm))
    if max_norm != math.inf:
        for group in _by_dtype(arrays):
            some = [dense(x, any_address=True) for x in group]
            launch_all(_clip, [some], result)
            for x, scaled in zip(group, some, strict=True):
                if scaled is not x:
                    copy(scaled, x)
    return result[0]


def _by_dtype(arrays):
    groups: dict[np.dtype, list] = {}
    for x in arrays:
        groups.setdefault(x.dtype, []).append(x)
    return groups.values()


def _sum_squares(arrays, result, finish, *numbers):
    """The sum over all arrays goes to `result` by way of `finish`, a kernel of one block."""
    groups = [[dense(x, any_address=True) for x in group] for group in _by_dtype(arrays)]
    count = sum(blocks_of(group) for group in groups)
    sums = memory.empty((max(count, 1),), _FLOAT64, result.device)
    first = 0
    for group in groups:
        launch_all(_squares, [group], sums, first)
        first += blocks_of(group)
    launch(finish, _FLOAT64, 1, sums, count, result, *numbers)


@inline
def _sum_of_block(value):
    """The sum of one float64 of each thread of a block of _THREADS, in a fixed order; in every thread."""
    shared = cuda.shared.array(_THREADS, float64)
    thread = cuda.threadIdx.x
    shared[thread] = value
    cuda.syncthreads()
    half = _THREADS // 2
    while half > 0:
        if thread < half:
            shared[thread] += shared[thread + half]
        cuda.syncthreads()
        half //= 2
    return shared[0]


@kernel(threads=_THREADS)
def _squares(table: "i64*", blocks: "i32", sums: "f64*", first: "i32"):
    """The sum of squares of this block's piece, element by element: T is read, float64 summed."""
    row = row_of_block(table, blocks, 1)
    start, end = piece_of_block(table, row)
    x = pointer_at(table[row + 1], T)
    total = float64(0)
    for i in range(start + int64(cuda.threadIdx.x), end, int64(_THREADS)):
        value = float64(x[i])
        total += value * value
    total = _sum_of_block(total)
    if cuda.threadIdx.x == 0:
        sums[first + cuda.blockIdx.x] = total


@inline
def _sum_of_all(sums, count):
    total = float64(0)
    for i in range(cuda.threadIdx.x, count, _THREADS):
        total += sums[i]
    return _sum_of_block(total)


@kernel(threads=_THREADS, dtypes=("float64",))
def _total(sums: "f64*", count: "i32", result: "f64*"):
    total = _sum_of_all(sums, count)
    if cuda.threadIdx.x == 0:
        result[0] = total


@kernel(threads=_THREADS, dtypes=("float64",))
def _norm(sums: "f64*", count: "i32", result: "f64*", max_norm: "f64"):
    """The norm, and the factor that brings it down to max_norm."""
    total = _sum_of_all(sums, count)
    if cuda.threadIdx.x == 0:
        norm = sqrt(total)
        result[0] = norm
        result[1] = max_norm / (norm + _CLIP_EPS)


@kernel(threads=_THREADS)
def _clip(table: "i64*", blocks: "i32", result: "f64*"):
    """Not `factor < 1`: NaN must get through."""
    if not result[1] >= 1.0:
        row = row_of_block(table, blocks, 1)
        start, end = piece_of_block(table, row)
        x = pointer_at(table[row + 1], T)
        factor = T(result[1])
        for i in range(start + int64(cuda.threadIdx.x), end, int64(_THREADS)):
            x[i] *= factor
