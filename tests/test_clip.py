"""Gradient clipping: against PyTorch and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from compare import random_array

from numbaconv import optim
from numbaconv.errors import ArgumentError


class Weight:
    """All that clipping may lean on."""

    def __init__(self, grad, trainable=True):
        self.grad, self.trainable = grad, trainable


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("max_norm", [0.5, 5.0, 1e6, 0.0, np.inf])
@pytest.mark.parametrize("special", [None, np.nan, np.inf, -np.inf])
def test_clipping_equals_pytorch(special, max_norm, dtype, rng):
    torch = pytest.importorskip("torch")
    if special is not None and max_norm == np.inf:
        pytest.skip("PyTorch divides inf by inf")
    model = [Weight(10 * random_array(rng, shape, dtype)) for shape in ((5, 3, 3, 3), (7,), (4, 6))]
    model[1].grad = None
    if special is not None:
        model[2].grad[1, 1] = special
    theirs = [
        torch.nn.Parameter(torch.zeros(1 if w.grad is None else w.grad.shape, dtype=getattr(torch, dtype)))
        for w in model
    ]
    for w, t in zip(model, theirs, strict=True):
        t.grad = None if w.grad is None else torch.from_numpy(w.grad.copy())
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    norm = optim.clip_grad_norm(iter(model), max_norm)
    assert type(norm) is float
    np.testing.assert_allclose(norm, float(expected), rtol=1e-6)
    for i in (0, 2):
        np.testing.assert_allclose(model[i].grad, theirs[i].grad.numpy(), rtol=1e-5 if dtype == "float32" else 1e-12)


def test_clipping_by_hand():
    first, second = Weight(np.array([3.0])), Weight(np.array([[4.0]]))
    frozen = Weight(np.array([100.0]), trainable=False)
    assert optim.clip_grad_norm([first, second, second, frozen], 10) == 5
    assert (first.grad[0], second.grad[0, 0]) == (3, 4)
    assert optim.clip_grad_norm([first, second, second, frozen], 1) == 5
    np.testing.assert_allclose([first.grad[0], second.grad[0, 0]], [0.6, 0.8], rtol=1e-6)
    assert frozen.grad[0] == 100
    assert optim.clip_grad_norm([Weight(None)], 1) == 0
    for wrong in (-1, float("nan"), "1", None):
        with pytest.raises(ArgumentError, match=r"^clip_grad_norm: max_norm must be"):
            optim.clip_grad_norm([first], wrong)
