"""1x1 convolution of channels-first images as they lie: [filter][channel] times [channel][pixel], image by image.

To bring image and result into the other memory order and back would be four passes over memory for a product that
takes hardly longer. A block of pixels, 64 of each channel, is copied side by side (channels are often a power of two
apart); the filters are the rows of the register tile, read as they lie, and so are their columns for the
input-gradient.

Cost: 2 * pixels * C * K flops; x is read once, each result written once.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...jit import inline, kernel
from ...parallel import launch, on_threads_flushing
from ...shapes import Shape4
from ..correlate import lowest
from ..layout import CHANNELS_FIRST, contiguous, empty, flat
from ..local_array import local_array
from ..memory import scratch
from ..register_tile import WIDE_ROWS, WIDE_VECTORS, multiply_panel
from ..simd import VECTOR_BYTES
from ..sizes import sizes_of, unpack
from ..transpose import copy_vectors

FEWEST_PIXELS = 32  # of an image: fewer fill no block
_SEGMENT = 256  # channels whose pixels are copied, and stay in cache, at a time
_BLOCKS = 4  # of pixels, of a task: 1 KB of a channel read at once
_ROWS = 192  # results of a task


class _Sizes(NamedTuple):
    pixels: int  # of an image
    terms: int  # channels of x
    rows: int  # channels of the result
    run: int  # rows of a task, whole tiles
    runs: int
    row_step: int  # in the weight
    term_step: int
    spans: int  # of `_BLOCKS` blocks, of an image


@functools.lru_cache(maxsize=1024)
def _sizes(shape: Shape4, rows: int, steps: tuple[int, int], itemsize: int) -> _Sizes:
    _, terms, height, width = shape
    block = WIDE_VECTORS * VECTOR_BYTES // itemsize
    run = -(-rows // -(-rows // _ROWS))
    run = -(-run // WIDE_ROWS) * WIDE_ROWS
    spans = -(-height * width // (_BLOCKS * block))
    return _Sizes(height * width, terms, rows, run, -(-rows // run), *steps, spans)


def multiply_planes(
    x: np.ndarray, weight: np.ndarray, rows: int, steps: tuple[int, int], bias: np.ndarray | None, relu: bool
) -> np.ndarray:
    """(N, rows, H, W), C-contiguous as x is: the sum over x's channels c of weight[row * steps[0] + c * steps[1]] * x.

    `weight`: of any shape.
    """
    n, _, height, width = x.shape
    out = empty((n, rows, height, width), x.dtype, CHANNELS_FIRST)
    z = _sizes(x.shape, rows, steps, x.itemsize)
    filters = flat(contiguous(weight))
    beyond = z.runs * z.run - rows
    if beyond:  # a tile's last rows are read too
        filters = scratch("filters", filters.size + beyond * steps[0], x.dtype)
        filters[: weight.size] = weight.reshape(-1)
        filters[weight.size :] = 0
    lanes = VECTOR_BYTES // x.itemsize
    work_ns = n * z.pixels * rows * (z.terms + 8) / lanes * 0.2
    first = out.reshape(-1) if bias is None else flat(contiguous(bias))
    args = flat(x), filters, first, out.reshape(-1), bias is not None, lowest(relu, x.dtype), sizes_of(z)
    launch(_multiply, n * z.spans * z.runs, work_ns, *args)
    return out


@inline
def _tile(weight, at, row_step, term_step, panel, block, results, to, terms, first, vectors):
    if vectors == 1:
        multiply_panel(weight, at, row_step, term_step, panel, 0, block, results, to, block, terms, first,
                       WIDE_ROWS, 1)  # fmt: skip
    elif vectors == 2:
        multiply_panel(weight, at, row_step, term_step, panel, 0, block, results, to, block, terms, first,
                       WIDE_ROWS, 2)  # fmt: skip
    else:
        multiply_panel(weight, at, row_step, term_step, panel, 0, block, results, to, block, terms, first,
                       WIDE_ROWS, WIDE_VECTORS)  # fmt: skip


@inline
def _copy_block(x, start, pitch, terms, count, panel, to, block):
    """`count` pixels of some channels side by side, zeros up to a block."""
    for term in range(terms):
        if count == block:
            copy_vectors(x, start + term * pitch, panel, to + term * block, WIDE_VECTORS)
        else:
            line, values = panel[to + term * block :][:block], x[start + term * pitch :][:count]
            for v in range(block):
                line[v] = values[v] if v < count else 0


@kernel
def _multiply(first, end, x, weight, bias, out, has_bias, floor, sizes):
    """Task: some blocks of pixels of an image, a run of results."""
    if on_threads_flushing():
        return
    z = unpack(sizes, _Sizes)
    lanes = VECTOR_BYTES // x.itemsize
    block = WIDE_VECTORS * lanes
    panel_size, results_size = min(z.terms, _SEGMENT) * block, z.run * block
    panels = local_array(_BLOCKS * panel_size, x.dtype)
    results = local_array(_BLOCKS * results_size, x.dtype)
    for task in range(first, end):
        place = task // z.runs
        row0 = (task - place * z.runs) * z.run
        rows = min(z.run, z.rows - row0)
        image = place // z.spans
        pixel0 = (place - image * z.spans) * _BLOCKS * block
        blocks = min(_BLOCKS, (z.pixels - pixel0 + block - 1) // block)
        for c in range(0, z.terms, _SEGMENT):
            terms = min(_SEGMENT, z.terms - c)
            at = (image * z.terms + c) * z.pixels + pixel0
            for b in range(blocks):
                count = min(block, z.pixels - pixel0 - b * block)
                _copy_block(x, at + b * block, z.pixels, terms, count, panels, b * panel_size, block)
            for b in range(blocks):
                vectors = (min(block, z.pixels - pixel0 - b * block) + lanes - 1) // lanes
                for row in range(0, rows, WIDE_ROWS):
                    _tile(weight, (row0 + row) * z.row_step + c * z.term_step, z.row_step, z.term_step,
                          panels[b * panel_size :], block, results, b * results_size + row * block, terms, c == 0,
                          vectors)  # fmt: skip
        for row in range(rows):
            more = bias[row0 + row] if has_bias else x.dtype.type(0)
            for b in range(blocks):
                pixel = pixel0 + b * block
                count = min(block, z.pixels - pixel)
                line = out[(image * z.rows + row0 + row) * z.pixels + pixel :][:count]
                values = results[b * results_size + row * block :][:count]
                for v in range(count):
                    value = values[v] + more
                    line[v] = floor if value < floor else value
