"""Sums over the threads of a warp and of a block, in an order that is always the same.

A warp adds by five exchanges between its lanes, without memory or a barrier; all of its 32 threads must take part. A
block adds the sums of its warps. Partners are fixed, so that the same numbers give the same bits.
"""

from __future__ import annotations

from numba import cuda, float64, int32

from .intrinsics import ALL_LANES
from .launch import inline

WARP = 32  # threads


@inline
def lane_number():
    """This thread's number in its warp."""
    return int32(cuda.threadIdx.x & 31)


@inline
def warp_number():
    """This warp's number in the grid; blocks of whole warps."""
    return int32(cuda.blockIdx.x * (cuda.blockDim.x >> 5) + (cuda.threadIdx.x >> 5))


@inline
def warp_sum(value):
    """The sum of a warp's values, in every lane."""
    for distance in (16, 8, 4, 2, 1):
        value += cuda.shfl_xor_sync(ALL_LANES, value, distance)
    return value


@inline
def warp_maximum(value):
    """The largest of a warp's values, in every lane; a NaN is passed over unless it is this lane's own."""
    for distance in (16, 8, 4, 2, 1):
        other = cuda.shfl_xor_sync(ALL_LANES, value, distance)
        value = other if other > value else value
    return value


@inline
def block_sum(value):
    """The sum of the float64 of a block's threads, in every thread of its first warp. Every thread must take part."""
    sums = cuda.shared.array(WARP, float64)
    lane, warp = lane_number(), int32(cuda.threadIdx.x >> 5)
    total = warp_sum(value)
    if lane == 0:
        sums[warp] = total
    cuda.syncthreads()
    total = float64(0)
    if warp == 0:
        if lane < cuda.blockDim.x >> 5:
            total = sums[lane]
        total = warp_sum(total)
    cuda.syncthreads()
    return total
