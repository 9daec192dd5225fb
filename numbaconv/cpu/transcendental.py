"""exp, tanh and the normal distribution that LLVM vectorises: the C library's are called once per element (5 to 10
times slower).

Each has a body per element type. NaN stays NaN, infinities give the limits, results below the smallest normal number
are rounded to subnormal ones. Measured largest errors, in units in the last place: float32 exp 1.1, tanh 1.3; float64
exp 2.7, tanh 1.7. Of the float32 probability of a normal number the error is below 1e-7, and 1e-5 of it where it is
small; in float64 it is that of the C library's erfc.

Source: Cephes (argument reduction, tanh in float64). The float32 polynomials are Chebyshev fits: (exp(r) - 1 - r) / r^2
on |r| <= ln(2) / 2; (tanh(x) / x - 1) / x^2 in x^2; (log(Q(t)) - log(1/2)) / t on 0 <= t <= 5.7, by weighted least
squares, where Q is the normal distribution's upper tail.
"""

from __future__ import annotations

import math

import numpy as np

from ..jit import always_inline, by_dtype, inline
from .exponential import exponential

__all__ = ["decay", "exp", "normal_cdf", "one_plus_exp", "tanh"]


def _constants(*values: float) -> tuple[np.float32, ...]:
    return tuple(np.float32(value) for value in values)


_ONE, _TWO = _constants(1, 2)
_LOG2_E, _LN2_HIGH, _LN2_LOW = _constants(1 / math.log(2), 0.693359375, math.log(2) - 0.693359375)
_LEAST, _MOST = _constants(-104, 89)  # exp is 0 below and inf above
_LEAST_NORMAL, _ZERO = _constants(-87, 0)
_ROUND = np.float32(1.5 * 2**23)  # added, it leaves the nearest integer in the low bits
_ROUND_BITS, _BIAS, _MANTISSA_BITS, _HALF = np.int32(_ROUND.view(np.int32)), np.int32(127), np.int32(23), np.int32(1)
_E2, _E3, _E4, _E5, _E6 = _constants(0.5, 0.16666573, 0.04166655, 0.008363774, 0.0013926927)

_SQRT_HALF = math.sqrt(0.5)

_TANH_SMALL, _TANH_ONE = _constants(0.625, 20)  # tanh(20) is 1 in float32
_T1, _T2, _T3, _T4, _T5 = _constants(-0.33333328, 0.13332719, -0.053843264, 0.02096133, -0.006045165)

_TAIL_END = np.float32(5.7)  # beyond, a normal number's probability is 6e-9, and taken for 0
_Q0, _Q1, _Q2, _Q3, _Q4, _Q5, _Q6, _Q7, _Q8, _Q9, _Q10 = _constants(
    -math.log(2), -0.79788506, -0.31830376, -0.036360033, 0.0048276423, -6.730745e-06, -0.00019258748, 5.327274e-05,
    -7.7668446e-06, 6.219812e-07, -2.1474383e-08,
)  # fmt: skip


@inline
def _exp_of_rest(x, shifted):
    """exp(x - n ln 2), for the integer n in shifted."""
    n = shifted - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    series = _E6
    series = series * r + _E5
    series = series * r + _E4
    series = series * r + _E3
    series = series * r + _E2
    return series * (r * r) + r + _ONE


@inline
def _exp_within(x):
    """exp(x) of -87 <= x <= 88, inf above, up to 89, or NaN: half the instructions."""
    shifted = np.float32(x * _LOG2_E + _ROUND)
    power = np.int32((shifted.view(np.int32) + _BIAS) << _MANTISSA_BITS)
    return _exp_of_rest(x, shifted) * power.view(np.float32)


@inline
def _decay_float32(x):
    always_inline()
    bounded = _LEAST_NORMAL if x < _LEAST_NORMAL else x
    return _ZERO if x < _LEAST_NORMAL else _exp_within(bounded)


@inline
def _decay_float64(x):
    always_inline()
    return exponential(x)


@inline
def _exp_float32(x):
    always_inline()
    bounded = _LEAST if x < _LEAST else x
    bounded = _MOST if bounded > _MOST else bounded
    shifted = np.float32(bounded * _LOG2_E + _ROUND)
    series = _exp_of_rest(bounded, shifted)
    # 2^n in two factors: n runs from -150 to 128, an exponent only from -126 to 127.
    power = np.int32(shifted.view(np.int32) - _ROUND_BITS)
    half = np.int32(power >> _HALF)
    first = np.int32((half + _BIAS) << _MANTISSA_BITS)
    second = np.int32((power - half + _BIAS) << _MANTISSA_BITS)
    return series * first.view(np.float32) * second.view(np.float32)


@inline
def _one_plus_exp_float32(x):
    always_inline()
    bounded = _LEAST_NORMAL if x < _LEAST_NORMAL else x
    bounded = _MOST if bounded > _MOST else bounded  # whose exponent is that of inf
    return _ONE + _exp_within(bounded)


@inline
def _one_plus_exp_float64(x):
    always_inline()
    return 1.0 + _exp_float64(x)


@inline
def _exp_float64(x):
    always_inline()
    # As a square, so that neither factor over- or underflows.
    bounded = 1400.0 if x > 1400.0 else x
    root = exponential(0.5 * bounded)
    return root * root


@inline
def _tanh_float32(x):
    always_inline()
    square = x * x
    series = _T5
    series = series * square + _T4
    series = series * square + _T3
    series = series * square + _T2
    series = series * square + _T1
    small = x + x * square * series
    size = abs(x)
    bounded = _TANH_ONE if size > _TANH_ONE else size
    large = _ONE - _TWO / (_exp_within(_TWO * bounded) + _ONE)
    large = large if x > 0 else -large
    return small if size < _TANH_SMALL else large


@inline
def _tanh_float64(x):
    always_inline()
    square = x * x
    above = (-9.64399179425052238628e-1 * square - 9.92877231001918586564e1) * square - 1.61468768441708447952e3
    below = (
        (square + 1.12811678491632931402e2) * square + 2.23548839060100448583e3
    ) * square + 4.84406305325125486048e3
    small = x + x * square * (above / below)
    size = abs(x)
    large = 1.0 - 2.0 / (_exp_float64(2.0 * size) + 1.0)
    large = large if x > 0 else -large
    return small if size < 0.625 else large


@inline
def _normal_cdf_float32(x):
    always_inline()
    size = abs(x)
    t = _TAIL_END if size > _TAIL_END else size
    logarithm = _Q10
    logarithm = logarithm * t + _Q9
    logarithm = logarithm * t + _Q8
    logarithm = logarithm * t + _Q7
    logarithm = logarithm * t + _Q6
    logarithm = logarithm * t + _Q5
    logarithm = logarithm * t + _Q4
    logarithm = logarithm * t + _Q3
    logarithm = logarithm * t + _Q2
    logarithm = logarithm * t + _Q1
    logarithm = logarithm * t + _Q0
    tail = _ZERO if size > _TAIL_END else _exp_within(logarithm)
    return _ONE - tail if x > 0 else tail


@inline
def _normal_cdf_float64(x):
    always_inline()
    return 0.5 * math.erfc(-_SQRT_HALF * x)


exp = by_dtype(_exp_float32, _exp_float64)
decay = by_dtype(_decay_float32, _decay_float64)  # exp(x) of x <= 0; 0 where that would be subnormal
one_plus_exp = by_dtype(_one_plus_exp_float32, _one_plus_exp_float64)  # inf from x = 88.4 on, float64 709
tanh = by_dtype(_tanh_float32, _tanh_float64)
normal_cdf = by_dtype(_normal_cdf_float32, _normal_cdf_float64)  # the probability that a normal number is below x
