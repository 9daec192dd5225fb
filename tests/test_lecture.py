"""The worked numbers of the lecture (Stanford CS231n, "Convolutional Neural Networks")."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv import functional, nn, shapes
from numbaconv.errors import ShapeError


def ones(*shape):
    return np.ones(shape, "float32")


def test_relu_passes_the_gradient_where_the_input_is_positive():
    x, upstream = np.array([1, -2, 3, -1], "float32"), np.array([4, -1, 5, 9], "float32")
    assert functional.relu(x).tolist() == [1, 0, 3, 0]
    assert functional.relu_backward(upstream, x).tolist() == [4, 0, 5, 0]


def test_one_filter_gives_one_activation_map():
    """A 32x32x3 image with a 5x5x3 filter: 28x28 positions, each a 75-dimensional dot product plus a bias."""
    output = functional.conv2d(ones(1, 3, 32, 32), ones(1, 3, 5, 5), ones(1))
    assert output.shape == (1, 1, 28, 28)
    np.testing.assert_array_equal(output, 76)


def test_six_filters_give_a_new_image_of_28x28x6():
    assert functional.conv2d(ones(1, 3, 32, 32), ones(6, 3, 5, 5)).shape == (1, 6, 28, 28)


def test_layer_after_layer_shrinks():
    x = functional.relu(functional.conv2d(ones(1, 3, 32, 32), ones(6, 3, 5, 5)))
    assert functional.relu(functional.conv2d(x, ones(10, 6, 5, 5))).shape == (1, 10, 24, 24)


def test_ten_5x5_filters_with_padding_2():
    """32x32x3 stays 32x32, ten deep; 5 * 5 * 3 + 1 = 76 parameters a filter, 760 in all."""
    layer = nn.Conv2d(3, 10, 5, padding=2, rng=0)
    output = layer(ones(1, 3, 32, 32))
    assert output.shape == (1, 10, 32, 32)
    assert sum(parameter.size for parameter in layer.parameters()) == 760


@pytest.mark.parametrize(("stride", "padding", "expected"), [(1, 0, 5), (2, 0, 3), (1, 1, 7), (2, 1, 4), (3, 1, 3)])
def test_7x7_with_a_3x3_filter(stride, padding, expected):
    """(N + 2P - F) / stride + 1."""
    assert (7 + 2 * padding - 3) / stride + 1 == expected
    output = functional.conv2d(ones(1, 1, 7, 7), ones(1, 1, 3, 3), stride=stride, padding=padding)
    assert output.shape == (1, 1, expected, expected)
    size = shapes.conv2d_output_size(7, 7, 3, stride=stride, padding=padding, strict=True)
    assert size == (expected, expected)


def test_7x7_with_a_3x3_filter_at_stride_3_does_not_fit():
    """(7 - 3) / 3 + 1 = 2.33: an error by the lecture's rule, rounded down by PyTorch's."""
    with pytest.raises(ShapeError, match="stride=3"):
        shapes.conv2d_output_size(7, 7, 3, stride=3, strict=True)
    assert functional.conv2d(ones(1, 1, 7, 7), ones(1, 1, 3, 3), stride=3).shape == (1, 1, 2, 2)


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (5, 2), (7, 3)])
def test_padding_of_half_a_filter_keeps_the_size(kernel, padding):
    assert functional.conv2d(ones(1, 1, 9, 9), ones(1, 1, kernel, kernel), padding=padding).shape == (1, 1, 9, 9)


def test_1x1_convolution_from_64_to_32():
    """Each of 32 filters is a 64-dimensional dot product at every one of 56x56 positions."""
    output = functional.conv2d(ones(1, 64, 56, 56), ones(32, 64, 1, 1))
    assert output.shape == (1, 32, 56, 56)
    np.testing.assert_array_equal(output, 64)


def test_fully_connected_3072_to_10():
    """A 32x32x3 image stretched to 3072 numbers; each of ten outputs is a dot product with a row of W."""
    x = functional.flatten(ones(1, 3, 32, 32))
    assert x.shape == (1, 3072)
    weight = np.arange(10, dtype="float32")[:, None] * ones(10, 3072)
    assert functional.linear(x, weight).tolist() == [[3072 * k for k in range(10)]]


def test_2x2_max_pooling_with_stride_2():
    x = np.array([[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]], "float32")[None, None]
    assert functional.max_pool2d(x, 2, stride=2).tolist() == [[[[6, 8], [3, 4]]]]


def test_the_perceptron_s_step():
    """Rosenblatt's rule: w(t + 1) = w(t) + rate * (desired - given) * x, where given = 1 if w x + b > 0 else 0.

    Worked: w = (1, -1), b = 0.5, x = (2, 1): the score is 1.5, so it says 1; the desired answer is 0. With
    rate 0.5: w = (1, -1) - 0.5 * (2, 1) = (0, -1.5) and b = 0.5 - 0.5 = 0. The score is now -1.5: right.
    """
    weight, bias, x = np.array([[1.0, -1.0]]), np.array([0.5]), np.array([[2.0, 1.0]])
    desired, rate = 0.0, 0.5
    score = functional.linear(x, weight, bias)
    assert score.tolist() == [[1.5]]
    given = (score > 0).astype(float)
    _, grad_weight, grad_bias = functional.linear_backward(given - desired, x, weight)
    weight, bias = weight - rate * grad_weight, bias - rate * grad_bias
    assert weight.tolist() == [[0.0, -1.5]]
    assert bias.tolist() == [0.0]
    assert functional.linear(x, weight, bias).tolist() == [[-1.5]]


def test_a_convolution_as_the_lecture_draws_it():
    """A 5x5 binary image and the 3x3 filter with a cross of ones: the classic moving picture, all nine numbers."""
    image = np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]], "float32")
    weight = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], "float32")
    output = functional.conv2d(image[None, None], weight[None, None])
    assert output.tolist() == [[[[4, 3, 4], [2, 4, 3], [2, 3, 4]]]]
