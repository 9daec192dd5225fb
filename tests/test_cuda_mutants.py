"""Each barrier, bounds test and wait taken away from each kernel's PTX, in turn: does a check notice?

Launches that the other tests' checks make are kept and run again with the mutant (ptx/replay.py). Mutants that none of
them tells from the original must stand in `harmless_mutants`, with the reason. ``pytest --full -s`` prints the score.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

import cubin
from cuda_op_checks import CHECKS, Seeded
from harmless_mutants import HARMLESS
from ptx.kernel import Kernel
from ptx.mutation import KINDS, Score, examine, table
from ptx.replay import Keeper, Kept, keep
from ptx.runtime import decoded

from numbaconv import optim, to_device, train
from numbaconv.cuda import launch
from numbaconv.cuda.runtime import simulated
from numbaconv.shapes import conv2d_problem

if simulated():
    pytest.skip("numba's simulator compiles nothing", allow_module_level=True)

CC = (8, 0)
# Modules all of whose mutants are examined. Of the others only barriers and waits: most tests that survive there are
# numba's own, of a loop's count, which LLVM leaves in unrolled loops; each wants a reason of its own.
WHOLE = ("elementwise",)


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
        for splits in (1, 2):
            with conv.tiling(tile, splits):
                for number, problem in enumerate(problems):
                    check(conv, problem, number)
                for rows, inputs, outputs in ((5, 12, 8), (70, 40, 132)):
                    conv.check_linear(rows, inputs, outputs, "float32")
    for problem in (((2, 6, 7, 5), (6, 1, 3, 3), {"groups": 6, "padding": 1}),
                    ((1, 8, 9, 6), (8, 1, 2, 3), {"groups": 8, "stride": 2}),
                    ((2, 6, 5, 6), (9, 2, 3, 3), {"groups": 3, "padding": (2, 1)})):  # fmt: skip
        check(conv, problem, 0, "grouped")


def check(conv, problem, number, algorithm="implicit_gemm"):
    import numbaconv
    from numbaconv import functional, to_host

    shape, weight_shape, arguments = problem
    rng = np.random.default_rng(number)
    x, weight = (
        conv.channels_last(rng.standard_normal(shape, np.float32)),
        rng.standard_normal(weight_shape, np.float32),
    )
    bias = to_device(rng.standard_normal(weight_shape[0], np.float32), "cuda")
    x, weight = to_device(conv.channels_last(x), "cuda"), to_device(weight, "cuda")
    with numbaconv.algorithm(algorithm):
        out = functional.conv2d(x, weight, bias, relu=bool(number % 2), **arguments)
        functional.conv2d_backward(out, x, weight, **arguments)
        functional.conv2d_backward_bias(out)
        to_host(out)


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


SOURCES = (of_whole_vectors, of_operations, of_training, of_convolutions, of_tensor_cores)


@functools.cache
def launches() -> dict[str, list[Kept]]:
    """All kept launches, by the name of the compiled kernel."""
    kept: dict[str, list[Kept]] = {}
    for source in SOURCES:
        keeper = Keeper(CC)
        with launch.use(keeper):
            source(keeper)
        for of_kernel in keeper.kept.values():
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
        kernel = decoded(text)
        for one in kept:
            one.run(kernel)

    return examine(name, text, check, HARMLESS, kinds, outcomes)


scores: list[Score] = []


@pytest.mark.full
@pytest.mark.parametrize("module", modules())
def test_mutants_are_caught_or_explained(module):
    mine = [mutated(name, KINDS) for name in kernels_of(module)]
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
