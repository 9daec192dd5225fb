"""Dropout: an element is kept where its own random number says so.

The number is word ``element % 4`` of Philox at counter (element // 4, layer, step), key = seed, where `element`
counts in C order whatever the memory order is: the same mask in every layout, on every device and thread count.
Words are made for 256 elements at a time, in a loop that LLVM vectorises over counters (0.5 ns a word on AVX-512),
then applied in a second loop.
"""

from __future__ import annotations

import math

import numpy as np

from ..jit import kernel
from ..parallel import launch, on_threads
from . import memory
from .layout import contiguous, dense, empty_like, flat, in_layout, layout_of
from .philox import high_word, low_word, philox4x32

QUADS = 64  # counters of a block, four words each: 1 KB of words
BLOCK = 4 * QUADS
BLOCKS = 64  # blocks of a task: 16384 elements
_8 = np.uint64(8)


def dropout(x, p, seed, layer, step):
    x = dense(x)
    source = contiguous(x)
    out = empty_like(source)
    tasks = -(-x.size // (BLOCK * BLOCKS))
    words = memory.scratch("dropout.words", tasks * BLOCK, np.dtype(np.uint32))
    # word >> 8 is a 24-bit integer u: u / 2^24 >= p exactly where u >= ceil(p * 2^24).
    threshold = math.ceil(p * 2**24)
    scale = 1 / (1 - p) if p < 1 else 0.0
    random = seed & 0xFFFFFFFF, seed >> 32, layer, step
    launch(_dropout, tasks, x.size * 1.0, flat(source), flat(out), words, threshold, scale, *random)
    return in_layout(out, layout_of(x))


@kernel
def _dropout(first, end, x, out, words, threshold, scale, key0, key1, layer, step):
    """`words`: BLOCK for each task."""
    if on_threads():
        return
    keep, zero = x.dtype.type(scale), x.dtype.type(0)
    least = np.uint64(threshold)
    k0, k1, c2, c3 = low_word(key0), low_word(key1), low_word(layer), low_word(step)
    for task in range(first, end):
        mine = words[task * BLOCK : (task + 1) * BLOCK]
        for block in range(task * BLOCKS, (task + 1) * BLOCKS):
            begin = block * BLOCK
            if begin >= x.size:
                break
            for quad in range(QUADS):
                counter = block * QUADS + quad
                w0, w1, w2, w3 = philox4x32(low_word(counter), high_word(counter), c2, c3, k0, k1)
                mine[4 * quad] = w0
                mine[4 * quad + 1] = w1
                mine[4 * quad + 2] = w2
                mine[4 * quad + 3] = w3
            x_run, run = x[begin : begin + BLOCK], out[begin : begin + BLOCK]
            for i in range(len(x_run)):
                # A product even where it is dropped: NaN and inf give NaN, as in PyTorch.
                run[i] = x_run[i] * (keep if np.uint64(mine[i]) >> _8 >= least else zero)
