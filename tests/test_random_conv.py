"""Random convolutions: the reference's numbers, or a clear error exactly where PyTorch's rules say so."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from compare import LAYOUTS, Unchanged, assert_close, random_array
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from numbaconv import functional
from numbaconv.errors import NumbaconvError, ShapeError

small = st.integers(0, 3)
PADDINGS = st.one_of(
    small,
    st.tuples(small, small),
    st.tuples(st.tuples(small, small), st.tuples(small, small)),
    st.sampled_from(["same", "valid"]),
)
one_or_pair = st.one_of(st.integers(1, 4), st.tuples(st.integers(1, 4), st.integers(1, 4)))
# Weighted towards the usual: a vector's worth of channels and a tile's worth of pixels
few_channels = st.one_of(st.integers(1, 5), st.sampled_from([16, 17, 33]))


@st.composite
def convolutions(draw):
    """The arguments of a conv2d whose channels fit; its kernel may be larger than its input."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 5]))
    per_group, out_per_group = draw(few_channels), draw(few_channels)
    assume(groups * max(per_group, out_per_group) <= 66)
    x = (draw(st.integers(0, 3)), groups * per_group, draw(st.integers(1, 15)), draw(st.integers(1, 15)))
    weight = (groups * out_per_group, per_group, draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    arguments = {
        "stride": draw(one_or_pair),
        "padding": draw(PADDINGS),
        "dilation": draw(st.one_of(st.just(1), one_or_pair)),
        "groups": groups,
    }
    return x, weight, arguments


layouts = st.sampled_from(sorted(LAYOUTS))
dtypes = st.sampled_from(["float32", "float64"])
seeds = st.integers(0, 2**32 - 1)
# Sharing fixtures between examples is safe: `run` holds no state
shared_fixture = settings(suppress_health_check=[*HealthCheck])


@pytest.mark.reduced
@shared_fixture
@given(problem=convolutions(), dtype=dtypes, layout_x=layouts, layout_other=layouts, seed=seeds)
def test_forward_and_gradients(run, problem, dtype, layout_x, layout_other, seed):
    shape, weight_shape, arguments = problem
    rng = np.random.default_rng(seed)
    x = LAYOUTS[layout_x](random_array(rng, shape, dtype))
    weight = LAYOUTS[layout_other](random_array(rng, weight_shape, dtype))
    bias = random_array(rng, weight_shape[:1], dtype)
    size = reference.Geometry(shape, weight_shape, **arguments)
    if not size.fits:
        with pytest.raises(ShapeError, match=r"^conv2d: .* must not be larger than the padded input; got "):
            run(functional.conv2d, x, weight, bias, **arguments)
        return
    grad_output = LAYOUTS[layout_other](random_array(rng, size.output_shape, dtype))
    with Unchanged(x, weight, bias, grad_output):
        output = run(functional.conv2d, x, weight, bias, **arguments)
        grad_input, grad_weight, grad_bias = run(functional.conv2d_backward, grad_output, x, weight, **arguments)
    assert_close(output, reference.conv2d(x, weight, bias, **arguments), dtype, "output")
    expected = reference.conv2d_backward_input(grad_output, weight, shape, **arguments)
    assert_close(grad_input, expected, dtype, "grad_input")
    expected = reference.conv2d_backward_weight(grad_output, x, weight_shape, **arguments)
    assert_close(grad_weight, expected, dtype, "grad_weight")
    assert_close(grad_bias, reference.conv2d_backward_bias(grad_output), dtype, "grad_bias")


@st.composite
def transposed_convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    per_group, out_per_group = draw(few_channels), draw(few_channels)
    x = (draw(st.integers(0, 2)), groups * per_group, draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    weight = (groups * per_group, out_per_group, draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride, dilation = draw(one_or_pair), draw(st.one_of(st.just(1), one_or_pair))
    limits = [max(a, b) - 1 for a, b in zip(reference.as_pair(stride), reference.as_pair(dilation), strict=True)]
    arguments = {
        "stride": stride,
        "padding": draw(st.one_of(small, st.tuples(small, small))),
        "output_padding": tuple(draw(st.integers(0, limit)) for limit in limits),
        "groups": groups,
        "dilation": dilation,
    }
    return x, weight, arguments


@shared_fixture
@given(problem=transposed_convolutions(), dtype=dtypes, layout=layouts, seed=seeds)
def test_transposed(run, problem, dtype, layout, seed):
    shape, weight_shape, arguments = problem
    rng = np.random.default_rng(seed)
    x = LAYOUTS[layout](random_array(rng, shape, dtype))
    weight = random_array(rng, weight_shape, dtype)
    sizes = [
        (shape[2 + i] - 1) * reference.as_pair(arguments["stride"])[i]
        - 2 * reference.as_pair(arguments["padding"])[i]
        + reference.as_pair(arguments["dilation"])[i] * (weight_shape[2 + i] - 1)
        + arguments["output_padding"][i]
        + 1
        for i in (0, 1)
    ]
    if min(sizes) < 1:
        with pytest.raises(ShapeError, match=r"^conv_transpose2d: .*; got "):
            run(functional.conv_transpose2d, x, weight, **arguments)
        return
    expected = reference.conv_transpose2d(x, weight, **arguments)
    grad_output = random_array(rng, expected.shape, dtype)
    with Unchanged(x, weight, grad_output):
        output = run(functional.conv_transpose2d, x, weight, **arguments)
        result = run(functional.conv_transpose2d_backward, grad_output, x, weight, **arguments)
    assert_close(output, expected, dtype, "output")
    wanted = reference.conv_transpose2d_backward(grad_output, x, weight, **arguments)
    for name, actual, value in zip(("grad_input", "grad_weight", "grad_bias"), result, wanted, strict=True):
        assert_close(actual, value, dtype, name)


anything = st.integers(-1, 6)


@settings(max_examples=150, suppress_health_check=[*HealthCheck])
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
