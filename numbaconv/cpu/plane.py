"""Lines of images copied into planes, [channel][row][column], the padding's zeros written in.

In a plane every tap of a filter is a shift, and neighbours along a row follow each other in memory: vectors then run
along pixels, whatever the number of channels.
"""

from __future__ import annotations

from ..jit import helper, inline
from .simd import VECTOR_BYTES
from .transpose import transpose_block

FEW_CHANNELS = 4  # fewer, and an element at a time is as fast as a block of which most is thrown away


@helper
def copy_line(x, at, pixel_stride, channel_stride, channels, start, end, pitch, planes, to, plane, room):
    """planes[to + c * plane + j] = x[at + c * channel_stride + (j - start) * pixel_stride] for start <= j < end, and 0
    for other j < pitch; for c < channels.

    There are `room` planes; those that x has no channels for may get anything.
    """
    lanes = VECTOR_BYTES // x.itemsize
    if start > 0 or end < pitch:
        for c in range(channels):
            line = planes[to + c * plane :][:pitch]
            for j in range(start):
                line[j] = 0
            for j in range(end, pitch):
                line[j] = 0
    to += start
    count = end - start
    if channel_stride == 1 and count >= lanes and channels >= lanes:
        # Blocks of lanes x lanes; the last ones overlap those before.
        for c in range(0, channels, lanes):
            channel = min(c, channels - lanes)
            for j in range(0, count, lanes):
                column = min(j, count - lanes)
                transpose_block(x, at + column * pixel_stride + channel, pixel_stride,
                                planes, to + channel * plane + column, plane)  # fmt: skip
        return
    done = 0
    if room >= lanes and channel_stride == 1 and FEW_CHANNELS <= channels < lanes <= count:
        while done < count:
            column = min(done, count - lanes)
            if at + (column + lanes - 1) * pixel_stride + lanes > x.size:
                break
            transpose_block(x, at + column * pixel_stride, pixel_stride, planes, to + column, plane)
            done = column + lanes
    for c in range(channels):
        line = planes[to + c * plane + done :][: count - done]
        first = at + c * channel_stride + done * pixel_stride
        if pixel_stride == 1:
            for j in range(line.size):
                line[j] = x[first + j]
        else:
            for j in range(line.size):
                line[j] = x[first + j * pixel_stride]


@inline
def write_line(planes, at, plane, channels, count, out, to, pixel_stride, end):
    """out[to + j * pixel_stride + c] = planes[at + c * plane + j] for c < channels, j < count.

    There are planes for a whole vector of channels. What lies in `out` behind the line, up to `end`, may be written.
    """
    lanes = VECTOR_BYTES // out.itemsize
    done = 0
    if channels >= lanes and count >= lanes:
        done = count
        for c in range(0, channels, lanes):
            channel = min(c, channels - lanes)
            for j in range(0, count, lanes):
                column = min(j, count - lanes)
                transpose_block(planes, at + channel * plane + column, plane,
                                out, to + column * pixel_stride + channel, pixel_stride)  # fmt: skip
    elif channels >= FEW_CHANNELS and count >= lanes:
        # Each pixel's vector goes over those after it, which are written next.
        while done < count:
            column = min(done, count - lanes)
            if to + (column + lanes - 1) * pixel_stride + lanes > end:
                break
            transpose_block(planes, at + column, plane, out, to + column * pixel_stride, pixel_stride)
            done = column + lanes
    for j in range(done, count):
        for c in range(channels):
            out[to + j * pixel_stride + c] = planes[at + c * plane + j]
