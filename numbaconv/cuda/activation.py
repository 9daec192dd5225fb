"""Activations: one pass over memory, forward and backward.

Every kernel runs over dense memory in whatever order it is; one thread does `VECTOR` elements with one access of 16
bytes for each array, the last thread the rest one by one. Bytes: forward reads 1 and writes 1 array, backward
reads 2 and writes 1. Nothing else counts: a few instructions an element.
"""

from __future__ import annotations

from numba import cuda

from .intrinsics import load_vector, map_vector, store_vector
from .launch import VECTOR, T, inline, kernel, launch
from .layout import dense, empty_like, match


def run_unary(body, x, *args):
    """Applies an elementwise kernel ``(x, out, size, *args)``."""
    x = dense(x)
    out = empty_like(x)
    launch(body, x.dtype, blocks_of(body, x), x, out, x.size, *args)
    return out


def run_binary(body, y, x, *args):
    """Applies an elementwise kernel ``(y, x, out, size, *args)``; the result is laid out as x."""
    x = dense(x)
    y = match(y, x)
    out = empty_like(x)
    launch(body, x.dtype, blocks_of(body, x), y, x, out, x.size, *args)
    return out


def blocks_of(body, x):
    """Blocks of an elementwise kernel: 16 bytes a thread."""
    return -(-x.nbytes // (16 * body.threads))


# --- relu -------------------------------------------------------------------------------------------------


def relu(x):
    return run_unary(_relu, x)


@inline
def _positive(value):
    return T(0) if value <= T(0) else value  # NaN <= 0 is False: NaN passes


@kernel(threads=256)
def _relu(x: "T*", out: "T*", size: "i32"):
    i = cuda.grid(1) * VECTOR
    if i + VECTOR <= size:
        store_vector(out, i, map_vector(_positive, (load_vector(x, i),)))
    else:
        for j in range(i, i + VECTOR):  # of constant length: unrolled
            if j < size:
                out[j] = _positive(x[j])


def relu_backward(grad_output, x):
    return run_binary(_relu_backward, grad_output, x)


@inline
def _where_positive(grad, value):
    return T(0) if value <= T(0) else grad


@kernel(threads=256)
def _relu_backward(grad_output: "T*", x: "T*", out: "T*", size: "i32"):
    i = cuda.grid(1) * VECTOR
    if i + VECTOR <= size:
        store_vector(out, i, map_vector(_where_positive, (load_vector(grad_output, i), load_vector(x, i))))
    else:
        for j in range(i, i + VECTOR):
            if j < size:
                out[j] = _where_positive(grad_output[j], x[j])
