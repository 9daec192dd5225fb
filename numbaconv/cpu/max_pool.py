"""Maximum pooling, and the gradient that follows its indices.

The backward gathers where it can: an input pixel adds up the gradients of the windows over it that point to it, so
that every element is written once, in order, in vectors. Indices that are not those of `max_pool2d`, but point
outside of their own windows, are found by counting, and scattered one by one instead.
"""

from __future__ import annotations

import functools

import numpy as np

from ..errors import ArgumentError, message
from ..jit import inline, kernel
from ..parallel import launch, on_threads
from ..shapes import Pool2dProblem
from .layout import dense, empty, flat, layout_of, match, planes
from .memory import scratch
from .pool_tasks import UNROLLED, at, fill, task_bounds, tasks_of
from .pool_tile import window_matches, window_maximum
from .simd import VECTOR_BYTES


@functools.lru_cache(maxsize=1024)
def _tap_tables(problem: Pool2dProblem) -> tuple[np.ndarray, np.ndarray]:
    """For rows and for columns."""
    sizes = problem.input_shape[2:], problem.output_shape[2:]
    axes = *sizes, problem.kernel_size, problem.stride, problem.padding, problem.dilation
    rows, columns = (_tap_table(*axis) for axis in zip(*axes, strict=True))
    return rows, columns


def _tap_table(size: int, output_size: int, kernel_size: int, stride: int, padding: int, dilation: int) -> np.ndarray:
    """Per tap: the first and the end output whose tap lies inside the input, and its offset from output * stride."""
    table = np.empty((3, kernel_size), np.int64)
    for tap in range(kernel_size):
        offset = tap * dilation - padding
        first = max(-(offset // stride), 0)
        table[:, tap] = first, min(-((offset - size) // stride), output_size), offset
    return table


def max_pool2d(problem: Pool2dProblem, x, return_indices, relu=False):
    x = dense(x)
    outer, inner = planes(x)
    (_, _, h, w), (_, _, p, q) = problem.input_shape, problem.output_shape
    out = empty(problem.output_shape, x.dtype, layout_of(x))
    indices = empty(problem.output_shape if return_indices else (0,), np.dtype(np.int32), layout_of(x))
    taps = problem.kernel_size[0] * problem.kernel_size[1]
    arrays = flat(x), flat(out), flat(indices)
    windows = _windows(problem)
    if windows is not None and inner > 1:
        sizes = h, w, p, q, inner
        work = out.size * (0.4 + taps * 0.1)
        launch(
            _max_windows, outer * p, work, *arrays, return_indices, relu, sizes,
            problem.dilation, *windows,
        )  # fmt: skip
    else:
        tasks, rows_per_task = tasks_of(outer * p, q * inner * taps, inner)
        launch(
            _max_pool2d, tasks, out.size * taps * 0.7, *arrays,
            return_indices, relu, rows_per_task, (h, w, p, q), inner, problem.stride, *_tap_tables(problem),
        )  # fmt: skip
    return out, indices if return_indices else None


@functools.lru_cache(maxsize=1024)
def _windows(problem: Pool2dProblem) -> tuple[np.ndarray, np.ndarray] | None:
    """(2, outputs) for rows and for columns: the first input of each window, and how many are inside.

    None where a window is all padding (a dilated one may be).
    """
    sizes = problem.input_shape[2:], problem.output_shape[2:]
    tables = []
    for size, outputs, kernel_size, stride, padding, dilation in zip(
        *sizes, problem.kernel_size, problem.stride, problem.padding, problem.dilation, strict=True
    ):
        start = np.arange(outputs) * stride - padding
        before = np.maximum(-(start // dilation), 0)  # taps in the padding
        end = np.minimum(-((start - size) // dilation), kernel_size)
        if np.any(end <= before):
            return None
        tables.append(np.stack([start + before * dilation, end - before]))
    return tables[0], tables[1]


@inline
def _positive(out, indices, start, count, with_indices):
    """ReLU of outputs; the indices of those it takes away become -1."""
    for i in range(count):
        value = out[at(start + i)]
        out[at(start + i)] = 0 if value <= 0 else value  # NaN <= 0 is False: NaN passes
        if with_indices:
            indices[at(start + i)] = np.int32(-1) if value <= 0 else indices[at(start + i)]


@inline
def _one_by_one(
    x, start, rows, row_pitch, columns, column_pitch, out, to, channels, indices, place, row_places, column_places,
    with_indices,
):  # fmt: skip
    """`window_maximum` of the channels there are, reading and writing no others."""
    for c in range(channels):
        best, where = x[start + c], place
        for r in range(rows):
            for s in range(columns):
                value = x[start + c + r * row_pitch + s * column_pitch]
                if value > best or value != value:
                    best, where = value, place + r * row_places + s * column_places
        out[to + c] = best
        if with_indices:
            indices[to + c] = where


@kernel
def _max_windows(first, end, x, out, indices, with_indices, relu, sizes, dilation, row_windows, column_windows):
    """Channels-last. Task: one row of outputs."""
    if on_threads():
        return
    height, width, out_height, out_width, channels = sizes
    lanes = VECTOR_BYTES // x.itemsize
    row_pitch, column_pitch = dilation[0] * width * channels, dilation[1] * channels
    for task in range(first, end):
        n = task // out_height
        h, rows = row_windows[0, task - n * out_height], row_windows[1, task - n * out_height]
        for q in range(out_width):
            w, columns = column_windows[0, q], column_windows[1, q]
            start = ((n * height + h) * width + w) * channels
            to = (task * out_width + q) * channels
            place = h * width + w
            if channels < lanes:
                reach = start + (rows - 1) * row_pitch + (columns - 1) * column_pitch + lanes
                if q * channels + lanes > out_width * channels or reach > x.size:
                    _one_by_one(x, start, rows, row_pitch, columns, column_pitch, out, to, channels, indices, place,
                                dilation[0] * width, dilation[1], with_indices)  # fmt: skip
                elif with_indices:  # the lanes beyond are those of the next pixels, which are written next
                    window_maximum(x, start, rows, row_pitch, columns, column_pitch, out, to, indices,
                                   place, dilation[0] * width, dilation[1], 1, 1)  # fmt: skip
                else:
                    window_maximum(x, start, rows, row_pitch, columns, column_pitch, out, to, indices,
                                   0, 0, 0, 0, 1)  # fmt: skip
                continue
            c = 0
            while c < channels:
                if c + UNROLLED * lanes <= channels:
                    if with_indices:
                        window_maximum(x, start + c, rows, row_pitch, columns, column_pitch, out, to + c, indices,
                                       place, dilation[0] * width, dilation[1], 1, UNROLLED)  # fmt: skip
                    else:
                        window_maximum(x, start + c, rows, row_pitch, columns, column_pitch, out, to + c, indices,
                                       0, 0, 0, 0, UNROLLED)  # fmt: skip
                    c += UNROLLED * lanes
                    continue
                last = min(c, channels - lanes)  # the last vector overlaps the one before
                if with_indices:
                    window_maximum(x, start + last, rows, row_pitch, columns, column_pitch, out, to + last, indices,
                                   place, dilation[0] * width, dilation[1], 1, 1)  # fmt: skip
                else:
                    window_maximum(x, start + last, rows, row_pitch, columns, column_pitch, out, to + last, indices,
                                   0, 0, 0, 0, 1)  # fmt: skip
                c += lanes
        if relu:
            _positive(out, indices, task * out_width * channels, out_width * channels, with_indices)


@kernel
def _max_pool2d(
    first, end, x, out, indices, with_indices, relu, rows_per_task, sizes, inner, stride, row_taps, column_taps
):  # fmt: skip
    """Taps outermost, over one row of outputs, which stays in the first-level cache."""
    if on_threads():
        return
    height, width, out_height, out_width = sizes
    rows = out.size // (out_width * inner)
    for task in range(first, end):
        row_first, row_end, lane, lanes = task_bounds(task, rows_per_task, rows, inner)
        for row in range(row_first, row_end):
            plane, p = row // out_height, row % out_height
            out_row = row * out_width * inner + lane
            fill(out, out_row, out_width, lanes, inner, -np.inf)
            if with_indices:
                fill(indices, out_row, out_width, lanes, inner, -1)
            for r in range(row_taps.shape[1]):
                if p < row_taps[0, r] or p >= row_taps[1, r]:
                    continue
                h = p * stride[0] + row_taps[2, r]
                for s in range(column_taps.shape[1]):
                    q, columns = column_taps[0, s], column_taps[1, s] - column_taps[0, s]
                    position = h * width + q * stride[1] + column_taps[2, s]
                    runs, count, step = columns, lanes, 1
                    if inner == 1:
                        runs, count, step = 1, columns, stride[1]
                    for run in range(runs):
                        target = out_row + (q + run) * inner
                        place = position + run * stride[1]
                        source = (plane * height * width + place) * inner + lane
                        if with_indices:
                            place_step = step if inner == 1 else 0
                            _take_larger_at(x, source, step, out, indices, target, count, place, place_step)
                        else:
                            _take_larger(x, source, step, out, target, count)
            if relu:
                for column in range(1 if inner == lanes else out_width):
                    count = out_width * inner if inner == lanes else lanes
                    _positive(out, indices, out_row + column * inner, count, with_indices)


@inline
def _take_larger(x, source, step, out, target, count):
    """out[target + i] = the larger of itself and x[source + i * step]; a NaN is larger than any number."""
    for i in range(count):
        value, best = x[at(source + i * step)], out[at(target + i)]
        out[at(target + i)] = value if (value > best or value != value) else best


@inline
def _take_larger_at(x, source, step, out, indices, target, count, place, place_step):
    """`_take_larger` that also keeps where the value is; -1 stands for nowhere yet."""
    for i in range(count):
        value, best, index = x[at(source + i * step)], out[at(target + i)], indices[at(target + i)]
        larger = value > best or value != value or index < 0
        out[at(target + i)] = value if larger else best
        indices[at(target + i)] = np.int32(place + i * place_step) if larger else index


_GATHERED = 32  # channels: of fewer, the scatter is as quick
_COUNTED = 1 << 16  # indices of a task


def max_pool2d_backward(problem: Pool2dProblem, grad_output, indices, relu=False):
    grad_output = dense(grad_output)
    outer, inner = planes(grad_output)
    out = empty(problem.input_shape, grad_output.dtype, layout_of(grad_output))
    if problem.dilation == (1, 1) and inner >= _GATHERED and _gather(problem, grad_output, indices, relu, out):
        return out
    pixels = problem.input_shape[2] * problem.input_shape[3]
    indices = match(indices if indices.dtype == np.int32 else _checked(indices, pixels, relu), grad_output)
    tasks = outer * -(-inner // _SCATTER_LANES)
    strays = scratch("pool strays", tasks, np.dtype(np.int64))
    arrays = flat(grad_output), flat(indices), flat(out), strays
    work = grad_output.size * 1.5 + out.size * 0.2
    launch(_max_pool2d_backward, tasks, work, *arrays, pixels, inner, relu)
    if strays.any():
        _checked(indices, pixels, relu)
    return out


def _gather(problem: Pool2dProblem, grad_output: np.ndarray, indices: np.ndarray, relu: bool, out: np.ndarray) -> bool:
    """Fills channels-last `out`; False if not every gradient found its place."""
    if indices.dtype != np.int32:
        return False
    (n, c, h, w), (_, _, p, q) = problem.input_shape, problem.output_shape
    indices = match(indices, grad_output)
    wanted = _places(flat(indices)) if relu else grad_output.size
    matches = scratch("pool matches", n * h, np.dtype(np.int64))
    arrays = flat(grad_output), flat(indices), flat(out), matches
    launch(_gather_windows, n * h, out.size * 0.7, *arrays, (h, w, p, q, c), *_covering(problem))
    return int(matches.sum()) == wanted


def _places(indices: np.ndarray) -> int:
    """How many indices are not -1."""
    tasks = -(-indices.size // _COUNTED)
    counts = scratch("pool places", tasks, np.dtype(np.int64))
    launch(_count_places, tasks, indices.size * 0.1, indices, counts)
    return int(counts.sum())


@kernel
def _count_places(first, end, indices, counts):
    if on_threads():
        return
    for task in range(first, end):
        part = indices[task * _COUNTED : (task + 1) * _COUNTED]
        nowhere = np.int32(0)
        for i in range(part.size):
            nowhere += np.int32(part[i] == -1)
        counts[task] = part.size - nowhere


@functools.lru_cache(maxsize=1024)
def _covering(problem: Pool2dProblem) -> tuple[np.ndarray, np.ndarray]:
    """(2, inputs) for rows and for columns: the first window over each, and how many there are."""
    sizes = problem.input_shape[2:], problem.output_shape[2:]
    tables = []
    for size, outputs, kernel_size, stride, padding in zip(
        *sizes, problem.kernel_size, problem.stride, problem.padding, strict=True
    ):
        place = np.arange(size) + padding
        first = np.clip((place - kernel_size) // stride + 1, 0, outputs)
        end = np.clip(place // stride + 1, first, outputs)
        tables.append(np.stack([first, end - first]))
    return tables[0], tables[1]


@kernel
def _gather_windows(first, end, grad, indices, out, matches, sizes, row_windows, column_windows):
    """Channels-last. Task: one row of inputs."""
    if on_threads():
        return
    height, width, out_height, out_width, channels = sizes
    lanes = VECTOR_BYTES // grad.itemsize
    row_pitch = out_width * channels
    for task in range(first, end):
        n = task // height
        h = task - n * height
        p, rows = row_windows[0, h], row_windows[1, h]
        found = 0
        for w in range(width):
            q, columns = column_windows[0, w], column_windows[1, w]
            start = ((n * out_height + p) * out_width + q) * channels
            to = (task * width + w) * channels
            place = h * width + w
            c = 0
            while c < channels:
                if c + UNROLLED * lanes <= channels:
                    found += window_matches(grad, start + c, rows, row_pitch, columns, channels, indices, place,
                                            out, to + c, 0, UNROLLED)  # fmt: skip
                    c += UNROLLED * lanes
                    continue
                last = min(c, channels - lanes)  # the last vector overlaps the one before
                found += window_matches(grad, start + last, rows, row_pitch, columns, channels, indices, place,
                                        out, to + last, c - last, 1)  # fmt: skip
                c += lanes
        matches[task] = found


def _checked(indices: np.ndarray, pixels: int, relu: bool) -> np.ndarray:
    """`indices` as int32. Each must be a pixel, or with `relu` -1: nowhere."""
    if indices.size and (indices.min() < (-1 if relu else 0) or indices.max() >= pixels):
        raise ArgumentError(
            message(
                "max_pool2d_backward",
                f"indices must be from {-1 if relu else 0} to H * W - 1 = {pixels - 1}",
                "Pass what max_pool2d returned for this input_shape.",
                smallest=int(indices.min()),
                largest=int(indices.max()),
            )
        )
    return indices.astype(np.int32, copy=False)


_SCATTER_LANES = 16  # one cache line of float32


@kernel
def _max_pool2d_backward(first, end, grad_output, indices, out, strays, pixels, inner, relu):
    """Each task scatters into planes of its own, in the order of the outputs, and counts what has no place there."""
    if on_threads():
        return
    blocks = -(-inner // _SCATTER_LANES)
    outputs = grad_output.size // (out.size // pixels)  # of a plane
    most = np.uint32(pixels)  # one comparison, of which negative ones fail too: 1.25 times as fast
    for task in range(first, end):
        plane, lane = task // blocks, task % blocks * _SCATTER_LANES
        lanes = min(_SCATTER_LANES, inner - lane)
        target = plane * pixels * inner + lane
        fill(out, target, pixels, lanes, inner, 0)
        source = plane * outputs * inner + lane
        stray = 0
        if inner == 1:
            for i in range(source, source + outputs):
                index = indices[at(i)]
                if np.uint32(index) < most:
                    out[at(target + index)] += grad_output[at(i)]
                else:
                    stray += index != -1 or not relu
        else:
            for j in range(outputs):
                for c in range(lanes):
                    i = source + j * inner + c
                    index = indices[at(i)]
                    if np.uint32(index) < most:
                        out[at(target + index * inner + c)] += grad_output[at(i)]
                    else:
                        stray += index != -1 or not relu
        strays[task] = stray
