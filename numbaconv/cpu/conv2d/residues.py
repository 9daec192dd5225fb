"""A strided input-gradient, axis by axis: which positions get which taps, and which get none."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...jit import kernel
from ...parallel import launch, on_threads
from ..correlate import zeros
from ..layout import flat, flat_contiguous

_PIXELS = 256  # of a task that fills


class ResidueClass(NamedTuple):
    """Positions ``first + i * stride``; the gradient's positions are ``i + shift`` for each (shift, filter index)."""

    first: int
    taps: list[tuple[int, int]]


def residue_classes(size: int, stride: int, dilation: int, before: int, taps: int) -> tuple[list[ResidueClass], bool]:
    """The classes that a tap reaches, and whether they are all of the axis.

    Position h of the input gets the gradient at (h + before - tap * dilation) / stride, where that is whole. So there
    are as many classes as the stride is long, but no more of them than taps get any gradient.
    """
    firsts = sorted({(tap * dilation - before) % stride for tap in range(taps)})
    classes = []
    for first in firsts:
        if first < size:
            reach = [(first + before - tap * dilation, tap) for tap in range(taps)]
            classes.append(ResidueClass(first, [(at // stride, tap) for at, tap in reach if at % stride == 0]))
    return classes, len(classes) == min(stride, size)


def fill(out: np.ndarray, bias: np.ndarray | None) -> None:
    """What a position gets that no tap reaches. out: (N, C, H, W), channels-last."""
    channels = out.shape[1]
    if out.size:
        values = zeros(channels, out.dtype) if bias is None else flat_contiguous(bias)
        launch(_fill, -(-out.size // (channels * _PIXELS)), out.size * 0.15, flat(out), values, channels)


@kernel
def _fill(first, end, out, values, channels):
    """Task: some pixels."""
    if on_threads():
        return
    part = out[first * _PIXELS * channels : end * _PIXELS * channels]
    for at in range(0, part.size, channels):
        pixel = part[at : at + channels]
        for c in range(channels):
            pixel[c] = values[c]
