"""Copies between the two memory orders, and into a padded image, at memory speed.

A task is a run of one image row (where rows follow each other on both sides, of the whole image), `GROUP` channels at
a time: as many streams on one side, a cache line of a pixel on the other. Within it, square blocks are transposed in
registers; of few channels, blocks that are filled up, or of very few a vector of pixels. Bytes: one read, one write.

One kernel serves both directions, since a first convolution of a channels-first image needs both: two of them, one
with the padding's zeros in it, took 0.8 s to compile.
"""

from __future__ import annotations

import numpy as np

from ..jit import inline, kernel
from ..parallel import launch, on_threads
from ..shapes import Shape4
from .local_array import zeroed_local_array
from .plane import join, split
from .simd import VECTOR_BYTES
from .transpose import MOST_INTERLEAVED, copy_vectors, transpose_block

# Below this many elements NumPy's strided copy takes less time than compiling a kernel is worth.
SMALL = 1 << 15

GROUP = 16  # channels
RUN = 64  # pixels of a task; the last of a line takes what is left, so that none is too short for a block


def reorder(
    source: np.ndarray, source_strides: Shape4, out: np.ndarray, out_strides: Shape4, shape: Shape4, start: int = 0
) -> None:
    """out[start + n * out_strides[0] + ...] = source[n * source_strides[0] + ...], both flat, over (N, C, H, W)."""
    n, c, h, w = shape
    if all(strides[2] == w * strides[3] for strides in (source_strides, out_strides)):
        h, w = 1, h * w
    runs = max(1, w // RUN)
    launch(
        _reorder, n * h * runs, n * h * w * c * 0.5, source, source_strides, out, out_strides, start, (c, h, w, runs)
    )


@inline
def _one_by_one(source, at, c_step, w_step, out, to, out_c, out_w, channels, count):
    for c in range(channels):
        for w in range(count):
            out[to + c * out_c + w * out_w] = source[at + c * c_step + w * w_step]


@kernel
def _reorder(first, end, source, source_strides, out, out_strides, start, size):
    if on_threads():
        return
    channels, height, width, runs = size
    n_step, c_step, h_step, w_step = source_strides
    out_n, out_c, out_h, out_w = out_strides
    lanes = VECTOR_BYTES // source.itemsize
    copied = c_step == 1 and out_c == 1 and w_step == channels and out_w == channels
    blocks = channels >= lanes and ((w_step == 1 and out_c == 1) or (c_step == 1 and out_w == 1))
    row, out_row = (c_step, out_w) if w_step == 1 else (w_step, out_c)  # of a block
    few = channels < lanes and (
        (channels > 3 and w_step == 1 and out_c == 1) or (channels > 1 and c_step == 1 and out_w == 1)
    )
    interleaved = 1 < channels <= MOST_INTERLEAVED and (
        (w_step == 1 and out_c == 1 and out_w == channels) or (c_step == 1 and out_w == 1 and w_step == channels)
    )
    square = zeroed_local_array(2 * lanes * lanes, source.dtype)
    for task in range(first, end):
        line = task // runs
        w0 = (task - line * runs) * RUN
        count = RUN if line * runs + runs - 1 > task else width - w0
        n = line // height
        h = line - n * height
        at = n * n_step + h * h_step + w0 * w_step
        to = start + n * out_n + h * out_h + w0 * out_w
        if copied:
            run, into = source[at : at + count * channels], out[to : to + count * channels]
            for i in range(count * channels):
                into[i] = run[i]
        elif blocks and count >= lanes:
            for group in range(0, channels, GROUP):
                for i in range(0, count, lanes):
                    w = min(i, count - lanes)  # the last blocks overlap those before
                    for j in range(group, min(channels, group + GROUP), lanes):
                        c = min(j, channels - lanes)
                        transpose_block(source, at + c * c_step + w * w_step, row,
                                        out, to + c * out_c + w * out_w, out_row)  # fmt: skip
        elif interleaved and count >= lanes:
            for i in range(0, count, lanes):
                w = min(i, count - lanes)
                if w_step == 1:
                    join(source, at + w, c_step, out, to + w * channels, channels)
                else:
                    split(source, at + w * channels, out, to + w, out_c, channels)
        elif few and count >= lanes:
            for i in range(0, count, lanes):
                w = min(i, count - lanes)
                a, b = at + w * w_step, to + w * out_w
                if w_step == 1:
                    for c in range(channels):
                        copy_vectors(source, a + c * c_step, square, c * lanes, 1)
                    transpose_block(square, 0, lanes, square, lanes * lanes, lanes)
                    for j in range(lanes):  # each pixel goes over the next, which is written next
                        pixel, place = (lanes + j) * lanes, b + j * out_w
                        if place + lanes <= to + count * out_w:
                            copy_vectors(square, pixel, out, place, 1)
                        else:
                            for c in range(channels):
                                out[place + c] = square[pixel + c]
                elif c_step == 1 and a + (lanes - 1) * w_step + lanes <= source.size:
                    transpose_block(source, a, w_step, square, 0, lanes)
                    for c in range(channels):
                        copy_vectors(square, c * lanes, out, b + c * out_c, 1)
                else:
                    _one_by_one(source, a, c_step, w_step, out, b, out_c, out_w, channels, lanes)
        else:
            _one_by_one(source, at, c_step, w_step, out, to, out_c, out_w, channels, count)
