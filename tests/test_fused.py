"""Pairs of layers that one kernel computes: what the layers give one after the other, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv import nn

PAIRS = {
    "conv, relu": lambda: [nn.Conv2d(3, 8, 3), nn.ReLU()],
    "conv, relu, pool": lambda: [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2)],
    "linear, relu": lambda: [nn.Flatten(), nn.Linear(243, 7), nn.ReLU()],
}


@pytest.mark.parametrize("name", PAIRS)
def test_as_layer_by_layer(name, rng):
    layers = PAIRS[name]()
    model = nn.Sequential(*layers).initialize(0)
    x = rng.standard_normal((2, 3, 9, 9)).astype(np.float32)
    y, ctx = model.forward_ctx(x)
    expected, contexts = x, []
    for layer in layers:
        expected, one = layer.forward_ctx(expected)
        contexts.append(one)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)
    assert (y == 0).any()
    grad = rng.standard_normal(y.shape).astype(np.float32)
    actual = model.backward_ctx(grad, ctx)
    for layer, one in zip(reversed(layers), reversed(contexts), strict=True):
        grad = layer.backward_ctx(grad, one)
    np.testing.assert_allclose(actual, grad, rtol=1e-4, atol=1e-5)
