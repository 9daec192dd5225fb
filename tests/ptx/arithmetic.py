"""The exact arithmetic under the floating-point instructions.

* `fma` is one rounding, in both precisions: it is LLVM's ``llvm.fma`` compiled to a NumPy ufunc, the CPU's own fused
  instruction (or, on a CPU without one, libm's). Nothing else in reach is exact: float32 computed in float64 rounds
  twice, and float64 has no wider type.
* A directed rounding (.rz .rm .rp) starts from the nearest result and the sign of what that rounding left out, which is
  known exactly from error-free transformations (Dekker 1971; for the fma: Boldo and Muller, "Exact and approximated
  error of the FMA", 2011). In float64, results below 2**-969 can lose that sign.
"""

from __future__ import annotations

import numpy as np
from numba import types, vectorize
from numba.extending import intrinsic


@intrinsic
def llvm_fma(typing_context, x, y, z):
    """The fused multiply-add of compiled code."""

    def codegen(context, builder, signature, args):
        return builder.fma(*args)

    return x(x, x, x), codegen


@vectorize([types.float32(*[types.float32] * 3), types.float64(*[types.float64] * 3)], cache=True)
def _fma(x, y, z):
    return llvm_fma(x, y, z)


# x * y + z, rounded once. (The NumPy ufunc itself: numba's object around it costs more than 1000 elements.)
fma: np.ufunc = _fma.ufunc


def two_sum(x, y):
    """The rounded sum, and exactly what rounding left out."""
    total = x + y
    back = total - x
    return total, (x - (total - back)) + (y - back)


def step(nearest, error, rounding: str, finite_operands):
    """The neighbour of a nearest result in a rounding direction, given the sign of (exact - nearest)."""
    # From finite operands inf is an overflow: the exact value is on this side of it.
    error = np.where(np.isinf(nearest) & finite_operands, -np.sign(nearest), error)
    if rounding == "rm":
        move = error < 0
        towards = -np.inf
    elif rounding == "rp":
        move = error > 0
        towards = np.inf
    else:
        move = np.where(np.signbit(nearest), error > 0, error < 0)
        towards = 0.0
    return np.where(move, np.nextafter(nearest, nearest.dtype.type(towards)), nearest)


def _error_from_pair(high, low, nearest):
    """The sign of (high + low - nearest), where high is float64 and low what it left out."""
    difference = high - nearest.astype(np.float64)
    return np.where(difference != 0, difference, low)


def _all_finite(*arrays):
    finite = np.isfinite(arrays[0])
    for array in arrays[1:]:
        finite = finite & np.isfinite(array)
    return finite


def add(rounding: str):
    """x + y in a rounding direction, as a function of arrays."""
    if rounding == "rn":
        return np.add

    def directed(x, y):
        nearest = x + y
        if nearest.dtype == np.float32:
            error = _error_from_pair(*two_sum(x.astype(np.float64), y.astype(np.float64)), nearest)
        else:
            error = two_sum(x, y)[1]
        out = step(nearest, error, rounding, _all_finite(x, y))
        if rounding == "rm":  # an exact zero of two signs is -0
            out = np.where((out == 0) & (np.signbit(x) != np.signbit(y)), -out.dtype.type(0), out)
        return out

    return directed


def subtract(rounding: str):
    """x - y in a rounding direction."""
    if rounding == "rn":
        return np.subtract
    plus = add(rounding)
    return lambda x, y: plus(x, -y)


def multiply(rounding: str):
    """x * y in a rounding direction."""
    if rounding == "rn":
        return np.multiply

    def directed(x, y):
        nearest = x * y
        exact_product = nearest.dtype == np.float32  # in float64
        error = x.astype(np.float64) * y - nearest if exact_product else fma(x, y, -nearest)
        return step(nearest, error, rounding, _all_finite(x, y))

    return directed


def multiply_add(rounding: str):
    """x * y + z in a rounding direction."""
    if rounding == "rn":
        return fma

    def directed(x, y, z):
        nearest = fma(x, y, z)
        if nearest.dtype == np.float32:
            error = _error_from_pair(*two_sum(x.astype(np.float64) * y, z.astype(np.float64)), nearest)
        else:
            product = x * y
            rest = fma(x, y, -product)
            low_sum, low_rest = two_sum(z, rest)
            high_sum, high_rest = two_sum(product, low_sum)
            large = (high_sum - nearest) + high_rest
            error = two_sum(large, low_rest)[0]
        return step(nearest, error, rounding, _all_finite(x, y, z))

    return directed


def divide(rounding: str):
    """x / y in a rounding direction."""
    if rounding not in ("rz", "rm", "rp"):
        return np.divide

    def directed(x, y):
        nearest = x / y
        error = fma(-nearest.astype(np.float64), y.astype(np.float64), x.astype(np.float64)) * np.sign(y)
        return step(nearest, error, rounding, _all_finite(x, y) & (y != 0))

    return directed


def square_root(rounding: str):
    """sqrt(x) in a rounding direction."""
    if rounding not in ("rz", "rm", "rp"):
        return np.sqrt

    def directed(x):
        nearest = np.sqrt(x)
        wide = nearest.astype(np.float64)
        return step(nearest, fma(-wide, wide, x.astype(np.float64)), rounding, _all_finite(x))

    return directed


def narrow(rounding: str):
    """float64 -> float32 in a rounding direction."""

    def directed(x):
        nearest = x.astype(np.float32)
        if rounding == "rn":
            return nearest
        return step(nearest, x - nearest.astype(np.float64), rounding, _all_finite(x))

    return directed


def flush(x):
    """Subnormal numbers become zeros of their sign (.ftz)."""
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, np.copysign(x.dtype.type(0), x), x)


def saturate(x):
    """Clamped to [0, 1]; NaN becomes 0 (.sat)."""
    return np.where(x >= 1, x.dtype.type(1), np.where(x > 0, x, x.dtype.type(0)))


def minimum(x, y):
    """A number beats NaN; -0 is less than 0."""
    return _ordered_zeros(np.fmin(x, y), x, y, np.bitwise_or)


def maximum(x, y):
    """A number beats NaN; 0 is more than -0."""
    return _ordered_zeros(np.fmax(x, y), x, y, np.bitwise_and)


def minimum_nan(x, y):
    """NaN beats a number."""
    return _ordered_zeros(np.minimum(x, y), x, y, np.bitwise_or)


def maximum_nan(x, y):
    """NaN beats a number."""
    return _ordered_zeros(np.maximum(x, y), x, y, np.bitwise_and)


def _ordered_zeros(out, x, y, combine):
    """Equal numbers differ at most in the sign of zero, and that is combined."""
    bits = np.dtype(f"u{out.itemsize}")
    return np.where(x == y, combine(x.view(bits), y.view(bits)).view(out.dtype), out)
