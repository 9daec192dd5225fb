"""conv_transpose2d and its gradients against the float64 reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
from cases import TRANSPOSE, each
from compare import CHANNELS_LAST, LAYOUTS, Unchanged, assert_close, random_array

import numbaconv
from numbaconv import functional, layout_of

pytestmark = pytest.mark.usefixtures("serial_float64")
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def problem_arrays(case, rng, dtype):
    """x, weight, bias."""
    shapes = case.x, case.weight, (case.weight[1] * case.groups,)
    return [random_array(rng, shape, dtype) for shape in shapes]


@pytest.mark.reduced
@DTYPES
@each(TRANSPOSE)
def test_forward_and_backward(case, dtype, rng, run):
    x, weight, bias = problem_arrays(case, rng, dtype)
    with Unchanged(x, weight, bias):
        output = run(functional.conv_transpose2d, x, weight, bias, **case.arguments)
    expected = reference.conv_transpose2d(x, weight, bias, **case.arguments)
    assert_close(output, expected, dtype, "output")
    grad_output = random_array(rng, expected.shape, dtype)
    with Unchanged(x, weight, grad_output):
        result = run(functional.conv_transpose2d_backward, grad_output, x, weight, **case.arguments)
    wanted = reference.conv_transpose2d_backward(grad_output, x, weight, **case.arguments)
    for name, actual, value in zip(("grad_input", "grad_weight", "grad_bias"), result, wanted, strict=True):
        assert_close(actual, value, dtype, name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("algorithm", "channels", "weight_shape", "groups"),
    [("direct", 4, (4, 5, 2, 2), 1), ("direct", 3, (3, 40, 1, 2), 1), ("depthwise", 16, (16, 1, 2, 2), 16)],
)
def test_bias_where_no_tap_reaches(algorithm, channels, weight_shape, groups, dtype, rng):
    """Small problems take an algorithm that has no gaps to fill. 19 x 18 pixels of a result are two tasks."""
    x, weight = random_array(rng, (1, channels, 5, 4), dtype), random_array(rng, weight_shape, dtype)
    bias = random_array(rng, (weight_shape[1] * groups,), dtype)
    arguments = {"stride": 4, "output_padding": (2, 3), "groups": groups}
    with numbaconv.algorithm(algorithm):
        output = functional.conv_transpose2d(x, weight, bias, **arguments)
    assert_close(output, reference.conv_transpose2d(x, weight, bias, **arguments), dtype)


def test_no_bias(rng, run):
    x, weight = random_array(rng, (1, 4, 3, 3), "float32"), random_array(rng, (4, 5, 3, 3), "float32")
    output = run(functional.conv_transpose2d, x, weight, stride=2)
    assert_close(output, reference.conv_transpose2d(x, weight, stride=2), "float32")


@pytest.mark.parametrize("needs", list(itertools.product([True, False], repeat=3)))
def test_needs(needs, rng, run):
    case = next(case for case in TRANSPOSE if case.name == "groups2")
    x, weight, _ = problem_arrays(case, rng, "float32")
    grad_output = random_array(rng, reference.conv_transpose2d(x, weight, **case.arguments).shape, "float32")
    result = run(functional.conv_transpose2d_backward, grad_output, x, weight, needs=needs, **case.arguments)
    assert [gradient is not None for gradient in result] == list(needs)
    wanted = reference.conv_transpose2d_backward(grad_output, x, weight, **case.arguments)
    for actual, value in zip(result, wanted, strict=True):
        if actual is not None:
            assert_close(actual, value, "float32")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, rng, run, device):
    case = next(case for case in TRANSPOSE if case.name == "doubling_3x3")
    x, weight, bias = problem_arrays(case, rng, "float32")
    x, weight = LAYOUTS[layout](x), LAYOUTS[layout](weight)
    expected = reference.conv_transpose2d(x, weight, bias, **case.arguments)
    grad_output = LAYOUTS[layout](random_array(rng, expected.shape, "float32"))
    with Unchanged(x, weight, bias, grad_output):
        output = run(functional.conv_transpose2d, x, weight, bias, **case.arguments)
        result = run(functional.conv_transpose2d_backward, grad_output, x, weight, **case.arguments)
    assert_close(output, expected, "float32")
    wanted = reference.conv_transpose2d_backward(grad_output, x, weight, **case.arguments)
    for actual, value in zip(result, wanted, strict=True):
        assert_close(actual, value, "float32")
    if device == "cpu":
        assert layout_of(output) == ("channels_last" if layout in CHANNELS_LAST else "channels_first")


def test_unbatched(rng, run):
    case = next(case for case in TRANSPOSE if case.name == "doubling_4x4")
    x, weight, bias = problem_arrays(case, rng, "float64")
    output = run(functional.conv_transpose2d, x[0], weight, bias, **case.arguments)
    expected = reference.conv_transpose2d(x[:1], weight, bias, **case.arguments)
    assert_close(output, expected[0], "float64")
    grad_output = rng.standard_normal(output.shape)
    result = run(functional.conv_transpose2d_backward, grad_output, x[0], weight, **case.arguments)
    wanted = reference.conv_transpose2d_backward(grad_output[None], x[:1], weight, **case.arguments)
    assert_close(result[0], wanted[0][0], "float64")
    assert_close(result[1], wanted[1], "float64")
    assert_close(result[2], wanted[2], "float64")


def test_it_is_the_input_gradient_of_a_convolution(rng, run):
    grad_output, weight = rng.standard_normal((2, 6, 4, 4)), rng.standard_normal((6, 3, 3, 3))
    up = run(functional.conv_transpose2d, grad_output, weight, stride=2, padding=1, output_padding=1)
    expected = reference.conv2d_backward_input(grad_output, weight, (2, 3, 8, 8), stride=2, padding=1)
    assert_close(up, expected, "float64")


def test_empty_batch_keeps_shapes(run):
    x, weight = np.zeros((0, 4, 3, 3), "float32"), np.ones((4, 5, 2, 2), "float32")
    assert run(functional.conv_transpose2d, x, weight, stride=2).shape == (0, 5, 6, 6)
