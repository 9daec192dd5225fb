"""Activations: one pass over memory, forward and backward.

Every kernel runs over flat arrays in tasks of `CHUNK` elements. Bytes: forward reads 1 and writes 1 array,
backward reads 2 and writes 1. The loops are plain so that LLVM vectorises them.
"""

from __future__ import annotations

import numpy as np

from ..jit import kernel, launch, never_inline, parallel_kernel, prange
from .layout import dense, empty_like, flat, match

CHUNK = 16384  # elements of a task: 64 KB of float32 in and out, within a second-level cache


def run_forward(body, parallel, ns_per_element: float, x: np.ndarray, *args) -> np.ndarray:
    """Applies an elementwise kernel ``(first, end, x, out, *args)``."""
    x = dense(x)
    out = empty_like(x)
    launch(body, parallel, -(-x.size // CHUNK), x.size * ns_per_element, flat(x), flat(out), *args)
    return out


def run_backward(body, parallel, ns_per_element: float, grad_output: np.ndarray, x: np.ndarray, *args) -> np.ndarray:
    """Applies an elementwise kernel ``(first, end, grad_output, x, out, *args)``; the result is laid out as x."""
    x = dense(x)
    grad_output = match(grad_output, x)
    out = empty_like(x)
    arrays = flat(grad_output), flat(x), flat(out)
    launch(body, parallel, -(-x.size // CHUNK), x.size * ns_per_element, *arrays, *args)
    return out


def relu(x):
    return run_forward(_relu, _relu_parallel, 0.3, x)


@kernel
def _relu(first, end, x, out):
    never_inline()
    for i in range(first * CHUNK, min(end * CHUNK, x.size)):
        value = x[i]
        out[i] = x.dtype.type(0) if value <= 0 else value  # NaN <= 0 is False: NaN passes


@parallel_kernel
def _relu_parallel(tasks, x, out):
    for task in prange(tasks):
        _relu(task, task + 1, x, out)


def relu_backward(grad_output, x):
    return run_backward(_relu_backward, _relu_backward_parallel, 0.4, grad_output, x)


@kernel
def _relu_backward(first, end, grad_output, x, out):
    never_inline()
    for i in range(first * CHUNK, min(end * CHUNK, x.size)):
        out[i] = x.dtype.type(0) if x[i] <= 0 else grad_output[i]


@parallel_kernel
def _relu_backward_parallel(tasks, grad_output, x, out):
    for task in prange(tasks):
        _relu_backward(task, task + 1, grad_output, x, out)
