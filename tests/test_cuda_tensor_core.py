"""Convolution on tensor cores, as compiled PTX in the interpreter, every check on, against PyTorch in float64."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba.cuda", reason="numba-cuda is not installed")
pytest.importorskip("torch", reason="the reference is PyTorch's")

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ptx.runtime import InterpreterRuntime
from ptx.statistics import Statistics

from numbaconv import functional, to_device, to_host
from numbaconv.cuda import launch, memory
from numbaconv.cuda.conv2d import tensor_core
from numbaconv.cuda.conv2d.tensor_core import TensorCores
from numbaconv.cuda.layout import channels_last
from numbaconv.cuda.precision import allow_tf32, tf32_mode
from numbaconv.cuda.runtime import simulated
from numbaconv.errors import ArgumentError
from numbaconv.shapes import conv2d_problem

if simulated():
    pytest.skip("numba's simulator compiles nothing", allow_module_level=True)

ARCHITECTURES = ((8, 0), (9, 0), (10, 0))
LIMIT = {False: 1e-3, True: 3e-6}  # of the relative error, by `exact`


def relative_error(got, wanted):
    return np.linalg.norm(got - wanted) / max(np.linalg.norm(wanted), 1e-30)


def reference(problem, x, weight, bias, grad_output):
    """(output, grad_input, grad_weight) in float64."""
    x, weight = (torch.from_numpy(a).double().requires_grad_() for a in (x, weight))
    top, bottom, left, right = problem.padding
    padded = torch.nn.functional.pad(x, (left, right, top, bottom))
    bias = None if bias is None else torch.from_numpy(bias).double()
    out = torch.nn.functional.conv2d(padded, weight, bias, stride=problem.stride, dilation=problem.dilation)
    out.backward(torch.from_numpy(grad_output).double())
    return out.detach().numpy(), x.grad.numpy(), weight.grad.numpy()


def arrays(problem, with_bias=True, seed=0):
    rng = np.random.default_rng(seed)
    shapes = problem.input_shape, problem.weight_shape, problem.weight_shape[:1], problem.output_shape
    x, weight, bias, grad_output = (rng.standard_normal(shape, np.float32) for shape in shapes)
    return x, weight, bias if with_bias else None, grad_output


def run(cc, exact, problem, x, weight, bias, grad_output, relu=False):
    """(output, grad_input, grad_weight) of the compiled kernels."""
    cores = TensorCores(exact)
    with launch.use(InterpreterRuntime(cc)):
        given_arrays = x, weight, bias, grad_output
        x, weight, bias, grad_output = (None if a is None else to_device(a, "cuda") for a in given_arrays)
        out = cores.forward(problem, x, cores.pack_weight(problem, weight, bias, False), relu)
        grad_input = cores.backward_input(problem, grad_output, weight, None)
        grad_weight = cores.backward_weight(problem, grad_output, x)
        results = tuple(to_host(a) for a in (out, grad_input, grad_weight))
        memory.collect()
    return results


def check(cc, exact, problem, relu=False, with_bias=True, seed=0):
    given_arrays = arrays(problem, with_bias, seed)
    wanted = list(reference(problem, *given_arrays))
    if relu:
        wanted[0] = np.maximum(wanted[0], 0)
    for got, right in zip(run(cc, exact, problem, *given_arrays, relu=relu), wanted, strict=True):
        assert got.shape == right.shape
        assert relative_error(got, right) < LIMIT[exact]


small = st.integers(1, 3)


@st.composite
def problems(draw):
    """Channels in steps of 4, around the sizes of tiles; any stride, padding, dilation and window."""
    r, s = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    dilation = draw(small), draw(small)
    h, w = draw(st.integers((r - 1) * dilation[0] + 1, 14)), draw(st.integers((s - 1) * dilation[1] + 1, 14))
    c, k = 4 * draw(st.integers(1, 9)), 4 * draw(st.integers(1, 36))
    padding = ((draw(st.integers(0, 3)), draw(st.integers(0, 3))), (draw(st.integers(0, 3)), draw(st.integers(0, 3))))
    stride = draw(small), draw(small)
    return conv2d_problem((draw(st.integers(1, 3)), c, h, w), (k, c, r, s), None, stride, padding, dilation, 1)


@settings(max_examples=1)
@given(problems(), st.booleans(), st.booleans(), st.integers(0, 99))
@example(conv2d_problem((2, 20, 9, 11), (36, 20, 3, 3), None, 1, 1, 1, 1), False, True, 0)
@example(conv2d_problem((1, 8, 10, 9), (132, 8, 3, 2), None, (2, 1), (1, 0), (1, 2), 1), False, False, 0)
@example(conv2d_problem((1, 8, 10, 9), (68, 8, 3, 2), None, (2, 3), (1, 0), (2, 2), 1), True, True, 0)
def test_random_problems(problem, exact, relu, seed):
    check((8, 0), exact, problem, relu, with_bias=relu, seed=seed)


@pytest.mark.full
@settings(max_examples=60)
@given(problems(), st.booleans(), st.sampled_from(ARCHITECTURES), st.booleans(), st.integers(0, 99))
def test_many_random_problems(problem, exact, cc, relu, seed):
    check(cc, exact, problem, relu, with_bias=relu, seed=seed)


@pytest.mark.parametrize("cc", ARCHITECTURES[1:])
def test_another_architecture(cc):
    check(cc, True, conv2d_problem((1, 8, 6, 5), (12, 8, 2, 2), None, 1, 0, 1, 1))


@pytest.mark.full
@pytest.mark.parametrize("cc", ARCHITECTURES)
def test_every_kernel_on_every_architecture(cc):
    """64 and 128 columns, in all directions."""
    check(cc, False, conv2d_problem((1, 8, 6, 5), (68, 8, 3, 3), None, 1, 1, 1, 1))
    check(cc, False, conv2d_problem((1, 68, 6, 5), (8, 68, 1, 1), None, 1, 0, 1, 1))
    check(cc, True, conv2d_problem((1, 8, 6, 5), (12, 8, 2, 2), None, 1, 0, 1, 1))


@pytest.mark.parametrize("exact", [False, True])
def test_pixels_without_taps(exact):
    """1x1 at stride 2: three of four input pixels were never read; their gradients are 0, and all are written."""
    check((8, 0), exact, conv2d_problem((1, 8, 5, 6), (12, 8, 1, 1), None, 2, 0, 1, 1))


def test_backward_input_adds_a_bias():
    """For the transposed convolution; where no tap is seen, the bias alone."""
    problem = conv2d_problem((1, 8, 5, 5), (4, 8, 1, 1), None, 2, 0, 1, 1)
    x, weight, _, grad_output = arrays(problem)
    bias = np.arange(8, dtype=np.float32)
    with launch.use(InterpreterRuntime((8, 0))):
        devices = (to_device(a, "cuda") for a in (grad_output, weight, bias))
        got = to_host(TensorCores(True).backward_input(problem, *devices))
        memory.collect()
    wanted = reference(problem, x, weight, None, grad_output)[1] + bias[:, None, None]
    assert relative_error(got, wanted) < LIMIT[True]


def test_not_a_number_passes():
    """Through rounding, products, and ReLU; only to the outputs that see it."""
    problem = conv2d_problem((1, 4, 1, 6), (4, 4, 1, 2), None, 1, 0, 1, 1)
    x, weight, bias, grad_output = arrays(problem)
    x[0, 1, 0, 3] = np.nan
    for exact in (False, True):
        out = run((8, 0), exact, problem, x, weight, bias, grad_output, relu=True)[0]
        assert np.isnan(out[0, :, 0]).tolist() == [[False, False, True, True, False]] * 4


def test_infinity_passes():
    problem = conv2d_problem((1, 4, 1, 1), (4, 4, 1, 1), None, 1, 0, 1, 1)
    x, weight = np.ones((1, 4, 1, 1), np.float32), np.ones((4, 4, 1, 1), np.float32)
    x[0, 2] = np.inf
    assert np.isposinf(run((8, 0), False, problem, x, weight, None, x)[0]).all()


def test_numbers_of_10_bits_stay_as_they_are():
    """Integers up to 2048 have 11 significant bits: TF32's products of them are exact."""
    problem = conv2d_problem((1, 4, 3, 3), (4, 4, 2, 2), None, 1, 0, 1, 1)
    rng = np.random.default_rng(0)
    x, grad_output = (
        rng.integers(-2048, 2049, s).astype(np.float32) for s in (problem.input_shape, problem.output_shape)
    )
    weight = rng.integers(-4, 5, problem.weight_shape).astype(np.float32)
    got = run((8, 0), False, problem, x, weight, None, grad_output)
    wanted = reference(problem, x, weight, None, grad_output)
    assert np.array_equal(got[0], wanted[0])
    assert np.array_equal(got[1], wanted[1])


@pytest.mark.parametrize("terms", [2048, pytest.param(512 * 16, marks=pytest.mark.full)])
@pytest.mark.parametrize("exact", [False, True])
def test_long_parts(exact, terms, monkeypatch):
    """A sum in one block, of at most 512 stages. The interpreter cuts sums off as tensor cores do."""
    monkeypatch.setattr(tensor_core, "_ENOUGH_BLOCKS", 1)
    long_sums(exact, terms)


@pytest.mark.full
@pytest.mark.parametrize("exact", [False, True])
def test_the_longest_sums(exact):
    long_sums(exact, 400_000)


def long_sums(exact, terms):
    """Four rows by four columns: as a linear layer, and as a weight-gradient."""
    problem = conv2d_problem((4, terms, 1, 1), (4, terms, 1, 1), None, 1, 0, 1, 1)
    pixels = conv2d_problem((1, 4, 1, terms), (4, 4, 1, 1), None, 1, 0, 1, 1)
    x, weight, _, _ = arrays(problem)
    lines = (v.reshape(4, terms).T.reshape(1, 1, terms, 4).transpose(0, 3, 1, 2) for v in (weight, x))
    cores = TensorCores(exact)
    with launch.use(InterpreterRuntime((8, 0), check=False)):
        packed = cores.pack_weight(problem, to_device(weight, "cuda"), None, False)
        out = to_host(cores.forward(problem, to_device(x, "cuda"), packed, False))
        grad = to_host(cores.backward_weight(pixels, *(to_device(line, "cuda") for line in lines)))
        memory.collect()
    wanted = x.reshape(4, terms).astype(np.float64) @ weight.reshape(4, terms).astype(np.float64).T
    assert relative_error(out[:, :, 0, 0], wanted) < LIMIT[exact]
    assert relative_error(grad[:, :, 0, 0], wanted.T) < LIMIT[exact]


def test_results_do_not_depend_on_the_run():
    problem = conv2d_problem((2, 16, 7, 7), (16, 16, 3, 3), None, 1, 1, 1, 1)
    first, second = (run((8, 0), False, problem, *arrays(problem)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("exact", [False, True])
def test_traffic(exact, monkeypatch):
    """Shared memory without a bank conflict; of global memory only what is wanted, in whole sectors."""
    monkeypatch.setattr(tensor_core, "_ENOUGH_BLOCKS", 1)  # or sums would be split, and their parts added up
    problem = conv2d_problem((1, 16, 8, 8), (64, 16, 3, 3), None, 1, 1, 1, 1)
    x, weight, _, grad_output = arrays(problem)
    cores = TensorCores(exact)
    runtime = InterpreterRuntime((8, 0), check=False)
    with launch.use(runtime):
        x, weight, grad_output = (channels_last(to_device(a, "cuda")) for a in (x, weight, grad_output))
        packed = cores.pack_weight(problem, weight, None, False)
        for run_once in (
            lambda: cores.forward(problem, x, packed, True),
            lambda: cores._products("", grad_output, x, (3, 3), (1, 1), (1, 1), (1, 1), None),
        ):
            runtime.statistics = Statistics()
            run_once()
            counted, runtime.statistics = runtime.statistics, None
            assert counted.bank_cycles.total() == counted.least_bank_cycles.total() > 0
            assert 0 < counted.sectors.total() <= counted.least_sectors.total()
        memory.collect()


@pytest.mark.parametrize("exact", [False, True])
def test_no_images(exact):
    problem = conv2d_problem((0, 8, 5, 6), (12, 8, 3, 3), None, 1, 1, 1, 1)
    out, grad_input, grad_weight = run((8, 0), exact, problem, *arrays(problem))
    assert (out.shape, grad_input.shape) == (problem.output_shape, problem.input_shape)
    assert not grad_weight.any()


# --- what it is made of ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "taps", "stride", "before", "dilation"),
    [(9, 3, 1, 1, 1), (9, 3, 2, 1, 1), (10, 1, 2, 0, 1), (11, 4, 3, 2, 2), (12, 3, 2, 0, 2), (13, 5, 4, 3, 6),
     (2, 2, 3, 1, 1)],
)  # fmt: skip
def test_residues(size, taps, stride, before, dilation):
    """Each input position with the (output, tap) pairs that read it, against all pairs in turn."""
    outputs = (size + 2 * before - dilation * (taps - 1) - 1) // stride + 1
    wanted = {h: set() for h in range(size)}
    for p in range(outputs):
        for r in range(taps):
            h = p * stride - before + r * dilation
            if h in wanted:
                wanted[h].add((p, r))
    found = {}
    for residue in tensor_core.residues(size, outputs, taps, stride, before, dilation):
        window, seen = residue.window, list(range(taps))[residue.weights]
        assert len(seen) == window.taps
        for i in range(window.outputs):
            positions = [(i * window.stride - window.before + j * window.dilation, seen[j]) for j in range(window.taps)]
            found[residue.first + i * residue.step] = {(p, r) for p, r in positions if 0 <= p < outputs}
    assert found == wanted


def test_parts_of_sums():
    assert tensor_core._split(tiles=400, stages=100) == (1, 100)  # enough blocks
    assert tensor_core._split(tiles=1, stages=100) == (12, 9)  # of at least 8 stages: 11 of 9 and one of 1
    assert tensor_core._split(tiles=400, stages=1025) == (3, 342)  # of at most 512
    assert tensor_core._split(tiles=1, stages=0) == (1, 1)


def test_supports():
    def refusal(x, weight, **arguments):
        stride, groups = arguments.get("stride", 1), arguments.get("groups", 1)
        return tensor_core.supports(conv2d_problem(x, weight, None, stride, 8, 1, groups))

    assert refusal((1, 8, 9, 9), (12, 8, 3, 3)) == ""
    assert refusal((1, 8, 9, 9), (12, 4, 3, 3), groups=2) == "there are 2 groups"
    assert refusal((1, 6, 9, 9), (12, 6, 3, 3)) == "channels are copied by four: 6 in, 12 out"
    assert refusal((1, 8, 9, 9), (12, 8, 3, 16)) == "the kernel is 3x16: larger than 15"
    assert refusal((1, 8, 9, 9), (12, 8, 3, 3), stride=16) == ""
    assert "the stride is (1, 17): " in refusal((1, 8, 9, 9), (12, 8, 3, 3), stride=(1, 17))


def test_the_largest_window():
    check((8, 0), False, conv2d_problem((1, 4, 15, 17), (4, 4, 15, 15), None, 1, 7, 1, 1))


@pytest.mark.parametrize(
    ("mode", "cc", "dtype", "kernel"),
    [
        (True, (8, 0), "float32", "conv2d_tensor_correlate_correlate_tf32_64_float32"),
        ("3x", (8, 0), "float32", "conv2d_tensor_correlate_correlate_3xtf32_64_float32"),
        (False, (8, 0), "float32", ""),
        (True, (7, 5), "float32", ""),
        (True, (8, 0), "float64", ""),
    ],
)
def test_convolutions_run_on_tensor_cores_where_allowed(mode, cc, dtype, kernel):
    x, weight = np.ones((1, 4, 3, 3), dtype), np.ones((4, 4, 2, 2), dtype)
    runtime = InterpreterRuntime(cc)
    with launch.use(runtime), allow_tf32(mode):
        out = to_host(functional.conv2d(to_device(x, "cuda"), to_device(weight, "cuda")))
        memory.collect()
    assert np.array_equal(out, np.full((1, 4, 2, 2), 16, dtype))
    assert {name for name in runtime.launches if "tensor_correlate" in name} == ({kernel} if kernel else set())


@pytest.mark.parametrize("mode", [True, "3x"])
def test_linear_layers_do_too(mode):
    rng = np.random.default_rng(0)
    shapes = (20, 36), (8, 36), (8,), (20, 8)
    x, weight, bias, grad_output = (rng.standard_normal(shape, np.float32) for shape in shapes)
    runtime = InterpreterRuntime((8, 0))
    with launch.use(runtime), allow_tf32(mode):
        there = [to_device(a, "cuda") for a in (x, weight, bias, grad_output)]
        got = functional.linear(*there[:3]), *functional.linear_backward(there[3], there[0], there[1])
        got = [to_host(a) for a in got]
        memory.collect()
    x, weight, bias, grad_output = (a.astype(np.float64) for a in (x, weight, bias, grad_output))
    wanted = x @ weight.T + bias, grad_output @ weight, grad_output.T @ x, grad_output.sum(0)
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        assert relative_error(a, b) < LIMIT[mode == "3x"]
    assert sum("tensor_" in name and "tf32" in name for name in runtime.launches) == 2  # correlate, weight_gradient


def test_allow_tf32():
    assert tf32_mode() is False
    with allow_tf32():
        assert tf32_mode() is True
        with allow_tf32("3x"):
            assert tf32_mode() == "3x"
        assert tf32_mode() is True
        allow_tf32(False)
        assert tf32_mode() is False
    assert tf32_mode() is False
    with pytest.raises(ArgumentError, match='mode must be True, False or "3x"'):
        allow_tf32("2x")
