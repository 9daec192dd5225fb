"""The mutants of convolution's kernels: see test_cuda_mutants.py."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

import test_cuda_conv as conv
from mutants import modules, require_explained, require_reasons_needed
from ptx.mutation import Score

import numbaconv
from numbaconv import cuda, to_device, to_host
from numbaconv import functional as F
from numbaconv.cuda.conv2d import tensor_pack
from numbaconv.cuda.conv2d.tensor_core import TensorCores
from numbaconv.cuda.conv2d.tile import LARGE, MEDIUM, SMALL
from numbaconv.cuda.runtime import simulated
from numbaconv.shapes import conv2d_problem

if simulated():
    pytest.skip("numba's simulator compiles nothing", allow_module_level=True)


def of_convolutions(keeper):
    vectors = [
        ((2, 8, 7, 5), (12, 8, 3, 3), {"padding": 1}),
        ((1, 20, 9, 6), (36, 20, 3, 2), {"stride": 2, "dilation": (1, 2)}),
        ((3, 36, 4, 4), (140, 36, 1, 1), {}),
    ]
    scalars = [
        ((2, 5, 6, 7), (7, 5, 2, 3), {"padding": ((1, 0), (0, 2)), "stride": (1, 2)}),
        ((1, 12, 5, 5), (9, 4, 1, 1), {"groups": 3}),
        ((1, 3, 12, 11), (66, 3, 3, 3), {}),
    ]
    for tile, problems in ((SMALL, vectors), (LARGE, vectors), (MEDIUM, vectors), (MEDIUM, scalars)):
        for splits in (1, 2, 9):
            with conv.tiling(tile, splits):
                for number, problem in enumerate(problems):
                    check(problem, number)
                for rows, inputs, outputs in ((5, 12, 8), (70, 40, 132)):
                    conv.check_linear(rows, inputs, outputs, "float32")
    for problem in (((2, 6, 7, 5), (6, 1, 3, 3), {"groups": 6, "padding": 1}),
                    ((1, 8, 9, 6), (8, 1, 2, 3), {"groups": 8, "stride": 2}),
                    ((2, 6, 5, 6), (9, 2, 3, 3), {"groups": 3, "padding": (2, 1)})):  # fmt: skip
        check(problem, 0, "grouped")


def check(problem, number, algorithm="implicit_gemm", relu=None, with_bias=True):
    shape, weight_shape, arguments = problem
    rng = np.random.default_rng(number)
    x, weight = (
        conv.channels_last(rng.standard_normal(shape, np.float32)),
        rng.standard_normal(weight_shape, np.float32),
    )
    bias = to_device(rng.standard_normal(weight_shape[0], np.float32), "cuda") if with_bias else None
    x, weight = to_device(conv.channels_last(x), "cuda"), to_device(weight, "cuda")
    with numbaconv.algorithm(algorithm):
        out = F.conv2d(x, weight, bias, relu=bool(number % 2 if relu is None else relu), **arguments)
        F.conv2d_backward(out, x, weight, **arguments)
        F.conv2d_backward_bias(out)
        to_host(out)
    cuda.empty_cache()  # kept launches hold all memory there is


def of_grouped_convolutions(keeper):
    """Strides longer than the filter, whose classes have no tap; rows and columns that end within a run of results."""
    rng = np.random.default_rng(12)
    for number in range(240):
        groups, depth, columns = (rng.choice((4, 8)), 1, 1) if number % 2 else rng.integers((2, 1, 1), (5, 4, 4))
        stride, dilation, (r, s) = rng.integers(1, 4, 2), rng.integers(1, 3, 2), rng.integers(1, 4, 2)
        least = (r - 1) * dilation[0] + 1, (s - 1) * dilation[1] + 1
        padding = tuple(tuple(map(int, rng.integers(0, 4, 2))) for _ in range(2))
        h, w = (int(rng.integers(size, size + 9)) for size in least)
        arguments = {"stride": tuple(map(int, stride)), "dilation": tuple(map(int, dilation)), "padding": padding}
        shape = int(rng.integers(1, 4)), int(groups * depth), h, w
        weight_shape = int(groups * columns), int(depth), int(r), int(s)
        problem = shape, weight_shape, {**arguments, "groups": int(groups)}
        check(problem, number, "grouped", relu=number // 2 % 2, with_bias=number // 4 % 2)
    # Classes that are a row or a column shorter than others
    for groups, columns, size in ((8, 1, 5), (8, 1, 6), (2, 3, 5), (3, 2, 7)):
        for stride in ((2, 3), (3, 2), (1, 2), (2, 1)):
            x = to_device(conv.channels_last(rng.standard_normal((2, groups, size, 3), np.float32)), "cuda")
            weight = to_device(rng.standard_normal((groups, columns, 3, 2), np.float32), "cuda")
            bias = to_device(rng.standard_normal(groups * columns, np.float32), "cuda")
            with numbaconv.algorithm("grouped"):
                F.conv_transpose2d(x, weight, stride=stride, groups=groups)
                F.conv_transpose2d(x, weight, bias, stride=stride, groups=groups)
    for channels, pixels in ((3, 70), (36, 66)):  # more pixels than one block takes, more channels
        check(((1, channels, pixels, pixels), (channels, 1, 2, 1), {"groups": channels}), 0, "grouped")


def of_implicit_gemm(keeper):
    """Products that end within tiles of every size, sums of several segments, padding wider than the filter."""
    rng = np.random.default_rng(13)

    def device(*shape):
        return to_device(rng.standard_normal(shape, np.float32), "cuda")

    for number in range(60):
        tile, vectors = ((LARGE, True), (MEDIUM, True), (SMALL, True), (MEDIUM, False))[number % 4]
        groups, most = int(rng.choice((1, 1, 2))), {LARGE: 40, MEDIUM: 24, SMALL: 14}[tile]
        multiple = 4 if vectors else 1
        depth, columns = int(rng.integers(1, 8)) * multiple, int(rng.integers(1, most)) * multiple
        stride, dilation, (r, s) = rng.integers(1, 4, 2), rng.integers(1, 3, 2), rng.integers(1, 4, 2)
        padding = tuple(tuple(map(int, rng.integers(0, 5, 2))) for _ in range(2))
        h, w = (int(rng.integers(size, size + 7)) for size in ((r - 1) * dilation[0] + 1, (s - 1) * dilation[1] + 1))
        arguments = {"stride": tuple(map(int, stride)), "dilation": tuple(map(int, dilation)), "padding": padding}
        problem = (1, groups * depth, h, w), (groups * columns, depth, int(r), int(s)), {**arguments, "groups": groups}
        with conv.tiling(tile, int(rng.integers(1, 4))):
            check(problem, number, relu=number // 4 % 2, with_bias=number // 8 % 2)
            if vectors and number < 40:
                conv.check_linear(int(rng.integers(1, 80)), depth, columns, "float32", number, number // 8 % 2)
    with numbaconv.algorithm("implicit_gemm"):
        _sums_of_several_segments(keeper, device)
    cuda.empty_cache()


def _sums_of_several_segments(keeper, device):
    for tile in (LARGE, MEDIUM, SMALL):
        with conv.tiling(tile):
            check(((1, 60, 3, 3), (100, 60, 3, 3), {"padding": 1}), 1)
            for columns in (36, 100, 140):
                x, weight, bias = device(tile.float32.rows + 2, 528), device(columns, 528), device(columns)
                F.linear(x, weight, bias)
                F.prepare_linear(weight, bias, relu=True)(x)
                check(((1, 12, 5, 4), (columns, 12, 1, 1), {}), columns, "pointwise", relu=True)
            for channels in (12, 16):
                x, grad_output = device(1, channels, 23, 23), device(1, 100, 23, 23)
                F.conv2d_backward_weight(grad_output, x, (100, channels, 3, 3), padding=1)
    with conv.tiling(MEDIUM):
        keeper.wanted = True
        for columns in (13, 45, 61, 70):
            F.conv2d(device(1, 61, 10, 7), device(columns, 61, 3, 3), device(columns), padding=1, relu=columns > 50)
            for relu in (False, True):
                F.conv2d(device(1, 3, 10, 7), device(columns, 3, 1, 2), device(columns), padding=(0, 1), relu=relu)
        keeper.wanted = False
        for channels, r in ((5, 3), (3, 2), (8, 3)):
            x, grad_output = device(1, channels, 26, 26), device(1, 61, 27 - r, 24)
            F.conv2d_backward_weight(grad_output, x, (61, channels, r, 3))
        for channels in (3, 4):  # rows of results that are beside the image
            check(((1, channels, 4, 4), (2 * channels, channels, 1, 2), {"padding": ((0, 0), (3, 3))}), 0)


def of_tensor_cores(keeper):
    problems = [
        conv2d_problem((2, 20, 9, 11), (36, 20, 3, 3), None, 1, 1, 1, 1),
        conv2d_problem((1, 8, 10, 9), (132, 8, 3, 2), None, (2, 1), (1, 0), (1, 2), 1),
        conv2d_problem((1, 36, 6, 5), (68, 36, 1, 1), None, 1, 0, 1, 1),
        conv2d_problem((1, 12, 5, 6), (100, 12, 2, 2), None, 1, 0, 1, 1),
        conv2d_problem((1, 4, 15, 14), (8, 4, 1, 1), None, 1, 0, 1, 1),  # more pixels than one block takes
        conv2d_problem((1, 4, 15, 14), (80, 4, 1, 2), None, 1, (1, 3), 1, 1),
        conv2d_problem((2, 4, 8, 9), (12, 4, 6, 7), None, 1, (3, 4), 1, 1),  # filters of many rows and columns
        conv2d_problem((2, 4, 9, 8), (72, 4, 7, 6), None, 1, (4, 3), 1, 1),
        conv2d_problem((1, 132, 9, 10), (8, 132, 1, 1), None, 1, 0, 1, 1),
        conv2d_problem((1, 72, 12, 12), (76, 72, 1, 1), None, 1, 0, 1, 1),
        conv2d_problem((1, 12, 12, 12), (132, 12, 1, 1), None, 1, 0, 1, 1),
    ]
    rng = np.random.default_rng(14)
    for _ in range(40):
        r, s, stride, dilation = rng.integers(1, 5), rng.integers(1, 5), rng.integers(1, 4, 2), rng.integers(1, 3, 2)
        h, w = (r - 1) * dilation[0] + rng.integers(1, 5), (s - 1) * dilation[1] + rng.integers(1, 5)
        padding = tuple(tuple(map(int, rng.integers(0, 4, 2))) for _ in range(2))
        shape = rng.integers(1, 4), 4 * rng.integers(1, 6), h, w
        weight_shape = 4 * rng.integers(1, 35), shape[1], r, s
        shapes = (tuple(map(int, sizes)) for sizes in (shape, weight_shape))
        strides, dilations = (tuple(map(int, pair)) for pair in (stride, dilation))
        problems.append(conv2d_problem(*shapes, None, strides, padding, dilations, 1))
    # Every kind of carry from channel to tap and from tap to row, within the first stages and within the loop
    carries = [
        conv2d_problem((1, 20, 10, 12), (12, 20, 3, 3), None, 1, 1, 1, 1),
        conv2d_problem((1, 12, 9, 11), (68, 12, 2, 4), None, 1, (1, 2), 1, 1),
        conv2d_problem((1, 4, 10, 12), (12, 4, 5, 3), None, 1, 1, 1, 1),
    ]
    for exact in (False, True):
        cores = TensorCores(exact)
        for seed, problem in enumerate([*problems, *carries]):
            rng = np.random.default_rng(seed)
            shapes = problem.input_shape, problem.weight_shape, problem.weight_shape[:1], problem.output_shape
            x, weight, bias, grad = (to_device(rng.standard_normal(s, np.float32), "cuda") for s in shapes)
            keeper.wanted = problem in carries
            cores.forward(problem, x, cores.pack_weight(problem, weight, bias, False), seed % 3 == 1)
            keeper.wanted = False
            cores.backward_input(problem, grad, weight, None)
            cores.backward_weight(problem, grad, x)
            cuda.empty_cache()


def of_sums(keeper):
    """Parts of a split sum: each number of them up to nine, of sizes that do and do not fill tiles."""
    rng = np.random.default_rng(11)
    for count in range(1, 10):
        for shape in ((64, 8, 3, 3), (36, 4, 2, 3), (28, 16, 2, 2), (36, 4, 1, 17)):
            columns, channels, r, s = shape
            parts = to_device(rng.standard_normal((count, r, s, channels, columns), np.float32), "cuda")
            tensor_pack.sum_weights(parts, to_device(np.zeros(shape, np.float32), "cuda"))
        for flags in range(4):
            parts = to_device(rng.standard_normal((count, 2 * 5 * 3, 8), np.float32), "cuda")
            bias, out = (to_device(rng.standard_normal(s, np.float32), "cuda") for s in (8, (2, 5, 3, 8)))
            tensor_pack.sum_pixels(parts, bias, out, (5, 3), (120, 24, 8), flags)


SOURCES = (
    of_sums,
    of_convolutions,
    of_grouped_convolutions,
    of_implicit_gemm,
    of_tensor_cores,
)


scores: list[Score] = []


@pytest.mark.full
@pytest.mark.parametrize("module", [m for m in modules() if m.startswith("conv2d.")])
def test_mutants_are_caught_or_explained(module):
    require_explained(module, SOURCES, scores)


@pytest.mark.full
def test_score():
    """After the tests above; what it prints is the score."""
    require_reasons_needed(scores)
