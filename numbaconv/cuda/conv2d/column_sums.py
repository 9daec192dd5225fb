"""Sums of the columns of a matrix, in a fixed order: bias gradients.

A block adds `ROWS` rows of 32 columns: 8 warps take turns at the rows, a warp reads 128 bytes of one at a time (256 in
float64), and the warps' sums are then added in their order. So a sequential sum is of 512 terms at most. The blocks'
sums are added in a second launch, in order. Bytes: one read.
"""

from __future__ import annotations

from numba import cuda, int32

from .. import memory
from ..array import DeviceArray
from ..launch import T, kernel, launch
from ..limits import require_32_bit
from .splits import add_splits

ROWS = 4096  # of a block
_WARPS = 8


def column_sums(x: DeviceArray) -> DeviceArray:
    """(columns,): the sums of a C-contiguous (rows, columns) array."""
    rows, columns = x.shape
    if x.size == 0:
        return memory.zeros((columns,), x.dtype, x.device)
    require_32_bit("conv2d_backward_bias", x)
    parts = -(-rows // ROWS)
    out = memory.empty((columns,), x.dtype, x.device)
    sums = memory.empty((parts, columns), x.dtype, x.device) if parts > 1 else out
    launch(_column_sums, x.dtype, (parts, -(-columns // 32)), x, sums, rows, columns)
    if parts > 1:
        add_splits(sums, parts, None, out, columns, False)
    return out


@kernel(threads=256)
def _column_sums(x: "T*", out: "T*", rows: "i32", columns: "i32"):
    sums = cuda.shared.array(256, T)
    lane, warp = int32(cuda.threadIdx.x % 32), int32(cuda.threadIdx.x // 32)
    column = int32(cuda.blockIdx.y * 32 + lane)
    first = int32(cuda.blockIdx.x * ROWS)
    end = min(int32(first + ROWS), rows)
    total = T(0)
    if column < columns:
        for row in range(int32(first + warp), end, int32(_WARPS)):
            total += x[int32(row * columns + column)]
    sums[cuda.threadIdx.x] = total
    cuda.syncthreads()
    if warp == 0 and column < columns:
        for other in range(1, _WARPS):
            total += sums[lane + other * 32]
        out[int32(cuda.blockIdx.x * columns + column)] = total
