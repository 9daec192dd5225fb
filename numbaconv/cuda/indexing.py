"""Index arithmetic of kernels.

numba makes int32 // int32 a signed 64-bit division with Python's rounding (100 instructions); one of two unsigned
32-bit numbers is 20. So indices are counted in int32 (`limits` sees to it), and divided here.
"""

from __future__ import annotations

from numba import cuda, int32, uint32

from .launch import inline


@inline
def quotient(a, b):
    """a // b of two int32, a >= 0, b > 0."""
    return int32(uint32(a) // uint32(b))


@inline
def thread_number():
    """This thread's number in the grid."""
    return int32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)


def blocks_for(threads_needed: int, kernel) -> int:
    """Blocks of a kernel that runs one thread for each of so many things."""
    return -(-threads_needed // kernel.threads)
