"""Output sizes and the arguments' checks: hand-worked numbers, and the definition counted window by window."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from numbaconv import arguments, errors, shapes


def windows(size, kernel, stride, before, after, dilation):
    """How many windows start at 0, stride, 2 * stride, ... and end inside the padded input: counted."""
    count, start = 0, 0
    while start + dilation * (kernel - 1) < size + before + after:
        count, start = count + 1, start + stride
    return count


def test_window_output_size_equals_counting():
    for size, kernel, stride, before, after, dilation in itertools.product(
        (1, 2, 5, 8, 13), (1, 2, 3, 5), (1, 2, 3, 7), (0, 1, 2), (0, 1, 3), (1, 2)
    ):
        expected = windows(size, kernel, stride, before, after, dilation)
        actual = shapes.window_output_size(size, kernel, stride=stride, padding=(before, after), dilation=dilation)
        assert max(actual, 0) == expected, (size, kernel, stride, before, after, dilation)


def test_padding_of_one_number_is_both_sides():
    assert shapes.window_output_size(7, 3, padding=1) == shapes.window_output_size(7, 3, padding=(1, 1)) == 7


def test_no_window_fits():
    assert shapes.window_output_size(2, 5) <= 0


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "floor", "ceil"),
    [
        (7, 3, 2, 0, 3, 3),  # fits
        (8, 3, 2, 0, 3, 4),  # one element over
        (5, 2, 2, 1, 3, 3),  # a fourth window would start in the padding after: dropped
        (4, 2, 2, 1, 3, 3),
        (6, 3, 3, 1, 2, 3),  # the third window starts at 6 - 1 = 5: the last input element
        (1, 1, 3, 0, 1, 1),
        (3, 2, 2, 0, 1, 2),
    ],
)
def test_ceil_mode(size, kernel, stride, padding, floor, ceil):
    assert shapes.window_output_size(size, kernel, stride=stride, padding=padding) == floor
    assert shapes.window_output_size(size, kernel, stride=stride, padding=padding, ceil_mode=True) == ceil


def test_ceil_mode_equals_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for size, kernel, stride, dilation in itertools.product((3, 4, 7, 10), (1, 2, 3), (1, 2, 3, 4), (1, 2)):
        for padding in range(kernel // 2 + 1):
            if size + 2 * padding < dilation * (kernel - 1) + 1:
                continue
            x = torch.zeros(1, 1, size, size)
            expected = torch.nn.functional.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode=True).shape[-1]
            actual = shapes.window_output_size(
                size, kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=True
            )
            assert actual == expected, (size, kernel, stride, padding, dilation)


@pytest.mark.parametrize(("size", "stride", "fits"), [(7, 1, True), (7, 2, True), (7, 3, False), (8, 2, False)])
def test_strict(size, stride, fits):
    if fits:
        assert shapes.window_output_size(size, 3, stride=stride, strict=True) == (size - 3) // stride + 1
        return
    with pytest.raises(
        errors.ShapeError, match=r"^window_output_size: strict: .*multiple of stride; got size="
    ) as info:
        shapes.window_output_size(size, 3, stride=stride, strict=True)
    assert isinstance(info.value, ValueError)
    assert f"stride={stride}" in str(info.value)


def test_strict_kernel_larger_than_input():
    with pytest.raises(errors.ShapeError):
        shapes.window_output_size(2, 3, strict=True)


def test_conv2d_output_size_takes_conv2d_arguments():
    assert shapes.conv2d_output_size(32, 32, 5, padding=2) == (32, 32)
    assert shapes.conv2d_output_size(32, 30, (5, 3), stride=(2, 1)) == (14, 28)
    assert shapes.conv2d_output_size(7, 8, (3, 4), padding=((0, 2), (3, 1))) == (7, 9)
    assert shapes.conv2d_output_size(224, 224, 7, stride=2, padding=3) == (112, 112)
    assert shapes.conv2d_output_size(33, 33, 3, padding=2, dilation=2) == (33, 33)
    assert shapes.conv2d_output_size(7, 7, 3, stride=3) == (2, 2)
    with pytest.raises(errors.ShapeError):
        shapes.conv2d_output_size(7, 7, 3, stride=3, strict=True)
    with pytest.raises(errors.ShapeError):
        shapes.conv2d_output_size(7, 8, 3, stride=2, strict=True)  # the width alone does not fit


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_gives_ceil_of_input_over_stride(kernel, stride, dilation):
    for size in range(1, 14):
        output = shapes.conv2d_output_size(size, size, kernel, stride=stride, padding="same", dilation=dilation)
        assert output == (-(-size // stride), -(-size // stride))


@pytest.mark.parametrize(
    ("padding", "full"),
    [
        (0, (0, 0, 0, 0)),
        (2, (2, 2, 2, 2)),
        ((1, 2), (1, 1, 2, 2)),
        ([1, 2], (1, 1, 2, 2)),
        (((1, 2), (3, 4)), (1, 2, 3, 4)),
        (((1, 2), 3), (1, 2, 3, 3)),
        ("valid", (0, 0, 0, 0)),
        ("same", (0, 1, 1, 1)),  # 4 x 5 with a 3 x 3 filter at stride (2, 2): the odd element after
    ],
)
def test_forms_of_padding(padding, full):
    problem = shapes.conv2d_problem((1, 1, 4, 5), (1, 1, 3, 3), None, 2, arguments.hashable(padding), 1, 1)
    assert problem.padding == full


def test_conv2d_problem():
    problem = shapes.conv2d_problem((8, 3, 32, 32), (10, 3, 5, 5), (10,), 1, 2, 1, 1)
    assert problem == shapes.Conv2dProblem(
        (8, 3, 32, 32), (10, 3, 5, 5), (8, 10, 32, 32), (1, 1), (2, 2, 2, 2), (1, 1), 1
    )
    assert problem.multiply_adds == 8 * 10 * 32 * 32 * 75


def test_conv_transpose2d_problem_is_the_convolution_it_undoes():
    problem = shapes.conv_transpose2d_problem((2, 8, 5, 4), (8, 4, 3, 3), None, 2, 1, 1, 1, 1)
    assert problem.input_shape == (2, 4, 10, 8)  # (5 - 1) * 2 - 2 + 2 + 1 + 1
    assert problem.output_shape == (2, 8, 5, 4)


BAD_CONV = {
    "x of 2 axes": ({"input_shape": (3, 4)}, errors.ShapeError, "x must have 4 axes"),
    "weight of 3 axes": ({"weight_shape": (6, 3, 3)}, errors.ShapeError, "weight must have 4 axes"),
    "no filters": ({"weight_shape": (0, 4, 3, 3)}, errors.ShapeError, "every axis of weight"),
    "channels": ({"weight_shape": (6, 3, 3, 3)}, errors.ShapeError, "x.shape[1] // groups"),
    "groups in": ({"groups": 3}, errors.ShapeError, "groups must divide"),
    "groups out": ({"groups": 4, "weight_shape": (6, 1, 3, 3)}, errors.ShapeError, "groups must divide"),
    "groups 0": ({"groups": 0}, errors.ArgumentError, "groups must be at least 1"),
    "groups -1": ({"groups": -1}, errors.ArgumentError, "groups must be at least 1"),
    "groups float": ({"groups": 2.0}, errors.ArgumentError, "groups must be an int"),
    "bias": ({"bias_shape": (5,)}, errors.ShapeError, "bias.shape must be"),
    "bias of 2 axes": ({"bias_shape": (6, 1)}, errors.ShapeError, "bias.shape must be"),
    "stride 0": ({"stride": 0}, errors.ArgumentError, "stride must be at least 1"),
    "stride negative": ({"stride": (1, -2)}, errors.ArgumentError, "stride must be at least 1"),
    "stride float": ({"stride": 1.5}, errors.ArgumentError, "stride must be an int"),
    "stride bool": ({"stride": True}, errors.ArgumentError, "stride must be an int"),
    "stride None": ({"stride": None}, errors.ArgumentError, "stride must be an int"),
    "stride text": ({"stride": "2"}, errors.ArgumentError, "stride must be an int"),
    "stride of 3": ({"stride": (1, 1, 1)}, errors.ArgumentError, "stride must be an int or a"),
    "dilation 0": ({"dilation": 0}, errors.ArgumentError, "dilation must be at least 1"),
    "padding negative": ({"padding": -1}, errors.ArgumentError, "padding must be at least 0"),
    "padding word": ({"padding": "full"}, errors.ArgumentError, 'padding must be "same"'),
    "padding of 4": ({"padding": (1, 1, 1, 1)}, errors.ArgumentError, "padding must be"),
    "padding pairs negative": ({"padding": ((0, -1), (0, 0))}, errors.ArgumentError, "padding must be at least 0"),
    "kernel too tall": ({"weight_shape": (6, 4, 8, 3)}, errors.ShapeError, "must not be larger"),
    "kernel too wide": ({"weight_shape": (6, 4, 3, 9)}, errors.ShapeError, "must not be larger"),
    "kernel too dilated": ({"dilation": 4}, errors.ShapeError, "must not be larger"),
    "no rows": ({"input_shape": (1, 4, 0, 8)}, errors.ShapeError, "must not be larger"),
}


@pytest.mark.parametrize(("changes", "error", "rule"), BAD_CONV.values(), ids=BAD_CONV)
def test_bad_convolutions(changes, error, rule):
    good = {
        "input_shape": (2, 4, 7, 8),
        "weight_shape": (6, 4, 3, 3),
        "bias_shape": None,
        "stride": 1,
        "padding": 0,
        "dilation": 1,
        "groups": 1,
    }
    assert shapes.conv2d_problem(**good).output_shape == (2, 6, 5, 6)
    with pytest.raises(error) as info:
        shapes.conv2d_problem(**{**good, **changes})
    assert str(info.value).startswith("conv2d: ")
    assert rule in str(info.value)
    assert "; got " in str(info.value)
    assert isinstance(info.value, ValueError)


BAD_TRANSPOSE = {
    "channels": ({"weight_shape": (5, 6, 3, 3)}, errors.ShapeError, "weight.shape[0] must equal x.shape[1]"),
    "groups": ({"groups": 3}, errors.ShapeError, "groups must divide"),
    "bias": ({"bias_shape": (4,)}, errors.ShapeError, "bias.shape must be"),
    "rank": ({"input_shape": (4, 7)}, errors.ShapeError, "x must have 4 axes"),
    "output_padding": ({"output_padding": 2}, errors.ArgumentError, "output_padding must be smaller"),
    "output_padding negative": ({"output_padding": -1}, errors.ArgumentError, "output_padding must be at least 0"),
    "padding word": ({"padding": "same"}, errors.ArgumentError, "padding must be an int"),
    "padding too large": ({"padding": 20}, errors.ShapeError, "must not be empty"),
}


@pytest.mark.parametrize(("changes", "error", "rule"), BAD_TRANSPOSE.values(), ids=BAD_TRANSPOSE)
def test_bad_transposed_convolutions(changes, error, rule):
    good = {
        "input_shape": (2, 4, 7, 8),
        "weight_shape": (4, 6, 3, 3),
        "bias_shape": (6,),
        "stride": 2,
        "padding": 0,
        "output_padding": 0,
        "dilation": 1,
        "groups": 1,
    }
    assert shapes.conv_transpose2d_problem(**good).input_shape == (2, 6, 15, 17)
    with pytest.raises(error) as info:
        shapes.conv_transpose2d_problem(**{**good, **changes})
    assert str(info.value).startswith("conv_transpose2d: ")
    assert rule in str(info.value)


def test_pool_problem():
    problem = shapes.pool2d_problem((1, 6, 28, 28), 2, None, 0, 1)
    assert problem.output_shape == (1, 6, 14, 14)
    assert problem.stride == (2, 2)
    with pytest.raises(errors.ArgumentError, match="at most half"):
        shapes.pool2d_problem((1, 6, 28, 28), 2, None, 2, 1)
    with pytest.raises(errors.ShapeError, match="window must not be larger"):
        shapes.pool2d_problem((1, 6, 2, 2), 3, None, 0, 1)
    with pytest.raises(errors.ArgumentError, match=r"^avg_pool2d: kernel_size"):
        shapes.pool2d_problem((1, 6, 2, 2), 0, None, 0, 1, op="avg_pool2d")


def test_pad_problem():
    assert shapes.pad_problem((1, 2, 3, 4), ((1, 2), (0, 3)), "zeros").output_shape == (1, 2, 6, 7)
    assert shapes.pad_problem((1, 2, 3, 4), (2, 3), "reflect").output_shape == (1, 2, 7, 10)
    with pytest.raises(errors.ArgumentError, match="reflect padding must be at most 2"):
        shapes.pad_problem((1, 2, 3, 4), 3, "reflect")
    with pytest.raises(errors.ArgumentError, match="circular padding must be at most 3"):
        shapes.pad_problem((1, 2, 3, 4), 4, "circular")
    with pytest.raises(errors.ArgumentError, match="mode must be one of"):
        shapes.pad_problem((1, 2, 3, 4), 1, "mirror")
    with pytest.raises(errors.ArgumentError, match="padding must be ints"):
        shapes.pad_problem((1, 2, 3, 4), "same", "zeros")


def test_batched():
    assert arguments.batched("conv2d", (2, 3, 4, 5))
    assert not arguments.batched("conv2d", (3, 4, 5))
    with pytest.raises(errors.ShapeError, match=r"^conv2d: x must have 4 axes"):
        arguments.batched("conv2d", (4, 5))


@pytest.mark.parametrize("stride", [1.0, True, (1.0, 1), (True, 1)])
def test_a_remembered_problem_does_not_let_an_equal_wrong_type_through(stride):
    """1.0 == True == 1, also as keys of the cache of problems."""
    shapes.conv2d_problem((1, 1, 4, 5), (1, 1, 3, 3), None, 1, 0, 1, 1)
    shapes.conv2d_problem((1, 1, 4, 5), (1, 1, 3, 3), None, (1, 1), 0, 1, 1)
    with pytest.raises(errors.ArgumentError, match="stride must be an int"):
        shapes.conv2d_problem((1, 1, 4, 5), (1, 1, 3, 3), None, stride, 0, 1, 1)


def test_hashable():
    assert arguments.hashable([[1, 2], (3, [4])]) == ((1, 2), (3, (4,)))
    assert arguments.hashable([np.int64(2), None]) == (2, None)
    for refused in (True, 1.0, {}, np.array([2, 3])):  # by name where it is used, not by the cache
        stand_in = arguments.hashable(refused)
        assert repr(stand_in) == repr(refused)
        assert stand_in != refused if not isinstance(refused, np.ndarray) else stand_in is not refused
        hash(stand_in)


def test_require_same():
    arguments.require_same_shape("op", "a", (1, 2), "b", (1, 2))
    with pytest.raises(errors.ShapeError, match=r"^op: a.shape must equal b.shape; got a.shape="):
        arguments.require_same_shape("op", "a", (1, 2), "b", (2,))


def test_message_form():
    text = errors.message("conv2d", "stride must be at least 1", "Use 1.", stride=0, x__shape=(1, 2))
    assert text == "conv2d: stride must be at least 1; got stride=0, x.shape=(1, 2). Use 1."
    assert errors.message("op", "rule") == "op: rule."


def test_errors_are_the_builtin_ones_too():
    pairs = {
        errors.ShapeError: (ValueError,),
        errors.ArgumentError: (ValueError,),
        errors.DTypeError: (TypeError,),
        errors.DeviceError: (RuntimeError,),
        errors.LabelError: (IndexError, ValueError),
        errors.StateError: (RuntimeError,),
        errors.StateDictError: (ValueError, KeyError),
        errors.FileFormatError: (ValueError,),
    }
    for error, builtins in pairs.items():
        assert issubclass(error, errors.NumbaconvError)
        assert all(issubclass(error, builtin) for builtin in builtins)
    assert str(errors.StateDictError("a: b.")) == "a: b."
