"""The one-dimensional transforms of Winograd convolution, from its interpolation points (Cook and Toom).

F(m, r): m results of a filter of r taps from n = m + r - 1 inputs, with n multiplications instead of m * r:

    result = transform_result(transform_filter(taps) * transform_data(inputs))

The points are 0 (if n is even), pairs +p and -p, and infinity. A pair shares its work: its two values are the sum and
the difference of an even and an odd part. With M(x) the product of all (x - point), the data's transform holds the
coefficients of M(x) / (x - point), the filter's the powers of the point, divided by the value there of that polynomial,
and the result's the powers of the point.

A filter of one tap, F(m, 1), needs no transform: its one value is multiplied by each of m inputs.

The functions take and give lists of anything that can be added, subtracted and multiplied by a number: LLVM vectors
when kernels are compiled, fractions in the tests.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016; Barabasz et al., "Error analysis
and improving the accuracy of Winograd convolution", 2018 (which points).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# The positive one of each pair, by the number of inputs n.
PAIRS: dict[int, tuple[float, ...]] = {4: (1.0,), 5: (1.0, 0.5), 6: (1.0, 2.0), 8: (1.0, 2.0, 0.5)}


def _product(squares: Sequence[float]) -> list[float]:
    """Coefficients, from the lowest, of the product of (y - square)."""
    coefficients = [1.0]
    for square in squares:
        shifted = [0.0, *coefficients]
        coefficients = [s - square * c for s, c in zip(shifted, [*coefficients, 0.0], strict=True)]
    return coefficients


def _others(pairs: Sequence[float], index: int) -> list[float]:
    return [p * p for i, p in enumerate(pairs) if i != index]


def _sum(coefficients: Sequence[float], values: Sequence[Any]) -> Any:
    """Sum of coefficient * value; the coefficients that are 1 and 0 cost nothing."""
    total = None
    for coefficient, value in zip(coefficients, values, strict=True):
        if coefficient == 0:
            continue
        term = value if coefficient == 1 else value * coefficient
        total = term if total is None else total + term
    return total


def has_transforms(m: int, r: int) -> bool:
    """Whether F(m, r) is one that there are points for, or needs none."""
    return r == 1 or m + r - 1 in PAIRS


def transform_data(d: Sequence[Any], m: int) -> list[Any]:
    """n values of the n inputs of m results: at 0, at each pair, at infinity."""
    n = len(d)
    if m == n:
        return list(d)
    pairs, zero = PAIRS[n], 1 - n % 2
    every = _product([p * p for p in pairs])
    result = [_sum(every, d[0:-1:2])] if zero else []
    for index, p in enumerate(pairs):
        rest = _product(_others(pairs, index))
        one, other = _sum(rest, d[zero + 1 :: 2]), _sum([c * p for c in rest], d[zero:-1:2])
        result += [one + other, one - other] if zero else [one + other, other - one]
    return [*result, _sum(every, d[zero::2])]


def transform_filter(taps: Sequence[Any], n: int) -> list[Any]:
    """n values of r taps; one of one."""
    if len(taps) == 1:
        return list(taps)
    pairs, zero = PAIRS[n], 1 - n % 2
    result = [taps[0] * (1 / _product([p * p for p in pairs])[0])] * zero
    for index, p in enumerate(pairs):
        scale = 2 * p ** (1 + zero)
        for square in _others(pairs, index):
            scale *= p * p - square
        powers = [p**j / scale for j in range(len(taps))]
        even, odd = _sum(powers[0::2], taps[0::2]), _sum(powers[1::2], taps[1::2])
        result += [even + odd, even - odd]
    return [*result, taps[-1]]


def transform_result(products: Sequence[Any], m: int) -> list[Any]:
    """m results of n products."""
    n = len(products)
    if n == m:
        return list(products)
    pairs, zero = PAIRS[n], 1 - n % 2
    sums = [products[2 * i + zero] + products[2 * i + zero + 1] for i in range(len(pairs))]
    differences = [products[2 * i + zero] - products[2 * i + zero + 1] for i in range(len(pairs))]
    results = []
    for j in range(m):
        terms = [(p**j, value) for p, value in zip(pairs, differences if j % 2 else sums, strict=True)]
        terms += [(1.0, products[0])] * (zero and j == 0) + [(1.0, products[-1])] * (j == m - 1)
        results.append(_sum([c for c, _ in terms], [value for _, value in terms]))
    return results
