"""Convolution and linear layers on a GPU: the compiled PTX in the interpreter, every check on, against float64.

Every kernel runs on drawn shapes, with the tile and the number of splits given instead of chosen; without --full each
on one architecture, and in float64 those of one tile.
"""

from __future__ import annotations

import contextlib
import re

import numpy as np
import pytest

pytest.importorskip("numba.cuda", reason="numba-cuda is not installed")

import reference
from cases import FEW
from compare import LAYOUTS, assert_close, random_array
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ptx.runtime import InterpreterRuntime
from ptx.statistics import Statistics

import numbaconv
from numbaconv import functional, to_device, to_host
from numbaconv.backend import layout_of
from numbaconv.cuda import launch
from numbaconv.cuda.array import DeviceArray
from numbaconv.cuda.conv2d import correlate, grouped, weight_gradient
from numbaconv.cuda.conv2d.choose import choose, explain
from numbaconv.cuda.conv2d.taps import backward_taps, forward_taps
from numbaconv.cuda.conv2d.tile import LARGE, MEDIUM, SMALL
from numbaconv.cuda.conv2d.tiling import Tiling, choose_tiling
from numbaconv.cuda.precision import allow_tf32
from numbaconv.cuda.runtime import simulated
from numbaconv.errors import ArgumentError, ShapeError
from numbaconv.shapes import conv2d_problem

if simulated():
    pytest.skip("numba's simulator compiles nothing", allow_module_level=True)

ARCHITECTURES = ((8, 0), (9, 0), (10, 0))


@contextlib.contextmanager
def tiling(tile, splits=1):
    """Products are cut into this tile, and their terms into so many splits."""

    def chosen(tiles, rows, columns, parts, stages, itemsize):
        return Tiling(tile, splits, -(-stages // splits))

    modules = correlate, weight_gradient
    for module in modules:
        module.choose_tiling = chosen
    try:
        yield
    finally:
        for module in modules:
            module.choose_tiling = choose_tiling


def channels_last(x):
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def check(case, dtype, cc, *, algorithm="implicit_gemm", relu=False, with_bias=True, seed=0):
    """All directions of a convolution, given as (x, weight, arguments), against the reference."""
    shape, weight_shape, arguments = case
    rng = np.random.default_rng(seed)
    x, weight = channels_last(random_array(rng, shape, dtype)), random_array(rng, weight_shape, dtype)
    bias = random_array(rng, weight_shape[:1], dtype) if with_bias else None
    output = reference.conv2d(x, weight, bias, **arguments)
    grad_output = channels_last(random_array(rng, output.shape, dtype))
    with launch.use(InterpreterRuntime(cc)), numbaconv.algorithm(algorithm):
        x_, weight_, grad_output_ = (to_device(a, "cuda") for a in (x, weight, grad_output))
        bias_ = None if bias is None else to_device(bias, "cuda")
        layer = functional.prepare_conv2d(weight_, bias_, **arguments, relu=relu)
        assert_close(to_host(layer(x_)), np.maximum(output, 0) if relu else output, dtype, "prepared")
        assert_close(to_host(functional.conv2d(x_, weight_, bias_, **arguments)), output, dtype, "output")
        grads = functional.conv2d_backward(grad_output_, x_, weight_, **arguments)
        grad_input, grad_weight, grad_bias = (to_host(g) for g in grads)
    expected = reference.conv2d_backward_input(grad_output, weight, shape, **arguments)
    assert_close(grad_input, expected, dtype, "grad_input")
    expected = reference.conv2d_backward_weight(grad_output, x, weight_shape, **arguments)
    assert_close(grad_weight, expected, dtype, "grad_weight")
    assert_close(grad_bias, reference.conv2d_backward_bias(grad_output), dtype, "grad_bias")


# --- every kernel on drawn shapes --------------------------------------------------------------------------


def combinations(kinds):
    """Kind x element type x architecture; the quick ones take turns at the architectures."""
    return list(_combinations(kinds))


def _combinations(kinds):
    for turn, (name, *kind) in enumerate(kinds):
        for dtype in ("float32", "float64"):
            for number, cc in enumerate(ARCHITECTURES):
                if kind[0] is LARGE and dtype == "float64":
                    continue
                is_quick = number == turn % 3 and (dtype == "float32" or name in ("medium", "depthwise"))
                marks = () if is_quick else pytest.mark.full
                yield pytest.param(*kind, dtype, cc, id=f"{name}-{dtype}-sm_{cc[0]}{cc[1]}", marks=marks)


few = st.integers(1, 3)
paddings = st.tuples(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.tuples(st.integers(0, 3), st.integers(0, 3)))


def sides(draw, multiple, most):
    return multiple * draw(st.integers(1, most // multiple))


@st.composite
def convolutions(draw, vectors, most_columns, dtype):
    """(x, weight, arguments) with channels of whole vectors or not, that fill one tile or reach into the next."""
    vector = 16 // np.dtype(dtype).itemsize
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    multiple = vector if vectors else 1
    c, k = sides(draw, multiple, 20), sides(draw, multiple, max(most_columns // groups + 8, 8))
    if not vectors and c % vector == k % vector == 0:
        c += 1
    r, s = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 2), (3, 2)]))
    h, w = draw(st.integers((r - 1) * dilation[0] + 1, 11)), draw(st.integers((s - 1) * dilation[1] + 1, 11))
    arguments = {"stride": (draw(few), draw(few)), "padding": draw(paddings), "dilation": dilation, "groups": groups}
    return (draw(few), c * groups, h, w), (k * groups, c, r, s), arguments


def drawn(test, strategy, examples, full):
    """Runs ``test(case, splits, relu, with_bias, seed)`` on drawn cases."""
    numbers = st.tuples(st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 999))
    count = 10 * examples if full else examples

    @settings(max_examples=count, suppress_health_check=[*HealthCheck])
    @given(case=strategy, numbers=numbers)
    def run(case, numbers):
        test(case, *numbers)

    run()


TILES = [("large", LARGE, True), ("medium", MEDIUM, True), ("small", SMALL, True), ("scalars", MEDIUM, False)]


@pytest.mark.parametrize(("tile", "vectors", "dtype", "cc"), combinations(TILES))
def test_implicit_gemm(request, tile, vectors, dtype, cc):
    def test(case, splits, relu, with_bias, seed):
        with tiling(tile, splits):
            check(case, dtype, cc, relu=relu, with_bias=with_bias, seed=seed)

    columns = tile.shape(np.dtype(dtype).itemsize).columns
    drawn(test, convolutions(vectors, columns, dtype), 4, request.config.getoption("--full"))


@st.composite
def layers(draw, dtype):
    """(rows, inputs, outputs) of a linear layer, in whole vectors."""
    vector = 16 // np.dtype(dtype).itemsize
    return draw(st.integers(1, 150)), sides(draw, vector, 60), sides(draw, vector, 150)


@pytest.mark.parametrize(("tile", "vectors", "dtype", "cc"), combinations(TILES[:3]))
def test_weights_read_as_they_lie(request, tile, vectors, dtype, cc):
    def test(case, splits, relu, with_bias, seed):
        with tiling(tile, splits), launch.use(InterpreterRuntime(cc)):
            check_linear(*case, dtype, seed, with_bias)

    drawn(test, layers(dtype), 4, request.config.getoption("--full"))


def check_linear(rows, inputs, outputs, dtype, seed=0, with_bias=True):
    rng = np.random.default_rng(seed)
    shapes = (rows, inputs), (outputs, inputs), (outputs,), (rows, outputs)
    x, weight, bias, grad_output = (random_array(rng, shape, dtype) for shape in shapes)
    x_, weight_, grad_output_ = (to_device(a, "cuda") for a in (x, weight, grad_output))
    bias_ = to_device(bias, "cuda") if with_bias else None
    output = reference.linear(x, weight, bias if with_bias else None)
    assert_close(to_host(functional.linear(x_, weight_, bias_)), output, dtype, "output")
    prepared = functional.prepare_linear(weight_, bias_, relu=True)
    assert_close(to_host(prepared(x_)), np.maximum(output, 0), dtype, "prepared")
    grads = [to_host(g) for g in functional.linear_backward(grad_output_, x_, weight_)]
    for name, got, expected in zip("xwb", grads, reference.linear_backward(grad_output, x, weight), strict=True):
        assert_close(got, expected, dtype, f"gradient {name}")


@st.composite
def grouped_convolutions(draw, vectors, dtype):
    """(x, weight, arguments): depthwise in whole vectors, or groups of a few channels."""
    vector = 16 // np.dtype(dtype).itemsize
    c, k = (1, 1) if vectors else (draw(few), draw(few))
    groups = vector * draw(st.integers(1, 5)) if vectors else draw(st.integers(2, 17))
    (n, _, h, w), (_, _, r, s), arguments = draw(convolutions(False, 4, dtype))
    return (n, c * groups, h, w), (k * groups, c, r, s), {**arguments, "groups": groups}


@pytest.mark.parametrize(
    ("tile", "vectors", "dtype", "cc"), combinations([("depthwise", MEDIUM, True), ("grouped", MEDIUM, False)])
)
def test_grouped(request, tile, vectors, dtype, cc):
    def test(case, splits, relu, with_bias, seed):
        check(case, dtype, cc, algorithm="grouped", relu=relu, with_bias=with_bias, seed=seed)

    drawn(test, grouped_convolutions(vectors, dtype), 6, request.config.getoption("--full"))


# --- as they are called ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", FEW, ids=[case.name for case in FEW])
def test_cases(case):
    """Whatever is chosen, for a C-ordered x."""
    rng = np.random.default_rng(1)
    x, weight = random_array(rng, case.x, "float32"), random_array(rng, case.weight, "float32")
    with launch.use(InterpreterRuntime((8, 0))):
        output = functional.conv2d(to_device(x, "cuda"), to_device(weight, "cuda"), **case.arguments)
        assert output.c_contiguous
        assert_close(to_host(output), reference.conv2d(x, weight, **case.arguments), "float32")


@pytest.mark.parametrize("layout", ["channels_first", "channels_last", "sliced", "negative_strides", "transposed"])
def test_layouts(layout):
    """Of every array; a result follows its first one."""
    rng = np.random.default_rng(2)
    x, weight, grad_output = (random_array(rng, s, "float32") for s in ((2, 8, 5, 6), (8, 8, 3, 3), (2, 8, 3, 4)))
    with launch.use(InterpreterRuntime((8, 0))):
        x_, weight_, grad_output_ = (laid_out(a, layout) for a in (x, weight, grad_output))
        output = functional.conv2d(x_, weight_)
        grads = functional.conv2d_backward(grad_output_, x_, weight_)
        assert layout_of(output) == layout_of(x_)
        assert layout_of(grads[0]) == layout_of(grad_output_)
        assert grads[1].c_contiguous
        output, *grads = (to_host(a) for a in (output, *grads))
    assert_close(output, reference.conv2d(x, weight), "float32")
    assert_close(grads[0], reference.conv2d_backward_input(grad_output, weight, x.shape), "float32")
    assert_close(grads[1], reference.conv2d_backward_weight(grad_output, x, weight.shape), "float32")
    assert_close(grads[2], reference.conv2d_backward_bias(grad_output), "float32")


def laid_out(x, layout):
    """A device array of these elements and strides."""
    like = LAYOUTS[layout](x)
    if layout in ("channels_first", "channels_last"):
        return to_device(like, "cuda")
    whole = to_device(np.ascontiguousarray(like.base if like.base is not None else like), "cuda")
    offset = like.ctypes.data - like.base.ctypes.data if like.base is not None else 0
    return DeviceArray(whole.address + offset, like.shape, like.dtype, whole.device, whole.owner, like.strides)


def test_a_view_at_an_odd_address():
    """Pixels of whole vectors that do not begin at a multiple of 16 bytes."""
    rng = np.random.default_rng(3)
    x, weight = random_array(rng, (1, 4, 5, 5), "float32"), random_array(rng, (4, 4, 1, 1), "float32")
    with launch.use(InterpreterRuntime((8, 0))):
        flat = to_device(
            np.concatenate([np.zeros(1, np.float32), channels_last(x).transpose(0, 2, 3, 1).ravel()]), "cuda"
        )
        view = flat[1:].reshape(1, 5, 5, 4).transpose(0, 3, 1, 2)
        assert_close(
            to_host(functional.conv2d(view, to_device(weight, "cuda"))), reference.conv2d(x, weight), "float32"
        )


def test_prepared_is_a_snapshot():
    rng = np.random.default_rng(4)
    for shape in ((8, 8, 1, 1), (8, 8, 3, 3)):
        x, weight = random_array(rng, (1, 8, 5, 5), "float32"), random_array(rng, shape, "float32")
        with launch.use(InterpreterRuntime((8, 0))) as device:
            weight_ = to_device(weight, "cuda")
            layer = functional.prepare_conv2d(weight_)
            x_ = to_device(x, "cuda")
            layer(x_)
            device.clear(0, weight_.address, weight_.nbytes, 0)
            assert_close(to_host(layer(x_)), reference.conv2d(x, weight), "float32")


def test_linear_of_odd_sizes_and_of_nothing():
    with launch.use(InterpreterRuntime((8, 0))):
        check_linear(5, 7, 3, "float32")
        check_linear(3, 84, 10, "float32")
        x, weight = to_device(np.zeros((0, 8), np.float32), "cuda"), to_device(np.ones((4, 8), np.float32), "cuda")
        assert to_host(functional.linear(x, weight)).shape == (0, 4)
        grads = functional.linear_backward(to_device(np.zeros((0, 4), np.float32), "cuda"), x, weight)
        assert [to_host(g).tolist() for g in grads] == [[], np.zeros((4, 8)).tolist(), [0, 0, 0, 0]]


def test_empty_batch():
    with launch.use(InterpreterRuntime((8, 0))):
        x, weight = (
            to_device(np.zeros((0, 4, 5, 5), np.float32), "cuda"),
            to_device(np.ones((4, 4, 3, 3), np.float32), "cuda"),
        )
        output = functional.conv2d(x, weight)
        assert to_host(output).shape == (0, 4, 3, 3)
        grads = [to_host(g) for g in functional.conv2d_backward(output, x, weight)]
        assert [g.shape for g in grads] == [(0, 4, 5, 5), (4, 4, 3, 3), (4,)]
        assert not grads[1].any()
        assert not grads[2].any()


def test_nan_passes_relu_and_stays_in_its_window():
    x = np.zeros((1, 4, 5, 5), np.float32)
    x[0, 0, 0, 0] = np.nan
    with launch.use(InterpreterRuntime((8, 0))):
        layer = functional.prepare_conv2d(to_device(np.ones((4, 4, 3, 3), np.float32), "cuda"), relu=True, padding=1)
        output = to_host(layer(to_device(x, "cuda")))
    expected = np.zeros((1, 4, 5, 5))
    expected[:, :, :2, :2] = np.nan
    np.testing.assert_array_equal(output, expected)


def test_simulator(run_python):
    # int32 arithmetic wraps around on a GPU; NumPy's warns where it does.
    options = "'-q', '-p', 'no:cacheprovider', '-W', 'ignore:overflow encountered'"
    code = f"import sys, pytest; sys.exit(pytest.main([sys.argv[1], {options}]))"
    output = run_python(code, "tests/simulator_conv_cases.py", NUMBA_ENABLE_CUDASIM="1")
    assert re.match(r"\.{6,} +\[100%\]\n$", output), output  # none is skipped


# --- accuracy ----------------------------------------------------------------------------------------------


def relative_error(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("splits", [1, 16])
def test_long_sums(splits):
    """One float32 accumulator would lose 5e-6 over 65,536 terms, 3e-6 over these."""
    rng = np.random.default_rng(5)
    x, weight = random_array(rng, (3, 32768), "float32"), random_array(rng, (4, 32768), "float32")
    with tiling(SMALL, splits), launch.use(InterpreterRuntime((8, 0), check=False)):
        output = to_host(functional.linear(to_device(x, "cuda"), to_device(weight, "cuda")))
        # Samples are the terms of this one.
        columns = (np.ascontiguousarray(a.T) for a in (x[[0, 0, 1, 1]], weight))
        grad_output_, x_ = (to_device(a, "cuda") for a in columns)
        unused = to_device(np.zeros((4, 4), np.float32), "cuda")
        _, grad_weight, _ = functional.linear_backward(grad_output_, x_, unused, needs=(False, True, False))
        grad_weight = to_host(grad_weight)
    assert relative_error(output, x.astype("f8") @ weight.astype("f8").T) < 1e-6
    assert relative_error(grad_weight, x[[0, 0, 1, 1]].astype("f8") @ weight.astype("f8").T) < 1e-6


@pytest.mark.full
def test_longest_sums():
    """400,000 terms, as they are chosen to be cut."""
    rng = np.random.default_rng(6)
    x, weight = random_array(rng, (3, 400_000), "float32"), random_array(rng, (4, 400_000), "float32")
    with launch.use(InterpreterRuntime((8, 0), check=False)):
        output = to_host(functional.linear(to_device(x, "cuda"), to_device(weight, "cuda")))
    assert relative_error(output, x.astype("f8") @ weight.astype("f8").T) < 1e-6


# --- memory accesses ---------------------------------------------------------------------------------------


def test_accesses_of_the_large_tile():
    """Shared memory without a bank conflict, global memory in whole sectors."""
    rng = np.random.default_rng(7)
    x, weight = random_array(rng, (1, 8, 12, 12), "float32"), random_array(rng, (128, 8, 3, 3), "float32")
    statistics = Statistics()
    with tiling(LARGE), launch.use(InterpreterRuntime((8, 0))) as device:
        layer = functional.prepare_conv2d(to_device(weight, "cuda"), padding=1)
        x_ = to_device(channels_last(x), "cuda")
        layer(x_)  # packs the weights
        device.launches.clear()
        device.statistics = statistics
        layer(x_)
    assert device.launches == {"conv2d_correlate_along_large_vectors_float32": 1}
    assert statistics.sectors.total() <= 1.1 * statistics.least_sectors.total()
    assert statistics.bank_cycles == statistics.least_bank_cycles


# --- what is chosen ----------------------------------------------------------------------------------------


def test_forward_taps():
    """3 x 2 filters, two channels: a filter row is one run, unless columns are dilated."""
    problem = conv2d_problem((1, 2, 9, 9), (4, 2, 3, 2), None, 1, (1, 1), 1, 1)
    (one,) = forward_taps(problem).classes
    assert [(t.row_shift, t.column_shift, t.r, t.s, t.s_step) for t in one.taps] == [
        (-1, -2, 0, 0, 1), (0, -2, 1, 0, 1), (1, -2, 2, 0, 1),
    ]  # fmt: skip
    assert one.elements == 4
    dilated = conv2d_problem((1, 2, 9, 9), (4, 2, 1, 2), None, 1, 0, (1, 3), 1)
    (one,) = forward_taps(dilated).classes
    assert [(t.row_shift, t.column_shift, t.s) for t in one.taps] == [(0, 0, 0), (0, 6, 1)]
    assert one.elements == 2


def test_backward_taps():
    """One row of 3 taps at stride 2, padding 1, 5 output channels: even columns see one tap, odd ones two."""
    problem = conv2d_problem((1, 2, 1, 8), (5, 2, 1, 3), None, (1, 2), (0, 1), 1, 1)
    taps = backward_taps(problem)
    assert (taps.row_classes, taps.column_classes) == (1, 2)
    even, odd = taps.classes
    assert [(t.column_shift, t.s, t.s_step) for t in even.taps] == [(0, 1, 0)]  # w = 2 q + 1 - 1
    assert [(t.column_shift, t.s, t.s_step) for t in odd.taps] == [(0, 2, -2)]  # w + 1 = 2 q + s: s = 2, then 0
    assert (even.elements, odd.elements) == (5, 10)


def test_tilings():
    """A layer of a large network gets the large tile; a few samples of a linear layer small ones, split."""
    tiles = LARGE, MEDIUM, SMALL
    assert choose_tiling(tiles, 64 * 56 * 56, 256, 1, 288, 4).tile is LARGE
    assert choose_tiling(tiles, 64 * 56 * 56, 64, 1, 72, 4).tile is MEDIUM
    few_samples = choose_tiling(tiles, 8, 1024, 1, 512, 4)
    assert few_samples.splits > 1
    assert (few_samples.splits - 1) * few_samples.split_stages < 512 <= few_samples.splits * few_samples.split_stages
    assert choose_tiling(tiles, 8, 8, 1, 0, 4).splits == 1


def test_choice():
    wide = conv2d_problem((2, 64, 9, 9), (64, 64, 3, 3), None, 1, 1, 1, 1)
    pixels = conv2d_problem((2, 64, 9, 9), (64, 64, 1, 1), None, 1, 0, 1, 1)
    depthwise = conv2d_problem((2, 64, 9, 9), (64, 1, 3, 3), None, 1, 1, 1, 64)
    for problem, name in ((wide, "implicit_gemm"), (pixels, "pointwise"), (depthwise, "grouped")):
        assert choose(problem, None, "float32", False, (8, 0)).name == name
    for mode, name in ((True, "tensor_core"), ("3x", "tensor_core_3x")):
        assert choose(wide, None, "float32", mode, (8, 0)).name == name
        assert choose(wide, None, "float32", mode, (7, 5)).name == "implicit_gemm"
        assert choose(wide, None, "float64", mode, (8, 0)).name == "implicit_gemm"
    assert choose(wide, "tensor_core", "float32", False, (8, 0)).name == "tensor_core"
    with pytest.raises(ArgumentError, match=r"pointwise does not support this problem: the kernel is 3x3, not 1x1"):
        choose(wide, "pointwise", "float32", False, (8, 0))
    with pytest.raises(ArgumentError, match=r"the name must be one of .*implicit_gemm"):
        choose(wide, "winograd", "float32", False, (8, 0))


def test_explain():
    problem = conv2d_problem((2, 64, 9, 9), (64, 64, 1, 1), None, 1, 0, 1, 1)
    text = explain(problem, "float32", (7, 5))
    assert "forward          pointwise       chosen" in text
    assert "backward_weight  grouped         it is not grouped" in text
    assert "tensor_core     the GPU's compute capability is 7.5, below 8.0" in text
    with allow_tf32():
        assert "tensor_core     chosen" in explain(problem, "float32", (8, 0))


@pytest.mark.full
def test_tensor_cores_when_allowed():
    rng = np.random.default_rng(8)
    x, weight = random_array(rng, (20, 16), "float32"), random_array(rng, (8, 16), "float32")
    with launch.use(InterpreterRuntime((8, 0))) as device, allow_tf32():
        output = to_host(functional.linear(to_device(x, "cuda"), to_device(weight, "cuda")))
        assert any("tensor" in name for name in device.launches)
    assert relative_error(output, reference.linear(x, weight)) < 1e-3


def test_more_elements_than_int32_counts_are_refused():
    with launch.use(InterpreterRuntime((8, 0))):
        weight = to_device(np.ones((4, 4, 3, 3), np.float32), "cuda")
        huge = DeviceArray(weight.address, (1, 4, 1 << 15, 1 << 15), weight.dtype, 0, weight.owner)
        with pytest.raises(ShapeError, match=r"^conv2d: on a GPU this takes arrays of at most"):
            functional.conv2d(huge, weight)
        rows = DeviceArray(weight.address, (1 << 29, 4), weight.dtype, 0, weight.owner)
        with pytest.raises(ShapeError, match=r"^linear: on a GPU this takes arrays of at most"):
            functional.linear(rows, to_device(np.ones((4, 4), np.float32), "cuda"))


def test_launches():
    """A linear layer's backward is three launches: two products, and the sums of the second with the bias's."""
    with launch.use(InterpreterRuntime((8, 0))) as device:
        x, weight, grad_output = (to_device(np.ones(s, np.float32), "cuda") for s in ((64, 400), (120, 400), (64, 120)))
        with tiling(SMALL):
            functional.linear_backward(grad_output, x, weight)
        assert sum(device.launches.values()) == 3


def test_grouped_pays_for_few_channels():
    assert grouped.pays(conv2d_problem((1, 64, 6, 6), (64, 4, 3, 3), None, 1, 1, 1, 16)) == ""
    assert "enough for a tile" in grouped.pays(conv2d_problem((1, 64, 6, 6), (64, 32, 3, 3), None, 1, 1, 1, 2))
