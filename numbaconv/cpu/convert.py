"""Copies between the two memory orders, and into zero-padded channels-last scratch, at memory speed.

A task is a run of one image row (where rows follow each other without padding, of the whole image), `GROUP` channels
at a time: as many streams front to back on one side, a cache line of a pixel on the other. Within it, square blocks
are transposed in registers. Bytes: one read, one write.
"""

from __future__ import annotations

import numpy as np

from ..jit import inline, kernel
from ..parallel import launch, on_threads
from .simd import VECTOR_BYTES
from .transpose import transpose_block

# Below this many elements NumPy's strided copy takes less time than compiling a kernel is worth.
SMALL = 1 << 17

GROUP = 16  # channels
RUN = 64  # pixels of a task, at most


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
    n, c, h, w = size
    if not any(padding) and strides[2] == w * strides[3]:
        size = n, c, 1, h * w
    runs = -(-size[3] // RUN)
    rows = n * (size[2] + padding[0] + padding[1])
    work_ns = rows * (size[3] + padding[2] + padding[3]) * c * 0.5
    launch(_to_channels_last, rows * runs, work_ns, source, out, size, strides, padding, runs)


@inline
def _transpose_run(source, at, c_stride, w_stride, out, to, pixel, channels, count):
    """out[to + w * pixel + c] = source[at + c * c_stride + w * w_stride] for w < count and c < channels."""
    lanes = VECTOR_BYTES // source.itemsize
    if w_stride == 1 and channels >= lanes and count >= lanes:
        for group in range(0, channels, GROUP):
            stop = min(channels, group + GROUP)
            for w0 in range(0, count, lanes):
                w = min(w0, count - lanes)  # the last blocks overlap those before
                for c0 in range(group, stop, lanes):
                    c = min(c0, channels - lanes)
                    transpose_block(source, at + c * c_stride + w, c_stride, out, to + w * pixel + c, pixel)
    else:
        for w in range(count):
            for c in range(channels):
                out[to + w * pixel + c] = source[at + c * c_stride + w * w_stride]


@kernel
def _to_channels_last(first, end, source, out, size, strides, padding, runs):
    if on_threads():
        return
    _, channels, height, width = size
    n_stride, c_stride, h_stride, w_stride = strides
    top, bottom, left, right = padding
    padded_height, padded_width = height + top + bottom, width + left + right
    for task in range(first, end):
        row = task // runs
        w = (task - row * runs) * RUN
        count = min(RUN, width - w)
        n = row // padded_height
        h = row - n * padded_height - top
        before = left if w == 0 else 0
        after = right if w + count == width else 0
        to = (row * padded_width + left + w) * channels
        inside = 0 <= h < height
        if not inside:
            before, after = before + count, after
        start = to if inside else to + count * channels
        for i in range(start - before * channels, start):
            out[i] = 0
        for i in range(to + count * channels, to + (count + after) * channels):
            out[i] = 0
        if not inside:
            continue
        at = n * n_stride + h * h_stride + w * w_stride
        if c_stride == 1 and w_stride == channels:
            from_, into = source[at : at + count * channels], out[to : to + count * channels]
            for i in range(count * channels):
                into[i] = from_[i]
        else:
            _transpose_run(source, at, c_stride, w_stride, out, to, channels, channels, count)


def copy_to_channels_first(source: np.ndarray, out: np.ndarray, size: tuple[int, int, int, int]) -> None:
    """Fills `out` (flat N, C, H, W) from `source` (flat N, H, W, C); `size` is N, C, H, W."""
    n, c, h, w = size
    runs = -(-h * w // RUN)
    launch(
        _to_channels_first, n * runs, out.size * 0.5, source, out, (c, h * w), runs
    )  # fmt: skip


@kernel
def _to_channels_first(first, end, source, out, size, runs):
    if on_threads():
        return
    channels, pixels = size
    lanes = VECTOR_BYTES // source.itemsize
    for task in range(first, end):
        n = task // runs
        w = (task - n * runs) * RUN
        count = min(RUN, pixels - w)
        at, to = (n * pixels + w) * channels, n * channels * pixels + w
        if channels >= lanes and count >= lanes:
            for c0 in range(0, channels, lanes):
                c = min(c0, channels - lanes)  # the last blocks overlap those before
                for w0 in range(0, count, lanes):
                    i = min(w0, count - lanes)
                    transpose_block(source, at + i * channels + c, channels, out, to + c * pixels + i, pixels)
        else:
            for c in range(channels):
                for i in range(count):
                    out[to + c * pixels + i] = source[at + i * channels + c]
