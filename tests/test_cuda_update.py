"""What training changes in place on a GPU: compiled kernels in the PTX interpreter, against PyTorch and NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ptx.runtime import InterpreterRuntime

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
pytest.importorskip("torch", reason="the values are PyTorch's")

import torch

from numbaconv import backend, functional, optim
from numbaconv.cuda.launch import use

DTYPES = ("float32", "float64")
# One piece and a bit of another, three elements that fill no vector, none at all, and a matrix.
SHAPES = [(4099,), (3,), (0,), (5, 7), (2, 2048)]
TOLERANCE = {"float32": {"rtol": 1e-5, "atol": 1e-6}, "float64": {"rtol": 1e-12, "atol": 1e-14}}
CASES = [
    ("SGD", {"lr": 0.1, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.3}),
]


class Weight:
    """All an optimizer may lean on."""

    def __init__(self, data, grad=None, trainable=True):
        self.data, self.grad, self.trainable = data, grad, trainable


@pytest.fixture
def device():
    with use(InterpreterRuntime((8, 0))) as runtime:
        yield runtime


def there(x):
    return backend.to_device(x, "cuda")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_three_steps_are_pytorchs(name, options, dtype, device, rng):
    start = [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]
    ours = [Weight(there(x)) for x in start]
    theirs = [torch.nn.Parameter(torch.from_numpy(x.copy())) for x in start]
    optimizer, reference = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    for step in range(3):
        for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            grad = rng.standard_normal(mine.data.shape).astype(dtype)
            # One without a gradient at first: its state is a step younger than the others'.
            mine.grad = None if (i, step) == (3, 0) else there(grad)
            other.grad = None if (i, step) == (3, 0) else torch.from_numpy(grad.copy())
        before = device.launches.total()
        optimizer.step()
        # One launch; two where some have had fewer steps than the others, or have no velocity yet.
        assert device.launches.total() - before <= (1 if step == 0 else 2)
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(backend.to_host(mine.data), other.detach().numpy(), **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_that_start_anywhere(dtype, device, rng):
    """A parameter that is a view, and so not aligned to 16 bytes; a gradient in another order."""
    whole, grad = rng.standard_normal(100).astype(dtype), rng.standard_normal((9, 11)).astype(dtype)
    memory, velocity = there(whole), there(np.full((11, 9), np.nan, dtype))
    functional.sgd_update(memory[1:].reshape(11, 9), there(grad).T, velocity, lr=0.5, momentum=0.9, first=True)
    expected = whole.copy()
    expected[1:] -= 0.5 * grad.T.reshape(-1)
    np.testing.assert_allclose(backend.to_host(memory), expected, **TOLERANCE[dtype])
    np.testing.assert_array_equal(backend.to_host(velocity), grad.T)


def test_nothing_changes_while_there_is_an_error(device, rng):
    weight = Weight(there(np.ones(5, np.float32)), there(np.ones(5, np.float32)))
    for kind in (optim.SGD, optim.Adam):
        functional.require_finite(there(np.array(math.nan)), lambda value: ArithmeticError(f"{value}"))
        kind([weight], lr=0.5).step()
        with pytest.raises(ArithmeticError, match="nan"):
            backend.to_host(weight.data)
        np.testing.assert_array_equal(backend.to_host(weight.data), 1)
    optim.SGD([weight], lr=0.5).step()
    np.testing.assert_array_equal(backend.to_host(weight.data), 0.5)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e300, 0.0, -1e-320])
def test_only_finite_numbers_pass(value, device):
    functional.require_finite(there(np.array(value)), lambda number: ArithmeticError(f"{number} at last"))
    if math.isfinite(value):
        backend.load_backend("cuda").synchronize()
        return
    with pytest.raises(ArithmeticError, match=f"{value} at last"):
        backend.load_backend("cuda").synchronize()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("max_norm", [0.5, 1e6, 0.0, math.inf])
@pytest.mark.parametrize("special", [None, math.nan, math.inf])
def test_clipping_is_pytorchs(special, max_norm, dtype, device, rng):
    if special is not None and max_norm == math.inf:
        pytest.skip("PyTorch divides inf by inf")
    grads = [(10 * rng.standard_normal(shape)).astype(dtype) for shape in SHAPES]
    if special is not None:
        grads[3][1, 1] = special
    ours = [Weight(None, there(g if g.ndim < 2 else np.asfortranarray(g))) for g in grads]
    theirs = [torch.nn.Parameter(torch.zeros(g.shape, dtype=getattr(torch, dtype))) for g in grads]
    for parameter, grad in zip(theirs, grads, strict=True):
        parameter.grad = torch.from_numpy(grad.copy())
    expected = float(torch.nn.utils.clip_grad_norm_(theirs, max_norm))
    before = device.launches.total()
    norm = optim.clip_grad_norm(ours, max_norm)
    assert type(norm) is float
    np.testing.assert_allclose(norm, expected, rtol=1e-6)
    if all(g.ndim < 2 for g in grads):
        assert device.launches.total() - before == 3
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(backend.to_host(mine.grad), other.grad.numpy(), **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_and_products_in_place(dtype, device, rng):
    x, y = (rng.standard_normal((9, 10)).astype(dtype) for _ in range(2))
    for way in (lambda a: a, lambda a: a[:, ::2], lambda a: a.T):
        memory = there(x)
        functional.accumulate(way(memory), way(there(y)))
        functional.scale_update(way(memory), 0.25)
        expected = x.copy()
        way(expected)[...] = (way(x) + way(y)) * x.dtype.type(0.25)
        np.testing.assert_array_equal(backend.to_host(memory), expected)
        functional.assign(way(memory), way(there(y)))
        way(expected)[...] = way(y)
        np.testing.assert_array_equal(backend.to_host(memory), expected)
        assert functional.sum_of_squares(way(memory)) == pytest.approx((way(expected).astype(float) ** 2).sum())
    zeros = functional.zeros_like(there(x).T)
    assert (zeros.shape, zeros.c_contiguous) == ((10, 9), True)
    assert not backend.to_host(zeros).any()


def test_sums_of_squares_are_float64(device):
    """2^24 ones and more would stop a float32 sum in its tracks; here with fewer and larger steps."""
    x = np.full(20000, 1e-3, np.float32)
    x[0] = 3e4
    exact = float((x.astype(np.float64) ** 2).sum())
    assert functional.sum_of_squares(there(x)) == pytest.approx(exact, rel=1e-14)
