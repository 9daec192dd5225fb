"""Checks of operations on a GPU, each against a definition in float64: run on whatever `numbaconv.cuda` runs on.

A check draws its sizes and memory layouts from `sizes`, so that hypothesis, or a seed, says which.
"""

from __future__ import annotations

import numpy as np
import scipy.special
from compare import assert_close, random_array
from hypothesis import strategies as st
from pool_reference import (
    PoolCase,
    adaptive_windows,
    max_backward_loops,
    max_loops,
    mean_backward_loops,
    mean_loops,
    mean_windows,
)
from test_activation import ACTIVATIONS, backward, forward
from test_dropout import expected_mask
from test_loss import labels_for, probabilities_for, reference_cross_entropy, without_classes
from test_norm import Reference, arguments
from test_shape_ops import NUMPY_MODE, numpy_pad, numpy_pad_backward

import numbaconv
from numbaconv import cuda, layout_of, to_device
from numbaconv import functional as F


def to_host(x):
    """Losses are numbers already."""
    return x if isinstance(x, float) else numbaconv.to_host(x)


class Drawn:
    """Sizes from hypothesis."""

    def __init__(self, data, most=1100):
        self.data, self.most = data, most

    def integer(self, low, high):
        return self.data.draw(st.integers(low, high))

    def choice(self, values):
        return self.data.draw(st.sampled_from(values))

    def some(self, values):
        return values


class Seeded:
    """Sizes from a random generator; `most` bounds those of long arrays."""

    def __init__(self, rng, most):
        self.rng, self.most = rng, most

    def integer(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def choice(self, values):
        return values[self.integer(0, len(values) - 1)]

    def some(self, values):
        """One of what is else gone through: the simulator takes its time."""
        return [self.choice(values)]


# --- one array, in every way a device's memory can hold it -------------------------------------------------


def _channels_last(x):
    return to_device(np.ascontiguousarray(np.moveaxis(x, 1, -1)), "cuda").transpose(
        0, x.ndim - 1, *range(1, x.ndim - 1)
    )


def _strided(x):
    gap = np.nan if x.dtype.kind == "f" else 99
    big = np.full((*x.shape[:-1], 2 * x.shape[-1] + 1), gap, x.dtype)
    big[..., 1::2] = x
    return to_device(big, "cuda")[..., 1::2]


def _reversed(x):
    return to_device(np.ascontiguousarray(x[::-1, ..., ::-1]), "cuda")[::-1, ..., ::-1]


def _unaligned(x):
    """Dense, but it does not begin at a multiple of 16 bytes."""
    return to_device(np.append(x.dtype.type(np.nan), x), "cuda")[1:].reshape(x.shape)


def _dense(x):
    return to_device(x, "cuda")


PLACES = {"dense": _dense, "channels_last": _channels_last, "strided": _strided, "reversed": _reversed,
          "unaligned": _unaligned}  # fmt: skip


def placed(sizes, x, *names):
    """`x` on the device, in one of these places (of all)."""
    known = [name for name in names or PLACES if name != "channels_last" or x.ndim == 4]
    if x.ndim < 2:
        known = [name for name in known if name != "reversed"]
    return PLACES[sizes.choice(known)](x)


def shapes_of(sizes):
    """(shape, the places) of two images: one that vectors of channels fit, and one of any kind."""
    n, h, w = sizes.integer(1, 2), sizes.integer(1, 6), sizes.integer(1, 6)
    yield (n, 4 * sizes.integer(1, 2), h, w), ("channels_last",)
    yield (n, sizes.choice((1, 3, 6)), w, h), ()


# --- the checks -------------------------------------------------------------------------------------------


def check_activations(sizes, rng, dtype):
    size = sizes.integer(1, sizes.most)
    x, g = 3 * random_array(rng, size, dtype), random_array(rng, size, dtype)
    exact = x.astype(np.float64)
    for case in ACTIVATIONS:
        there = placed(sizes, x)
        y = forward(case, there)
        assert_close(to_host(y), case.value(exact), dtype, case.name)
        grad = backward(case, placed(sizes, g), there, y)
        looser = 10 if case.from_output else 1  # 1 - y^2 of a rounded y
        assert_close(to_host(grad), g * case.slope(exact), dtype, f"{case.name}_backward", looser)


def check_copies(sizes, rng, dtype):
    """Both memory orders from every other, by tiles (sides of at least 16) and element by element."""
    for shape in (
        (2, sizes.integer(2, 5), sizes.integer(1, 4), sizes.integer(2, 7)),
        (sizes.integer(1, 2), sizes.integer(16, 35), 2, sizes.integer(8, 18)),
    ):
        x = random_array(rng, shape, dtype)
        for place in PLACES:
            there = PLACES[place](x)
            for make, order in ((cuda.contiguous, "channels_first"), (cuda.channels_last, "channels_last")):
                copy = make(there)
                np.testing.assert_array_equal(to_host(copy), x)
                assert layout_of(copy) == order
    x = random_array(rng, (2, 2, 3, 2, 3, 2), dtype)  # more axes than a kernel has
    there = to_device(x, "cuda").transpose(5, 2, 0, 4, 1, 3)
    np.testing.assert_array_equal(to_host(cuda.contiguous(there)), x.transpose(5, 2, 0, 4, 1, 3))


def check_max_pool(sizes, rng, dtype):
    for shape, places in shapes_of(sizes):
        kernel = sizes.integer(1, min(3, *shape[2:])), sizes.integer(1, min(3, *shape[2:]))
        case = PoolCase("", shape, kernel, (sizes.integer(1, 3), sizes.integer(1, 3)),
                        tuple(sizes.integer(0, k // 2) for k in kernel), 1, sizes.choice((False, True)))  # fmt: skip
        x = rng.integers(-3, 4, shape).astype(dtype)  # ties
        expected, indices = max_loops(x, case)
        there = placed(sizes, x, *places)
        g = random_array(rng, expected.shape, dtype)
        options, kind = {**case.options, "relu": sizes.choice((False, True))}, ("int64", "int32", "uint16")
        wanted = max_backward_loops(np.where(expected <= 0, 0, g) if options["relu"] else g, indices, shape)
        if options["relu"]:
            expected, indices, kind = np.maximum(expected, 0), np.where(expected <= 0, -1, indices), ("int64", "int32")
        y, found = F.max_pool2d(there, kernel, return_indices=True, **options)
        np.testing.assert_array_equal(to_host(y), expected)
        np.testing.assert_array_equal(to_host(F.max_pool2d(there, kernel, **options)), expected)
        np.testing.assert_array_equal(to_host(found), indices)
        others = to_device(indices.astype(sizes.choice(kind)), "cuda")
        for held in (found, others):
            grad = F.max_pool2d_backward(placed(sizes, g, *places), held, shape, kernel, **options)
            assert_close(to_host(grad), wanted, dtype)


def check_avg_pool(sizes, rng, dtype):
    for shape, places in shapes_of(sizes):
        kernel = sizes.integer(1, min(3, *shape[2:])), sizes.integer(1, min(3, *shape[2:]))
        case = PoolCase("", shape, kernel, (sizes.integer(1, 3), sizes.integer(1, 3)),
                        tuple(sizes.integer(0, k // 2) for k in kernel), 1, sizes.choice((False, True)))  # fmt: skip
        count = sizes.choice((False, True))
        options = {**case.options, "count_include_pad": count}
        windows = mean_windows(case, count)
        x = random_array(rng, shape, dtype)
        y = F.avg_pool2d(placed(sizes, x, *places), kernel, **options)
        assert_close(to_host(y), mean_loops(x, windows), dtype)
        g = random_array(rng, y.shape, dtype)
        grad = F.avg_pool2d_backward(placed(sizes, g, *places), shape, kernel, **options)
        assert_close(to_host(grad), mean_backward_loops(g, shape, windows), dtype)
        for output_size in ((1, 1), (sizes.integer(1, 4), sizes.integer(1, 4))):
            windows = adaptive_windows(shape[2:], output_size)
            y = F.adaptive_avg_pool2d(placed(sizes, x, *(places or ("dense",))), output_size)
            assert_close(to_host(y), mean_loops(x, windows), dtype)
            g = random_array(rng, y.shape, dtype)
            grad = F.adaptive_avg_pool2d_backward(placed(sizes, g, *places), shape)
            assert_close(to_host(grad), mean_backward_loops(g, shape, windows), dtype)


def check_batch_norm(sizes, rng, dtype):
    # Of two values a channel the gradient is next to nothing: what is left where everything cancels.
    sides = sizes.integer(2, 5), sizes.integer(2, 4)
    shapes = (
        ((2, 4 * sizes.integer(1, 9), *sides), ("channels_last",)),
        ((3, sizes.integer(1, 3), sides[0], 4 * sides[1]), ("dense",)),
        ((sizes.integer(2, 4), 3, *sides), ("strided", "reversed", "channels_last")),
        ((2, 3, 3, 3), ("dense",)),  # no vectors either way
    )
    for shape, places in sizes.some(shapes):
        x = sizes.choice((1, 300)) + 2 * random_array(rng, shape, dtype)
        g, statistics = random_array(rng, shape, dtype), arguments(rng, shape[1], dtype)
        for training in sizes.some((True, False)):
            expected = Reference(x, *statistics, training)
            there = placed(sizes, x, *places)
            result = F.batch_norm(there, *(to_device(a, "cuda") for a in statistics), training=training)
            for name in ("output", "running_mean", "running_var"):
                assert_close(to_host(getattr(result, name)), np.asarray(getattr(expected, name), float), dtype, name, 4)
            held = [result.mean, result.inverse_std]
            if sizes.choice((False, True)) and dtype == "float32" and sizes.most > 100 and x.mean() < 10:
                held = [to_device(to_host(a).astype(dtype), "cuda") for a in held]
            grads = F.batch_norm_backward(
                placed(sizes, g, *places), there, to_device(statistics[0], "cuda"), *held, training=training
            )
            for name, grad, wanted in zip(("input", "weight", "bias"), grads, expected.backward(g), strict=True):
                assert_close(to_host(grad), wanted.astype(float), dtype, f"grad_{name}", 4)
    held = [to_device(to_host(a).astype(dtype), "cuda") for a in (result.mean, result.inverse_std)]
    grad, _, _ = F.batch_norm_backward(placed(sizes, g), there, None, *held)  # of x's dtype is right too
    assert_close(to_host(grad), g * np.asarray(expected.inverse_std, float)[:, None, None], dtype, "", 4)


def check_dropout(sizes, rng, dtype):
    for shape, places in (
        ((sizes.integer(1, sizes.most),), ("dense", "unaligned")),
        ((2, sizes.integer(1, 5), sizes.integer(1, 4), sizes.integer(1, 5)), ("channels_last", "strided")),
    ):
        x, seed, layer, step = random_array(rng, shape, dtype), sizes.integer(0, 2**63 - 2), 3, sizes.integer(0, 99)
        p = sizes.choice((0.0, 0.3, 1.0))
        y = F.dropout(placed(sizes, x, *places), p, seed=seed, layer=layer, step=step)
        mask = expected_mask(x.size, p, seed, layer, step).reshape(shape)
        assert_close(to_host(y), np.where(mask, x.astype(float) / (1 - p if p < 1 else 1), 0), dtype)


def check_shape_ops(sizes, rng, dtype):
    for shape, places in shapes_of(sizes):
        x, y = random_array(rng, shape, dtype), random_array(rng, shape, dtype)
        mode = sizes.choice(tuple(NUMPY_MODE))
        most = (min(2, shape[2] - 1), min(2, shape[3] - 1)) if mode == "reflect" else (1, 1)
        sides = tuple(sizes.integer(0, most[i // 2]) for i in range(4))
        padded = F.pad(placed(sizes, x, *places), (sides[:2], sides[2:]), mode=mode)
        np.testing.assert_array_equal(to_host(padded), numpy_pad(x, sides, mode))
        g = random_array(rng, padded.shape, dtype)
        grad = F.pad_backward(placed(sizes, g, *places), shape, (sides[:2], sides[2:]), mode=mode)
        assert_close(to_host(grad), numpy_pad_backward(g, shape, sides, mode), dtype)
        there, other = placed(sizes, x), placed(sizes, y)
        np.testing.assert_array_equal(to_host(F.add(there, other)), x + y)
        np.testing.assert_array_equal(to_host(F.flatten(there)), x.reshape(shape[0], -1))
        joined = F.concat([there, other[:, :1]])
        np.testing.assert_array_equal(to_host(joined), np.concatenate([x, y[:, :1]], 1))
        for part, wanted in zip(F.concat_backward(joined, [shape[1], 1]), (x, y[:, :1]), strict=True):
            np.testing.assert_array_equal(to_host(part), wanted)


def _logits(sizes):
    """Shapes whose classes are neighbours in memory, and not."""
    return (sizes.integer(1, 10), sizes.integer(2, 40)), (2, sizes.integer(2, 5), sizes.integer(1, 4), 3)


def check_softmax(sizes, rng, dtype):
    for shape in sizes.some(_logits(sizes)):
        x, g = 3 * random_array(rng, shape, dtype), random_array(rng, shape, dtype)
        for axis in sizes.some((1, -1)):
            soft, log = scipy.special.softmax(x.astype(float), axis), scipy.special.log_softmax(x.astype(float), axis)
            there, grad = placed(sizes, x), placed(sizes, g)
            assert_close(to_host(F.softmax(there, axis)), soft, dtype)
            assert_close(to_host(F.log_softmax(there, axis)), log, dtype, looser=2)
            found = F.softmax_backward(grad, to_device(soft.astype(dtype), "cuda"), axis)
            np.testing.assert_allclose(
                to_host(found),
                soft * (g - (g * soft).sum(axis, keepdims=True)),
                rtol=_relative(dtype),
                atol=_absolute(dtype),
            )
            found = F.log_softmax_backward(grad, to_device(log.astype(dtype), "cuda"), axis)
            np.testing.assert_allclose(
                to_host(found), g - soft * g.sum(axis, keepdims=True), rtol=_relative(dtype), atol=5 * _absolute(dtype)
            )


def _relative(dtype):
    return {"float32": 2e-5, "float64": 1e-12}[dtype]


def _absolute(dtype):
    return {"float32": 1e-6, "float64": 1e-14}[dtype]


def check_cross_entropy(sizes, rng, dtype):
    many = sizes.integer(513, 600), 3  # more labels than each warp counts itself
    for shape in sizes.some((*_logits(sizes), many)):
        x = 3 * random_array(rng, shape, dtype)
        smoothing = sizes.choice((0.0, 0.1))
        for target in sizes.some((labels_for(rng, shape), probabilities_for(rng, shape, dtype))):
            for reduction in sizes.some(("mean", "none")):
                upstream = random_array(rng, without_classes(shape), dtype) if reduction == "none" else -0.75
                loss, grad = reference_cross_entropy(x, target, smoothing, reduction, upstream)
                held = target
                if target.dtype.kind == "i":
                    held = target.astype(sizes.choice(("int8", "int32", "int64")))
                held = placed(sizes, held, "dense", "strided")
                options = {"label_smoothing": smoothing, "reduction": reduction}
                found = to_host(F.cross_entropy(placed(sizes, x), held, **options))
                np.testing.assert_allclose(found, loss, rtol=_relative(dtype), atol=2 * _absolute(dtype))
                given = to_device(upstream, "cuda") if reduction == "none" else upstream
                found = to_host(F.cross_entropy_backward(placed(sizes, x), held, grad_output=given, **options))
                np.testing.assert_allclose(found, grad, rtol=_relative(dtype), atol=2 * _absolute(dtype))


def check_mse(sizes, rng, dtype):
    shape = (sizes.integer(1, max(sizes.most // 3, 1)), 3)
    x, target = random_array(rng, shape, dtype), random_array(rng, shape, dtype)
    difference = x.astype(float) - target
    expected = {"mean": (difference**2).mean(), "sum": (difference**2).sum(), "none": difference**2}
    for reduction, loss in expected.items():
        found = to_host(F.mse_loss(placed(sizes, x), placed(sizes, target), reduction=reduction))
        np.testing.assert_allclose(found, loss, rtol=_relative(dtype), atol=_absolute(dtype))
        upstream = random_array(rng, shape, dtype) if reduction == "none" else 0.5
        given = to_device(upstream, "cuda") if reduction == "none" else upstream
        grad = F.mse_loss_backward(placed(sizes, x), placed(sizes, target), reduction=reduction, grad_output=given)
        assert_close(to_host(grad), 2 * upstream * difference / (x.size if reduction == "mean" else 1), dtype)


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}
