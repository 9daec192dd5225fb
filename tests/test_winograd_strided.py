"""Winograd at stride 2: halves of filters of every size, every edge of an image, runs and blocks that are cut."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from compare import LAYOUTS, assert_close, random_array
from guards import guarded

import numbaconv
from numbaconv import functional as F
from numbaconv.cpu.conv2d import prepare_conv2d, winograd_strided
from numbaconv.cpu.conv2d.choose import DIRECTIONS, choose
from numbaconv.shapes import conv2d_problem

# N, C, H, W; K, R, S; arguments. Tiles are of 4x4 results, a run of 12 to 24 tiles, a block of up to 64 columns.
CASES = {
    "3x3": ((2, 20, 30, 33), (33, 3, 3), {"padding": 1}),
    "3x3_odd_padding_after": ((1, 17, 9, 14), (65, 3, 3), {"padding": ((0, 1), (1, 2))}),
    "3x3_more_padding_than_filter": ((1, 16, 5, 6), (16, 3, 3), {"padding": 4}),
    "3x3_smaller_than_a_tile": ((3, 16, 3, 4), (16, 3, 3), {}),
    "3x3_no_image": ((0, 16, 9, 9), (16, 3, 3), {}),
    "3x3_one_row": ((2, 16, 1, 20), (20, 3, 3), {"padding": 1}),
    "3x3_last_row_unread": ((1, 16, 10, 10), (16, 3, 3), {}),
    "5x5": ((1, 19, 21, 26), (40, 5, 5), {"padding": 2}),
    "4x3": ((1, 16, 18, 19), (24, 4, 3), {"padding": (2, 1)}),
    "3x5": ((1, 24, 19, 18), (16, 3, 5), {"padding": (0, 2)}),
    "groups": ((2, 66, 14, 18), (34, 3, 3), {"padding": 1, "groups": 2}),
    "groups_wide": ((1, 32, 10, 10), (160, 3, 3), {"padding": 1, "groups": 2}),
    "runs_of_most_tiles": ((13, 16, 58, 61), (16, 3, 3), {"padding": 1}),
    "more_than_512_channels": ((1, 520, 16, 16), (16, 3, 3), {"padding": 1}),
    "blocks_of_columns_apart": ((1, 18, 24, 24), (260, 3, 3), {"padding": 1}),
}
HALVES = {case for case, (_, (*_, r, s), _) in CASES.items() if (r, s) != (3, 3)}


def combinations():
    """Each filter size is a kernel of its own, in each type: quick is one type of the less common ones."""
    for case in CASES:
        for dtype in ("float32", "float64"):
            marks = pytest.mark.full if dtype == "float64" and case in HALVES else ()
            yield pytest.param(case, dtype, id=f"{case}-{dtype}", marks=marks)


@pytest.mark.reduced
@pytest.mark.parametrize(("case", "dtype"), list(combinations()))
def test_both_directions(case, dtype, rng):
    input_shape, (k, r, s), arguments = CASES[case]
    arguments = {"stride": 2, **arguments}
    x = random_array(rng, input_shape, dtype)
    weight = random_array(rng, (k, input_shape[1] // arguments.get("groups", 1), r, s), dtype)
    bias = random_array(rng, (k,), dtype)
    expected = reference.conv2d(x, weight, bias, **arguments)
    grad_output = random_array(rng, expected.shape, dtype)
    of_input = reference.conv2d_backward_input(grad_output, weight, x.shape, **arguments)
    defaults = {"padding": 0, "dilation": 1, "groups": 1}
    problem = conv2d_problem(x.shape, weight.shape, (k,), 2, *(arguments.get(n, d) for n, d in defaults.items()))
    with numbaconv.algorithm("winograd_strided"), guarded():
        for layout in (LAYOUTS["channels_first"], LAYOUTS["channels_last"]):
            output = F.conv2d(layout(x), weight, bias, **arguments)
            rectified = F.conv2d(layout(x), weight, bias, relu=True, **arguments)
            prepared = prepare_conv2d(weight, bias)(problem, layout(x), False)
            grad_input = F.conv2d_backward_input(layout(grad_output), weight, x.shape, **arguments)
            assert_close(output, expected, dtype, "output")
            assert rectified.tobytes() == np.maximum(output, 0).tobytes()
            assert prepared.tobytes() == output.tobytes()
            assert_close(grad_input, of_input, dtype, "grad_input")


@pytest.mark.parametrize("output_padding", [0, 1])
def test_transposed_convolution_has_a_bias(output_padding, rng):
    x, weight, bias = (random_array(rng, shape, "float32") for shape in ((2, 24, 9, 7), (24, 17, 3, 3), (17,)))
    options = {"stride": 2, "padding": 1, "output_padding": output_padding}
    with numbaconv.algorithm("winograd_strided"):
        actual = F.conv_transpose2d(x, weight, bias, **options)
    assert_close(actual, reference.conv_transpose2d(x, weight, bias, **options), "float32", "output")


@pytest.mark.parametrize(("channels", "most"), [(64, 8e-7), (1024, 1.6e-6)])
def test_error_is_hardly_above_that_of_direct(channels, most, rng):
    """Relative L2 error against float64; at stride 1 Winograd has up to 5e-6."""
    x = rng.standard_normal((1, channels, 32, 32), dtype=np.float32)
    weight = rng.standard_normal((64, channels, 3, 3), dtype=np.float32)
    grad_output = rng.standard_normal((1, 64, 16, 16), dtype=np.float32)

    def both(x, weight, grad_output):
        arguments = {"stride": 2, "padding": 1}
        return F.conv2d(x, weight, **arguments), F.conv2d_backward_input(grad_output, weight, x.shape, **arguments)

    with numbaconv.algorithm("winograd_strided"):
        actual = both(x, weight, grad_output)
    with numbaconv.algorithm("direct"):
        expected = both(*(a.astype(np.float64) for a in (x, weight, grad_output)))
    for a, e in zip(actual, expected, strict=True):
        assert np.linalg.norm(a - e) <= most * np.linalg.norm(e)


@pytest.mark.parametrize(
    ("shape", "filters", "padding", "forward", "backward_input"),
    [
        ((8, 128, 56, 56), (128, 3, 3), 1, True, True),
        ((8, 128, 32, 32), (128, 4, 4), 1, True, True),
        ((8, 128, 32, 32), (128, 2, 2), 0, False, False),  # nothing to save
        ((8, 256, 28, 28), (256, 3, 3), 1, False, True),  # 14 pixels are 16 in tiles
        ((8, 256, 26, 26), (256, 3, 3), 1, False, False),
        ((1, 128, 56, 56), (128, 3, 3), 1, False, True),  # 49 tiles
        ((8, 24, 56, 56), (64, 3, 3), 1, False, True),  # 24 channels to sum over, and 64
        ((8, 3, 224, 224), (64, 3, 3), 1, False, False),
    ],
)
def test_what_is_chosen(shape, filters, padding, forward, backward_input):
    problem = conv2d_problem(shape, (filters[0], shape[1], *filters[1:]), None, 2, padding, 1, 1)
    chosen = [choose(problem, direction, None).name == "winograd_strided" for direction in DIRECTIONS]
    assert chosen == [forward, backward_input, False]


@pytest.mark.parametrize("change", [{"stride": (2, 1)}, {"stride": 3}, {"dilation": 2}, {"groups": 4}])
def test_what_is_not_supported_is_said(change):
    arguments = {"stride": 2, "padding": 1, "dilation": 1, "groups": 1, **change}
    problem = conv2d_problem((2, 32, 20, 20), (64, 32 // arguments["groups"], 3, 3), None, *arguments.values())
    assert next(iter(change)).rstrip("s") in winograd_strided.ALGORITHM.supports(problem)
