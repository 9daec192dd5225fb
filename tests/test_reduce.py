"""Sums per channel: each remainder of vectors, blocks and shares, in one task and in many."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv.cpu import layout, reduce


@pytest.mark.reduced
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("small", [0, 1 << 60], ids=["shares", "one_task"])
@pytest.mark.parametrize("order", [layout.channels_last, layout.contiguous])
@pytest.mark.parametrize(
    "shape", [(3, 1, 5, 7), (8, 5, 4, 6), (2, 17, 9, 13), (5, 64, 6, 5), (3, 133, 3, 23), (40, 600, 1, 1)], ids=str
)
def test_channel_sums(shape, order, small, dtype, rng, monkeypatch):
    monkeypatch.setattr(reduce, "_SMALL", small)
    x = order(rng.standard_normal(shape).astype(dtype))
    expected = x.astype(np.float64).sum(axis=(0, 2, 3))
    # Sums are float64: what is left is the result's own rounding.
    np.testing.assert_allclose(reduce.channel_sums(x), expected, rtol=np.finfo(dtype).eps, atol=1e-13)


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 0, 3, 3), (0, 0, 1, 1), (2, 3, 0, 4)], ids=str)
def test_nothing_sums_to_zero(shape):
    np.testing.assert_array_equal(reduce.channel_sums(np.zeros(shape, np.float32)), np.zeros(shape[1], np.float32))
