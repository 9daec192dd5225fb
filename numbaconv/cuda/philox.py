"""Philox4x32-10: random numbers that are a pure function of a 128-bit counter and a 64-bit key; those of the CPU.

Every value is a uint64 that holds 32 bits, so that numba keeps products whole; the compiler makes one wide
multiplication of 32-bit numbers of each.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11, section 3.3.
"""

from __future__ import annotations

from numba import uint64

from .launch import inline

_LOW = 0xFFFFFFFF
_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85  # golden ratio - 1, sqrt(3) - 1
_ROUNDS = 10


@inline
def philox4x32(c0, c1, c2, c3, key0, key1):
    """Four random words of 32 bits from four counter words and two key words."""
    low, half = uint64(_LOW), uint64(32)
    for _ in range(_ROUNDS):
        product0, product1 = uint64(_MULTIPLIER_0) * c0, uint64(_MULTIPLIER_1) * c2
        c0, c1 = (product1 >> half) ^ c1 ^ key0, product1 & low
        c2, c3 = (product0 >> half) ^ c3 ^ key1, product0 & low
        key0, key1 = (key0 + uint64(_WEYL_0)) & low, (key1 + uint64(_WEYL_1)) & low
    return c0, c1, c2, c3
