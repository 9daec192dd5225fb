"""exp, tanh and erf of the kernels, against the C library in a longer type."""

from __future__ import annotations

import math

import numpy as np
import pytest

from numbaconv.cpu import transcendental
from numbaconv.jit import kernel

exp, tanh, erf = transcendental.exp, transcendental.tanh, transcendental.erf

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
def erfs(x, out):
    for i in range(x.size):
        out[i] = erf(x[i])


def applied(kernel, x):
    out = np.empty_like(x)
    kernel(x, out)
    return out


def most_units_in_the_last_place(kernel, exact, x):
    y = applied(kernel, x)
    with np.errstate(under="ignore"):
        return np.max(np.abs(y - exact(x)) / np.spacing(np.abs(y)))


def erf_of(x):
    return np.array([math.erf(value) for value in x.tolist()])


@pytest.mark.parametrize(("dtype", "longer", "exp_most", "tanh_most"), [("f4", "f8", 1.2, 1.6), ("f8", "g", 3, 2)])
def test_errors(rng, dtype, longer, exp_most, tanh_most):
    wide = np.concatenate([rng.uniform(-87, 88, 20000), rng.normal(size=20000)]).astype(dtype)
    near = np.concatenate([rng.normal(size=20000), 0.1 * rng.normal(size=20000), np.linspace(-1, 1, 999)]).astype(dtype)
    assert most_units_in_the_last_place(exps, lambda x: np.exp(x.astype(longer)), wide) < exp_most
    assert most_units_in_the_last_place(tanhs, lambda x: np.tanh(x.astype(longer)), near) < tanh_most
    if dtype == "f4":
        assert most_units_in_the_last_place(erfs, erf_of, near) < 1.5


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_limits(dtype):
    x = np.array([-np.inf, -1e30, 0, 1e30, np.inf, np.nan], dtype)
    np.testing.assert_array_equal(applied(exps, x), [0, 0, 1, np.inf, np.inf, np.nan])
    np.testing.assert_array_equal(applied(tanhs, x), [-1, -1, 0, 1, 1, np.nan])
    np.testing.assert_array_equal(applied(erfs, x), [-1, -1, 0, 1, 1, np.nan])


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
