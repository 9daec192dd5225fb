"""Copies between the two memory orders, and into zero-padded channels-last scratch, at memory speed.

Task by task one image row, `STREAMS` channels at a time: these are a cache line of the channels-last side, and as
many runs front to back on the other. Bytes: one read, one write.
"""

from __future__ import annotations

import numpy as np

from ..jit import kernel, launch, never_inline, parallel_kernel, prange

# Below this many elements NumPy's strided copy takes less time than compiling and launching a kernel is worth.
SMALL = 1 << 19

STREAMS = 8


def copy_to_channels_last(
    source: np.ndarray, out: np.ndarray, size: tuple[int, int, int, int], strides: tuple[int, int, int, int],
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> None:  # fmt: skip
    """Fills `out` (flat N, H + top + bottom, W + left + right, C) from `source` (flat), zeros around it.

    Args:
        size: N, C, H, W.
        strides: of the source, in elements, in that order.
        padding: top, bottom, left, right.
    """
    rows = size[0] * (size[2] + padding[0] + padding[1])
    work_ns = rows * (size[3] + padding[2] + padding[3]) * size[1] * 0.7
    launch(_to_channels_last, _to_channels_last_parallel, rows, work_ns, source, out, size, strides, padding)


@kernel
def _to_channels_last(first, end, source, out, size, strides, padding):
    never_inline()
    _, channels, height, width = size
    n_stride, c_stride, h_stride, w_stride = strides
    top, bottom, left, right = padding
    padded_height, padded_width = height + top + bottom, width + left + right
    for row in range(first, end):
        n = row // padded_height
        h = row - n * padded_height - top
        to = row * padded_width * channels
        if h < 0 or h >= height:
            for i in range(to, to + padded_width * channels):
                out[i] = 0
            continue
        for i in range(to, to + left * channels):
            out[i] = 0
        to += left * channels
        at = n * n_stride + h * h_stride
        if c_stride == 1 and w_stride == channels:
            for i in range(width * channels):
                out[to + i] = source[at + i]
        else:
            row_out = out[to : to + width * channels]
            for c in range(0, channels, STREAMS):
                streams = min(STREAMS, channels - c)
                for w in range(width):
                    for i in range(streams):
                        row_out[w * channels + c + i] = source[at + (c + i) * c_stride + w * w_stride]
        to += width * channels
        for i in range(to, to + right * channels):
            out[i] = 0


@parallel_kernel
def _to_channels_last_parallel(first, end, source, out, size, strides, padding):
    for task in prange(first, end):
        _to_channels_last(task, task + 1, source, out, size, strides, padding)


def copy_to_channels_first(source: np.ndarray, out: np.ndarray, size: tuple[int, int, int, int]) -> None:
    """Fills `out` (flat N, C, H, W) from `source` (flat N, H, W, C); `size` is N, C, H, W."""
    launch(_to_channels_first, _to_channels_first_parallel, size[0] * size[2], out.size * 0.7, source, out, size)


@kernel
def _to_channels_first(first, end, source, out, size):
    never_inline()
    _, channels, height, width = size
    for row in range(first, end):
        n = row // height
        h = row - n * height
        row_source = source[row * width * channels : (row + 1) * width * channels]
        image = out[n * channels * height * width : (n + 1) * channels * height * width]
        for c in range(0, channels, STREAMS):
            streams = min(STREAMS, channels - c)
            for w in range(width):
                for i in range(streams):
                    image[((c + i) * height + h) * width + w] = row_source[w * channels + c + i]


@parallel_kernel
def _to_channels_first_parallel(first, end, source, out, size):
    for task in prange(first, end):
        _to_channels_first(task, task + 1, source, out, size)
