"""Sizes of a small convolution for its kernels, and the copy of patches into rows (im2col)."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...jit import helper, inline
from ...shapes import Conv2dProblem
from ..layout import CHANNELS_FIRST
from ..sizes import sizes_of


class _Most(NamedTuple):
    elements: int  # of patches, which cost most here
    multiply_adds: int  # of what others do less of, or faster, once filters are packed


# What a call may have for this to be the quickest way. Of 2,200 random layers on one thread and 2,800 on two, in either
# layout and without groups, the choice took 1.03 to 1.11 times as long as the better way, in the mean.
MOST = {
    "forward": _Most(1 << 14, 1 << 19),
    "backward_input": _Most(1 << 14, 1 << 21),
    "backward_weight": _Most(1 << 15, 1 << 22),
}
_MANY = 8  # filters of a group
_MOST_SUPPORTED = 1 << 24  # of a forced choice: patches of one image are all in memory


class Sizes(NamedTuple):
    """Pitches are in elements; a pixel's is that from one column to the next."""

    channels: int  # of a group
    height: int
    width: int
    filter_height: int
    filter_width: int
    out_height: int
    out_width: int
    groups: int
    columns: int  # output channels of a group
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    top: int
    left: int
    x_image: int
    x_channel: int
    x_row: int
    x_pixel: int
    out_image: int
    out_channel: int
    out_pixel: int


@functools.lru_cache(maxsize=4096)
def sizes_for(problem: Conv2dProblem, x_layout: str, out_layout: str) -> np.ndarray:
    """What a kernel unpacks, of x and the output (or their gradients) in these layouts."""
    _, c, h, w = problem.input_shape
    k, depth, r, s = problem.weight_shape
    _, _, p, q = problem.output_shape
    top, _, left, _ = problem.padding
    x_pitches = (c * h * w, h * w, w, 1) if x_layout == CHANNELS_FIRST else (c * h * w, 1, w * c, c)
    out_pitches = (k * p * q, p * q, 1) if out_layout == CHANNELS_FIRST else (k * p * q, 1, k)
    geometry = *problem.stride, *problem.dilation, top, left
    groups = problem.groups
    return sizes_of(Sizes(depth, h, w, r, s, p, q, groups, k // groups, *geometry, *x_pitches, *out_pitches))


def supports(problem: Conv2dProblem) -> str:
    return _too_many("multiply-adds", problem.multiply_adds, _MOST_SUPPORTED)


def pays(problem: Conv2dProblem, direction: str) -> str:
    """Empty for a small problem."""
    n, k, p, q = problem.output_shape
    _, depth, r, s = problem.weight_shape
    elements, multiply_adds = MOST[direction]
    if problem.groups > 1 and k // problem.groups < _MANY:
        elements //= 4  # depthwise and direct copy none
    return _too_many("elements of patches", n * p * q * problem.groups * depth * r * s, elements) or _too_many(
        "multiply-adds", problem.multiply_adds, multiply_adds
    )


def _too_many(what: str, count: int, most: int) -> str:
    return f"{count} {what}, more than {most}" if count > most else ""


@inline
def patch_offsets(z, offsets):
    """Where the elements of a patch are in x, from its first one."""
    i = 0
    for c in range(z.channels):
        for r in range(z.filter_height):
            for s in range(z.filter_width):
                offsets[i] = c * z.x_channel + r * z.dilation_h * z.x_row + s * z.dilation_w * z.x_pixel
                i += 1


@inline
def _inside(h, w, z):
    """Whether the whole patch from (h, w) is inside the image."""
    last_h, last_w = h + (z.filter_height - 1) * z.dilation_h, w + (z.filter_width - 1) * z.dilation_w
    return h >= 0 and w >= 0 and last_h < z.height and last_w < z.width


@helper
def copy_patches(x, start, pixel, count, z, offsets, patches, pitch):
    """Rows of `patches`: those of `count` output pixels from `pixel`, in the order of a filter's elements.

    x[start] is the first element of the image's group.
    """
    p = pixel // z.out_width
    q = pixel - p * z.out_width
    for row in range(count):
        top, left = p * z.stride_h - z.top, q * z.stride_w - z.left
        first = start + top * z.x_row + left * z.x_pixel
        if _inside(top, left, z):
            patch = patches[row * pitch :]
            for i in range(np.uint64(offsets.size)):  # unsigned: an index that may be negative takes three instructions
                patch[i] = x[np.uint64(first + offsets[i])]
        else:
            i = 0
            for _ in range(z.channels):
                for r in range(z.filter_height):
                    h = top + r * z.dilation_h
                    for s in range(z.filter_width):
                        w = left + s * z.dilation_w
                        there = 0 <= h < z.height and 0 <= w < z.width
                        patches[row * pitch + i] = x[first + offsets[i]] if there else 0
                        i += 1
        q += 1
        if q == z.out_width:
            p, q = p + 1, 0


@helper
def add_patches(patches, pitch, pixel, count, z, offsets, x, start):
    """The transpose of `copy_patches`: each element of a patch is added to the one of x that it was copied from."""
    p = pixel // z.out_width
    q = pixel - p * z.out_width
    for row in range(count):
        top, left = p * z.stride_h - z.top, q * z.stride_w - z.left
        first = start + top * z.x_row + left * z.x_pixel
        if _inside(top, left, z):
            for i in range(offsets.size):
                x[first + offsets[i]] += patches[row * pitch + i]
        else:
            i = 0
            for _ in range(z.channels):
                for r in range(z.filter_height):
                    h = top + r * z.dilation_h
                    for s in range(z.filter_width):
                        w = left + s * z.dilation_w
                        if 0 <= h < z.height and 0 <= w < z.width:
                            x[first + offsets[i]] += patches[row * pitch + i]
                        i += 1
        q += 1
        if q == z.out_width:
            p, q = p + 1, 0
