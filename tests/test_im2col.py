"""Small convolutions: whatever lies in whatever layout, together and alone, on any number of threads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
from compare import LAYOUTS, assert_close, random_array

import numbaconv
from numbaconv import functional as F
from numbaconv.cpu.conv2d.choose import choose
from numbaconv.shapes import conv2d_problem

# Channels, filters and their groups: each remainder of the tiles of dot products (4 and 2), and of whole vectors.
SHAPES = [
    ((1, 8, 5, 5), (64, 8, 3, 3), 1),
    ((3, 4, 6, 5), (10, 2, 3, 2), 2),
    ((2, 1, 4, 4), (1, 1, 2, 2), 1),
    ((2, 3, 3, 3), (7, 3, 3, 3), 1),
    ((2, 3, 9, 3), (7, 3, 3, 3), 1),
    ((0, 2, 4, 4), (3, 2, 3, 3), 1),
]
ORDERS = [LAYOUTS[name] for name in ("channels_first", "channels_last", "sliced", "read_only")]


@pytest.mark.reduced
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_gradients_in_every_layout(shapes, dtype, rng):
    input_shape, weight_shape, groups = shapes
    problem = conv2d_problem(input_shape, weight_shape, None, 1, 0, 1, groups)
    assert {choose(problem, direction, None).name for direction in ("backward_input", "backward_weight")} == {"im2col"}
    x, weight = random_array(rng, input_shape, dtype), random_array(rng, weight_shape, dtype)
    grad = random_array(rng, problem.output_shape, dtype)
    of_input = reference.conv2d_backward_input(grad, weight, input_shape, groups=groups)
    of_weight = reference.conv2d_backward_weight(grad, x, weight_shape, groups=groups)
    of_bias = reference.conv2d_backward_bias(grad)
    for layout, x_layout in itertools.product(ORDERS, ORDERS):
        g = layout(grad)
        grads = F.conv2d_backward(g, x_layout(x), weight, groups=groups)
        assert_close(grads[0], of_input, dtype, "grad_input")
        assert_close(grads[1], of_weight, dtype, "grad_weight")
        assert_close(grads[2], of_bias, dtype, "grad_bias")
        assert numbaconv.layout_of(grads[0]) == numbaconv.layout_of(g)
        alone = F.conv2d_backward_input(g, weight, input_shape, groups=groups)
        assert alone.tobytes() == grads[0].tobytes()
        alone = F.conv2d_backward_weight(g, x_layout(x), weight_shape, groups=groups)
        assert alone.tobytes() == grads[1].tobytes()


@pytest.mark.reduced
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_forward_in_every_layout(shapes, relu, dtype, rng):
    input_shape, weight_shape, groups = shapes
    problem = conv2d_problem(input_shape, weight_shape, None, 1, 0, 1, groups)
    assert choose(problem, "forward", None).name == "im2col"
    x, weight = random_array(rng, input_shape, dtype), random_array(rng, weight_shape, dtype)
    bias = random_array(rng, weight_shape[:1], dtype)
    expected = reference.conv2d(x, weight, bias, groups=groups)
    expected = np.maximum(expected, 0) if relu else expected
    for layout in ORDERS:
        y = F.conv2d(layout(x), layout(weight), bias, groups=groups, relu=relu)
        assert_close(y, expected, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("images", [1, 3])
def test_a_prepared_call_repeated_with_other_layouts_and_algorithms(dtype, images, rng):
    """What it keeps of a call serves the next one of that kind only."""
    weight, bias = random_array(rng, (7, 5, 3, 3), dtype), random_array(rng, 7, dtype)
    x = random_array(rng, (images, 5, 6, 4), dtype)
    predict = F.prepare_conv2d(weight, bias)
    expected = reference.conv2d(x, weight, bias)
    for _ in range(2):
        for name in ("channels_first", "channels_last", "sliced", "fortran", "read_only"):
            same = LAYOUTS[name](x)
            y = predict(same)
            assert_close(y, expected, dtype)
            assert numbaconv.layout_of(y) == numbaconv.layout_of(same)
            with numbaconv.algorithm("direct"):
                assert predict(same).tobytes() == F.conv2d(same, weight, bias).tobytes()
    assert_close(predict(-x), reference.conv2d(-x, weight, bias), dtype)


@pytest.mark.parametrize("needs", list(itertools.product([False, True], repeat=3)))
def test_any_of_the_gradients_on_any_number_of_threads(needs, rng, monkeypatch):
    """Tasks are images, groups and the bias; where one kind is not needed the others must not move."""
    monkeypatch.setattr("numbaconv.parallel.PARALLEL_WORK_NS", 0.0)
    x, weight = random_array(rng, (5, 6, 6, 5), "float32"), random_array(rng, (9, 2, 3, 3), "float32")
    grad = random_array(rng, (5, 9, 4, 3), "float32")
    expected = F.conv2d_backward(grad, x, weight, groups=3)
    for threads in range(1, numbaconv.get_num_threads() + 1):
        with numbaconv.num_threads(threads):
            grads = F.conv2d_backward(grad, x, weight, groups=3, needs=needs)
        for wanted, actual, whole in zip(needs, grads, expected, strict=True):
            assert (actual is not None) == wanted
            assert not wanted or actual.tobytes() == whole.tobytes()


@pytest.mark.parametrize("direction", ["forward", "backward_input", "backward_weight"])
def test_groups_of_few_filters_are_left_to_depthwise_sooner(direction):
    """Their products are too small to pay for the patches: 32 channels of 8x8 took 1.5 to 3 times as long."""
    names = [
        choose(conv2d_problem((1, 32, size, size), (32, 1, 3, 3), None, 1, 1, 1, 32), direction, None).name
        for size in (3, 8)
    ]
    assert names == ["im2col", "depthwise"]
