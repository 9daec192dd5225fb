"""Index arithmetic of kernels.

numba makes int32 // int32 a signed 64-bit division with Python's rounding (100 instructions). Indices are counted in
int32 (`limits` sees to it), so one of two unsigned 32-bit numbers is enough (20), and where the divisor is known on the
host a multiplication (3): ``divided(n, *divisor(d))``, the divisor as three parameters.
"""

from __future__ import annotations

from numba import cuda, int32, uint32, uint64

from .intrinsics import unsigned_quotient
from .launch import inline


@inline
def quotient(a, b):
    """a // b of two int32, a >= 0, b > 0. (numba's own looks whether b is 0: a branch, and all that follows twice.)"""
    return int32(unsigned_quotient(uint32(a), uint32(b)))


@inline
def remainder(a, b):
    """a % b of two int32, a >= 0, b > 0."""
    return int32(a - quotient(a, b) * b)


def divisor(d: int) -> tuple[int, int, int]:
    """A divisor from 1 to 2^31 - 1, its multiplier and its shift.

    Source: Granlund and Montgomery, "Division by invariant integers using multiplication", PLDI 1994, figure 4.1.
    """
    shift = max(d - 1, 0).bit_length()
    return d, ((1 << 32) * ((1 << shift) - d)) // max(d, 1) + 1, shift


@inline
def divided(n, d, multiplier, shift):
    """(n // d, n % d) of n >= 0."""
    high = uint32((uint64(uint32(n)) * uint64(multiplier)) >> uint64(32))
    whole = int32(uint32(high + uint32(n)) >> uint32(shift))
    return whole, int32(n - whole * d)


@inline
def thread_number():
    """This thread's number in the grid."""
    return int32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)


def blocks_for(threads_needed: int, kernel) -> int:
    """Blocks of a kernel that runs one thread for each of so many things."""
    return -(-threads_needed // kernel.threads)
