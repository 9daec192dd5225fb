"""gradcheck finds wrong gradients, says where, and passes right ones."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv import nn
from numbaconv.errors import ArgumentError
from numbaconv.gradcheck import GradcheckError, gradcheck

X = np.random.default_rng(0).standard_normal((3, 4))


def cube(x):
    return x**3


def cube_backward(grad_output, x):
    return 3 * x**2 * grad_output


def test_a_right_gradient_passes():
    result = gradcheck(cube, X, backward=cube_backward)
    assert result
    assert result.worst_error <= 1e-6
    assert result.where == "input 0"
    assert len(result.checks) == 3
    assert "passed" in repr(result)
    for check in result.checks:
        assert check.numeric == pytest.approx(check.analytic, rel=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda g, x: 2 * x**2 * g,
        lambda g, x: 3 * x**2 * g + 1e-4,
        lambda g, x: np.where(np.arange(12).reshape(3, 4) == 7, 0, 3 * x**2 * g),  # one element of twelve
        lambda g, x: (3 * x**2 * g)[::-1],
        lambda g, x: np.zeros_like(x),
        lambda g, x: np.full_like(x, np.nan),
    ],
)
def test_a_wrong_gradient_fails(wrong):
    with pytest.raises(GradcheckError, match=r"gradcheck: .*where='input 0'") as caught:
        gradcheck(cube, X, backward=wrong)
    assert not caught.value.result
    assert isinstance(caught.value, AssertionError)
    assert not gradcheck(cube, X, backward=wrong, raises=False)


def test_a_wrong_shape_or_a_missing_gradient_fails():
    with pytest.raises(GradcheckError, match=r"of shape \(12,\) instead of \(3, 4\)"):
        gradcheck(cube, X, backward=lambda g, x: cube_backward(g, x).ravel())
    with pytest.raises(GradcheckError, match="no gradient was given"):
        gradcheck(cube, X, backward=lambda g, x: None)
    with pytest.raises(ArgumentError, match="a function needs its backward"):
        gradcheck(cube, X)


def test_several_inputs_and_labels():
    """x @ y for the rows that the labels pick; the second gradient is wrong."""
    y, rows = np.random.default_rng(1).standard_normal((4, 2)).astype(np.float32), np.array([0, 2])

    def pick(x, y, rows):
        assert rows.dtype.kind == "i"
        assert y.dtype == np.float64
        return x[rows] @ y

    def backward(g, x, y, rows, factor=1.0):
        grad_x = np.zeros_like(x)
        np.add.at(grad_x, rows, g @ y.T)
        return grad_x, factor * x[rows].T @ g

    assert gradcheck(pick, [X, y, rows], backward=backward)
    result = gradcheck(pick, [X, y, rows], backward=lambda *a: backward(*a, factor=1.01), raises=False)
    assert result.where == "input 1"
    assert result.worst_error == pytest.approx(0.01, rel=5)
    assert gradcheck(pick, [X, y, rows], backward=lambda *a: (backward(*a)[0], None))


def test_a_function_that_returns_a_number():
    assert gradcheck(lambda x: float(np.sum(x**2)), X, backward=lambda g, x: 2 * g * x)


def test_a_gradient_that_is_zero_is_not_a_failure():
    """Its rounding errors are no size to compare with."""
    assert gradcheck(lambda x: x - x + 5.0, X, backward=lambda g, x: np.zeros_like(x))
    assert gradcheck(lambda x: np.ones(3), X, backward=lambda g, x: np.full_like(x, 1e-17))


def test_nothing_given_is_changed():
    x = X.astype(np.float32)
    before = x.copy()
    gradcheck(cube, x, backward=cube_backward)
    np.testing.assert_array_equal(x, before)


class Scale(nn.Module):
    def __init__(self, wrong=1.0):
        self.factor = nn.Parameter(np.array([2.0], np.float32))
        self.frozen = nn.Parameter(np.array([3.0], np.float32), trainable=False)
        self.calls = 0
        self.wrong = wrong

    def forward_ctx(self, x):
        self.calls += 1
        return x * self.factor.data * self.frozen.data, x

    def backward_ctx(self, grad_output, ctx, needs_input=True):
        self.factor.accumulate_grad(self.wrong * np.sum(grad_output * ctx * self.frozen.data).reshape(1))
        return grad_output * self.factor.data * self.frozen.data


def test_modules():
    module = Scale()
    module.factor.grad = np.array([7.0], np.float32)
    assert gradcheck(module, X)
    assert module.calls == 0
    assert module.factor.data.dtype == np.float32
    assert module.factor.grad[0] == 7
    result = gradcheck(Scale(wrong=1.1), X, raises=False)
    assert result.where == "factor"
    assert {check.where for check in result.checks} == {"input 0", "factor"}
    with pytest.raises(ArgumentError, match="one input"):
        gradcheck(module, [X, X])


def test_running_statistics_are_left_alone():
    norm = nn.BatchNorm2d(2)
    before = norm.state_dict()
    assert gradcheck(norm, np.random.default_rng(2).standard_normal((3, 2, 2, 2)))
    assert all(np.array_equal(before[key], value) for key, value in norm.state_dict().items())
