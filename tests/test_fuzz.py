"""Random calls, valid and not: the right numbers or one clear error; nothing else is written, changed or warned of.

1,400 of them by default, 20,000 with --full.
"""

from __future__ import annotations

import contextlib
import ctypes
import re

import numpy as np
import pytest
import reference
from compare import LAYOUTS, Unchanged, assert_close, random_array
from fuzz_problems import (
    BAD_ARRAYS,
    BAD_PADDINGS,
    BAD_SIZES,
    convolutions,
    linears,
    pooling_fits,
    poolings,
    transposed_convolutions,
    transposed_sizes,
)
from guards import between_nans, guarded, watched
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pool_reference import max_backward_loops, max_loops, mean_backward_loops, mean_loops, mean_windows

from numbaconv import functional
from numbaconv.cpu import memory
from numbaconv.errors import NumbaconvError, ShapeError

layouts = st.sampled_from(sorted(LAYOUTS))
layouts_2d = st.sampled_from(sorted(name for name in LAYOUTS if not name.endswith("channels_last")))
dtypes = st.sampled_from(["float32", "float64"])
seeds = st.integers(0, 2**32 - 1)


def examples(share):
    """60 examples a share, 1,000 with --full. (Sharing fixtures between them is safe: `run` holds no state.)"""
    return settings(max_examples=share * settings.default.max_examples, suppress_health_check=[*HealthCheck])


@pytest.fixture(scope="module", autouse=True)
def no_hang():
    with watched():
        yield


@pytest.fixture(scope="session")
def trapped(device):
    """``with trapped(x, weight): ...``: inputs stay, on the CPU nothing beside results is written, nothing warns."""

    @contextlib.contextmanager
    def traps(*arrays):
        with watched(), guarded() if device == "cpu" else contextlib.nullcontext(), Unchanged(*arrays):
            yield

    return traps


def assert_near(actual, op, arrays, dtype, what, **arguments):
    """`assert_close` to op(*arrays), where terms that cancel may leave the error of the terms.

    That error is bounded by the sum of their magnitudes: rounding the same sum over and over, as of broadcast arrays,
    errs to the same side each time. Source: Higham, "Accuracy and stability of numerical algorithms", 2002, eq. 3.5.
    """
    expected = op(*arrays, **arguments)
    try:
        assert_close(actual, expected, dtype, what)
    except AssertionError:
        terms = op(*(np.abs(a) if isinstance(a, np.ndarray) else a for a in arrays), **arguments)
        assert_close(actual, expected, dtype, what, looser=max(1.0, np.linalg.norm(terms) / np.linalg.norm(expected)))


def laid_out(x, layout):
    x = LAYOUTS[layout](x)
    return between_nans(x) if layout in ("channels_first", "channels_last") else x


@pytest.mark.reduced
@examples(5)
@given(problem=convolutions(), dtype=dtypes, layout_x=layouts, layout_other=layouts, seed=seeds)
def test_conv2d(run, trapped, problem, dtype, layout_x, layout_other, seed):
    shape, weight_shape, arguments = problem
    rng = np.random.default_rng(seed)
    x = laid_out(random_array(rng, shape, dtype), layout_x)
    weight = laid_out(random_array(rng, weight_shape, dtype), layout_other)
    bias = random_array(rng, weight_shape[:1], dtype)
    size = reference.Geometry(shape, weight_shape, **arguments)
    if not size.fits:
        with pytest.raises(ShapeError, match=r"^conv2d: .* must not be larger than the padded input; got "):
            run(functional.conv2d, x, weight, bias, **arguments)
        return
    grad_output = laid_out(random_array(rng, size.output_shape, dtype), layout_other)
    with trapped(x, weight, bias, grad_output):
        output = run(functional.conv2d, x, weight, bias, **arguments)
        grad_input, grad_weight, grad_bias = run(functional.conv2d_backward, grad_output, x, weight, **arguments)
    assert_near(output, reference.conv2d, (x, weight, bias), dtype, "output", **arguments)
    back = reference.conv2d_backward_input
    assert_near(grad_input, back, (grad_output, weight, shape), dtype, "grad_input", **arguments)
    back = reference.conv2d_backward_weight
    assert_near(grad_weight, back, (grad_output, x, weight_shape), dtype, "grad_weight", **arguments)
    assert_near(grad_bias, reference.conv2d_backward_bias, (grad_output,), dtype, "grad_bias")


@examples(4)
@given(problem=transposed_convolutions(), dtype=dtypes, layout=layouts, seed=seeds)
def test_conv_transpose2d(run, trapped, problem, dtype, layout, seed):
    shape, weight_shape, arguments = problem
    rng = np.random.default_rng(seed)
    x = laid_out(random_array(rng, shape, dtype), layout)
    weight = random_array(rng, weight_shape, dtype)
    if min(transposed_sizes(shape, weight_shape, arguments)) < 1:
        with pytest.raises(ShapeError, match=r"^conv_transpose2d: .*; got "):
            run(functional.conv_transpose2d, x, weight, **arguments)
        return
    expected = reference.conv_transpose2d(x, weight, **arguments)
    grad_output = random_array(rng, expected.shape, dtype)
    with trapped(x, weight, grad_output):
        output = run(functional.conv_transpose2d, x, weight, **arguments)
        result = run(functional.conv_transpose2d_backward, grad_output, x, weight, **arguments)
    assert_near(output, reference.conv_transpose2d, (x, weight), dtype, "output", **arguments)
    for i, name in enumerate(("grad_input", "grad_weight", "grad_bias")):
        back = lambda *arrays, i=i: reference.conv_transpose2d_backward(*arrays, **arguments)[i]  # noqa: E731
        assert_near(result[i], back, (grad_output, x, weight), dtype, name)


anything = st.integers(-1, 6)


@examples(3)
@given(
    x=st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
    weight=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)),
    bias=st.one_of(st.none(), st.integers(1, 6)),
    stride=anything,
    padding=st.integers(-1, 3),
    dilation=st.integers(0, 2),
    groups=st.integers(0, 4),
)
def test_an_error_exactly_where_pytorch_has_one(run, x, weight, bias, stride, padding, dilation, groups):
    # (Not for an empty batch: there PyTorch takes even a dilation of 0.)
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    arguments = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    arrays = [np.ones(x, "float32"), np.ones(weight, "float32"), None if bias is None else np.ones(bias, "float32")]
    try:
        tensors = [None if a is None else torch.from_numpy(a) for a in arrays]
        expected = torch.nn.functional.conv2d(*tensors, **arguments).numpy()
    except (RuntimeError, ValueError):
        with pytest.raises(NumbaconvError, match=r"^conv2d: .*; got .*=") as info:
            run(functional.conv2d, *arrays, **arguments)
        assert isinstance(info.value, ValueError)
        return
    assert_close(run(functional.conv2d, *arrays, **arguments), expected.astype("float64"), "float32")


# --- pooling and linear layers -----------------------------------------------------------------------------


@examples(3)
@given(case=poolings(dilated=True), dtype=dtypes, layout=layouts, seed=seeds)
def test_max_pool2d(run, trapped, case, dtype, layout, seed):
    rng = np.random.default_rng(seed)
    x = laid_out(rng.integers(-3, 4, case.x).astype(dtype), layout)
    options = {**case.options, "dilation": case.dilation}
    if not pooling_fits(case):
        with pytest.raises(ShapeError, match=r"^max_pool2d: .*window.*; got "):
            run(functional.max_pool2d, x, case.kernel_size, **options)
        return
    expected, places = max_loops(x, case)
    grad_output = random_array(rng, expected.shape, dtype)
    with trapped(x, grad_output):
        output, indices = run(functional.max_pool2d, x, case.kernel_size, return_indices=True, **options)
        grad_input = run(
            functional.max_pool2d_backward,
            grad_output,
            indices,
            input_shape=case.x,
            kernel_size=case.kernel_size,
            **options,
        )
    assert_close(output, expected, dtype)
    np.testing.assert_array_equal(indices, places)
    assert_close(grad_input, max_backward_loops(grad_output, places, case.x), dtype)


@examples(2)
@given(case=poolings(dilated=False), count=st.booleans(), dtype=dtypes, layout=layouts, seed=seeds)
def test_avg_pool2d(run, trapped, case, count, dtype, layout, seed):
    rng = np.random.default_rng(seed)
    x = laid_out(random_array(rng, case.x, dtype), layout)
    options = {**case.options, "count_include_pad": count}
    if not pooling_fits(case):
        with pytest.raises(ShapeError, match=r"^avg_pool2d: .*window.*; got "):
            run(functional.avg_pool2d, x, case.kernel_size, **options)
        return
    found = mean_windows(case, count)
    expected = mean_loops(x, found)
    grad_output = random_array(rng, expected.shape, dtype)
    with trapped(x, grad_output):
        output = run(functional.avg_pool2d, x, case.kernel_size, **options)
        grad_input = run(
            functional.avg_pool2d_backward, grad_output, input_shape=case.x, kernel_size=case.kernel_size, **options
        )
    assert_close(output, expected, dtype)
    assert_close(grad_input, mean_backward_loops(grad_output, case.x, found), dtype)


@examples(3)
@given(sizes=linears, dtype=dtypes, layout_x=layouts_2d, layout_other=layouts_2d, relu=st.booleans(), seed=seeds)
def test_linear(run, trapped, sizes, dtype, layout_x, layout_other, relu, seed):
    rows, in_features, out_features = sizes
    rng = np.random.default_rng(seed)
    x = laid_out(random_array(rng, (rows, in_features), dtype), layout_x)
    weight = laid_out(random_array(rng, (out_features, in_features), dtype), layout_other)
    bias = random_array(rng, out_features, dtype)
    grad_output = laid_out(random_array(rng, (rows, out_features), dtype), layout_other)
    with trapped(x, weight, bias, grad_output):
        output = run(functional.linear, x, weight, bias, relu=relu)
        result = run(functional.linear_backward, grad_output, x, weight)
    x, weight, bias, grad_output = (a.astype(np.float64) for a in (x, weight, bias, grad_output))
    assert_near(output, lambda x, w, b: np.maximum(x @ w.T + b, 0 if relu else -np.inf), (x, weight, bias), dtype, "y")
    for name, actual, product, arrays in (
        ("grad_input", result[0], np.matmul, (grad_output, weight)),
        ("grad_weight", result[1], np.matmul, (grad_output.T, x)),
        ("grad_bias", result[2], lambda g: g.sum(axis=0), (grad_output,)),
    ):
        assert_near(actual, product, arrays, dtype, name)


# --- calls with one thing wrong ----------------------------------------------------------------------------

X, WEIGHT, UP = np.ones((2, 4, 7, 8), "f4"), np.ones((6, 2, 3, 2), "f4"), np.ones((4, 3, 2, 3), "f4")
WINDOW = {"kernel_size": 3, "stride": 2, "padding": 1}
CONV = {"stride": 2, "padding": 1, "dilation": 1, "groups": 2}
INDICES = functional.max_pool2d(X, **WINDOW, return_indices=True)[1]
POOLED, CONVOLVED = np.ones(INDICES.shape, "f4"), np.ones((2, 6, 4, 5), "f4")
GOOD = {
    "conv2d": ({"x": X, "weight": WEIGHT, "bias": np.ones(6, "f4")}, CONV),
    "conv2d_backward": ({"grad_output": CONVOLVED, "x": X, "weight": WEIGHT}, CONV),
    "conv2d_backward_input": ({"grad_output": CONVOLVED, "weight": WEIGHT}, {"input_shape": X.shape, **CONV}),
    "conv2d_backward_weight": ({"grad_output": CONVOLVED, "x": X}, {"weight_shape": WEIGHT.shape, **CONV}),
    "conv_transpose2d": ({"x": X, "weight": UP}, {**CONV, "output_padding": 1}),
    "max_pool2d": ({"x": X}, {**WINDOW, "dilation": 1}),
    "max_pool2d_backward": ({"grad_output": POOLED, "indices": INDICES}, {"input_shape": X.shape, **WINDOW}),
    "avg_pool2d": ({"x": X}, WINDOW),
    "avg_pool2d_backward": ({"grad_output": POOLED}, {"input_shape": X.shape, **WINDOW}),
    "adaptive_avg_pool2d": ({"x": X}, {"output_size": 2}),
    "adaptive_avg_pool2d_backward": ({"grad_output": POOLED}, {"input_shape": X.shape}),
    "pad": ({"x": X}, {"padding": 1}),
    "pad_backward": ({"grad_output": np.ones((2, 4, 9, 10), "f4")}, {"input_shape": X.shape, "padding": 1}),
    "flatten_backward": ({"grad_output": np.ones((2, 224), "f4")}, {"input_shape": X.shape}),
    "concat_backward": ({"grad_output": np.ones((2, 4), "f4")}, {"sizes": (1, 3)}),
    "relu": ({"x": X}, {}),
    "softmax": ({"x": X}, {}),
    "linear_backward": (
        {"grad_output": np.ones((3, 4), "f4"), "x": np.ones((3, 5), "f4"), "weight": np.ones((4, 5), "f4")},
        {},
    ),
    "linear": ({"x": np.ones((3, 5), "f4"), "weight": np.ones((4, 5), "f4")}, {}),
}
ANY_CHANNELS = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "pad", "relu", "softmax")
ANY_RANK = ("relu", "softmax", "linear")
BAD_SHAPES = [(2, 4, 7), (2, 4, -7, 8), (2, 4, 7, 2**70), (2, 4, 7, 8.0), 7, None, "2478", (), {}, (-1,)]


def harmless(op, name, how):
    """Right as it is: an argument that may be None, axes that may differ, integers that should be."""
    if name == "bias":  # of one axis
        return how == "None" or "channel" in how
    if "channel" in how:
        return op in ANY_CHANNELS or (op, name) == ("conv_transpose2d", "weight")
    if how == "two more axes":
        return (op in ANY_RANK and name == "x") or op == "concat_backward"
    if how == "no axes":
        return op in ("relu", "softmax")
    return name == "indices" and how in ("int64", "uint8")


@examples(4)
@given(op=st.sampled_from(sorted(GOOD)), data=st.data())
def test_one_thing_wrong(run, trapped, op, data):
    arrays, arguments = GOOD[op]
    name = data.draw(st.sampled_from([*arrays, *arguments]))
    if name in arrays:
        how = data.draw(st.sampled_from(sorted(BAD_ARRAYS)))
        assume(not harmless(op, name, how))
        changes = {name: BAD_ARRAYS[how](arrays[name])}
    elif name in ("input_shape", "weight_shape", "sizes"):
        changes = {name: data.draw(st.sampled_from(BAD_SHAPES))}
    else:
        bad = BAD_PADDINGS if "padding" in name else BAD_SIZES
        changes = {name: data.draw(st.sampled_from(bad))}
    called = {**arrays, **arguments, **changes}
    with trapped(*called.values()), pytest.raises(NumbaconvError) as info:
        run(getattr(functional, op), **called)
    assert re.match(rf"^{op}: [^;]+; got .+=.+\.", str(info.value), re.DOTALL), f"not in our form: {info.value}"


def test_the_calls_with_nothing_wrong_are_right():
    for op, (arrays, arguments) in GOOD.items():
        getattr(functional, op)(**arrays, **arguments)


def test_the_traps_catch(trapped):
    x = np.zeros(4, np.float32)
    with pytest.raises(AssertionError, match="input was changed"), trapped(x):
        x[0] = 1
    for place in (-1, 5):
        with pytest.raises(AssertionError, match=r"1 bytes .* an array of 5 were written"), guarded():
            ctypes.memset(memory.empty((5,), np.dtype(np.uint8)).ctypes.data + place, 0, 1)
    with guarded():
        assert np.isnan(memory.empty((3,), np.dtype(np.float32))).all()
        assert np.isnan(memory.scratch("any", 3, np.dtype(np.float64))).all()
