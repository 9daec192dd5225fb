"""Input-gradients as products with all filters and sums over taps: ends of tiles, vectors, images and tasks."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from compare import assert_close
from guards import guarded

import numbaconv
from numbaconv import functional
from numbaconv.cpu.conv2d import col2im
from numbaconv.cpu.conv2d.choose import choose
from numbaconv.shapes import conv2d_problem

# N, C, H, W; K, R, S; arguments.
CASES = {
    "lenet_c2": ((9, 6, 14, 14), (16, 5, 5), {}),
    "cifar": ((2, 3, 32, 32), (10, 5, 5), {"padding": 2}),
    "several_tasks_an_image": ((1, 3, 70, 40), (64, 3, 3), {"padding": 1}),
    "tasks_of_an_image_with_a_tall_filter": ((1, 2, 60, 9), (5, 7, 2), {"padding": (3, 1)}),
    "long_sums": ((1, 3, 5, 8), (1100, 2, 2), {"padding": 1}),
    "narrower_than_a_tile": ((2, 4, 9, 5), (7, 3, 3), {}),
    "dilated": ((2, 3, 20, 21), (7, 3, 2), {"padding": (2, 3), "dilation": (2, 3)}),
    "dilation_reaches_over_tasks": ((1, 2, 50, 12), (4, 3, 2), {"padding": (8, 0), "dilation": (8, 1)}),
    "asymmetric_padding": ((1, 2, 8, 9), (4, 3, 4), {"padding": ((0, 3), (4, 1))}),
    "more_padding_than_filter": ((2, 2, 4, 5), (5, 2, 3), {"padding": 4}),
    "rows_that_no_tap_reaches": ((1, 3, 4, 6), (5, 2, 2), {"padding": ((0, 0), (5, 0))}),
    "one_row": ((1, 5, 1, 40), (4, 1, 7), {"padding": (0, 3)}),
    "one_column": ((1, 5, 40, 1), (4, 7, 1), {"padding": (3, 0)}),
    "one_tap": ((2, 3, 6, 7), (5, 1, 1), {}),
    "many_channels": ((2, 33, 6, 9), (10, 3, 3), {"padding": 1}),
}


def check(shape, weight, arguments, dtype, layout, rng):
    grad_output = rng.standard_normal(reference.conv2d(np.zeros(shape), weight, None, **arguments).shape)
    expected = reference.conv2d_backward_input(grad_output, weight, shape, **arguments)
    weight, grad_output = weight.astype(dtype), grad_output.astype(dtype)
    if layout == "channels_last":
        grad_output = numbaconv.channels_last(grad_output)
    with numbaconv.algorithm("col2im"), guarded():
        actual = functional.conv2d_backward_input(grad_output, weight, shape, **arguments)
    assert_close(actual, expected, dtype, "grad_input")
    assert numbaconv.layout_of(actual) == layout or shape[1] == 1


@pytest.mark.reduced
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("case", CASES)
def test_input_gradient(case, layout, dtype, rng):
    shape, (k, r, s), arguments = CASES[case]
    check(shape, rng.standard_normal((k, shape[1], r, s)), arguments, dtype, layout, rng)


@pytest.mark.reduced
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", range(1, 19))
def test_every_number_of_channels(channels, dtype, rng):
    """Sums of a quarter of a vector, a half, a whole one, several; products of one to four vectors, and the rest."""
    for k, width in ((3, 7), (8, 16), (17, 21)):
        weight = rng.standard_normal((k, channels, 2, 3))
        check((1, channels, 5, width), weight, {"padding": 1}, dtype, "channels_last", rng)


@pytest.mark.reduced
@pytest.mark.parametrize("width", range(1, 26))
def test_every_width(width, rng):
    for padding in (0, 2):
        if width + 2 * padding >= 3:
            check((2, 3, 4, width), rng.standard_normal((6, 3, 2, 3)), {"padding": (0, padding)}, "float32",
                  "channels_last", rng)  # fmt: skip


def test_transposed_convolution_has_a_bias(rng):
    x, weight, bias = rng.standard_normal((2, 9, 6, 7)), rng.standard_normal((9, 2, 3, 3)), rng.standard_normal(2)
    with numbaconv.algorithm("direct"):
        expected = functional.conv_transpose2d(x, weight, bias, padding=1)
    with numbaconv.algorithm("col2im"):
        actual = functional.conv_transpose2d(*(a.astype("float32") for a in (x, weight, bias)), padding=1)
    assert_close(actual, expected, "float32", "output")


@pytest.mark.parametrize(
    ("shape", "weight", "padding", "taken"),
    [
        ((64, 6, 14, 14), (16, 6, 5, 5), 0, "col2im"),
        ((1, 3, 224, 224), (64, 3, 3, 3), 1, "col2im"),
        ((8, 12, 28, 28), (33, 12, 2, 2), 0, "col2im"),  # 48 columns are three vectors, 12 channels one for each tap
        ((8, 20, 28, 28), (33, 20, 2, 2), 0, "winograd_4"),
        ((8, 64, 28, 28), (64, 64, 3, 3), 1, "winograd_4"),
        ((8, 32, 28, 28), (8, 32, 3, 3), 1, "direct"),  # fills its vectors
        ((1, 3, 8, 100_000), (64, 3, 3, 3), 1, "planes"),  # products of a row would not stay in cache
    ],
)
def test_chosen_where_it_is_faster(shape, weight, padding, taken):
    assert choose(conv2d_problem(shape, weight, None, 1, padding, 1, 1), "backward_input", None).name == taken


def test_does_not_support():
    assert "stride" in col2im.ALGORITHM.supports(conv2d_problem((8, 3, 32, 32), (6, 3, 3, 3), None, 2, 1, 1, 1))
    assert "groups" in col2im.ALGORITHM.supports(conv2d_problem((8, 4, 32, 32), (6, 2, 3, 3), None, 1, 1, 1, 2))
