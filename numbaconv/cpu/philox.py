"""Philox4x32-10: random numbers that are a pure function of a 128-bit counter and a 64-bit key.

No state, so any element's number can be had by any thread on any device. Every value is a uint64 that holds 32
bits: numba would turn a product of mixed integer types into float64, and LLVM makes one vector instruction of a
64-bit product whose factors fit 32 bits.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11, section 3.3.
"""

from __future__ import annotations

import numpy as np

from ..jit import inline

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)  # golden ratio - 1, sqrt(3) - 1
_ROUNDS = 10


@inline
def philox4x32(c0, c1, c2, c3, key0, key1):
    """Four random words of 32 bits from four counter words and two key words."""
    for _ in range(_ROUNDS):
        product0, product1 = _MULTIPLIER_0 * c0, _MULTIPLIER_1 * c2
        c0, c1 = (product1 >> _32) ^ c1 ^ key0, product1 & _LOW
        c2, c3 = (product0 >> _32) ^ c3 ^ key1, product0 & _LOW
        key0, key1 = (key0 + _WEYL_0) & _LOW, (key1 + _WEYL_1) & _LOW
    return c0, c1, c2, c3


@inline
def low_word(value):
    return np.uint64(value) & _LOW


@inline
def high_word(value):
    return np.uint64(value) >> _32
