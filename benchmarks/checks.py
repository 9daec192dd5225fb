"""Right before fast: a few elements of each result, worked out in float64 by a loop, before anything is timed."""

from __future__ import annotations

import numpy as np

from .cases import ConvRow, pair

SAMPLES = 12
TOLERANCE = {"float32": 1e-3, "float64": 1e-9}  # of the size of the terms: wrong is far off, not a little


def _positions(shape, rng):
    """The corners, and some elements in between."""
    corners = [tuple(0 for _ in shape), tuple(size - 1 for size in shape)]
    return corners + [tuple(int(rng.integers(size)) for size in shape) for _ in range(SAMPLES)]


def _compare(actual, expected, scale, where):
    dtype = actual.dtype.name
    assert abs(float(actual) - expected) <= TOLERANCE[dtype] * scale, f"wrong at {where}: {actual}, not {expected}"


def check_conv2d(row: ConvRow, output, x, weight, bias):
    assert output.shape == row.output_shape
    rng, per_group = np.random.default_rng(1), row.in_channels // row.groups
    padding, dilation = pair(row.padding), pair(row.dilation)
    for n, k, p, q in _positions(output.shape, rng):
        first = k // (row.out_channels // row.groups) * per_group
        terms = [float(bias[k])]
        for r in range(row.weight_shape[2]):
            for s in range(row.weight_shape[3]):
                h = p * row.stride + r * dilation[0] - padding[0]
                w = q * row.stride + s * dilation[1] - padding[1]
                if 0 <= h < row.height and 0 <= w < row.width:
                    terms.append(
                        np.dot(x[n, first : first + per_group, h, w].astype(float), weight[k, :, r, s].astype(float))
                    )
        _compare(output[n, k, p, q], sum(terms), 1 + np.abs(terms).sum(), ("output", n, k, p, q))


def check_conv2d_backward(row: ConvRow, gradients, grad_output, x, weight):
    grad_input, grad_weight, grad_bias = gradients
    rng = np.random.default_rng(1)
    if grad_input is not None:
        _check_input(row, grad_input, grad_output, weight, rng)
    if grad_weight is not None:
        _check_weight(row, grad_weight, grad_output, x, rng)
    if grad_bias is not None:
        expected = grad_output.astype(float).sum(axis=(0, 2, 3))
        scale = np.abs(grad_output).sum(axis=(0, 2, 3), dtype=float)
        for k in range(row.out_channels):
            _compare(grad_bias[k], expected[k], 1 + scale[k], ("grad_bias", k))


def _check_input(row, grad_input, grad_output, weight, rng):
    assert grad_input.shape == row.input_shape
    _, _, rows, columns = row.output_shape
    per_group, outputs = row.in_channels // row.groups, row.out_channels // row.groups
    padding, dilation = pair(row.padding), pair(row.dilation)
    for n, c, h, w in _positions(grad_input.shape, rng):
        first = c // per_group * outputs
        terms = [0.0]
        for r in range(row.weight_shape[2]):
            for s in range(row.weight_shape[3]):
                p, rest_p = divmod(h + padding[0] - r * dilation[0], row.stride)
                q, rest_q = divmod(w + padding[1] - s * dilation[1], row.stride)
                if rest_p == rest_q == 0 and 0 <= p < rows and 0 <= q < columns:
                    there = grad_output[n, first : first + outputs, p, q].astype(float)
                    terms.append(np.dot(there, weight[first : first + outputs, c % per_group, r, s].astype(float)))
        _compare(grad_input[n, c, h, w], sum(terms), 1 + np.abs(terms).sum(), ("grad_input", n, c, h, w))


def _check_weight(row, grad_weight, grad_output, x, rng):
    assert grad_weight.shape == row.weight_shape
    _, _, rows, columns = row.output_shape
    vertical, horizontal = ((side, side) for side in pair(row.padding))
    dilation = pair(row.dilation)
    for k, c, r, s in _positions(grad_weight.shape, rng):
        channel = k // (row.out_channels // row.groups) * row.weight_shape[1] + c
        padded = np.pad(x[:, channel].astype(float), ((0, 0), vertical, horizontal))
        top, left = r * dilation[0], s * dilation[1]
        read = padded[
            :,
            top : top + (rows - 1) * row.stride + 1 : row.stride,
            left : left + (columns - 1) * row.stride + 1 : row.stride,
        ]
        terms = read * grad_output[:, k].astype(float)
        _compare(grad_weight[k, c, r, s], terms.sum(), 1 + np.abs(terms).sum(), ("grad_weight", k, c, r, s))
