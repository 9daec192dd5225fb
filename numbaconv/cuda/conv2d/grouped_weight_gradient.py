"""The weight-gradient of a convolution with few channels a group.

A block has 32 output channels, `TAPS` filter taps, one channel of the group, and up to `PIXELS` pixels, which its 8
warps take in turn: a thread reads one element of grad_output and `TAPS` of x for each, and adds at most 512 terms. The
warps' sums are added in their order, then, in a second launch, those of the blocks. Bytes: both arrays once for every
`TAPS` taps, mostly from the second cache.
"""

from __future__ import annotations

from numba import cuda, int32, uint32

from ...shapes import Conv2dProblem
from .. import memory
from ..array import DeviceArray
from ..indexing import divided, divisor, quotient
from ..launch import T, kernel, launch
from ..layout import channels_last
from ..limits import require_32_bit
from .weight_gradient import gather

TAPS = 4  # of a thread
PIXELS = 4096  # of a block
_WARPS = 8
_SHARED = TAPS * 32 * _WARPS
_NOWHERE = -(1 << 30)  # a shift that leaves every image


def backward_weight(
    problem: Conv2dProblem, grad_output: DeviceArray, x: DeviceArray, needs_bias: bool = False
) -> tuple[DeviceArray, DeviceArray | None]:
    """(grad_weight, None)."""
    grad_output, x = channels_last(grad_output), channels_last(x)
    out = memory.empty(problem.weight_shape, x.dtype, x.device)
    n, c, h, w = x.shape
    _, k, p, q = grad_output.shape
    _, depth, r, s = problem.weight_shape
    (sh, sw), (dh, dw), (top, _, left, _) = problem.stride, problem.dilation, problem.padding
    pixels, sums = n * p * q, r * s * depth
    splits = -(-pixels // PIXELS)
    require_32_bit("conv2d_backward_weight", grad_output, x, splits * k * sums)
    parts = memory.empty((splits, k * sums), x.dtype, x.device)
    grid = splits * -(-k // 32), depth, -(-r * s // TAPS)
    launch(
        _grouped_weight_gradient, x.dtype, grid, grad_output, x, parts, pixels, *divisor(p), *divisor(q), h, w * c,
        sh, sw * c, top, left, dh, dw, c, depth, r * s, s, k, k // problem.groups,
    )  # fmt: skip
    gather(parts, splits, out, None, sums)
    return out, None


@kernel(threads=256)
def _grouped_weight_gradient(
    grad_output: "T*", x: "T*", out: "T*", pixels: "i32",
    rows: "i32", rows_multiplier: "u32", rows_shift: "u32",
    columns: "i32", columns_multiplier: "u32", columns_shift: "u32",
    height: "i32", width: "i32", row_step: "i32", column_step: "i32", top: "i32", left: "i32",
    row_dilation: "i32", column_dilation: "i32", pixel: "i32", depth: "i32", taps: "i32", filter_columns: "i32",
    out_channels: "i32", group_channels: "i32",
):  # fmt: skip
    shared = cuda.shared.array(_SHARED, T)
    sums = cuda.local.array(TAPS, T)
    row_shifts, column_shifts = cuda.local.array(TAPS, int32), cuda.local.array(TAPS, int32)
    thread = int32(cuda.threadIdx.x)
    lane, warp = int32(thread & 31), int32(thread >> 5)
    blocks = quotient(int32(out_channels + 31), int32(32))
    split = quotient(int32(cuda.blockIdx.x), blocks)
    k = int32((cuda.blockIdx.x - split * blocks) * 32 + lane)
    channel = int32(cuda.blockIdx.y)
    first_tap = int32(cuda.blockIdx.z * TAPS)
    group = quotient(k, group_channels)
    for t in range(TAPS):
        tap = int32(first_tap + t)
        r = quotient(tap, filter_columns)
        s = int32(tap - r * filter_columns)
        sums[t] = T(0)
        row_shifts[t] = int32(r * row_dilation - top) if tap < taps else int32(_NOWHERE)
        column_shifts[t] = int32((s * column_dilation - left) * pixel + group * depth + channel)
    if k < out_channels:
        first = int32(split * PIXELS)
        for m in range(int32(first + warp), min(int32(first + PIXELS), pixels), int32(_WARPS)):
            line, j = divided(m, columns, columns_multiplier, columns_shift)
            image, i = divided(line, rows, rows_multiplier, rows_shift)
            gradient = grad_output[int32(m * out_channels + k)]
            for t in range(TAPS):
                h, element = int32(i * row_step + row_shifts[t]), int32(j * column_step + column_shifts[t])
                if uint32(h) < uint32(height) and uint32(element) < uint32(width):
                    sums[t] += gradient * x[int32((image * height + h) * width + element)]
    for t in range(TAPS):
        shared[t * 256 + thread] = sums[t]
    cuda.syncthreads()
    tap = int32(first_tap + warp)
    if warp < TAPS and tap < taps and k < out_channels:
        total = T(0)
        for other in range(_WARPS):
            total += shared[warp * 256 + other * 32 + lane]
        out[int32((split * out_channels + k) * taps + tap) * depth + channel] = total
