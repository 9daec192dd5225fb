"""Each barrier, bounds test and wait taken away from each kernel's PTX, in turn: does a check notice?

Launches that the other tests' checks make are kept and run again with the mutant (ptx/replay.py). Mutants that none of
them tells from the original must stand in `harmless_mutants`, with the reason. ``pytest --full -s`` prints the score.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import Counter
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

import cubin
from cuda_op_checks import CHECKS, Seeded
from harmless_mutants import HARMLESS
from ptx.kernel import Kernel
from ptx.mutation import KINDS, Score, examine, table
from ptx.replay import Keeper, Kept, keep

from numbaconv import cuda, optim, to_device, train
from numbaconv.cuda import ahead, launch, loss, update
from numbaconv.cuda.conv2d import tensor_pack
from numbaconv.cuda.runtime import simulated
from numbaconv.shapes import conv2d_problem

if simulated():
    pytest.skip("numba's simulator compiles nothing", allow_module_level=True)

CC = (8, 0)
# Modules all of whose mutants are examined. Of the others only barriers and waits: of their comparisons too many are
# reached by no launch yet, or decide otherwise without effect for reasons not yet found.
WHOLE = (
    "ahead", "conv2d.column_sums", "conv2d.grouped", "conv2d.grouped_weight_gradient", "conv2d.pack", "conv2d.splits",
    "conv2d.tensor_pack", "convert", "dropout", "elementwise", "moments", "norm", "softmax", "update",
)  # fmt: skip


def kernels_of(module):
    return [name for name in cubin.kernels() if name.rpartition(".")[0] == module]


def modules():
    return sorted({name.rpartition(".")[0] for name in cubin.kernels()})


# --- what launches them -------------------------------------------------------------------------------------


class Everything(Seeded):
    """Goes through all of what there is."""

    def some(self, values):
        return values


def of_operations(keeper):
    """The checks of every operation but convolution, on sizes that are multiples of nothing, and on few."""
    for seed in range(4):
        for number, check in enumerate(CHECKS.values()):
            with contextlib.suppress(
                AssertionError
            ):  # of a few unlucky values: whether it is close is tested elsewhere
                check(
                    Everything(np.random.default_rng(100 * seed + number), 40), np.random.default_rng(seed), "float32"
                )


def of_whole_vectors(keeper):
    """Arrays of 0 to 3 elements beyond whole vectors, in one block and in several."""
    from numbaconv import functional as F

    for size in (1, 2, 3, 4, 5, 1023, 1024, 1026, 4096, 4099):
        x = to_device(np.linspace(-3, 3, size, dtype=np.float32), "cuda")
        for name in ("relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu"):
            getattr(F, f"{name}_backward")(x, getattr(F, name)(x))
        F.add(x, x)
        F.mse_loss(x, to_device(np.zeros(size, np.float32), "cuda"))
        F.dropout(x, 0.5, seed=3)
    for size in (3, 4, 5, 1027):  # at addresses where no vectors are
        x = to_device(np.linspace(-3, 3, size + 1, dtype=np.float32), "cuda")[1:]
        for name in ("relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu"):
            getattr(F, name)(x)
            getattr(F, f"{name}_backward")(x, x)
        F.gelu_backward(x, F.gelu(x, approximate=True), approximate=True)
        F.add(x, x)
        F.mse_loss_backward(x, x, grad_output=F.mse_loss(x, x, reduction="none"), reduction="none")
        F.mse_loss_backward(x, x)
        F.dropout(x, 0.5, seed=3)
        F.accumulate(x, x)
        F.scale_update(x, 0.5)
        F.sum_of_squares(x)


def of_long_loops(keeper):
    """Loops of each number of turns up to nine: compilers unroll them by four, and test for what is left over."""
    from test_cuda_conv import channels_last

    from numbaconv import functional as F

    rng = np.random.default_rng(7)

    def device(*shape):
        return to_device(rng.standard_normal(shape, np.float32), "cuda")

    def either_layout(*shape):
        return device(*shape), to_device(channels_last(rng.standard_normal(shape, np.float32)), "cuda")

    for turns in range(1, 10):
        other = (turns * 4) % 9 + 1
        for x in (*either_layout(2, 4, 10, 11), device(1, 3, 10, 9)):
            for kernel, stride, padding in (((turns, other), (1, 2), 0), ((other, turns), (2, 1), (other // 2, 0)),
                                            ((turns, turns), (turns, turns), turns // 2)):  # fmt: skip
                out, places = F.max_pool2d(x, kernel, stride=stride, padding=padding, return_indices=True)
                F.max_pool2d_backward(out, places, x.shape, kernel, stride=stride, padding=padding)
                for count in (True, False):
                    options = {"stride": stride, "padding": padding, "count_include_pad": count, "ceil_mode": not count}
                    F.avg_pool2d_backward(F.avg_pool2d(x, kernel, **options), x.shape, kernel, **options)
            F.max_pool2d(x, (8, other), padding=(4, other // 2), stride=1)
            F.max_pool2d(x, (turns, 13), padding=(turns // 2, 6), stride=3)
            options = {"stride": turns % 3 + 1, "padding": 1, "dilation": 2, "ceil_mode": True}
            out, places = F.max_pool2d(x, (2 + turns % 3, 2), return_indices=True, **options)
            F.max_pool2d_backward(out, places, x.shape, (2 + turns % 3, 2), **options)
            out = F.adaptive_avg_pool2d(x, (min(turns, 9), other))
            F.adaptive_avg_pool2d_backward(out, x.shape)
            F.adaptive_avg_pool2d_backward(F.adaptive_avg_pool2d(x, (1, turns)), x.shape)
            few = x[:, :, :2, :3]  # more windows than places: several of them end at each
            F.adaptive_avg_pool2d_backward(F.adaptive_avg_pool2d(few, (3 * turns, 4 * other)), few.shape)
            for mode in ("zeros", "reflect", "replicate", "circular"):
                sides = (turns % 6, other % 6), (other % 5, turns % 5)
                F.pad_backward(F.pad(x, sides, mode=mode), x.shape, sides, mode=mode)
        for classes in (turns, 4 * turns + 1, 32 * turns + other):
            for shape in ((3, classes), (2, classes, 3)):
                x, axis = device(*shape), 1
                for make, back in ((F.softmax, F.softmax_backward), (F.log_softmax, F.log_softmax_backward)):
                    back(x, make(x, axis), axis)
                labels = rng.integers(0, classes, (shape[0], *shape[2:]))
                for target in (labels, np.full(shape, 1 / classes, np.float32)):
                    for smoothing in (0.0, 0.1):
                        held = to_device(target, "cuda")
                        F.cross_entropy(x, held, label_smoothing=smoothing)
                        F.cross_entropy_backward(x, held, label_smoothing=smoothing)
        for shape in ((turns, 4, 3, 3), (turns, 3, 3, 4), (2, other, 1, 4 * turns), (turns, 5, 3, 3), (600 * turns, 1)):
            for x in either_layout(*shape) if len(shape) == 4 else (device(*shape),):
                ones = to_device(np.ones(shape[1], np.float32), "cuda")
                result = F.batch_norm(x, ones, ones, ones, ones, training=True)
                F.batch_norm_backward(x, x, ones, result.mean, result.inverse_std, training=True)
                F.batch_norm(x, None, None, None, None, training=True)
                F.batch_norm(x, None, None, ones, ones, training=False)
                F.mse_loss(x, x)


def of_small_images(keeper):
    """Padding wider than what it repeats: a place of the image has sources on both sides."""
    from test_cuda_conv import channels_last

    from numbaconv import functional as F

    rng = np.random.default_rng(8)
    for channels in (4, 3):
        for h, w in ((1, 3), (2, 2), (3, 1), (3, 4)):
            given = rng.standard_normal((2, channels, h, w), np.float32)
            for x in (to_device(given, "cuda"), to_device(channels_last(given), "cuda")):
                for mode, most in (("reflect", (h - 1, w - 1)), ("circular", (h, w)), ("replicate", (3, 2)),
                                   ("zeros", (2, 3))):  # fmt: skip
                    for sides in (
                        ((most[0],) * 2, (most[1],) * 2),
                        ((most[0], 0), (0, most[1])),
                        ((0, 1 % (most[0] + 1)), (1 % (most[1] + 1), 0)),
                    ):
                        F.pad_backward(F.pad(x, sides, mode=mode), x.shape, sides, mode=mode)


def of_updates(keeper):
    """Parameters of few and many elements, where vectors fit and where not, more of them than a search halves twice."""
    from numbaconv import functional as F

    rng = np.random.default_rng(9)

    def arrays(shift):
        sizes = (*range(1, 10), 1027, 3000)
        return [to_device(rng.random(size + shift, np.float32), "cuda")[shift:] for size in sizes]

    for shift in (0, 1):
        for count in (1, 2, 5, 11):
            parameters, grads, first, second = (arrays(shift)[:count] for _ in range(4))
            for decay in (0.0, 0.1):
                F.sgd_update(parameters, grads, lr=0.1, weight_decay=decay)
                for nesterov, start in itertools.product((False, True), (False, True)):
                    F.sgd_update(parameters, grads, first, lr=0.1, momentum=0.9, weight_decay=decay, nesterov=nesterov,
                                 first=start)  # fmt: skip
                for decoupled in (False, True):
                    F.adam_update(parameters, grads, first, second, lr=0.1, weight_decay=decay, decoupled=decoupled,
                                  step=2)  # fmt: skip
            F.clip_update(grads, 0.1)
            F.clip_update(grads, 1e6)
    many = to_device(rng.random(2500), "cuda")
    for count in (900, 1100, 2500):
        launch.launch(update._norm, np.dtype(np.float64), 1, many, count, to_device(np.zeros(2), "cuda"), 0.1)
        launch.launch(update._total, np.dtype(np.float64), 1, many, count, to_device(np.zeros(2), "cuda"))


def of_few_blocks(keeper):
    """As if there were more numbers than all blocks take in one round, or in four."""
    from numbaconv import functional as F

    rng = np.random.default_rng(10)
    with mock.patch.multiple(loss, _MOST_COUNTS=1, _MOST_BLOCKS=1):
        for number in (256, 300, 768, 1000, 1100, 1500, 1900, 2304):
            x = to_device(rng.standard_normal(number, np.float32), "cuda")
            F.mse_loss(x, x)
            for shape in ((number, 2), (1, 2, number)):
                logits = to_device(rng.standard_normal(shape, np.float32), "cuda")
                for kind in (np.int8, np.int16, np.int32, np.int64):
                    labels = to_device((np.arange(number) % 2).astype(kind).reshape(shape[0], *shape[2:]), "cuda")
                    F.cross_entropy(logits, labels)
                    F.cross_entropy_backward(logits, labels)
    for kind in (np.int8, np.int16, np.int32, np.uint8):
        for shape in ((5, 3), (1, 3, 5)):
            logits = to_device(rng.standard_normal(shape, np.float32), "cuda")
            labels = to_device((np.arange(5) % 3).astype(kind).reshape(shape[0], *shape[2:]), "cuda")
            F.cross_entropy(logits, labels)
            F.cross_entropy_backward(logits, labels)
            ignored = to_device(np.full(labels.shape, 200, np.uint8), "cuda")
            F.cross_entropy(logits, ignored, ignore_index=200)
            F.cross_entropy_backward(logits, ignored, ignore_index=200)
            for counts in (1, 31, 100, 128, 161, 200, 230, 300):
                given = to_device(np.ones(counts, np.int32), "cuda")
                with mock.patch.object(loss, "_counted", lambda *_, given=given: given):
                    F.cross_entropy_backward(logits, labels)
    for number in (100, 130, 160, 200, 230, 300, 500):
        for shape in ((number, 2), (1, 2, number)):
            logits = to_device(rng.standard_normal(shape, np.float32), "cuda")
            labels = to_device(np.arange(number).reshape(shape[0], *shape[2:]) % 2, "cuda")
            F.cross_entropy_backward(logits, labels)


def of_mistakes(keeper):
    """Values that set the error word, and what comes while it is set."""
    from numbaconv import functional as F

    x = to_device(np.ones((2, 3, 4, 4), np.float32), "cuda")
    for places in (np.full((2, 3, 2, 3), 16), np.full((2, 3, 2, 3), -2)):
        F.max_pool2d_backward(x[:, :, :2, :3], to_device(places, "cuda"), x.shape, 2, stride=(2, 1))
    for labels in ([0, 1, 3, 2, 0], [0, -1, 1, 2, 0]):
        for logits in (np.zeros((5, 3), np.float32), np.zeros((1, 3, 5), np.float32)):
            held = to_device(np.reshape(labels, (5,) if logits.ndim == 2 else (1, 5)), "cuda")
            F.cross_entropy_backward(to_device(logits, "cuda"), held)
            with contextlib.suppress(ValueError):
                F.cross_entropy(to_device(logits, "cuda"), held)
    for number in (np.nan, np.inf, -np.inf):
        ahead.require_finite(to_device(np.array([number]), "cuda"), ValueError)
    parameters, grads, first, second = ([to_device(np.ones(7, np.float32), "cuda")] for _ in range(4))
    F.sgd_update(parameters, grads, lr=0.1)
    F.sgd_update(parameters, grads, first, lr=0.1, momentum=0.9)
    F.adam_update(parameters, grads, first, second, lr=0.1, step=1)
    with contextlib.suppress(ValueError):
        cuda.synchronize()


def of_convolutions(keeper):
    import test_cuda_conv as conv

    from numbaconv.cuda.conv2d.tile import LARGE, MEDIUM, SMALL

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
                    check(conv, problem, number)
                for rows, inputs, outputs in ((5, 12, 8), (70, 40, 132)):
                    conv.check_linear(rows, inputs, outputs, "float32")
    for problem in (((2, 6, 7, 5), (6, 1, 3, 3), {"groups": 6, "padding": 1}),
                    ((1, 8, 9, 6), (8, 1, 2, 3), {"groups": 8, "stride": 2}),
                    ((2, 6, 5, 6), (9, 2, 3, 3), {"groups": 3, "padding": (2, 1)})):  # fmt: skip
        check(conv, problem, 0, "grouped")


def check(conv, problem, number, algorithm="implicit_gemm", relu=None, with_bias=True):
    import numbaconv
    from numbaconv import functional, to_host

    shape, weight_shape, arguments = problem
    rng = np.random.default_rng(number)
    x, weight = (
        conv.channels_last(rng.standard_normal(shape, np.float32)),
        rng.standard_normal(weight_shape, np.float32),
    )
    bias = to_device(rng.standard_normal(weight_shape[0], np.float32), "cuda") if with_bias else None
    x, weight = to_device(conv.channels_last(x), "cuda"), to_device(weight, "cuda")
    with numbaconv.algorithm(algorithm):
        out = functional.conv2d(x, weight, bias, relu=bool(number % 2 if relu is None else relu), **arguments)
        functional.conv2d_backward(out, x, weight, **arguments)
        functional.conv2d_backward_bias(out)
        to_host(out)
    cuda.empty_cache()  # kept launches hold all memory there is


def of_grouped_convolutions(keeper):
    """Strides longer than the filter, whose classes have no tap; rows and columns that end within a run of results."""
    import test_cuda_conv as conv

    import numbaconv
    from numbaconv import functional as F

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
        check(conv, problem, number, "grouped", relu=number // 2 % 2, with_bias=number // 4 % 2)
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
        check(conv, ((1, channels, pixels, pixels), (channels, 1, 2, 1), {"groups": channels}), 0, "grouped")


def of_implicit_gemm(keeper):
    """Products that end within tiles of every size, sums of several segments, padding wider than the filter."""
    import test_cuda_conv as conv

    from numbaconv import functional as F
    from numbaconv.cuda.conv2d.tile import LARGE, MEDIUM, SMALL

    rng = np.random.default_rng(13)
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
            check(conv, problem, number, relu=number // 4 % 2, with_bias=number // 8 % 2)
            if vectors and number < 40:
                conv.check_linear(int(rng.integers(1, 80)), depth, columns, "float32", number, number // 8 % 2)
    for tile in (LARGE, MEDIUM, SMALL):
        with conv.tiling(tile):
            check(conv, ((1, 60, 3, 3), (100, 60, 3, 3), {"padding": 1}), 1)  # 540 terms, and of the weights' gradient
            check(conv, ((1, 4, 23, 23), (12, 4, 1, 1), {}), 0)  # 529
            for columns in (36, 100, 140):
                shapes = (tile.float32.rows + 2, 528), (columns, 528), (columns,)
                x, weight, bias = (to_device(rng.standard_normal(shape, np.float32), "cuda") for shape in shapes)
                F.linear(x, weight, bias)
                F.prepare_linear(weight, bias, relu=True)(x)
                check(conv, ((1, 12, 5, 4), (columns, 12, 1, 1), {}), columns, "pointwise", relu=True)
    with conv.tiling(MEDIUM):
        check(conv, ((1, 61, 3, 3), (7, 61, 3, 3), {"padding": 1}), 1)
        check(conv, ((1, 3, 23, 23), (5, 3, 1, 1), {}), 0)


def of_tensor_cores(keeper):
    from numbaconv.cuda.conv2d.tensor_core import TensorCores

    problems = [
        conv2d_problem((2, 20, 9, 11), (36, 20, 3, 3), None, 1, 1, 1, 1),
        conv2d_problem((1, 8, 10, 9), (132, 8, 3, 2), None, (2, 1), (1, 0), (1, 2), 1),
        conv2d_problem((1, 36, 6, 5), (68, 36, 1, 1), None, 1, 0, 1, 1),
        conv2d_problem((1, 12, 5, 6), (100, 12, 2, 2), None, 1, 0, 1, 1),
    ]
    for exact in (False, True):
        cores = TensorCores(exact)
        for seed, problem in enumerate(problems):
            rng = np.random.default_rng(seed)
            shapes = problem.input_shape, problem.weight_shape, problem.weight_shape[:1], problem.output_shape
            x, weight, bias, grad = (to_device(rng.standard_normal(s, np.float32), "cuda") for s in shapes)
            cores.forward(problem, x, cores.pack_weight(problem, weight, bias, False), seed == 1)
            cores.backward_input(problem, grad, weight, None)
            cores.backward_weight(problem, grad, x)


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


def of_training(keeper):
    import test_cuda_fit as fitting

    rng = np.random.default_rng(5)
    x, y = rng.random((12, 1, 8, 8)).astype(np.float32), np.arange(12) % 3
    optimizers = (
        lambda p: optim.SGD(p, lr=0.05),
        lambda p: optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
        lambda p: optim.Adam(p, lr=0.01),
        lambda p: optim.AdamW(p, lr=0.01),
    )
    for make in optimizers:
        model = fitting.small()
        train.fit(model, x, y, epochs=1, batch_size=5, optimizer=make(model.parameters()), device="cuda", clip_norm=0.5)


SOURCES = (
    of_whole_vectors,
    of_operations,
    of_long_loops,
    of_small_images,
    of_updates,
    of_mistakes,
    of_few_blocks,
    of_sums,
    of_training,
    of_convolutions,
    of_grouped_convolutions,
    of_implicit_gemm,
    of_tensor_cores,
)


@functools.cache
def launches() -> dict[str, list[Kept]]:
    """All kept launches, by the name of the compiled kernel."""
    kept: dict[str, list[Kept]] = {}
    for source in SOURCES:
        keeper = Keeper(CC)
        with launch.use(keeper):
            source(keeper)
        for of_kernel in keeper.finish().values():
            for one in of_kernel:
                keep(kept, one)
    return kept


# --- mutants ------------------------------------------------------------------------------------------------


def mutated(name, kinds) -> Score:
    kernel = cubin.kernels()[name]
    dtype = "float32" if np.dtype("float32") in kernel.dtypes else "float64"
    kept = launches().get(kernel.specialise(np.dtype(dtype)).name, [])
    assert kept, f"nothing launches {name}"

    text, outcomes = kept[0].kernel.ptx(CC), {}
    noting = Kernel(text, outcomes=outcomes)
    for one in kept:
        one.run(noting)

    def check(text):
        kernel = Kernel(text)
        return [one.run(kernel) for one in kept]

    return examine(name, text, check, HARMLESS, kinds, outcomes)


scores: list[Score] = []


@pytest.mark.full
@pytest.mark.parametrize("module", modules())
def test_mutants_are_caught_or_explained(module):
    mine = [mutated(name, KINDS if module in WHOLE else ("barrier", "wait")) for name in kernels_of(module)]
    scores.extend(mine)
    print(f"\n{table(mine)}")
    survivors = [f"{s.name}:{r.mutant.key}  ({r.mutant.instruction})" for s in mine for r in s.survived]
    assert not survivors, "\n".join(["", *survivors])


@pytest.mark.full
def test_score():
    """After the tests above; what it prints is the score."""
    verdicts = Counter(result.verdict for score in scores for result in score.results)
    print(f"\nkernels {len(scores)}, mutants {verdicts.total()}, {dict(verdicts)}")
    assert not any(score.survived for score in scores)
