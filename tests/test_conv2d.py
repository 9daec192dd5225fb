"""conv2d and its gradients against the float64 reference: every case, dtype, layout, algorithm and thread count."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import reference
from cases import CONV, FEW, each
from compare import CHANNELS_LAST, LAYOUTS, Unchanged, assert_close, random_array

from numbaconv import algorithm, explain, functional, layout_of
from numbaconv.algorithm import forced
from numbaconv.cpu.conv2d.choose import ALGORITHMS, DIRECTIONS
from numbaconv.errors import NumbaconvError
from numbaconv.shapes import conv2d_problem

pytestmark = pytest.mark.usefixtures("serial_float64")
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def problem_arrays(case, rng, dtype):
    """x, weight, bias, grad_output."""
    size = reference.Geometry(case.x, case.weight, **case.arguments)
    shapes = case.x, case.weight, (case.weight[0],), size.output_shape
    return [random_array(rng, shape, dtype) for shape in shapes]


# --- every case --------------------------------------------------------------------------------------------


@pytest.mark.reduced
@DTYPES
@each(CONV)
def test_forward(case, dtype, rng, run):
    x, weight, bias, _ = problem_arrays(case, rng, dtype)
    with Unchanged(x, weight, bias):
        output = run(functional.conv2d, x, weight, bias, **case.arguments)
    assert_close(output, reference.conv2d(x, weight, bias, **case.arguments), dtype)


@pytest.mark.reduced
@DTYPES
@each(CONV)
def test_backward_input(case, dtype, rng, run):
    _, weight, _, grad_output = problem_arrays(case, rng, dtype)
    with Unchanged(weight, grad_output):
        grad_input = run(functional.conv2d_backward_input, grad_output, weight, case.x, **case.arguments)
    expected = reference.conv2d_backward_input(grad_output, weight, case.x, **case.arguments)
    assert_close(grad_input, expected, dtype)


@pytest.mark.reduced
@DTYPES
@each(CONV)
def test_backward_weight(case, dtype, rng, run):
    x, _, _, grad_output = problem_arrays(case, rng, dtype)
    with Unchanged(x, grad_output):
        grad_weight = run(functional.conv2d_backward_weight, grad_output, x, case.weight, **case.arguments)
    expected = reference.conv2d_backward_weight(grad_output, x, case.weight, **case.arguments)
    assert_close(grad_weight, expected, dtype)
    assert grad_weight.flags.c_contiguous


@DTYPES
@each(CONV)
def test_backward_bias(case, dtype, rng, run):
    grad_output = problem_arrays(case, rng, dtype)[3]
    with Unchanged(grad_output):
        grad_bias = run(functional.conv2d_backward_bias, grad_output)
    assert_close(grad_bias, reference.conv2d_backward_bias(grad_output), dtype)


def test_no_bias_is_a_bias_of_zeros(rng, run):
    x, weight = random_array(rng, (2, 3, 6, 6), "float32"), random_array(rng, (4, 3, 3, 3), "float32")
    np.testing.assert_array_equal(
        run(functional.conv2d, x, weight), run(functional.conv2d, x, weight, np.zeros(4, "float32"))
    )


# --- all gradients at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize("needs", list(itertools.product([True, False], repeat=3)))
def test_needs(needs, rng, run):
    case = next(case for case in FEW if case.name == "3x3_pad1")
    x, weight, _, grad_output = problem_arrays(case, rng, "float32")
    with Unchanged(x, weight, grad_output):
        result = run(functional.conv2d_backward, grad_output, x, weight, needs=needs, **case.arguments)
    expected = (
        reference.conv2d_backward_input(grad_output, weight, case.x, **case.arguments),
        reference.conv2d_backward_weight(grad_output, x, case.weight, **case.arguments),
        reference.conv2d_backward_bias(grad_output),
    )
    assert isinstance(result, tuple)
    assert [gradient is not None for gradient in result] == list(needs)
    for actual, wanted in zip(result, expected, strict=True):
        if actual is not None:
            assert_close(actual, wanted, "float32")


@DTYPES
@each(FEW)
def test_backward_gives_the_three(case, dtype, rng, run):
    x, weight, _, grad_output = problem_arrays(case, rng, dtype)
    grad_input, grad_weight, grad_bias = run(functional.conv2d_backward, grad_output, x, weight, **case.arguments)
    expected = reference.conv2d_backward_input(grad_output, weight, case.x, **case.arguments)
    assert_close(grad_input, expected, dtype, "grad_input")
    expected = reference.conv2d_backward_weight(grad_output, x, case.weight, **case.arguments)
    assert_close(grad_weight, expected, dtype, "grad_weight")
    assert_close(grad_bias, reference.conv2d_backward_bias(grad_output), dtype, "grad_bias")


# --- memory layouts ----------------------------------------------------------------------------------------


LAYOUT_CASES = [case for case in FEW if case.name in ("1x1", "3x3_pad1", "groups4_tail", "asymmetric_stride2")]


@pytest.mark.parametrize("layout", LAYOUTS)
@each(LAYOUT_CASES)
def test_layouts(case, layout, rng, run):
    """Any strides of any argument: the same numbers."""
    x, weight, bias, grad_output = problem_arrays(case, rng, "float32")
    x, weight, grad_output = (LAYOUTS[layout](a) for a in (x, weight, grad_output))
    arguments = case.arguments
    with Unchanged(x, weight, bias, grad_output):
        output = run(functional.conv2d, x, weight, bias, **arguments)
        grad_input = run(functional.conv2d_backward_input, grad_output, weight, case.x, **arguments)
        grad_weight = run(functional.conv2d_backward_weight, grad_output, x, case.weight, **arguments)
        grad_bias = run(functional.conv2d_backward_bias, grad_output)
    assert_close(output, reference.conv2d(x, weight, bias, **arguments), "float32", "output")
    expected = reference.conv2d_backward_input(grad_output, weight, case.x, **arguments)
    assert_close(grad_input, expected, "float32", "grad_input")
    expected = reference.conv2d_backward_weight(grad_output, x, case.weight, **arguments)
    assert_close(grad_weight, expected, "float32", "grad_weight")
    assert_close(grad_bias, reference.conv2d_backward_bias(grad_output), "float32", "grad_bias")


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "negative_strides", "broadcast_first", "byte_swapped"])
def test_layouts_of_a_bias(layout, rng):
    x, weight = random_array(rng, (2, 3, 6, 6), "float32"), random_array(rng, (4, 3, 3, 3), "float32")
    bias = LAYOUTS[layout](random_array(rng, (4,), "float32"))
    with Unchanged(bias):
        assert_close(functional.conv2d(x, weight, bias), reference.conv2d(x, weight, bias), "float32")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_output_follows_the_input_s_layout(layout, rng, device):
    if device != "cpu":
        pytest.skip("moving an array to another device packs it")
    x = LAYOUTS[layout](random_array(rng, (2, 3, 6, 5), "float32"))
    weight = random_array(rng, (4, 3, 3, 3), "float32")
    expected = "channels_last" if layout in CHANNELS_LAST else "channels_first"
    assert layout_of(x) == expected
    for result in (functional.conv2d(x, weight), functional.conv2d_backward_input(x, weight[:3], (2, 3, 8, 7))):
        assert layout_of(result) == expected
        dense = result if expected == "channels_first" else result.transpose(0, 2, 3, 1)
        assert dense.flags.c_contiguous
        assert result.flags.writeable


def test_a_weight_s_strides_do_not_matter(rng):
    x = random_array(rng, (2, 3, 6, 5), "float32")
    weight = random_array(rng, (4, 3, 3, 3), "float32")
    assert functional.conv2d(x, LAYOUTS["channels_last"](weight)).flags.c_contiguous


@DTYPES
@each(FEW)
def test_unbatched(case, dtype, rng, run):
    x, weight, bias, grad_output = problem_arrays(case, rng, dtype)
    one, grad_one = x[0], grad_output[0]
    output = run(functional.conv2d, one, weight, bias, **case.arguments)
    assert_close(output, reference.conv2d(x[:1], weight, bias, **case.arguments)[0], dtype)
    grad_input = run(functional.conv2d_backward_input, grad_one, weight, one.shape, **case.arguments)
    expected = reference.conv2d_backward_input(grad_output[:1], weight, (1, *case.x[1:]), **case.arguments)[0]
    assert_close(grad_input, expected, dtype)
    expected_weight = reference.conv2d_backward_weight(grad_output[:1], x[:1], case.weight, **case.arguments)
    grad_weight = run(functional.conv2d_backward_weight, grad_one, one, case.weight, **case.arguments)
    assert_close(grad_weight, expected_weight, dtype)
    grad_bias = run(functional.conv2d_backward_bias, grad_one)
    assert_close(grad_bias, reference.conv2d_backward_bias(grad_output[:1]), dtype)
    result = run(functional.conv2d_backward, grad_one, one, weight, **case.arguments)
    for actual, wanted in zip(result, (expected, expected_weight), strict=False):
        assert_close(actual, wanted, dtype)


# --- twins and threads -------------------------------------------------------------------------------------


def everything(case, rng, dtype="float32"):
    """The forward pass and the three gradients."""
    x, weight, bias, grad_output = problem_arrays(case, rng, dtype)
    output = functional.conv2d(x, weight, bias, **case.arguments)
    return [output, *functional.conv2d_backward(grad_output, x, weight, **case.arguments)]


@pytest.mark.reduced
@each(FEW)
def test_parallel_twins(case, rng, force_parallel):
    x, weight, bias, grad_output = problem_arrays(case, rng, "float32")
    output = functional.conv2d(x, weight, bias, **case.arguments)
    assert_close(output, reference.conv2d(x, weight, bias, **case.arguments), "float32")
    grad_input, grad_weight, _ = functional.conv2d_backward(grad_output, x, weight, **case.arguments)
    expected = reference.conv2d_backward_input(grad_output, weight, case.x, **case.arguments)
    assert_close(grad_input, expected, "float32")
    expected = reference.conv2d_backward_weight(grad_output, x, case.weight, **case.arguments)
    assert_close(grad_weight, expected, "float32")


THREADS = """
import hashlib, json, sys
import numpy as np
import numbaconv
from cases import ConvCase, FEW
from numbaconv import parallel
from test_conv2d import everything

cases = [*FEW, ConvCase("wide", (3, 40, 15, 14), (70, 40, 3, 3), padding=1)]

def digests():
    rng = np.random.default_rng(1)
    return [hashlib.sha256(a.tobytes()).hexdigest() for case in cases for a in everything(case, rng, sys.argv[1])]

parallel.PARALLEL_WORK_NS = float("inf")
result = {"serial": digests()}
parallel.PARALLEL_WORK_NS = 0.0
for threads in (1, 2, 3, 8, 16):
    numbaconv.set_num_threads(threads)
    result[f"{threads} threads"] = digests()
print(json.dumps(result))
"""


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.full)])
def test_bits_do_not_depend_on_threads(dtype, run_python, device):
    """Serial twins, and 1, 2, 3, 8 and 16 threads: every bit the same."""
    if device != "cpu":
        pytest.skip("threads are a CPU's")
    digests = json.loads(run_python(THREADS, dtype, NUMBA_NUM_THREADS="16"))
    assert len(digests) == 6
    for name, found in digests.items():
        assert found == digests["serial"], f"{name}: not the serial twin's bits"


# --- every algorithm ---------------------------------------------------------------------------------------


def supported():
    """(algorithm, case) for every case an algorithm accepts."""
    for record in ALGORITHMS:
        for case in CONV:
            problem = conv2d_problem(case.x, case.weight, None, case.stride, case.padding, case.dilation, case.groups)
            if record.supports(problem) == "":
                yield pytest.param(record, case, id=f"{record.name}-{case.name}")


@pytest.mark.reduced
@pytest.mark.parametrize(("record", "case"), list(supported()))
def test_algorithms(record, case, rng, device):
    """Every algorithm on every case it supports, whether `choose` would take it or not; results from both layouts."""
    if device != "cpu":
        pytest.skip("these are the CPU's algorithms")
    x, weight, bias, grad_output = problem_arrays(case, rng, "float32")
    x, grad_output = LAYOUTS["channels_last"](x), LAYOUTS["channels_last"](grad_output)
    with algorithm(record.name):
        output = functional.conv2d(x, weight, bias, **case.arguments)
        grad_input, grad_weight, _ = functional.conv2d_backward(grad_output, x, weight, **case.arguments)
    looser = 5.0 if record.name.startswith("winograd") else 1.0
    assert_close(output, reference.conv2d(x, weight, bias, **case.arguments), "float32", "output", looser)
    expected = reference.conv2d_backward_input(grad_output, weight, case.x, **case.arguments)
    assert_close(grad_input, expected, "float32", "grad_input", looser)
    expected = reference.conv2d_backward_weight(grad_output, x, case.weight, **case.arguments)
    assert_close(grad_weight, expected, "float32", "grad_weight", looser)


def test_some_algorithm_takes_every_problem():
    last = ALGORITHMS[-1]
    assert all(getattr(last, direction) is not None for direction in DIRECTIONS)
    taken = {param.values[1].name for param in supported() if param.values[0] is last}
    assert taken == {case.name for case in CONV}


def test_an_unknown_algorithm_is_an_error():
    x, weight = np.ones((1, 3, 5, 5), "float32"), np.ones((4, 3, 3, 3), "float32")
    with (
        pytest.raises(NumbaconvError, match=r"^algorithm: the name must be one of .*direct.*; got "),
        algorithm("no such"),
    ):
        functional.conv2d(x, weight)
    functional.conv2d(x, weight)


def test_an_algorithm_that_does_not_support_the_problem_is_an_error_with_the_reason():
    x, weight = np.ones((1, 3, 5, 5), "float32"), np.ones((4, 3, 3, 3), "float32")
    rule = r"^algorithm: pointwise does not support this problem: .+; got "
    with pytest.raises(NumbaconvError, match=rule), algorithm("pointwise"):
        functional.conv2d(x, weight)


def test_algorithm_is_forced_inside_the_with_only():
    assert forced() is None
    with algorithm("direct"):
        assert forced() == "direct"
        with algorithm("pointwise"):
            assert forced() == "pointwise"
        assert forced() == "direct"
    assert forced() is None


def test_explain_gives_every_verdict(capsys):
    explain(conv2d_problem((1, 8, 5, 5), (4, 8, 3, 3), None, 1, 1, 1, 1))
    text = capsys.readouterr().out
    for record in ALGORITHMS:
        assert text.count(record.name) == len(DIRECTIONS)
    assert text.count("chosen") == len(DIRECTIONS)


@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (16, 16), (32, 16)])
@pytest.mark.parametrize("axis", [0, 1])
def test_input_gradient_of_a_huge_stride(axis, channels, groups):
    """Most positions are read by no window: nothing is planned, or computed, for each of them."""
    stride, taps = 2**18, 3
    size = [stride + taps, 2] if axis == 0 else [2, stride + taps]
    window = (taps, 1) if axis == 0 else (1, taps)
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((channels, channels // groups, *window)).astype("float32")
    grad = rng.standard_normal((1, channels, 2, 2)).astype("float32")
    strides = (stride, 1) if axis == 0 else (1, stride)
    bias = rng.standard_normal(channels).astype("float32")
    got = functional.conv_transpose2d(grad, weight, bias, stride=strides, groups=groups)
    assert got.shape == (1, channels, *size)
    each = channels // groups
    expected = np.zeros(got.shape) + bias.astype(float)[:, None, None]
    for k in range(channels):
        for c in range(each):
            for tap in range(taps):
                for p in range(2):
                    row = grad[0, k].astype(float)[p] if axis == 0 else grad[0, k].astype(float)[:, p]
                    at = (p * stride + tap, slice(None)) if axis == 0 else (slice(None), p * stride + tap)
                    expected[(0, k // each * each + c, *at)] += row * float(weight[k, c].ravel()[tap])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
