"""Operations bound by memory, forward and backward: gigabytes per second, not flops."""

from __future__ import annotations

import numpy as np
import pytest

from .cases import ELEMENTWISE, each
from .providers import Unavailable


def expected_forward(row, x):
    """Some elements of the result in float64, flat, or None where a formula is too long for here."""
    x = x.astype(float)
    if row.op == "relu":
        return np.maximum(x, 0)
    if row.op == "max_pool2d":
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))
    if row.op == "batch_norm":
        axes = (0, 2, 3)
        return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
    return None


@each(ELEMENTWISE)
def test_forward(row, rng, dtype, provider, layout, timed):
    x = rng.standard_normal(row.shape, dtype=dtype)
    own = provider.array(x, layout)

    def check(result):
        expected = expected_forward(row, x)
        if expected is not None:
            np.testing.assert_allclose(provider.to_numpy(result[0]), expected, rtol=0, atol=1e-4)

    nbytes = row.streams[0] * x.nbytes
    timed(lambda: provider.forward(row.op, own, row.arguments), check, group="elementwise forward", nbytes=nbytes)


@each(ELEMENTWISE)
def test_backward(row, rng, dtype, provider, layout, timed):
    x = rng.standard_normal(row.shape, dtype=dtype)
    own = provider.array(x, layout)
    try:
        output, context = provider.forward(row.op, own, row.arguments)
    except Unavailable as reason:
        pytest.skip(str(reason))
    grad_output = provider.array(rng.standard_normal(provider.to_numpy(output).shape, dtype=dtype), layout)

    def check(grad_input):
        assert provider.to_numpy(grad_input).shape == x.shape

    timed(
        lambda: provider.backward(row.op, grad_output, own, context, row.arguments),
        check,
        group="elementwise backward",
        nbytes=row.streams[1] * x.nbytes,
    )
