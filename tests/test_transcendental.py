"""exp, tanh and the normal distribution of the kernels, against the C library in a longer type."""

from __future__ import annotations

import math

import numpy as np
import pytest

from numbaconv.cpu import transcendental
from numbaconv.jit import kernel

exp, tanh, normal_cdf = transcendental.exp, transcendental.tanh, transcendental.normal_cdf

pytestmark = pytest.mark.reduced


@kernel
def exps(x, out):
    for i in range(x.size):
        out[i] = exp(x[i])


@kernel
def tanhs(x, out):
    for i in range(x.size):
        out[i] = tanh(x[i])


@kernel
def normal_cdfs(x, out):
    for i in range(x.size):
        out[i] = normal_cdf(x[i])


def applied(kernel, x):
    out = np.empty_like(x)
    kernel(x, out)
    return out


def most_units_in_the_last_place(kernel, exact, x):
    y = applied(kernel, x)
    with np.errstate(under="ignore"):
        return np.max(np.abs(y - exact(x)) / np.spacing(np.abs(y)))


def normal_cdf_of(x):
    return np.array([0.5 * math.erfc(-math.sqrt(0.5) * value) for value in x.tolist()])


@pytest.mark.parametrize(("dtype", "longer", "exp_most", "tanh_most"), [("f4", "f8", 1.2, 1.6), ("f8", "g", 3, 2)])
def test_errors(rng, dtype, longer, exp_most, tanh_most):
    wide = np.concatenate([rng.uniform(-87, 88, 20000), rng.normal(size=20000)]).astype(dtype)
    near = np.concatenate([rng.normal(size=20000), 0.1 * rng.normal(size=20000), np.linspace(-1, 1, 999)]).astype(dtype)
    assert most_units_in_the_last_place(exps, lambda x: np.exp(x.astype(longer)), wide) < exp_most
    assert most_units_in_the_last_place(tanhs, lambda x: np.tanh(x.astype(longer)), near) < tanh_most


@pytest.mark.parametrize(("dtype", "most", "most_of_a_small_one"), [("f4", 1e-7, 2e-5), ("f8", 4e-16, 1e-13)])
def test_error_of_the_normal_distribution(dtype, most, most_of_a_small_one, rng):
    x = np.concatenate([3 * rng.normal(size=20000), np.linspace(-5.69, 5.69, 9999), [-5.71, 5.71, -40, 40]]).astype(
        dtype
    )
    error = np.abs(applied(normal_cdfs, x) - normal_cdf_of(x))
    assert error.max() < most
    inside = np.abs(x) < 5.7
    assert (error <= np.maximum(most_of_a_small_one * normal_cdf_of(x), most * (x > 0)))[inside].all()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_limits(dtype):
    x = np.array([-np.inf, -1e30, 0, 1e30, np.inf, np.nan], dtype)
    np.testing.assert_array_equal(applied(exps, x), [0, 0, 1, np.inf, np.inf, np.nan])
    np.testing.assert_array_equal(applied(tanhs, x), [-1, -1, 0, 1, 1, np.nan])
    np.testing.assert_array_equal(applied(normal_cdfs, x), [0, 0, 0.5, 1, 1, np.nan])


def test_exp_near_the_ends_of_float32():
    """The largest finite result, inf, and subnormal results: exp(-100) is 3.72e-44, which has 5 bits."""
    x = np.array([88.72, 88.73, -87.4, -100, -105], "f4")
    y = applied(exps, x)
    np.testing.assert_allclose(y[0], math.exp(float(x[0])), rtol=2e-7)
    assert y[1] == np.inf
    np.testing.assert_allclose(y[2:4], [math.exp(float(x[2])), math.exp(-100)], atol=2e-45)
    assert y[4] == 0


def test_only_kernels_call_them():
    with pytest.raises(TypeError, match="kernels"):
        exp(1.0)
