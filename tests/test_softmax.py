"""Softmax and its logarithm: against SciPy in float64, against PyTorch, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
from compare import LAYOUTS, Unchanged, assert_close, random_array

from numbaconv import functional, layout_of, parallel
from numbaconv.cpu.exponential import exponential
from numbaconv.errors import ArgumentError, ShapeError

DTYPES = ("float32", "float64")
SHAPES = [(5,), (6, 10), (33, 1), (17, 1000), (7, 6, 5), (2, 5, 7, 9), (2, 3, 2, 3, 4), (2, 19, 1, 33)]
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
TOLERANCE = {"float32": {"rtol": 2e-6, "atol": 1e-6}, "float64": {"rtol": 1e-12, "atol": 1e-13}}


@pytest.mark.reduced
def test_exponential():
    """Within one unit in the last place of NumPy's extended precision; 0 where a float64 would be subnormal."""
    x = np.concatenate([-np.logspace(-18, np.log10(708), 400), np.linspace(0, 700, 100), [0.0, -0.0, -708.0]])
    ours = np.array([exponential(value) for value in x])
    exact = np.exp(x.astype(np.longdouble))
    assert float(np.abs(ours / exact - 1).max()) < 2.0**-52
    assert [exponential(value) for value in (-709.0, -1e308, -np.inf)] == [0, 0, 0]
    assert np.isnan(exponential(np.nan))


@pytest.mark.reduced
@each_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_softmax_along_every_axis(shape, dtype, rng):
    x, g = 3 * random_array(rng, shape, dtype), random_array(rng, shape, dtype)
    exact, upstream = x.astype(np.float64), g.astype(np.float64)
    for axis in {0, 1 % len(shape), len(shape) - 1, -1, -len(shape)}:
        soft, log = scipy.special.softmax(exact, axis), scipy.special.log_softmax(exact, axis)
        with Unchanged(x, g):
            y, z = functional.softmax(x, axis), functional.log_softmax(x, axis)
            grad = functional.softmax_backward(g, y, axis)
            log_grad = functional.log_softmax_backward(g, z, axis)
        assert_close(y, soft, dtype)
        assert_close(z, log, dtype)
        np.testing.assert_allclose(
            grad, soft * (upstream - (upstream * soft).sum(axis, keepdims=True)), **TOLERANCE[dtype]
        )
        np.testing.assert_allclose(
            log_grad,
            upstream - soft * upstream.sum(axis, keepdims=True),
            rtol=2e-5 if dtype == "float32" else 1e-12,
            atol=4e-6 if dtype == "float32" else 1e-12,
        )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_softmax_strides(layout, rng):
    x, g = (LAYOUTS[layout](random_array(rng, (2, 5, 4, 7), "float32")) for _ in range(2))
    exact = np.asarray(x, np.float64)
    for axis in (0, 1, 2, 3):
        with Unchanged(x, g):
            y = functional.softmax(x, axis)
            grad = functional.softmax_backward(g, y, axis)
        soft = scipy.special.softmax(exact, axis)
        assert_close(y, soft, "float32")
        np.testing.assert_allclose(grad, soft * (g - (g * soft).sum(axis, keepdims=True)), rtol=1e-5, atol=1e-6)
        assert layout_of(y) == layout_of(np.asarray(x, "float32")) == layout_of(grad)


@each_dtype
def test_softmax_extreme_values_as_pytorch(dtype):
    torch = pytest.importorskip("torch")
    inf, nan = np.inf, np.nan
    rows = [
        [0, nan, 1], [nan, nan, nan], [inf, 0, 1], [inf, inf, 0], [-inf, 0, 1], [-inf, -inf, 2], [-inf, -inf, -inf],
        [1000, 0, -1000], [3e38, -3e38, 0], [-1000, -1001, -1002], [80, -80, 0], [0, -87, -104], [1e-30, 0, -1e-30],
    ]  # fmt: skip
    x = np.array(rows, dtype)
    g = np.ones_like(x) * np.array([1, 2, -1], dtype)
    for name in ("softmax", "log_softmax"):
        leaf = torch.from_numpy(x).requires_grad_()
        expected = getattr(torch.nn.functional, name)(leaf, 1)
        expected.backward(torch.from_numpy(g))
        y = getattr(functional, name)(x)
        np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-5, atol=1e-7)
        grad = getattr(functional, f"{name}_backward")(g, y)
        np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_softmax_by_hand():
    x = np.log(np.array([[1.0, 2.0, 5.0]]))
    np.testing.assert_allclose(functional.softmax(x), [[1 / 8, 2 / 8, 5 / 8]])
    np.testing.assert_allclose(functional.log_softmax(x), np.log([[1 / 8, 2 / 8, 5 / 8]]))
    # One unit of gradient on the first output: y0 * (1 - y0), -y0 * y1, -y0 * y2
    grad = functional.softmax_backward(np.array([[1.0, 0, 0]]), np.array([[1 / 8, 2 / 8, 5 / 8]]))
    np.testing.assert_allclose(grad, [[7 / 64, -2 / 64, -5 / 64]])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,), (0, 4, 2, 2), (2, 4, 0, 3)], ids=str)
def test_softmax_of_nothing(shape):
    x = np.zeros(shape, "float32")
    for axis in range(len(shape)):
        assert functional.softmax(x, axis).shape == shape
        assert functional.log_softmax(x, axis).shape == shape
        assert functional.softmax_backward(x, x, axis).shape == shape
        assert functional.log_softmax_backward(x, x, axis).shape == shape


def test_softmax_bad_input():
    x = np.ones((2, 3), "float32")
    with pytest.raises(ArgumentError, match=r"^softmax: axis must be from -2 to 1; got axis=2"):
        functional.softmax(x, 2)
    with pytest.raises(ArgumentError, match=r"^log_softmax: axis must be at least -2; got axis=-3"):
        functional.log_softmax(x, -3)
    with pytest.raises(ArgumentError, match=r"axis must be an int"):
        functional.softmax(x, 0.5)
    with pytest.raises(ShapeError, match=r"^softmax_backward: grad_output.shape must equal output.shape"):
        functional.softmax_backward(x[:1], x)
    with pytest.raises(ShapeError, match=r"^log_softmax_backward: grad_output.shape must equal output.shape"):
        functional.log_softmax_backward(x[:1], x)


@pytest.mark.parametrize("shape", [(1000, 37), (2, 21, 50, 60), (2, 4000)], ids=str)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_serial_and_parallel_agree_in_every_bit(shape, layout, rng, monkeypatch):
    x, g = (LAYOUTS[layout](random_array(rng, shape, "float32")) for _ in range(2))
    results = []
    for work in (float("inf"), 0.0):
        monkeypatch.setattr(parallel, "PARALLEL_WORK_NS", work)
        y, z = functional.softmax(x, 1), functional.log_softmax(x, 1)
        result = [y, z, functional.softmax_backward(g, y, 1), functional.log_softmax_backward(g, z, 1)]
        results.append([r.tobytes() for r in result])
    assert results[0] == results[1]
