"""Activations and their backwards: against SciPy in float64, against PyTorch, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.special
import scipy.stats
from compare import LAYOUTS, LAYOUTS_2D, Unchanged, assert_close, random_array

from numbaconv import functional, parallel
from numbaconv.cpu.activation import CHUNK
from numbaconv.errors import ArgumentError, DTypeError, ShapeError

DTYPES = ("float32", "float64")


class Activation(NamedTuple):
    """One activation: by name, its value and slope in float64, and how PyTorch computes it."""

    name: str
    value: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]
    torch: Callable[[Any], Callable[[Any], Any]]  # torch.nn.functional -> function
    options: dict[str, Any]
    from_output: bool = False  # the backward takes the output


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def tanh_gelu_slope(x):
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    return 0.5 * (1 + np.tanh(inner)) + 0.5 * x / np.cosh(inner) ** 2 * np.sqrt(2 / np.pi) * (1 + 0.134145 * x**2)


ACTIVATIONS = [
    Activation("relu", lambda x: np.maximum(x, 0), lambda x: 1.0 * (x > 0), lambda f: f.relu, {}),
    Activation(
        "leaky_relu",
        lambda x: np.where(x > 0, x, 0.01 * x),
        lambda x: np.where(x > 0, 1, 0.01),
        lambda f: f.leaky_relu,
        {},
    ),
    Activation(
        "leaky_relu",
        lambda x: np.where(x > 0, x, 0.25 * x),
        lambda x: np.where(x > 0, 1, 0.25),
        lambda f: lambda x: f.leaky_relu(x, 0.25),
        {"negative_slope": 0.25},
    ),
    Activation(
        "sigmoid",
        scipy.special.expit,
        lambda x: scipy.special.expit(x) * scipy.special.expit(-x),
        lambda f: f.sigmoid,
        {},
        from_output=True,
    ),
    Activation("tanh", np.tanh, lambda x: 1 / np.cosh(x) ** 2, lambda f: f.tanh, {}, from_output=True),
    Activation(
        "gelu",
        lambda x: x * scipy.stats.norm.cdf(x),
        lambda x: scipy.stats.norm.cdf(x) + x * scipy.stats.norm.pdf(x),
        lambda f: f.gelu,
        {},
    ),
    Activation(
        "gelu",
        tanh_gelu,
        tanh_gelu_slope,
        lambda f: lambda x: f.gelu(x, approximate="tanh"),
        {"approximate": True},
    ),
    Activation(
        "silu",
        lambda x: x * scipy.special.expit(x),
        lambda x: scipy.special.expit(x) * (1 + x * scipy.special.expit(-x)),
        lambda f: f.silu,
        {},
    ),
]
each_activation = pytest.mark.parametrize(
    "case", ACTIVATIONS, ids=["-".join([a.name, *map(str, a.options.values())]) for a in ACTIVATIONS]
)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def forward(case, x):
    return getattr(functional, case.name)(x, **case.options)


def backward(case, grad_output, x, output):
    op = getattr(functional, f"{case.name}_backward")
    return op(grad_output, output if case.from_output else x, **case.options)


@pytest.mark.reduced
@each_activation
@each_dtype
def test_value_and_gradient(case, dtype, rng):
    x, grad_output = 3 * random_array(rng, (2, 3, 7, 11), dtype), random_array(rng, (2, 3, 7, 11), dtype)
    exact = x.astype(np.float64)
    with Unchanged(x, grad_output):
        y = forward(case, x)
        grad = backward(case, grad_output, x, y)
    assert_close(y, case.value(exact), dtype)
    assert_close(grad, case.slope(exact) * grad_output, dtype)


@each_activation
@each_dtype
def test_equals_pytorch(case, dtype, rng):
    torch = pytest.importorskip("torch")
    x, grad_output = 3 * random_array(rng, 1000, dtype), random_array(rng, 1000, dtype)
    leaf = torch.from_numpy(x).requires_grad_()
    expected = case.torch(torch.nn.functional)(leaf)
    expected.backward(torch.from_numpy(grad_output))
    y = forward(case, x)
    tolerance = {"rtol": 2e-6, "atol": 1e-6} if dtype == "float32" else {"rtol": 1e-13, "atol": 1e-13}
    np.testing.assert_allclose(y, expected.detach().numpy(), **tolerance)
    np.testing.assert_allclose(backward(case, grad_output, x, y), leaf.grad.numpy(), **tolerance)


@each_activation
@each_dtype
def test_extreme_values_as_pytorch(case, dtype):
    """NaN and Inf propagate as in PyTorch, and nothing overflows on the way to a finite result."""
    torch = pytest.importorskip("torch")
    values = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, -1e-30, 20, -20, 87, -87, 100, -100, 800, -800, 1e30, -1e30]
    x = np.array(values, dtype)
    leaf = torch.from_numpy(x).requires_grad_()
    expected = case.torch(torch.nn.functional)(leaf)
    expected.backward(torch.ones_like(expected))
    expected = expected.detach().numpy()
    if case.name == "gelu" and not case.options and dtype == "float32":
        expected[1] = np.inf  # PyTorch's vectorised erf makes a NaN of inf in float32 only: gelu(inf) is inf
    y = forward(case, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(backward(case, np.ones_like(x), x, y), leaf.grad.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(layout, rng):
    """relu and its backward stand for all: every activation goes through the same two drivers."""
    x, grad_output = (LAYOUTS[layout](random_array(rng, (2, 3, 5, 7), "float32")) for _ in range(2))
    with Unchanged(x, grad_output):
        y = functional.relu(x)
        grad = functional.relu_backward(grad_output, x)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_array_equal(grad, np.where(x > 0, grad_output, 0))
    assert y.flags.writeable
    assert not np.shares_memory(y, x)


@pytest.mark.parametrize("layout", LAYOUTS_2D)
@pytest.mark.parametrize("shape", [(0,), (9,), (4, 5), (2, 3, 4), (0, 3, 4, 5), (1, 2, 1, 3, 2)])
def test_any_rank(shape, layout, rng):
    x = LAYOUTS[layout](random_array(rng, shape, "float32"))
    y = functional.relu(x)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_array_equal(functional.relu_backward(y, x), np.maximum(x, 0))


def test_result_follows_the_input_layout(rng):
    x = random_array(rng, (2, 3, 5, 7), "float32")
    last = LAYOUTS["channels_last"](x)
    assert functional.tanh(last).strides == last.strides
    assert functional.tanh(x).strides == x.strides
    # A gradient is laid out as what it is the gradient of.
    assert functional.relu_backward(x, last).strides == last.strides
    assert functional.relu_backward(last, x).strides == x.strides


@each_activation
def test_serial_and_parallel_agree_in_every_bit(case, rng, monkeypatch):
    x, grad_output = (random_array(rng, 3 * CHUNK + 77, "float32") for _ in range(2))
    results = []
    for work in (float("inf"), 0.0):
        monkeypatch.setattr(parallel, "PARALLEL_WORK_NS", work)
        y = forward(case, x)
        results.append((y.tobytes(), backward(case, grad_output, x, y).tobytes()))
    assert results[0] == results[1]


def test_relu_by_hand():
    x = np.array([1, -2, 3, -1], "float32")
    np.testing.assert_array_equal(functional.relu(x), [1, 0, 3, 0])
    upstream = np.array([4, -1, 5, 9], "float32")
    np.testing.assert_array_equal(functional.relu_backward(upstream, x), [4, 0, 5, 0])
    np.testing.assert_array_equal(functional.relu_backward(upstream, functional.relu(x)), [4, 0, 5, 0])
    np.testing.assert_array_equal(functional.leaky_relu(x, negative_slope=0.5), [1, -1, 3, -0.5])
    np.testing.assert_array_equal(functional.leaky_relu_backward(upstream, x, negative_slope=0.5), [4, -0.5, 5, 4.5])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sigmoid_far_from_zero(dtype):
    """Exact to within the smallest normal number, where exp(-x) is no number any more too."""
    x = np.array([-np.inf, -1000, -709.5, -104, -89, -88.6, -88.3, -87.4, -86, 17, 87.4, 89, 1000, np.inf], dtype)
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-x.astype(np.longdouble)))
    error = np.abs(functional.sigmoid(x) - expected)
    assert (error <= np.finfo(dtype).smallest_normal + 4 * np.finfo(dtype).eps * expected).all()
    assert np.isnan(functional.sigmoid(np.array([np.nan], dtype)))


def test_curves_by_hand():
    zero, one = np.zeros(1), np.ones(1)
    assert functional.sigmoid(zero) == 0.5
    assert functional.sigmoid_backward(one, functional.sigmoid(zero)) == 0.25
    assert functional.sigmoid(np.array([np.log(3)])) == pytest.approx(0.75)
    assert functional.tanh_backward(one, functional.tanh(zero)) == 1
    assert functional.tanh(np.array([np.log(2)])) == pytest.approx(0.6)  # (2 - 1/2) / (2 + 1/2)
    assert functional.gelu(one) == pytest.approx(0.8413447460685429)  # the share below one standard deviation
    assert functional.gelu_backward(one, zero) == 0.5
    assert functional.silu(np.array([np.log(3)])) == pytest.approx(0.75 * np.log(3))
    assert functional.silu_backward(one, zero) == 0.5


@each_activation
def test_bad_input(case):
    x = np.ones((2, 3), "float32")
    op = case.name
    second = "output" if case.from_output else "x"
    with pytest.raises(DTypeError, match=rf"^{op}: x must be float32 or float64; got x.dtype='uint8'"):
        forward(case, x.astype("uint8"))
    with pytest.raises(DTypeError, match=rf"^{op}: x must be an array"):
        forward(case, [1.0, 2.0])
    with pytest.raises(ShapeError, match=rf"^{op}_backward: grad_output.shape must equal {second}.shape; got"):
        backward(case, x[:, :2], x, x)
    with pytest.raises(DTypeError, match=rf"^{op}_backward: grad_output and {second} must have one dtype"):
        backward(case, x.astype("float64"), x, x)


@pytest.mark.parametrize("slope", ["0.1", None, [0.1, 0.2], True])
def test_bad_slope(slope):
    with pytest.raises(ArgumentError, match="leaky_relu: negative_slope must be a number; got negative_slope="):
        functional.leaky_relu(np.ones(2), negative_slope=slope)


@pytest.mark.parametrize("approximate", ["none", "tanh", None, 1])
def test_bad_approximate(approximate):
    """PyTorch's words are both true as a bool."""
    with pytest.raises(ArgumentError, match="gelu: approximate must be True or False; got approximate="):
        functional.gelu(np.ones(2), approximate=approximate)
