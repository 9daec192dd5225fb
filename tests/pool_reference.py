"""Pooling cases, and pooling in plain float64 loops, written to be read; shares no code with the package."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class PoolCase(NamedTuple):
    """The arguments of one pooling, named for what it is there to catch."""

    name: str
    x: tuple[int, int, int, int]
    kernel_size: Any
    stride: Any = None
    padding: Any = 0
    dilation: Any = 1  # max_pool2d only
    ceil_mode: bool = False

    @property
    def options(self):
        return {"stride": self.stride, "padding": self.padding, "ceil_mode": self.ceil_mode}


CASES = [
    PoolCase("2x2", (2, 3, 8, 6), 2),
    PoolCase("2x2_leaves_a_rest", (2, 3, 7, 9), 2),
    PoolCase("2x2_ceil", (2, 3, 7, 9), 2, ceil_mode=True),
    PoolCase("3x3_stride2_pad1", (2, 3, 9, 8), 3, 2, 1),
    PoolCase("3x3_stride2_pad1_ceil", (2, 3, 8, 9), 3, 2, 1, ceil_mode=True),
    PoolCase("3x3_stride1_pad1", (1, 5, 6, 7), 3, 1, 1),
    PoolCase("3x2_stride_1_3", (2, 3, 7, 8), (3, 2), (1, 3)),
    PoolCase("2x3_pad_1_0", (2, 3, 5, 7), (2, 3), (2, 1), (1, 0)),
    PoolCase("stride_larger_than_kernel", (1, 3, 11, 10), 2, 4),
    PoolCase("stride_larger_than_kernel_ceil", (1, 3, 11, 10), 2, (4, 5), ceil_mode=True),
    PoolCase("last_ceil_window_would_start_in_the_padding", (1, 2, 5, 5), 2, 4, 1, ceil_mode=True),
    PoolCase("ceil_larger_than_input", (1, 2, 3, 4), 5, 2, 2, ceil_mode=True),
    PoolCase("dilation2", (1, 3, 9, 8), 3, 2, 1, 2),
    PoolCase("dilation_3_2_ceil", (2, 2, 10, 9), 2, (2, 3), 1, (3, 2), True),
    PoolCase("kernel_1", (2, 3, 4, 5), 1),
    PoolCase("kernel_1_stride_2", (2, 3, 4, 5), 1, 2),
    PoolCase("whole_image", (2, 3, 4, 5), (4, 5)),
    PoolCase("one_window_leaves_a_row", (2, 3, 3, 1), (2, 1)),
    PoolCase("one_window_leaves_a_column", (2, 3, 2, 4), (2, 3)),
    PoolCase("one_pixel_padded_one_window", (2, 3, 1, 1), (1, 2), None, (0, 1)),
    PoolCase("one_row", (2, 3, 1, 9), (1, 3), 2),
    PoolCase("one_pixel", (3, 4, 1, 1), 1),
    PoolCase("one_channel", (3, 1, 6, 7), 2, 1),
    PoolCase("channels_70", (2, 70, 5, 4), 2, 1, 1),  # more than one block of channels, and a rest
    PoolCase("no_images", (0, 3, 6, 7), 2),
]

# (shape of x, output_size)
ADAPTIVE = [((2, 3, 8, 6), 2), ((2, 3, 7, 9), (3, 4)), ((1, 2, 3, 4), (5, 7)), ((2, 70, 7, 5), 1), ((0, 3, 4, 4), 2)]


def as_pair(value):
    return value if isinstance(value, tuple) else (value, value)


def windows(size, kernel, stride, padding, dilation, ceil_mode):
    """The positions of every window along one axis; those outside 0 .. size - 1 are padding, or beyond it."""
    found = []
    start = -padding
    while True:
        taps = [start + tap * dilation for tap in range(kernel)]
        fits = taps[-1] < size + padding
        # With ceil_mode one more window may hang over, if it starts inside the image or the padding before it.
        hangs = ceil_mode and start < size and (not found or found[-1][-1] < size + padding - 1)
        if not fits and not hangs:
            return found
        found.append(taps)
        start += stride


def axes_of(case):
    kernel, dilation, padding = map(as_pair, (case.kernel_size, case.dilation, case.padding))
    stride = kernel if case.stride is None else as_pair(case.stride)
    return [windows(case.x[2 + i], kernel[i], stride[i], padding[i], dilation[i], case.ceil_mode) for i in (0, 1)]


def max_loops(x, case):
    """(maxima, positions): the first of equals; a NaN beats everything before it."""
    rows, columns = axes_of(case)
    n_images, channels, height, width = x.shape
    output = np.empty((n_images, channels, len(rows), len(columns)))
    indices = np.empty(output.shape, np.int64)
    for n, c, p, q in np.ndindex(output.shape):
        inside = [(h, w) for h in rows[p] for w in columns[q] if 0 <= h < height and 0 <= w < width]
        best = inside[0]
        for place in inside[1:]:
            if x[n, c][place] > x[n, c][best] or np.isnan(x[n, c][place]):
                best = place
        output[n, c, p, q], indices[n, c, p, q] = x[n, c][best], best[0] * width + best[1]
    return output, indices


def max_backward_loops(grad_output, indices, shape):
    grad_input = np.zeros(shape)
    for n, c, p, q in np.ndindex(grad_output.shape):
        grad_input[n, c].flat[indices[n, c, p, q]] += grad_output[n, c, p, q]
    return grad_input


def mean_windows(case, count_include_pad):
    """[(places inside, number of elements that count)] of every output, by (p, q)."""
    padding = as_pair(case.padding)
    height, width = case.x[2:]
    found = {}
    for p, rows in enumerate(axes_of(case)[0]):
        for q, columns in enumerate(axes_of(case)[1]):
            padded = [(h, w) for h in rows for w in columns if h < height + padding[0] and w < width + padding[1]]
            inside = [(h, w) for h, w in padded if 0 <= h < height and 0 <= w < width]
            found[p, q] = inside, len(padded) if count_include_pad else len(inside)
    return found


def adaptive_windows(size, output_size):
    found = {}
    for p in range(output_size[0]):
        rows = range(int(np.floor(p * size[0] / output_size[0])), int(np.ceil((p + 1) * size[0] / output_size[0])))
        for q in range(output_size[1]):
            first = int(np.floor(q * size[1] / output_size[1]))
            columns = range(first, int(np.ceil((q + 1) * size[1] / output_size[1])))
            found[p, q] = [(h, w) for h in rows for w in columns], len(rows) * len(columns)
    return found


def mean_loops(x, found):
    output = np.zeros((*x.shape[:2], *(1 + max(place[axis] for place in found) for axis in (0, 1))))
    for (p, q), (inside, count) in found.items():
        for h, w in inside:
            output[:, :, p, q] += x[:, :, h, w].astype(np.float64) / count
    return output


def mean_backward_loops(grad_output, shape, found):
    grad_input = np.zeros(shape)
    for (p, q), (inside, count) in found.items():
        for h, w in inside:
            grad_input[:, :, h, w] += grad_output[:, :, p, q].astype(np.float64) / count
    return grad_input
