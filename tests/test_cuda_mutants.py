"""Each barrier, bounds test and wait taken away from each kernel's PTX, in turn: does a check notice?

Launches that the other tests' checks make are kept and run again with the mutant (ptx/replay.py). Mutants that none of
them tells from the original must stand in `harmless_mutants`, with the reason. ``pytest --full -s`` prints the score.
"""

from __future__ import annotations

import contextlib
import itertools
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from cuda_op_checks import CHECKS, Seeded
from mutants import modules, require_explained, require_reasons_needed
from ptx.mutation import Score

from numbaconv import cuda, optim, to_device, train
from numbaconv.cuda import ahead, launch, loss, update
from numbaconv.cuda.runtime import simulated

if simulated():
    pytest.skip("numba's simulator compiles nothing", allow_module_level=True)


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
            keeper.wanted = classes > 160  # loops that were unrolled by four go on
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
        keeper.wanted = False
        for shape in ((turns, 4, 3, 3), (turns, 3, 3, 4), (2, other, 1, 4 * turns), (turns, 5, 3, 3), (600 * turns, 1)):
            for x in either_layout(*shape) if len(shape) == 4 else (device(*shape),):
                ones = to_device(np.ones(shape[1], np.float32), "cuda")
                result = F.batch_norm(x, ones, ones, ones, ones, training=True)
                F.batch_norm_backward(x, x, ones, result.mean, result.inverse_std, training=True)
                F.batch_norm(x, None, None, None, None, training=True)
                F.batch_norm(x, None, None, ones, ones, training=False)
                F.mse_loss(x, x)


def of_maxima(keeper):
    """The largest channel in each turn of a loop over channels that lanes of a warp share."""
    from numbaconv import functional as F

    rng = np.random.default_rng(9)
    for turns in range(1, 10):
        x = rng.standard_normal((turns, 32 * turns), np.float32)
        for turn in range(turns):
            x[turn, 32 * turn + 3 * turn] = 200  # exp of it is infinite if it is missed
        x, shares = to_device(x, "cuda"), to_device(np.full(x.shape, 1 / x.shape[1], np.float32), "cuda")
        labels = to_device(np.arange(turns), "cuda")
        keeper.wanted = turns > 4  # unrolled by four, with each number left over
        F.softmax(x, 1)
        for target in (labels, shares):
            F.cross_entropy_backward(x, target)
            F.cross_entropy(x, target)
        keeper.wanted = False


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
    of_maxima,
    of_small_images,
    of_updates,
    of_mistakes,
    of_few_blocks,
    of_training,
)


scores: list[Score] = []


@pytest.mark.full
@pytest.mark.parametrize("module", [m for m in modules() if not m.startswith("conv2d.")])
def test_mutants_are_caught_or_explained(module):
    require_explained(module, SOURCES, scores)


@pytest.mark.full
def test_score():
    """After the tests above; what it prints is the score."""
    require_reasons_needed(scores)
