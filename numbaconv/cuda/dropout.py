"""Dropout: an element is kept where its own random number says so.

The number is word ``element % 4`` of Philox at counter (element // 4, layer, step), key = seed, where `element` counts
in C order whatever the memory order is: the masks of the CPU. A thread makes the four words of one counter and does
their four elements, in C order next to each other; in channels-last memory these are pixels of one channel, and
neighbouring threads do neighbouring channels. Bytes: one array read, one written; 70 integer instructions a counter.
"""

from __future__ import annotations

import math

from numba import cuda, int64, uint64

from .elementwise import whole
from .indexing import blocks_for, divided, divisor, thread_number
from .intrinsics import load_vector, map_vector, store_vector
from .launch import VECTOR, T, inline, kernel, launch
from .layout import dense, empty_like
from .limits import require_32_bit
from .philox import philox4x32


def dropout(x, p, seed, layer, step):
    x = dense(x, any_address=True)
    out = empty_like(x)
    # word >> 8 is a 24-bit integer u: u / 2^24 >= p exactly where u >= ceil(p * 2^24).
    threshold = math.ceil(p * 2**24)
    scale = 1 / (1 - p) if p < 1 else 0.0
    numbers = threshold, scale, seed & 0xFFFFFFFF, seed >> 32, layer, step
    if x.c_contiguous:
        launch(_dropout, x.dtype, blocks_for(-(-x.size // 4), _dropout), x, out, x.size, whole(x, out), *numbers)
    elif x.size:
        require_32_bit("dropout", x)
        n, c, h, w = x.shape
        quads = (h * w + 2) // 4 + 1  # counters that a channel's pixels may lie in
        size = n * quads * c
        require_32_bit("dropout", size)
        launch(_dropout_channels_last, x.dtype, blocks_for(size, _dropout_channels_last), x, out, size, *divisor(c),
               *divisor(quads), h * w, *numbers)  # fmt: skip
    return out


@inline
def _factors(counter, threshold, scale, key0, key1, layer, step):
    """What the four elements of a counter are multiplied by."""
    counter = uint64(counter)
    words = philox4x32(
        counter & uint64(0xFFFFFFFF), counter >> uint64(32), uint64(layer), uint64(step), uint64(key0), uint64(key1)
    )
    least, eight = uint64(threshold), uint64(8)
    return (
        scale if words[0] >> eight >= least else T(0),
        scale if words[1] >> eight >= least else T(0),
        scale if words[2] >> eight >= least else T(0),
        scale if words[3] >> eight >= least else T(0),
    )


@inline
def _product(value, factor):
    return value * factor  # even where it is dropped: NaN and inf give NaN, as in PyTorch


@kernel(threads=256)
def _dropout(
    x: "T*", out: "T*", size: "i64", whole: "i64",
    threshold: "u32", scale: "T", key0: "u32", key1: "u32", layer: "u32", step: "u32",
):  # fmt: skip
    counter = int64(cuda.grid(1))
    i = counter * 4
    if i < size:
        f0, f1, f2, f3 = _factors(counter, threshold, scale, key0, key1, layer, step)
        if i + 4 <= whole:
            if VECTOR == 4:
                store_vector(out, i, map_vector(_product, (load_vector(x, i), (f0, f1, f2, f3))))
            else:
                store_vector(out, i, map_vector(_product, (load_vector(x, i), (f0, f1))))
                store_vector(out, i + 2, map_vector(_product, (load_vector(x, i + 2), (f2, f3))))
        else:
            out[i] = x[i] * f0
            if i + 1 < size:
                out[i + 1] = x[i + 1] * f1
            if i + 2 < size:
                out[i + 2] = x[i + 2] * f2
            if i + 3 < size:
                out[i + 3] = x[i + 3] * f3


@inline
def _scaled(x, out, pixel, pixels, start, channels, factor):
    """out = x * factor at a channel's pixel, if there is one."""
    if 0 <= pixel < pixels:
        at = start + pixel * channels
        out[at] = x[at] * factor


@kernel(threads=256)
def _dropout_channels_last(
    x: "T*", out: "T*", size: "i32",
    channels: "i32", channels_multiplier: "u32", channels_shift: "u32",
    quads: "i32", quads_multiplier: "u32", quads_shift: "u32", pixels: "i32",
    threshold: "u32", scale: "T", key0: "u32", key1: "u32", layer: "u32", step: "u32",
):  # fmt: skip
    i = thread_number()
    if i < size:
        row, c = divided(i, channels, channels_multiplier, channels_shift)
        n, k = divided(row, quads, quads_multiplier, quads_shift)
        base = int64(n * channels + c) * pixels  # of the channel's first pixel, in C order
        counter = (base >> int64(2)) + k
        pixel = counter * 4 - base
        if pixel < pixels:
            f0, f1, f2, f3 = _factors(counter, threshold, scale, key0, key1, layer, step)
            start = int64(n) * pixels * channels + c
            _scaled(x, out, pixel, pixels, start, channels, f0)
            _scaled(x, out, pixel + 1, pixels, start, channels, f1)
            _scaled(x, out, pixel + 2, pixels, start, channels, f2)
            _scaled(x, out, pixel + 3, pixels, start, channels, f3)
