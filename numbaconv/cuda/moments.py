"""Sums over each channel of (outer, channels, inner): the first of the two stages of batch normalisation.

A block is 8 warps. In channels-last memory (inner = 1) its lanes are 32 neighbouring channels and its warps take pixels
in turn; in channels-first memory all of its threads are one channel's, and lanes are merged by exchanges between them.
Then the first warp merges what the 8 warps have. The channels' elements are cut into groups by their number alone, a
block each, and one warp for each channel merges the groups, in float64: the same bits in every run. Bytes: each array
once.

A variance is not the difference of two large sums: count, sum and squared deviations from the mean are merged instead,
and `CHUNK` elements at a time have theirs from registers. Sums are of x minus the channel's first element, so that a
large mean costs no digits.

Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983, equation 2.1.
"""

from __future__ import annotations

from typing import NamedTuple

from numba import cuda, float64, int32

from .array import DeviceArray
from .indexing import divided, divisor, quotient
from .intrinsics import ALL_LANES
from .launch import T, inline, kernel
from .layout import around_axis
from .reduce import WARP, lane_number

THREADS = 256
_WARPS = THREADS // WARP
_SHARED = 3 * THREADS
CHUNK = 4  # elements whose loads a thread has under way at once
_TERMS = 64  # of a thread, unless there would be more groups than these:
_MOST_GROUPS = 1024


class Grid(NamedTuple):
    """How the elements of each channel are shared out."""

    outer: int
    channels: int
    inner: int
    lanes: int  # channels of a block: 32, or 1
    groups: int
    group_size: int  # elements of a channel

    @property
    def per_channel(self) -> int:
        """Elements of a channel."""
        return self.outer * self.inner

    @property
    def blocks(self) -> int:
        """Of a kernel here."""
        return self.groups * -(-self.channels // self.lanes)

    def arguments(self):
        """channels, inner and its divisor, lanes, number of channels' tiles, group_size, per_channel."""
        tiles = -(-self.channels // self.lanes)
        return self.channels, *divisor(self.inner), self.lanes, tiles, self.group_size, self.per_channel


def grid_of(x: DeviceArray) -> Grid:
    """That of a dense array."""
    outer, inner = around_axis(x, 1)
    lanes = WARP if inner == 1 else 1
    count = outer * inner
    group_size = max(THREADS // lanes * _TERMS, -(-count // _MOST_GROUPS))
    return Grid(outer, x.shape[1], inner, lanes, -(-count // group_size), group_size)


@inline
def _place(lanes, tiles, group_size, count):
    """(group, channel, first element, end, step) of this thread."""
    group = quotient(cuda.blockIdx.x, tiles)
    tile = int32(cuda.blockIdx.x - group * tiles)
    begin = int32(group * group_size)
    end = int32(min(group_size, count - begin) + begin)
    warp = int32(cuda.threadIdx.x >> 5)
    if lanes == 1:
        channel, first, step = tile, int32(begin + cuda.threadIdx.x), int32(THREADS)
    else:
        channel, first, step = int32(tile * WARP + lane_number()), int32(begin + warp), int32(_WARPS)
    return group, channel, first, end, step


@inline
def _element(e, channel, channels, inner, inner_multiplier, inner_shift):
    """Where element e of a channel is."""
    row, i = divided(e, inner, inner_multiplier, inner_shift)
    return int32((row * channels + channel) * inner + i)


@inline
def merge(n, s, m2, other_n, other_s, other_m2):
    """(count, sum, squared deviations from the mean) of two sets of numbers together."""
    if other_n == 0:
        return n, s, m2
    if n == 0:
        return other_n, other_s, other_m2
    difference = other_s / other_n - s / n
    return n + other_n, s + other_s, m2 + other_m2 + difference * difference * (n * other_n / (n + other_n))


@inline
def merge_lanes(n, s, m2):
    """Those of all lanes of a warp, in its first lane."""
    for distance in (16, 8, 4, 2, 1):
        other_n = cuda.shfl_down_sync(ALL_LANES, n, distance)
        other_s = cuda.shfl_down_sync(ALL_LANES, s, distance)
        other_m2 = cuda.shfl_down_sync(ALL_LANES, m2, distance)
        n, s, m2 = merge(n, s, m2, other_n, other_s, other_m2)
    return n, s, m2


@inline
def finite(value):
    """The value, or 0 for inf and NaN: the mean of a channel that holds inf is inf."""
    return value if value - value == T(0) else T(0)


@kernel(threads=THREADS)
def moments(
    x: "T*", partial: "T*", channels: "i32", inner: "i32", inner_multiplier: "u32", inner_shift: "u32",
    lanes: "i32", tiles: "i32", group_size: "i32", count: "i32",
):  # fmt: skip
    """`partial`: (groups, 3, channels) of count, sum of x - the channel's first element, squared deviations."""
    shared = cuda.shared.array(_SHARED, T)
    group, channel, first, end, step = _place(lanes, tiles, group_size, count)
    n, s, m2 = T(0), T(0), T(0)
    if channel < channels:
        shift = finite(x[channel * inner])
        e = first
        while e + (CHUNK - 1) * step < end:
            a = x[_element(e, channel, channels, inner, inner_multiplier, inner_shift)] - shift
            b = x[_element(int32(e + step), channel, channels, inner, inner_multiplier, inner_shift)] - shift
            c = x[_element(int32(e + 2 * step), channel, channels, inner, inner_multiplier, inner_shift)] - shift
            d = x[_element(int32(e + 3 * step), channel, channels, inner, inner_multiplier, inner_shift)] - shift
            total = (a + b) + (c + d)
            mean = total * T(0.25)
            a, b, c, d = a - mean, b - mean, c - mean, d - mean
            n, s, m2 = merge(n, s, m2, T(CHUNK), total, (a * a + b * b) + (c * c + d * d))
            e = int32(e + CHUNK * step)
        while e < end:
            value = x[_element(e, channel, channels, inner, inner_multiplier, inner_shift)] - shift
            n, s, m2 = merge(n, s, m2, T(1), value, T(0))
            e = int32(e + step)
    if lanes == 1:
        n, s, m2 = merge_lanes(n, s, m2)
    thread = cuda.threadIdx.x
    shared[thread], shared[thread + THREADS], shared[thread + 2 * THREADS] = n, s, m2
    cuda.syncthreads()
    if thread < lanes and channel < channels:
        for warp in range(1, _WARPS):
            at = warp * WARP + thread
            n, s, m2 = merge(n, s, m2, shared[at], shared[at + THREADS], shared[at + 2 * THREADS])
        to = group * 3 * channels + channel
        partial[to], partial[to + channels], partial[to + 2 * channels] = n, s, m2


@kernel(threads=THREADS)
def products(
    grad: "T*", x: "T*", mean: "f64*", partial: "T*",
    channels: "i32", inner: "i32", inner_multiplier: "u32", inner_shift: "u32",
    lanes: "i32", tiles: "i32", group_size: "i32", count: "i32",
):  # fmt: skip
    """`partial`: (groups, 2, channels) of the sums of grad and of grad * (x - mean)."""
    shared = cuda.shared.array(_SHARED, T)
    group, channel, first, end, step = _place(lanes, tiles, group_size, count)
    s, t = T(0), T(0)
    if channel < channels:
        high, low = split(mean[channel])
        e = first
        while e < end:
            at = _element(e, channel, channels, inner, inner_multiplier, inner_shift)
            s += grad[at]
            t += grad[at] * (x[at] - high - low)
            e = int32(e + step)
    if lanes == 1:
        for distance in (16, 8, 4, 2, 1):
            s += cuda.shfl_down_sync(ALL_LANES, s, distance)
            t += cuda.shfl_down_sync(ALL_LANES, t, distance)
    thread = cuda.threadIdx.x
    shared[thread], shared[thread + THREADS] = s, t
    cuda.syncthreads()
    if thread < lanes and channel < channels:
        for warp in range(1, _WARPS):
            s += shared[warp * WARP + thread]
            t += shared[warp * WARP + thread + THREADS]
        to = group * 2 * channels + channel
        partial[to], partial[to + channels] = s, t


@inline
def split(value):
    """A float64 as high + low of type T: (x - high) - low has no rounding error worth the name."""
    high = T(value)
    low = T(value - float64(high))
    return high, low if high - high == T(0) else T(0)
