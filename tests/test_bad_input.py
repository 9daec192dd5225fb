"""Bad input to conv2d, conv_transpose2d and linear: one error in one form, or the right answer; no silent garbage."""

from __future__ import annotations

import re

import numpy as np
import pytest
import reference
from compare import assert_close

from numbaconv import functional
from numbaconv.errors import ArgumentError, DTypeError, NumbaconvError, ShapeError


def good():
    """The arguments of a conv2d with nothing wrong."""
    return {"x": np.ones((2, 4, 7, 8), "float32"), "weight": np.ones((6, 4, 3, 3), "float32"), "bias": np.ones(6, "f4")}


def fails(error, pattern, op, call):
    """`call` raises `error` in the form ``<op>: <rule>; got <name>=<value>. <what to do>``."""
    with pytest.raises(error) as info:
        call()
    text = str(info.value)
    assert isinstance(info.value, NumbaconvError)
    assert re.match(rf"^{op}: [^;]+; got .+=.+\.", text, re.DOTALL), f"not in the form of our errors: {text}"
    assert re.search(pattern, text), text


def conv2d(**changes):
    arguments = {**good(), **changes}
    return functional.conv2d(arguments.pop("x"), arguments.pop("weight"), arguments.pop("bias"), **arguments)


BAD = {
    "x of 2 axes": ({"x": np.ones((7, 8), "f4")}, ShapeError, r"x must have 4 axes"),
    "x of 5 axes": ({"x": np.ones((1, 2, 4, 7, 8), "f4")}, ShapeError, r"x must have 4 axes"),
    "x of no axes": ({"x": np.ones((), "f4")}, ShapeError, r"x must have 4 axes"),
    "weight of 2 axes": ({"weight": np.ones((6, 4), "f4")}, ShapeError, r"weight must have 4 axes"),
    "weight of 5 axes": ({"weight": np.ones((6, 4, 3, 3, 1), "f4")}, ShapeError, r"weight must have 4 axes"),
    "channels": (
        {"weight": np.ones((6, 3, 3, 3), "f4")},
        ShapeError,
        r"weight\.shape\[1\] must equal x\.shape\[1\] // groups; got weight\.shape=\(6, 3, 3, 3\), x\.shape=",
    ),
    "groups that do not divide the inputs": ({"groups": 3}, ShapeError, r"groups must divide .*groups=3"),
    "groups that do not divide the outputs": (
        {"groups": 4, "weight": np.ones((6, 1, 3, 3), "f4")},
        ShapeError,
        r"groups must divide .*out_channels=6",
    ),
    "zero groups": ({"groups": 0}, ArgumentError, r"groups must be at least 1; got groups=0"),
    "negative groups": ({"groups": -2}, ArgumentError, r"groups must be at least 1"),
    "zero stride": ({"stride": 0}, ArgumentError, r"stride must be at least 1; got stride=0"),
    "zero stride of a pair": ({"stride": (1, 0)}, ArgumentError, r"stride must be at least 1"),
    "negative stride": ({"stride": -1}, ArgumentError, r"stride must be at least 1"),
    "stride of three": ({"stride": (1, 1, 1)}, ArgumentError, r"\(vertical, horizontal\) pair"),
    "stride of a float": ({"stride": 1.5}, ArgumentError, r"stride must be an int"),
    "stride of an array": ({"stride": np.array([1, 1])}, ArgumentError, r"stride must be"),
    "stride of a dict": ({"stride": {}}, ArgumentError, r"stride must be"),
    "stride None": ({"stride": None}, ArgumentError, r"stride must be an int"),
    "zero dilation": ({"dilation": 0}, ArgumentError, r"dilation must be at least 1"),
    "negative padding": ({"padding": -1}, ArgumentError, r"padding must be at least 0"),
    "padding of four": ({"padding": (1, 1, 1, 1)}, ArgumentError, r"padding must be"),
    "a word for padding": ({"padding": "full"}, ArgumentError, r'"same", "valid"'),
    "kernel larger than the input": (
        {"weight": np.ones((6, 4, 8, 3), "f4")},
        ShapeError,
        r"must not be larger than the",
    ),
    "kernel larger than the padded input": (
        {"weight": np.ones((6, 4, 3, 11), "f4"), "padding": 1},
        ShapeError,
        r"must not be larger than the padded input",
    ),
    "dilated kernel": ({"dilation": 4}, ShapeError, r"must not be larger than the padded input"),
    "bias of another length": ({"bias": np.ones(5, "f4")}, ShapeError, r"bias\.shape must be .*bias\.shape=\(5,\)"),
    "bias of 2 axes": ({"bias": np.ones((6, 1), "f4")}, ShapeError, r"bias\.shape must be"),
    "bias of no axes": ({"bias": np.ones((), "f4")}, ShapeError, r"bias\.shape must be"),
    "no filters": ({"weight": np.ones((0, 4, 3, 3), "f4"), "bias": None}, ShapeError, r"every axis of weight"),
    "a filter of nothing": ({"weight": np.ones((6, 4, 0, 3), "f4")}, ShapeError, r"every axis of weight"),
    "mixed dtypes": (
        {"x": np.ones((2, 4, 7, 8))},
        DTypeError,
        r"one dtype; got x\.dtype='float64', weight\.dtype=",
    ),
    "mixed dtype of bias": ({"bias": np.ones(6)}, DTypeError, r"one dtype.*bias\.dtype='float64'"),
    "images": ({"x": np.ones((2, 4, 7, 8), "u1")}, DTypeError, r'x\.dtype=\'uint8\'.*x\.astype\("float32"\) / 255'),
    "integers": (
        {"weight": np.ones((6, 4, 3, 3), int)},
        DTypeError,
        r"weight must be float32 or float64",
    ),
    "booleans": ({"x": np.ones((2, 4, 7, 8), bool)}, DTypeError, r"x must be float32 or float64"),
    "halves": ({"x": np.ones((2, 4, 7, 8), "f2")}, DTypeError, r"x\.dtype='float16'"),
    "complex": ({"x": np.ones((2, 4, 7, 8), "c8")}, DTypeError, r"x\.dtype='complex64'"),
    "objects": ({"x": np.ones((2, 4, 7, 8), object)}, DTypeError, r"x\.dtype='object'"),
    "texts": ({"x": np.full((2, 4, 7, 8), "1")}, DTypeError, r"x must be float32 or float64"),
    "dates": ({"x": np.zeros((2, 4, 7, 8), "M8[s]")}, DTypeError, r"x must be float32 or float64"),
    "records": ({"x": np.zeros((2, 4, 7, 8), [("a", "f4")])}, DTypeError, r"x must be float32 or float64"),
    "masked": ({"x": np.ma.ones((2, 4, 7, 8), "f4")}, DTypeError, r"x must not be a masked array.*x\.filled\(0\)"),
    "masked weight": ({"weight": np.ma.ones((6, 4, 3, 3), "f4")}, DTypeError, r"weight must not be a masked array"),
    "lists": (
        {"x": np.ones((2, 4, 7, 8)).tolist()},
        DTypeError,
        r"type\(x\)='list'.*numpy\.asarray",
    ),
    "list of a bias": ({"bias": [0.0] * 6}, DTypeError, r"bias must be an array"),
    "a number": ({"x": 3.0}, DTypeError, r"x must be an array"),
    "a string": ({"weight": "weights"}, DTypeError, r"weight must be an array"),
    "no x": ({"x": None}, DTypeError, r"x must be an array"),
    "no weight": ({"weight": None}, DTypeError, r"weight must be an array"),
}


@pytest.mark.parametrize(("changes", "error", "pattern"), BAD.values(), ids=BAD)
def test_conv2d(changes, error, pattern):
    assert conv2d().shape == (2, 6, 5, 6)
    fails(error, pattern, "conv2d", lambda: conv2d(**changes))


GRAD, X, WEIGHT = np.ones((2, 6, 5, 6), "f4"), np.ones((2, 4, 7, 8), "f4"), np.ones((6, 4, 3, 3), "f4")
BAD_BACKWARD = {
    "grad_output of another size": (ShapeError, "grad_output", lambda f: f(GRAD[:, :, :4], X, WEIGHT)),
    "grad_output of other channels": (ShapeError, "grad_output", lambda f: f(GRAD[:, :5], X, WEIGHT)),
    "grad_output of another batch": (ShapeError, "grad_output", lambda f: f(GRAD[:1], X, WEIGHT)),
    "grad_output of one image": (ShapeError, "grad_output", lambda f: f(GRAD[0], X, WEIGHT)),
    "another stride": (ShapeError, "grad_output", lambda f: f(GRAD, X, WEIGHT, stride=2)),
    "channels": (ShapeError, r"weight", lambda f: f(GRAD, X, WEIGHT[:, :3])),
    "zero stride": (ArgumentError, "stride", lambda f: f(GRAD, X, WEIGHT, stride=0)),
    "mixed dtypes": (DTypeError, "one dtype", lambda f: f(GRAD.astype("f8"), X, WEIGHT)),
    "integers": (DTypeError, "grad_output", lambda f: f(GRAD.astype(int), X, WEIGHT)),
    "a list": (DTypeError, "grad_output", lambda f: f(GRAD.tolist(), X, WEIGHT)),
}


def backward_input(grad_output, x, weight, **arguments):
    return functional.conv2d_backward_input(grad_output, weight, x.shape, **arguments)


def backward_weight(grad_output, x, weight, **arguments):
    return functional.conv2d_backward_weight(grad_output, x, weight.shape, **arguments)


BACKWARDS = {
    "conv2d_backward": functional.conv2d_backward,
    "conv2d_backward_input": backward_input,
    "conv2d_backward_weight": backward_weight,
}


@pytest.mark.parametrize("op", BACKWARDS)
@pytest.mark.parametrize(("error", "pattern", "call"), BAD_BACKWARD.values(), ids=BAD_BACKWARD)
def test_conv2d_backwards(op, error, pattern, call):
    BACKWARDS[op](GRAD, X, WEIGHT)
    fails(error, pattern, op, lambda: call(BACKWARDS[op]))


def test_backward_shapes_that_are_no_shapes():
    for shape in ((2, 4, 7), (2, 4, 7, 8, 1), 7, (2, 4, 7, 8.5), None):
        with pytest.raises(NumbaconvError, match=r"^conv2d_backward_input: .*; got "):
            functional.conv2d_backward_input(GRAD, WEIGHT, shape)
    for shape in ((6, 4, 3), (6, 4, 3, 3, 1), 7, None):
        with pytest.raises(NumbaconvError, match=r"^conv2d_backward_weight: .*; got "):
            functional.conv2d_backward_weight(GRAD, X, shape)


def test_backward_bias_of_another_rank():
    fails(ShapeError, "grad_output", "conv2d_backward_bias", lambda: functional.conv2d_backward_bias(GRAD[0, 0]))
    fails(DTypeError, "grad_output", "conv2d_backward_bias", lambda: functional.conv2d_backward_bias([1.0]))


UP_WEIGHT = np.ones((4, 6, 3, 3), "f4")
BAD_TRANSPOSE = {
    "rank": (ShapeError, "x must have 4 axes", lambda f: f(X[0, 0], UP_WEIGHT)),
    "weight rank": (ShapeError, "weight must have 4 axes", lambda f: f(X, UP_WEIGHT[0])),
    "channels": (ShapeError, r"weight\.shape\[0\] must equal x\.shape\[1\]", lambda f: f(X, UP_WEIGHT[:3])),
    "groups": (ShapeError, "groups must divide", lambda f: f(X, UP_WEIGHT, groups=3)),
    "zero stride": (ArgumentError, "stride must be at least 1", lambda f: f(X, UP_WEIGHT, stride=0)),
    "output_padding": (ArgumentError, "output_padding must be smaller", lambda f: f(X, UP_WEIGHT, output_padding=1)),
    "padding too large": (ShapeError, "output must not be empty", lambda f: f(X, UP_WEIGHT, padding=9)),
    "bias": (ShapeError, r"bias\.shape", lambda f: f(X, UP_WEIGHT, np.ones(4, "f4"))),
    "mixed dtypes": (DTypeError, "one dtype", lambda f: f(X, UP_WEIGHT.astype("f8"))),
    "images": (DTypeError, "/ 255", lambda f: f(X.astype("u1"), UP_WEIGHT)),
    "a list": (DTypeError, "must be an array", lambda f: f(X.tolist(), UP_WEIGHT)),
}


@pytest.mark.parametrize(("error", "pattern", "call"), BAD_TRANSPOSE.values(), ids=BAD_TRANSPOSE)
def test_conv_transpose2d(error, pattern, call):
    fails(error, pattern, "conv_transpose2d", lambda: call(functional.conv_transpose2d))


def test_conv_transpose2d_backward():
    output = functional.conv_transpose2d(X, UP_WEIGHT)
    back = functional.conv_transpose2d_backward
    back(output, X, UP_WEIGHT)
    op = "conv_transpose2d_backward"
    fails(ShapeError, "grad_output", op, lambda: back(output[:, :, 1:], X, UP_WEIGHT))
    fails(ShapeError, "weight", op, lambda: back(output, X, UP_WEIGHT[:3]))
    fails(DTypeError, "one dtype", op, lambda: back(output, X.astype("f8"), UP_WEIGHT))


ROWS, MATRIX = np.ones((3, 5), "f4"), np.ones((4, 5), "f4")
BAD_LINEAR = {
    "features": (ShapeError, r"x.*weight", lambda f: f(ROWS[:, :4], MATRIX)),
    "weight of 1 axis": (ShapeError, "weight", lambda f: f(ROWS, MATRIX[0])),
    "weight of 3 axes": (ShapeError, "weight", lambda f: f(ROWS, MATRIX[None])),
    "x of no axes": (ShapeError, "x", lambda f: f(np.ones((), "f4"), MATRIX)),
    "bias": (ShapeError, r"bias\.shape", lambda f: f(ROWS, MATRIX, np.ones(5, "f4"))),
    "mixed dtypes": (DTypeError, "one dtype", lambda f: f(ROWS, MATRIX.astype("f8"))),
    "images": (DTypeError, "/ 255", lambda f: f(ROWS.astype("u1"), MATRIX)),
    "complex": (DTypeError, "complex", lambda f: f(ROWS, MATRIX.astype("c8"))),
    "a list": (DTypeError, "x must be an array", lambda f: f(ROWS.tolist(), MATRIX)),
    "masked": (DTypeError, "masked", lambda f: f(np.ma.array(ROWS), MATRIX)),
    "no x": (DTypeError, "x must be an array", lambda f: f(None, MATRIX)),
}


@pytest.mark.parametrize(("error", "pattern", "call"), BAD_LINEAR.values(), ids=BAD_LINEAR)
def test_linear(error, pattern, call):
    fails(error, pattern, "linear", lambda: call(functional.linear))


def test_linear_backward():
    back, grad_output = functional.linear_backward, np.ones((3, 4), "f4")
    back(grad_output, ROWS, MATRIX)
    fails(ShapeError, "grad_output", "linear_backward", lambda: back(grad_output[:2], ROWS, MATRIX))
    fails(ShapeError, "grad_output", "linear_backward", lambda: back(grad_output[:, :3], ROWS, MATRIX))
    fails(ShapeError, "weight", "linear_backward", lambda: back(grad_output, ROWS, MATRIX[:, :4]))
    fails(DTypeError, "one dtype", "linear_backward", lambda: back(grad_output.astype("f8"), ROWS, MATRIX))


# --- unusual, and right ------------------------------------------------------------------------------------


def test_numpy_ints_and_lists_as_arguments():
    expected = conv2d(stride=(2, 1), padding=((1, 0), (2, 1)))
    np.testing.assert_array_equal(
        conv2d(stride=[np.int64(2), np.int8(1)], padding=[[1, 0], [np.int32(2), 1]]), expected
    )


def test_huge_strides_and_dilations_fit_one_window():
    assert conv2d(stride=2**40).shape == (2, 6, 1, 1)
    weight = np.ones((6, 4, 1, 1), "f4")
    assert conv2d(weight=weight, dilation=2**40).shape == (2, 6, 7, 8)


def test_subclasses_of_ndarray():
    class Mine(np.ndarray):
        pass

    result = conv2d(x=good()["x"].view(Mine))
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, conv2d())


def test_same_array_in_two_places():
    x = np.random.default_rng(0).standard_normal((4, 4, 3, 3))
    assert_close(functional.conv2d(x, x), reference.conv2d(x, x), "float64")
    assert_close(functional.linear(x[0, 0], x[0, 0]), reference.linear(x[0, 0], x[0, 0]), "float64")


def test_an_error_changes_nothing():
    x = good()["x"]
    before = x.copy()
    with pytest.raises(NumbaconvError):
        conv2d(x=x, groups=3)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_empty_batch(dtype):
    x, weight, bias = np.zeros((0, 4, 7, 8), dtype), np.ones((6, 4, 3, 3), dtype), np.ones(6, dtype)
    output = functional.conv2d(x, weight, bias)
    assert (output.shape, output.dtype) == ((0, 6, 5, 6), x.dtype)
    grad_input, grad_weight, grad_bias = functional.conv2d_backward(output, x, weight)
    assert grad_input.shape == x.shape
    np.testing.assert_array_equal(grad_weight, np.zeros_like(weight))
    np.testing.assert_array_equal(grad_bias, np.zeros_like(bias))
