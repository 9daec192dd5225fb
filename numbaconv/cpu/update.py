"""What training writes in place: optimizer steps, gradient sums, and the norm that clipping needs.

An optimizer step is one pass: SGD reads the parameter and its gradient and writes the parameter, momentum and Adam
also read and write their state. Everything is elementwise and vectorised; float32 arithmetic stays float32. Subnormal
numbers count as zero: what momentum keeps of a unit that gets no gradient any more would end there, and never at zero,
for 0.9 times the smallest number is rounded to itself (48,000 such parameters took 830 us instead of 13).
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import ArgumentError, message
from ..jit import kernel
from ..parallel import launch, on_threads, on_threads_flushing
from . import memory
from .layout import contiguous, dense, flat

_CHUNK = 16384  # elements of a task
_LANES = 64  # independent partial sums of a task


def _in_place(op: str, name: str, x: np.ndarray) -> np.ndarray:
    """The flat memory of an array that is to be written."""
    if x.flags.c_contiguous and x.flags.writeable:
        return x.reshape(-1)
    raise ArgumentError(
        message(
            op,
            f"{name} must be writable and C-contiguous, for it is changed in place",
            "Use a copy: numpy.array(x, order='C').",
            **{f"{name}__flags__writeable": x.flags.writeable, f"{name}__strides": x.strides},
        )
    )


# --- SGD --------------------------------------------------------------------------------------------------


def sgd_update(parameters, grads, velocities, lr, momentum, dampening, weight_decay, nesterov, first):
    gain = 1.0 if first else 1 - dampening
    for i, (parameter, grad) in enumerate(zip(parameters, grads, strict=True)):
        p, g = _in_place("sgd_update", "parameter", parameter), flat(contiguous(grad))
        tasks = -(-p.size // _CHUNK)
        if velocities is None:
            launch(_sgd, tasks, p.size * 0.7, p, g, lr, weight_decay)
            continue
        v = _in_place("sgd_update", "velocity", velocities[i])
        if first:
            v[:] = 0
        launch(_momentum, tasks, p.size * 1.0, p, g, v, lr, momentum, gain, weight_decay, nesterov)


@kernel
def _sgd(first, end, parameter, grad, lr, weight_decay):
    if on_threads_flushing():
        return
    rate, decay = parameter.dtype.type(lr), parameter.dtype.type(weight_decay)
    for task in range(first, end):
        p = parameter[task * _CHUNK : (task + 1) * _CHUNK]
        g = grad[task * _CHUNK : (task + 1) * _CHUNK]
        for i in range(len(p)):
            # Without decay p must not enter: 0 * inf is NaN.
            step = g[i] + decay * p[i] if decay != 0 else g[i]
            p[i] -= rate * step


@kernel
def _momentum(first, end, parameter, grad, velocity, lr, momentum, gain, weight_decay, nesterov):
    """velocity = momentum * velocity + gain * gradient; the step is the velocity, or one ahead of it."""
    if on_threads_flushing():
        return
    rate, decay = parameter.dtype.type(lr), parameter.dtype.type(weight_decay)
    keep, share = parameter.dtype.type(momentum), parameter.dtype.type(gain)
    for task in range(first, end):
        p = parameter[task * _CHUNK : (task + 1) * _CHUNK]
        g = grad[task * _CHUNK : (task + 1) * _CHUNK]
        v = velocity[task * _CHUNK : (task + 1) * _CHUNK]
        for i in range(len(p)):
            gradient = g[i] + decay * p[i] if decay != 0 else g[i]
            speed = keep * v[i] + share * gradient
            v[i] = speed
            p[i] -= rate * (gradient + keep * speed if nesterov else speed)


# --- Adam -------------------------------------------------------------------------------------------------


def adam_update(parameters, grads, means, squares, lr, beta1, beta2, eps, weight_decay, decoupled, step):
    rate = lr / (1 - beta1**step)
    root = math.sqrt(1 - beta2**step)
    keep = 1 - lr * weight_decay if decoupled else 1.0
    decay = 0.0 if decoupled else weight_decay
    for parameter, grad, mean, square in zip(parameters, grads, means, squares, strict=True):
        p, g = _in_place("adam_update", "parameter", parameter), flat(contiguous(grad))
        m, s = _in_place("adam_update", "mean", mean), _in_place("adam_update", "square", square)
        arguments = p, g, m, s, rate, beta1, beta2, root, eps, keep, decay
        launch(_adam, -(-p.size // _CHUNK), p.size * 1.0, *arguments)


@kernel
def _adam(first, end, parameter, grad, mean, square, rate, beta1, beta2, root, eps, keep, decay):
    if on_threads_flushing():
        return
    number = parameter.dtype.type
    share1, beta2_, share2 = number(1 - beta1), number(beta2), number(1 - beta2)
    rate_, root_, eps_, keep_, decay_ = number(rate), number(root), number(eps), number(keep), number(decay)
    for task in range(first, end):
        p = parameter[task * _CHUNK : (task + 1) * _CHUNK]
        g = grad[task * _CHUNK : (task + 1) * _CHUNK]
        m = mean[task * _CHUNK : (task + 1) * _CHUNK]
        s = square[task * _CHUNK : (task + 1) * _CHUNK]
        for i in range(len(p)):
            gradient = g[i] + decay_ * p[i] if decay_ != 0 else g[i]
            average = m[i] + share1 * (gradient - m[i])
            spread = beta2_ * s[i] + share2 * gradient * gradient
            m[i] = average
            s[i] = spread
            p[i] = keep_ * p[i] - rate_ * average / (np.sqrt(spread) / root_ + eps_)


# --- gradients --------------------------------------------------------------------------------------------
# NumPy's own loops are one pass too, take any strides, and need no compiling.


def _require_writable(op: str, name: str, x: np.ndarray) -> None:
    if not x.flags.writeable:
        raise ArgumentError(message(op, f"{name} must be writable, for it is changed in place", "Use a copy."))


def assign(target, source):
    _require_writable("assign", "target", target)
    np.copyto(target, source)


def accumulate(target, source):
    _require_writable("accumulate", "target", target)
    with np.errstate(all="ignore"):
        np.add(target, source, out=target)


def scale_update(array, factor):
    _require_writable("scale_update", "array", array)
    with np.errstate(all="ignore"):
        np.multiply(array, array.dtype.type(factor), out=array)


def sum_of_squares(x):
    x = dense(x)
    tasks = -(-x.size // _CHUNK)
    lanes = memory.scratch("update.lanes", tasks * _LANES, np.dtype(np.float64))
    launch(_squares, tasks, x.size * 0.25, flat(x), lanes)
    return float(lanes.sum())


@kernel
def _squares(first, end, x, lanes):
    """`lanes`: _LANES partial sums for each task, so that an add need not wait for the last."""
    if on_threads():
        return
    for task in range(first, end):
        mine = lanes[task * _LANES : (task + 1) * _LANES]
        mine[:] = 0.0
        for start in range(task * _CHUNK, min((task + 1) * _CHUNK, x.size), _LANES):
            run = x[start : start + _LANES]
            for lane in range(len(run)):
                value = np.float64(run[lane])
                mine[lane] += value * value


# PyTorch's: keeps the clipped norm just below max_norm.
_CLIP_EPS = 1e-6


def clip_update(arrays, max_norm):
    norm = math.sqrt(sum(sum_of_squares(x) for x in arrays))
    factor = max_norm / (norm + _CLIP_EPS)
    # Not `factor < 1`: NaN must get through. Without a limit there is nothing to do, whatever the norm.
    if not factor >= 1 and max_norm != math.inf:
        for x in arrays:
            scale_update(x, factor)
    return norm


def zeros_like(x):
    # Never from the pool of `memory.reuse_buffers`: optimizer state outlives a training run.
    out = memory.aligned_empty(x.shape, x.dtype)
    out[...] = 0
    return out
