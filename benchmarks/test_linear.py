"""linear, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest

from .cases import LINEAR, each


@pytest.fixture
def arrays(row, rng, dtype):
    """x, weight, bias, grad_output, as NumPy arrays."""
    m, i, o = row.rows, row.in_features, row.out_features
    shapes = (m, i), (o, i), (o,), (m, o)
    return [rng.standard_normal(shape, dtype=dtype) for shape in shapes]


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@each(LINEAR)
def test_forward(row, arrays, provider, timed):
    x, weight, bias, _ = arrays
    own = [provider.array(a, "channels_first") for a in (x, weight, bias)]

    def check(output):
        close(provider.to_numpy(output), x.astype(float) @ weight.T.astype(float) + bias)

    timed(lambda: provider.linear(*own), check, group="linear forward", flops=row.flops)


@each(LINEAR)
def test_backward(row, arrays, provider, timed):
    x, weight, _, grad_output = arrays
    own = [provider.array(a, "channels_first") for a in (grad_output, x, weight)]

    def check(gradients):
        grad = grad_output.astype(float)
        expected = grad @ weight.astype(float), grad.T @ x.astype(float), grad.sum(axis=0)
        for actual, wanted in zip(gradients, expected, strict=True):
            close(provider.to_numpy(actual), wanted)

    timed(lambda: provider.linear_backward(*own), check, group="linear backward", flops=2 * row.flops)
