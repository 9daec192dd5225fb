"""Lines of images copied into planes, [channel][row][column], the padding's zeros written in.

In a plane every tap of a filter is a shift, and neighbours along a row follow each other in memory: vectors then run
along pixels, whatever the number of channels.
"""

from __future__ import annotations

from ..jit import helper, inline
from .simd import VECTOR_BYTES
from .transpose import MOST_INTERLEAVED, join_channels, split_channels, split_padded, transpose_block

FEW_CHANNELS = 4  # fewer, and an element at a time is as fast as a block of which most is thrown away


@inline
def split(x, at, planes, to, plane, channels):
    """A vector of pixels of 2 to `MOST_INTERLEAVED` channels: `split_channels`."""
    lanes = VECTOR_BYTES // x.itemsize
    if channels == 2:
        split_channels(x, at, lanes, planes, to, plane, 2)
    elif channels == 3:
        split_channels(x, at, lanes, planes, to, plane, 3)
    elif channels == 4:
        split_channels(x, at, lanes, planes, to, plane, 4)
    elif channels == 5:
        split_channels(x, at, lanes, planes, to, plane, 5)
    else:
        split_channels(x, at, lanes, planes, to, plane, 6)


@inline
def join(planes, at, plane, out, to, channels):
    """The inverse of `split`: `join_channels`."""
    lanes = VECTOR_BYTES // out.itemsize
    if channels == 2:
        join_channels(planes, at, plane, out, to, lanes, 2)
    elif channels == 3:
        join_channels(planes, at, plane, out, to, lanes, 3)
    elif channels == 4:
        join_channels(planes, at, plane, out, to, lanes, 4)
    elif channels == 5:
        join_channels(planes, at, plane, out, to, lanes, 5)
    else:
        join_channels(planes, at, plane, out, to, lanes, 6)


@helper
def copy_line(x, at, pixel_stride, channel_stride, channels, start, end, pitch, planes, to, plane, room):
    """planes[to + c * plane + j] = x[at + c * channel_stride + (j - start) * pixel_stride] for start <= j < end, and 0
    for other j < pitch; for c < channels.

    With `room` for a vector of planes, those that x has no channels for may get anything, and so may a vector of
    elements behind the line: lines are copied in their order.
    """
    lanes = VECTOR_BYTES // x.itemsize
    first = to + start
    count = end - start
    if channel_stride == 1 and pixel_stride == channels and 1 < channels <= MOST_INTERLEAVED and count >= lanes:
        for j in range(0, count, lanes):
            column = min(j, count - lanes)
            split(x, at + column * channels, planes, first + column, plane, channels)
    elif channel_stride == 1 and (min(channels, count) >= lanes or (room >= lanes and channels >= FEW_CHANNELS)):
        # Blocks of lanes x lanes; the last ones overlap those before, or spill.
        for c in range(0, channels, lanes):
            channel = max(0, min(c, channels - lanes))
            for j in range(0, count, lanes):
                column = max(0, min(j, count - lanes))
                if at + (column + lanes - 1) * pixel_stride + channel + lanes <= x.size:
                    transpose_block(x, at + column * pixel_stride + channel, pixel_stride,
                                    planes, first + channel * plane + column, plane)  # fmt: skip
                    continue
                for i in range(channel, min(channel + lanes, channels)):
                    for k in range(column, min(column + lanes, count)):
                        planes[first + i * plane + k] = x[at + k * pixel_stride + i]
    elif pixel_stride == 1:
        for c in range(channels):
            split_padded(x, at + c * channel_stride - start, start, end, planes, to + c * plane, plane, pitch, 1)
        return
    else:
        for c in range(channels):
            line = planes[first + c * plane :][:count]
            origin = at + c * channel_stride
            for j in range(count):
                line[j] = x[origin + j * pixel_stride]
    if start > 0 or end < pitch:
        for c in range(channels):
            line = planes[to + c * plane :][:pitch]
            for j in range(start):
                line[j] = 0
            for j in range(end, pitch):
                line[j] = 0


@inline
def write_line(planes, at, plane, channels, count, out, to, pixel_stride, end):
    """out[to + j * pixel_stride + c] = planes[at + c * plane + j] for c < channels, j < count.

    There are planes for a whole vector of channels, and a vector of elements behind each line. What lies in `out`
    behind the line, up to `end`, may be written.
    """
    lanes = VECTOR_BYTES // out.itemsize
    if pixel_stride == channels and 1 < channels <= MOST_INTERLEAVED and count >= lanes:
        for j in range(0, count, lanes):
            column = min(j, count - lanes)
            join(planes, at + column, plane, out, to + column * channels, channels)
    elif channels >= FEW_CHANNELS:
        for c in range(0, channels, lanes):
            channel = max(0, min(c, channels - lanes))
            for j in range(0, count, lanes):
                column = max(0, min(j, count - lanes))
                # Each pixel's vector may go over those after it, which are written next.
                if to + (column + lanes - 1) * pixel_stride + channel + lanes <= end:
                    transpose_block(planes, at + channel * plane + column, plane,
                                    out, to + column * pixel_stride + channel, pixel_stride)  # fmt: skip
                else:
                    for k in range(column, min(column + lanes, count)):
                        for i in range(channel, min(channel + lanes, channels)):
                            out[to + k * pixel_stride + i] = planes[at + i * plane + k]
    else:
        for j in range(count):
            for c in range(channels):
                out[to + j * pixel_stride + c] = planes[at + c * plane + j]
