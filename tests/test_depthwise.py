"""Depthwise and narrow grouped convolution: runs at borders and inside, vectors that overlap, groups of 1, 2, 4, 8."""

from __future__ import annotations

import pytest
import reference
from compare import assert_close

import numbaconv
from numbaconv import functional
from numbaconv.cpu.conv2d import depthwise, depthwise_planes
from numbaconv.shapes import conv2d_problem

# N, C, H, W; R, S; arguments. Widths of less than a run, of whole runs, and of one that overlaps the one before.
CASES = {
    "3x3": ((2, 16, 9, 16), (3, 3), {"padding": 1}),
    "overlapping_vectors_stride2": ((2, 36, 13, 29), (3, 3), {"stride": 2, "padding": 1}),
    "7x7_narrow_image": ((1, 100, 7, 7), (7, 7), {"padding": 3}),
    "17x17": ((1, 20, 28, 28), (17, 17), {"padding": 8}),
    "dilated_3x5": ((2, 48, 10, 12), (3, 5), {"padding": (2, 1), "dilation": 2}),
    "stride3_padding2": ((1, 20, 5, 4), (3, 3), {"stride": 3, "padding": 2}),
    "5x5_stride2_all_border": ((1, 16, 3, 3), (5, 5), {"stride": 2, "padding": 4}),
    "1x3": ((2, 64, 20, 20), (1, 3), {"padding": (0, 1)}),
    "wide_inside": ((1, 16, 4, 50), (3, 3), {}),
    # Every number of taps that are added at once, and of those left over, in runs of 8, 14 and 16.
    **{
        f"1x{s}_of_{w}": ((1, 16, 2, w), (1, s), {"padding": (0, s // 2)})
        for s, w in ((1, 9), (2, 14), (3, 33), (4, 28), (5, 48), (6, 42), (7, 56), (8, 5), (9, 32), (10, 31), (15, 70))
    },
    **{
        f"1x{s}_dilation_is_stride": ((1, 16, 2, 60), (1, s), {"stride": (1, 2), "dilation": (1, 2), "padding": (0, s)})
        for s in (2, 5, 7)
    },
    # Rows that are fetched ahead; of the gradient as well
    "long_rows": ((2, 36, 5, 180), (3, 3), {"padding": 1}),
    "long_rows_stride2": ((1, 36, 6, 360), (3, 3), {"stride": 2, "padding": 1}),
    "long_rows_stride_beyond_filter": ((1, 100, 7, 70), (1, 2), {"stride": 3, "padding": (0, 1)}),
    "long_rows_dilated": ((1, 64, 7, 100), (3, 2), {"stride": (1, 2), "padding": (2, 1), "dilation": (2, 1)}),
    # Of planes: several tasks, also where the last is shorter, padding of whole strides, and rows of all steps
    "tall": ((1, 16, 83, 120), (3, 3), {"padding": 1}),
    "tall_stride2": ((1, 16, 131, 90), (5, 5), {"padding": 2, "stride": 2}),
    "padding_beyond_strides": ((2, 16, 5, 9), (3, 7), {"padding": (1, 6), "stride": (1, 3)}),
    "padding_beyond_pairs": ((2, 16, 12, 3), (6, 4), {"padding": (5, 3), "stride": (3, 2), "dilation": (3, 1)}),
    **{f"1x{s}_stride2": ((1, 16, 2, 33), (1, s), {"stride": (1, 2), "padding": (0, 3)}) for s in (4, 7, 11)},
}


def problem_of(case, group):
    """The problem, and the arguments of its convolution; None where it is none of depthwise's."""
    input_shape, filter_size, arguments = CASES[case]
    channels = input_shape[1]
    if channels % group:
        return None
    arguments = {**arguments, "groups": channels // group}
    options = [arguments.get(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))]
    weight_shape = channels, group, *filter_size
    problem = conv2d_problem(input_shape, weight_shape, (channels,), *options, arguments["groups"])
    return None if depthwise.supports(problem) else (problem, arguments)


# Every number of taps in a row, and of channels a group, is another kernel of the weight-gradient: of 8 for one number
# (and for none where a vector is too short for them).
OF_EIGHT = ("3x3", "1x3", "wide_inside", "tall")
COMBINATIONS = [(case, group) for case in CASES for group in (1, 2, 4)] + [(case, 8) for case in OF_EIGHT]
COMBINATIONS = [combination for combination in COMBINATIONS if problem_of(*combination)]


@pytest.mark.reduced
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["channels_first", "channels_first_planes", "channels_last"])
@pytest.mark.parametrize(("case", "group"), COMBINATIONS)
def test_all_directions(case, layout, group, dtype, rng, monkeypatch):
    problem, arguments = problem_of(case, group)
    x, weight = rng.standard_normal(problem.input_shape), rng.standard_normal(problem.weight_shape)
    bias = rng.standard_normal(problem.weight_shape[0])
    expected = reference.conv2d(x, weight, bias, **arguments)
    grad_output = rng.standard_normal(expected.shape)
    wanted = (
        reference.conv2d_backward_input(grad_output, weight, x.shape, **arguments),
        reference.conv2d_backward_weight(grad_output, x, weight.shape, **arguments),
        reference.conv2d_backward_bias(grad_output),
    )
    x, weight, bias, grad_output = (a.astype(dtype) for a in (x, weight, bias, grad_output))
    if layout == "channels_first_planes":  # narrow rows too
        monkeypatch.setattr(depthwise_planes, "pays", lambda problem, itemsize: True)
    if layout == "channels_last":
        x, grad_output = numbaconv.channels_last(x), numbaconv.channels_last(grad_output)
    with numbaconv.algorithm("depthwise"):
        assert_close(functional.conv2d(x, weight, bias, **arguments), expected, dtype, "output")
        grads = functional.conv2d_backward(grad_output, x, weight, **arguments)
    for name, actual, value in zip(("grad_input", "grad_weight", "grad_bias"), grads, wanted, strict=True):
        assert_close(actual, value, dtype, name)
