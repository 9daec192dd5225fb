"""The reference itself: against numbers worked by hand, the plain loops, SciPy, and the definition of a gradient."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from cases import FEW, TRANSPOSE, each
from scipy import signal

SMALL = [
    case for case in FEW if case.name not in ("in513", "winograd", "winograd_strided")
]  # (plain loops take 20 s for these)
SMALL_TRANSPOSE = [case for case in TRANSPOSE if case.name not in ("in513", "doubling_2x2")]


def test_hand_worked_convolution():
    x = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])[None, None]
    weight = np.array([[1.0, 0], [0, -1]])[None, None]
    # Cross-correlation, not flipped: 1 - 5, 2 - 6, 4 - 8, 5 - 9; plus the bias.
    for convolve in (reference.conv2d, reference.conv2d_loops):
        assert convolve(x, weight, np.array([0.5])).tolist() == [[[[-3.5, -3.5], [-3.5, -3.5]]]]
        # Stride 2 and padding 1: the windows that start at rows and columns -1 and 1.
        assert convolve(x, weight, stride=2, padding=1).tolist() == [[[[-1, -3], [-7, -4]]]]


def test_hand_worked_gradients():
    x = np.array([[1.0, 2, 3]])[None, None]
    weight = np.array([[10.0, 100]])[None, None]
    grad_output = np.array([[1.0, 2]])[None, None]
    # y0 = 10 x0 + 100 x1, y1 = 10 x1 + 100 x2
    grad_input = reference.conv2d_backward_input(grad_output, weight, x.shape)
    assert grad_input.tolist() == [[[[10, 100 + 20, 200]]]]
    grad_weight = reference.conv2d_backward_weight(grad_output, x, weight.shape)
    assert grad_weight.tolist() == [[[[1 + 4, 2 + 6]]]]
    assert reference.conv2d_backward_bias(grad_output).tolist() == [3]


def test_hand_worked_transpose():
    x = np.array([[1.0, 2]])[None, None]
    weight = np.array([[1.0, 10, 100]])[None, None]
    # Stamps 1, 10, 100 at column 0, and twice that at column 2.
    for transpose in (reference.conv_transpose2d, reference.conv_transpose2d_loops):
        assert transpose(x, weight, stride=(1, 2)).tolist() == [[[[1, 10, 100 + 2, 20, 200]]]]
        assert transpose(x, weight, stride=(1, 2), padding=(0, 1), output_padding=(0, 1)).tolist() == [
            [[[10, 102, 20, 200]]]
        ]


def test_hand_worked_linear():
    x, weight, bias = np.array([[1.0, 2]]), np.array([[3.0, 4], [5, 6], [0, 1]]), np.array([0.0, 1, 2])
    assert reference.linear(x, weight, bias).tolist() == [[11, 18, 4]]
    grad_input, grad_weight, grad_bias = reference.linear_backward(np.array([[1.0, 10, 100]]), x, weight)
    assert grad_input.tolist() == [[53, 164]]
    assert grad_weight.tolist() == [[1, 2], [10, 20], [100, 200]]
    assert grad_bias.tolist() == [1, 10, 100]


@each(SMALL)
def test_taps_equal_loops(case, rng):
    x, weight, bias = rng.standard_normal(case.x), rng.standard_normal(case.weight), rng.standard_normal(case.weight[0])
    expected = reference.conv2d_loops(x, weight, bias, **case.arguments)
    np.testing.assert_allclose(reference.conv2d(x, weight, bias, **case.arguments), expected, rtol=0, atol=1e-12)


@each(SMALL_TRANSPOSE)
def test_transpose_taps_equal_loops(case, rng):
    x, weight = rng.standard_normal(case.x), rng.standard_normal(case.weight)
    bias = rng.standard_normal(case.weight[1] * case.groups)
    expected = reference.conv_transpose2d_loops(x, weight, bias, **case.arguments)
    np.testing.assert_allclose(
        reference.conv_transpose2d(x, weight, bias, **case.arguments), expected, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("mode", ["valid", "same"])
def test_equals_scipy(mode, rng):
    x, weight = rng.standard_normal((2, 3, 9, 8)), rng.standard_normal((4, 3, 3, 5))
    expected = np.zeros((2, 4, 9, 8) if mode == "same" else (2, 4, 7, 4))
    for n in range(2):
        for k in range(4):
            for c in range(3):
                expected[n, k] += signal.correlate(x[n, c], weight[k, c], mode=mode, method="direct")
    np.testing.assert_allclose(reference.conv2d(x, weight, padding=mode), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        reference.conv2d(x, weight, stride=(2, 3), padding=((1, 1), (2, 2)) if mode == "same" else 0),
        expected[:, :, ::2, ::3],
        rtol=0,
        atol=1e-12,
    )


def test_transpose_equals_scipy(rng):
    x, weight = rng.standard_normal((2, 3, 5, 4)), rng.standard_normal((3, 4, 3, 2))
    expected = np.zeros((2, 4, 7, 5))
    for n in range(2):
        for k in range(3):
            for c in range(4):
                expected[n, c] += signal.convolve(x[n, k], weight[k, c], mode="full", method="direct")
    np.testing.assert_allclose(reference.conv_transpose2d(x, weight), expected, rtol=0, atol=1e-12)


@each(FEW)
def test_gradients_are_the_adjoints(case, rng):
    """conv2d is linear in x and in weight: <grad_output, conv2d(dx, w)> = <grad_input, dx>, and so for the weight."""
    x, weight = rng.standard_normal(case.x), rng.standard_normal(case.weight)
    output = reference.conv2d(x, weight, **case.arguments)
    grad_output = rng.standard_normal(output.shape)
    inner = np.vdot(grad_output, output)
    grad_input = reference.conv2d_backward_input(grad_output, weight, case.x, **case.arguments)
    grad_weight = reference.conv2d_backward_weight(grad_output, x, case.weight, **case.arguments)
    assert np.vdot(grad_input, x) == pytest.approx(inner, rel=1e-11)
    assert np.vdot(grad_weight, weight) == pytest.approx(inner, rel=1e-11)


@each(SMALL_TRANSPOSE)
def test_transpose_gradients_are_the_adjoints(case, rng):
    x, weight = rng.standard_normal(case.x), rng.standard_normal(case.weight)
    output = reference.conv_transpose2d(x, weight, **case.arguments)
    grad_output = rng.standard_normal(output.shape)
    inner = np.vdot(grad_output, output)
    grad_input, grad_weight, grad_bias = reference.conv_transpose2d_backward(grad_output, x, weight, **case.arguments)
    assert np.vdot(grad_input, x) == pytest.approx(inner, rel=1e-11, abs=1e-11)
    assert np.vdot(grad_weight, weight) == pytest.approx(inner, rel=1e-11, abs=1e-11)
    np.testing.assert_allclose(grad_bias, grad_output.sum(axis=(0, 2, 3)), rtol=1e-12, atol=1e-12)


def test_linear_equals_matrix_products(rng):
    x, weight, bias = rng.standard_normal((4, 7)), rng.standard_normal((5, 7)), rng.standard_normal(5)
    grad_output = rng.standard_normal((4, 5))
    np.testing.assert_allclose(reference.linear(x, weight, bias), x @ weight.T + bias, rtol=0, atol=1e-13)
    grad_input, grad_weight, grad_bias = reference.linear_backward(grad_output, x, weight)
    np.testing.assert_allclose(grad_input, grad_output @ weight, rtol=0, atol=1e-13)
    np.testing.assert_allclose(grad_weight, grad_output.T @ x, rtol=0, atol=1e-13)
    np.testing.assert_allclose(grad_bias, grad_output.sum(0), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "sides"),
    [
        # TensorFlow's published rule, by hand: outputs ceil(size / stride), the odd element after
        (5, 3, 1, 1, (1, 1)),
        (5, 2, 1, 1, (0, 1)),
        (6, 3, 2, 1, (0, 1)),
        (7, 3, 2, 1, (1, 1)),
        (5, 3, 1, 2, (2, 2)),
        (10, 2, 5, 1, (0, 0)),
    ],
)
def test_same_padding_by_hand(size, kernel, stride, dilation, sides):
    full = reference.as_padding("same", (size, size), (kernel, kernel), (stride, stride), (dilation, dilation))
    assert full == (*sides, *sides)
