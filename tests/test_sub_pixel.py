"""Input-gradients of strided convolutions as one convolution at stride 1: every residue, ends, classes without taps."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from compare import assert_close
from guards import guarded

import numbaconv
from numbaconv import functional
from numbaconv.cpu.conv2d.choose import choose
from numbaconv.shapes import conv2d_problem

# N, C, H, W; K, R, S; arguments.
CASES = {
    "alexnet_c1": ((1, 3, 47, 51), (40, 11, 11), {"stride": 4}),
    "resnet_stem": ((1, 3, 24, 24), (20, 7, 7), {"stride": 2, "padding": 3}),
    "patches": ((2, 3, 16, 24), (10, 8, 8), {"stride": 8}),
    "one_channel": ((2, 1, 17, 16), (7, 4, 3), {"stride": 2, "padding": 1}),
    "stride_of_columns": ((1, 2, 9, 20), (5, 3, 4), {"stride": (1, 3), "padding": (1, 2)}),
    "stride_of_rows": ((2, 5, 20, 9), (6, 5, 2), {"stride": (3, 1), "padding": (2, 0)}),
    "longer_than_the_filter": ((1, 4, 22, 23), (6, 2, 3), {"stride": (5, 4)}),
    "dilated": ((1, 3, 25, 22), (9, 3, 4), {"stride": 2, "dilation": (2, 3), "padding": 2}),
    "dilation_is_stride": ((1, 3, 20, 20), (4, 3, 3), {"stride": 3, "dilation": 3, "padding": 1}),
    "rows_that_no_window_reads": ((1, 2, 12, 13), (3, 3, 3), {"stride": 5}),
    "more_padding_than_filter": ((2, 2, 5, 4), (5, 2, 3), {"stride": 2, "padding": 4}),
    "asymmetric_padding": ((1, 3, 10, 11), (4, 4, 3), {"stride": 2, "padding": ((0, 2), (1, 0))}),
    "lower_than_the_stride": ((1, 3, 3, 30), (4, 3, 3), {"stride": 4, "padding": 1}),
    "a_winograd_of_it": ((4, 12, 40, 40), (36, 5, 5), {"stride": 2, "padding": 2}),
}


@pytest.mark.reduced
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("case", CASES)
def test_input_gradient(case, layout, dtype, rng):
    shape, (k, r, s), arguments = CASES[case]
    weight = rng.standard_normal((k, shape[1], r, s))
    grad_output = rng.standard_normal(reference.conv2d(np.zeros(shape), weight, None, **arguments).shape)
    expected = reference.conv2d_backward_input(grad_output, weight, shape, **arguments)
    weight, grad_output = weight.astype(dtype), grad_output.astype(dtype)
    if layout == "channels_last":
        grad_output = numbaconv.channels_last(grad_output)
    with numbaconv.algorithm("sub_pixel"), guarded():
        actual = functional.conv2d_backward_input(grad_output, weight, shape, **arguments)
    assert_close(actual, expected, dtype, case, 5.0 if case == "a_winograd_of_it" else 1.0)


@pytest.mark.parametrize("output_padding", [0, 1])
def test_transposed_convolution_has_a_bias(output_padding, rng):
    x, weight, bias = rng.standard_normal((2, 9, 6, 7)), rng.standard_normal((9, 2, 3, 3)), rng.standard_normal(2)
    options = {"stride": 3, "padding": 1, "output_padding": output_padding}
    arrays = [a.astype("float32") for a in (x, weight, bias)]
    with numbaconv.algorithm("direct"):
        expected = functional.conv_transpose2d(x, weight, bias, **options)
    with numbaconv.algorithm("sub_pixel"):
        actual = functional.conv_transpose2d(*arrays, **options)
    assert_close(actual, expected, "float32", "output")


@pytest.mark.parametrize(
    ("shape", "filters", "stride", "padding", "taken"),
    [
        ((8, 3, 227, 227), (96, 11), 4, 0, "sub_pixel"),
        ((1, 3, 224, 224), (64, 7), 2, 3, "sub_pixel"),
        ((1, 3, 224, 224), (768, 16), 16, 0, "sub_pixel"),
        ((8, 128, 57, 57), (128, 3), 3, 1, "direct"),  # fills its vectors
        ((8, 24, 48, 48), (24, 3), 2, 1, "direct"),  # Winograd of two taps saves too little
        ((500, 3, 224, 224), (64, 7), 2, 3, "direct"),  # 300 MB, twice
        ((8, 256, 56, 56), (512, 1), 2, 0, "direct"),
        ((1, 3, 70000, 8), (4, 3), 60000, 1, "im2col"),  # a plan would be as long as the stride
    ],
)
def test_choice(shape, filters, stride, padding, taken):
    k, size = filters
    problem = conv2d_problem(shape, (k, shape[1], size, size), None, stride, padding, 1, 1)
    assert choose(problem, "backward_input", None).name == taken
