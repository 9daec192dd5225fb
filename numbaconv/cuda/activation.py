"""Activations, forward and backward: a formula of one element each, in kernels of one pass (see elementwise.py).

Bytes: forward reads 1 and writes 1 array, backward reads 2 and writes 1; that is the time of them all but gelu with
erf in float64. Constants take the element's type: a float64 literal would turn float32 arithmetic into float64.
"""

from __future__ import annotations

import math

from . import elementwise
from .elementwise import run_binary, run_unary
from .functions import erf, exp
from .functions import tanh as hyperbolic_tangent
from .launch import T, inline

# --- relu -------------------------------------------------------------------------------------------------


@inline
def _relu(value):
    return T(0) if value <= T(0) else value  # NaN <= 0 is False: NaN passes


@inline
def _relu_backward(grad, value):
    return T(0) if value <= T(0) else grad


_RELU, _RELU_BACKWARD = elementwise.unary(_relu), elementwise.binary(_relu_backward)


def relu(x):
    return run_unary(_RELU, x)


def relu_backward(grad_output, x):
    return run_binary(_RELU_BACKWARD, grad_output, x)


# --- leaky_relu -------------------------------------------------------------------------------------------


@inline
def _leaky_relu(value, slope):
    return value if value > T(0) else value * slope


@inline
def _leaky_relu_backward(grad, value, slope):
    return grad if value > T(0) else grad * slope


_LEAKY_RELU = elementwise.unary_with_number(_leaky_relu)
_LEAKY_RELU_BACKWARD = elementwise.binary_with_number(_leaky_relu_backward)


def leaky_relu(x, negative_slope):
    return run_unary(_LEAKY_RELU, x, negative_slope)


def leaky_relu_backward(grad_output, x, negative_slope):
    return run_binary(_LEAKY_RELU_BACKWARD, grad_output, x, negative_slope)


# --- sigmoid ----------------------------------------------------------------------------------------------


@inline
def _sigmoid(value):
    # Where exp overflows to inf, 1 / inf = 0 is the right result, to within the smallest normal number.
    return T(1) / (T(1) + exp(-value))


@inline
def _sigmoid_backward(grad, output):
    return grad * (output * (T(1) - output))


_SIGMOID, _SIGMOID_BACKWARD = elementwise.unary(_sigmoid), elementwise.binary(_sigmoid_backward)


def sigmoid(x):
    return run_unary(_SIGMOID, x)


def sigmoid_backward(grad_output, output):
    return run_binary(_SIGMOID_BACKWARD, grad_output, output)


# --- tanh -------------------------------------------------------------------------------------------------


@inline
def _tanh(value):
    return hyperbolic_tangent(value)


@inline
def _tanh_backward(grad, output):
    return grad * (T(1) - output * output)


_TANH, _TANH_BACKWARD = elementwise.unary(_tanh), elementwise.binary(_tanh_backward)


def tanh(x):
    return run_unary(_TANH, x)


def tanh_backward(grad_output, output):
    return run_binary(_TANH_BACKWARD, grad_output, output)


# --- gelu -------------------------------------------------------------------------------------------------

_SQRT_HALF = math.sqrt(0.5)
_DENSITY_AT_0 = 1 / math.sqrt(2 * math.pi)
# (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)), which is quicker and keeps its digits where it is small
_TWICE_SQRT_2_OVER_PI = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715


@inline
def _gelu(value):
    return value * (T(0.5) * (T(1) + erf(T(_SQRT_HALF) * value)))


@inline
def _gelu_tanh(value):
    return value / (T(1) + exp(-T(_TWICE_SQRT_2_OVER_PI) * (value + T(_CUBIC) * value * value * value)))


@inline
def _gelu_backward(grad, value):
    probability = T(0.5) * (T(1) + erf(T(_SQRT_HALF) * value))
    density = T(_DENSITY_AT_0) * exp(T(-0.5) * value * value)
    return grad * (probability + value * density)


@inline
def _gelu_tanh_backward(grad, value):
    square = value * value
    probability = T(1) / (T(1) + exp(-T(_TWICE_SQRT_2_OVER_PI) * (value + T(_CUBIC) * square * value)))
    slope = T(_TWICE_SQRT_2_OVER_PI) * (T(1) + T(3 * _CUBIC) * square)
    return grad * (probability + value * (probability * (T(1) - probability) * slope))


_GELU, _GELU_BACKWARD = elementwise.unary(_gelu), elementwise.binary(_gelu_backward)
_GELU_TANH, _GELU_TANH_BACKWARD = elementwise.unary(_gelu_tanh), elementwise.binary(_gelu_tanh_backward)


def gelu(x, approximate):
    return run_unary(_GELU_TANH if approximate else _GELU, x)


def gelu_backward(grad_output, x, approximate):
    return run_binary(_GELU_TANH_BACKWARD if approximate else _GELU_BACKWARD, grad_output, x)


# --- silu -------------------------------------------------------------------------------------------------


@inline
def _silu(value):
    return value / (T(1) + exp(-value))


@inline
def _silu_backward(grad, value):
    gate = T(1) / (T(1) + exp(-value))
    return grad * gate * (T(1) + value * (T(1) - gate))


_SILU, _SILU_BACKWARD = elementwise.unary(_silu), elementwise.binary(_silu_backward)


def silu(x):
    return run_unary(_SILU, x)


def silu_backward(grad_output, x):
    return run_binary(_SILU_BACKWARD, grad_output, x)
