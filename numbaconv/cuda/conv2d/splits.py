"""Adds the parts of a split sum, in their order.

Parts are whole results one after the other. One thread a result (or a vector of them); neighbours read and write
neighbours. Bytes: every part once, the result once.
"""

from __future__ import annotations

from ..array import DeviceArray
from ..indexing import blocks_for, divided, divisor, thread_number
from ..launch import T, kernel, launch

HAS_BIAS, RELU = 1, 2


def add_splits(
    parts: DeviceArray, splits: int, bias: DeviceArray | None, out: DeviceArray, channels: int, relu: bool
) -> None:
    """Out = the sum of its parts, plus a bias along its last axis in memory."""
    flags = (HAS_BIAS if bias is not None else 0) | (RELU if relu else 0)
    launch(
        _add_splits, out.dtype, blocks_for(out.size, _add_splits), parts, out if bias is None else bias, out,
        out.size, splits, *divisor(channels), flags,
    )  # fmt: skip


@kernel(threads=256, name="add_splits")
def _add_splits(
    parts: "T*", bias: "T*", out: "T*", size: "i32", splits: "i32",
    channels: "i32", multiplier: "u32", shift: "u32", flags: "i32",
):  # fmt: skip
    i = thread_number()
    if i < size:
        total = T(0)
        for split in range(splits):
            total += parts[split * size + i]
        if flags & HAS_BIAS:
            _, channel = divided(i, channels, multiplier, shift)
            total += bias[channel]
        if flags & RELU and total <= T(0):
            total = T(0)
        out[i] = total
