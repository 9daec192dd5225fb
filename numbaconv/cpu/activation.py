"""Activations: one pass over memory, forward and backward.

Every kernel runs over flat arrays in tasks of `CHUNK` elements. Bytes: forward reads 1 and writes 1 array,
backward reads 2 and writes 1. The loops are plain, so that LLVM vectorises them; one per formula, since it does not
vectorise, or computes both sides of, a choice within.
Constants take the array's dtype: a float64 literal would turn float32 arithmetic into float64.
"""

from __future__ import annotations

import math

import numpy as np

from ..jit import inline, kernel
from ..parallel import launch, on_threads
from .layout import flat, match, with_result
from .transcendental import exp, normal_cdf, one_plus_exp
from .transcendental import tanh as hyperbolic_tangent

CHUNK = 1024  # elements of a task: threads get equal shares; each computes its own in one loop

# Time of one element on one thread, nanoseconds: what decides whether threads share the work.
_COPY, _EXP, _TANH, _NORMAL = 0.15, 1.0, 1.2, 1.5


def run_unary(body, ns_per_element: float, x: np.ndarray, *args) -> np.ndarray:
    """Applies an elementwise kernel ``(first, end, x, out, *args)``."""
    x, out, elements = with_result(x)
    size = x.size
    launch(body, -(-size // CHUNK), size * ns_per_element, flat(x), elements, *args)
    return out


def run_binary(body, ns_per_element: float, y: np.ndarray, x: np.ndarray, *args) -> np.ndarray:
    """Applies an elementwise kernel ``(first, end, y, x, out, *args)``; the result is laid out as x."""
    x, out, elements = with_result(x)
    size = x.size
    launch(body, -(-size // CHUNK), size * ns_per_element, flat(match(y, x)), flat(x), elements, *args)
    return out


@inline
def part(array, first, end):
    """The elements of some tasks. Loops over it start at 0, so LLVM knows that no index wraps, and vectorises."""
    return array[first * CHUNK : end * CHUNK]


# --- relu -------------------------------------------------------------------------------------------------


def relu(x):
    return run_unary(_relu, _COPY, x)


@kernel
def _relu(first, end, x, out):
    if on_threads():
        return
    x, out = part(x, first, end), part(out, first, end)
    for i in range(x.size):
        value = x[i]
        out[i] = x.dtype.type(0) if value <= 0 else value  # NaN <= 0 is False: NaN passes


def relu_backward(grad_output, x):
    return run_binary(_relu_backward, _COPY, grad_output, x)


@kernel
def _relu_backward(first, end, grad_output, x, out):
    if on_threads():
        return
    grad_output, x, out = part(grad_output, first, end), part(x, first, end), part(out, first, end)
    for i in range(x.size):
        grad = grad_output[i]  # loaded in any case: a load under a condition is not vectorised
        out[i] = x.dtype.type(0) if x[i] <= 0 else grad


# --- leaky_relu -------------------------------------------------------------------------------------------


def leaky_relu(x, negative_slope):
    return run_unary(_leaky_relu, _COPY, x, negative_slope)


@kernel
def _leaky_relu(first, end, x, out, negative_slope):
    if on_threads():
        return
    x, out = part(x, first, end), part(out, first, end)
    slope = x.dtype.type(negative_slope)
    for i in range(x.size):
        value = x[i]
        out[i] = value if value > 0 else value * slope


def leaky_relu_backward(grad_output, x, negative_slope):
    return run_binary(_leaky_relu_backward, _COPY, grad_output, x, negative_slope)


@kernel
def _leaky_relu_backward(first, end, grad_output, x, out, negative_slope):
    if on_threads():
        return
    grad_output, x, out = part(grad_output, first, end), part(x, first, end), part(out, first, end)
    slope = x.dtype.type(negative_slope)
    for i in range(x.size):
        grad = grad_output[i]
        out[i] = grad if x[i] > 0 else grad * slope


# --- sigmoid ----------------------------------------------------------------------------------------------


def sigmoid(x):
    return run_unary(_sigmoid, _EXP, x)


@kernel
def _sigmoid(first, end, x, out):
    if on_threads():
        return
    x, out = part(x, first, end), part(out, first, end)
    one = x.dtype.type(1)
    for i in range(x.size):
        # Where exp overflows to inf, 1 / inf = 0 is the right result, to within the smallest normal number.
        out[i] = one / one_plus_exp(-x[i])


def sigmoid_backward(grad_output, output):
    return run_binary(_sigmoid_backward, _COPY, grad_output, output)


@kernel
def _sigmoid_backward(first, end, grad_output, output, out):
    if on_threads():
        return
    grad_output, output, out = part(grad_output, first, end), part(output, first, end), part(out, first, end)
    one = output.dtype.type(1)
    for i in range(output.size):
        out[i] = grad_output[i] * (output[i] * (one - output[i]))


# --- tanh -------------------------------------------------------------------------------------------------


def tanh(x):
    return run_unary(_tanh, _TANH, x)


@kernel
def _tanh(first, end, x, out):
    if on_threads():
        return
    x, out = part(x, first, end), part(out, first, end)
    for i in range(x.size):
        out[i] = hyperbolic_tangent(x[i])


def tanh_backward(grad_output, output):
    return run_binary(_tanh_backward, _COPY, grad_output, output)


@kernel
def _tanh_backward(first, end, grad_output, output, out):
    if on_threads():
        return
    grad_output, output, out = part(grad_output, first, end), part(output, first, end), part(out, first, end)
    one = output.dtype.type(1)
    for i in range(output.size):
        out[i] = grad_output[i] * (one - output[i] * output[i])


# --- gelu -------------------------------------------------------------------------------------------------

_DENSITY_AT_0 = 1 / math.sqrt(2 * math.pi)
# (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)), which is quicker and keeps its digits where it is small
_TWICE_SQRT_2_OVER_PI = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715


def gelu(x, approximate):
    return run_unary(_gelu, _EXP if approximate else _NORMAL, x, approximate)


@kernel
def _gelu(first, end, x, out, approximate):
    if on_threads():
        return
    x, out = part(x, first, end), part(out, first, end)
    one, cubic, exp_scale = x.dtype.type(1), x.dtype.type(_CUBIC), x.dtype.type(_TWICE_SQRT_2_OVER_PI)
    if approximate:
        for i in range(x.size):
            value = x[i]
            out[i] = value / (one + exp(-exp_scale * (value + cubic * value * value * value)))
    else:
        for i in range(x.size):
            value = x[i]
            out[i] = value * normal_cdf(value)


def gelu_backward(grad_output, x, approximate):
    ns = _EXP if approximate else _NORMAL + _EXP
    return run_binary(_gelu_backward, ns, grad_output, x, approximate)


@kernel
def _gelu_backward(first, end, grad_output, x, out, approximate):
    if on_threads():
        return
    grad_output, x, out = part(grad_output, first, end), part(x, first, end), part(out, first, end)
    one, half, cubic, three = x.dtype.type(1), x.dtype.type(0.5), x.dtype.type(_CUBIC), x.dtype.type(3)
    exp_scale = x.dtype.type(_TWICE_SQRT_2_OVER_PI)
    density_at_0 = x.dtype.type(_DENSITY_AT_0)
    if approximate:
        for i in range(x.size):
            value = x[i]
            square = value * value
            probability = one / one_plus_exp(-exp_scale * (value + cubic * square * value))
            density = probability * (one - probability) * exp_scale * (one + three * cubic * square)
            out[i] = grad_output[i] * (probability + value * density)
    else:
        for i in range(x.size):
            value = x[i]
            probability = normal_cdf(value)
            density = density_at_0 * exp(-half * value * value)
            out[i] = grad_output[i] * (probability + value * density)


# --- silu -------------------------------------------------------------------------------------------------


def silu(x):
    return run_unary(_silu, _EXP, x)


@kernel
def _silu(first, end, x, out):
    if on_threads():
        return
    x, out = part(x, first, end), part(out, first, end)
    one = x.dtype.type(1)
    for i in range(x.size):
        out[i] = x[i] / (one + exp(-x[i]))


def silu_backward(grad_output, x):
    return run_binary(_silu_backward, _EXP, grad_output, x)


@kernel
def _silu_backward(first, end, grad_output, x, out):
    if on_threads():
        return
    grad_output, x, out = part(grad_output, first, end), part(x, first, end), part(out, first, end)
    one = x.dtype.type(1)
    for i in range(x.size):
        gate = one / one_plus_exp(-x[i])
        out[i] = grad_output[i] * gate * (one + x[i] * (one - gate))
