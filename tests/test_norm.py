"""Batch normalisation: against a reference in extended precision, against PyTorch, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from compare import LAYOUTS, LAYOUTS_2D, Unchanged, assert_close, random_array

from numbaconv import functional, layout_of, num_threads, parallel
from numbaconv.cpu.norm import TASK
from numbaconv.errors import ArgumentError, DTypeError, ShapeError

DTYPES = ("float32", "float64")
SHAPES = [
    (8, 5),
    (5, 1),
    (2, 3, 5, 7),
    (1, 3, 6, 9),
    (3, 17, 1, 1),
    (2, 64, 3, 3),
    (2, 3, 70, 33),
    (4, 3, 10),
    (40, 150),
    (2, 150, 5, 7),
    (2, 2, 2, 3, 4),
]
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_training = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def per_channel(values, ndim):
    return np.asarray(values, np.longdouble).reshape((1, -1) + (1,) * (ndim - 2))


class Reference:
    """Batch norm and its backward in extended precision, from the definition."""

    def __init__(self, x, weight, bias, running_mean, running_var, training, momentum=0.1, eps=1e-5):
        x = x.astype(np.longdouble)
        axes = tuple(a for a in range(x.ndim) if a != 1)
        count = x.size // x.shape[1]
        self.running_mean, self.running_var = running_mean, running_var
        if training:
            mean = x.mean(axes)
            variance = ((x - per_channel(mean, x.ndim)) ** 2).mean(axes)
            self.running_mean = (1 - momentum) * running_mean + momentum * mean
            self.running_var = (1 - momentum) * running_var + momentum * variance * count / (count - 1)
        else:
            mean, variance = running_mean, running_var
        self.mean, self.inverse_std = mean, 1 / np.sqrt(np.asarray(variance, np.longdouble) + eps)
        self.scale = per_channel(weight, x.ndim) * per_channel(self.inverse_std, x.ndim)
        self.normal = (x - per_channel(mean, x.ndim)) * per_channel(self.inverse_std, x.ndim)
        self.output = self.normal * per_channel(weight, x.ndim) + per_channel(bias, x.ndim)
        self.axes, self.training = axes, training

    def backward(self, g):
        g = g.astype(np.longdouble)
        grad_weight, grad_bias = (g * self.normal).sum(self.axes), g.sum(self.axes)
        if self.training:
            mean, slope = g.mean(self.axes, keepdims=True), (g * self.normal).mean(self.axes, keepdims=True)
            return self.scale * (g - mean - self.normal * slope), grad_weight, grad_bias
        return self.scale * g, grad_weight, grad_bias


def arguments(rng, channels, dtype):
    """weight, bias, running_mean, running_var."""
    weight, bias, running_mean = (random_array(rng, channels, dtype) for _ in range(3))
    return weight, bias, running_mean, rng.uniform(0.5, 2, channels).astype(dtype)


def check(x, grad_output, statistics, training, dtype):
    expected = Reference(x, *statistics, training)
    with Unchanged(x, grad_output, *statistics):
        result = functional.batch_norm(x, *statistics, training=training)
        grads = functional.batch_norm_backward(
            grad_output, x, statistics[0], result.mean, result.inverse_std, training=training
        )
    for name in ("output", "running_mean", "running_var"):
        assert_close(getattr(result, name), np.asarray(getattr(expected, name), np.float64), dtype, name)
    for name in ("mean", "inverse_std"):
        assert_close(getattr(result, name), np.asarray(getattr(expected, name), np.float64), "float64", name)
    for name, grad, wanted in zip(("input", "weight", "bias"), grads, expected.backward(grad_output), strict=True):
        assert_close(grad, wanted.astype(np.float64), dtype, f"grad_{name}")
    return result, grads


@pytest.mark.reduced
@each_training
@each_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradient(shape, dtype, training, rng):
    x, grad_output = 2 * random_array(rng, shape, dtype) + 1, random_array(rng, shape, dtype)
    check(x, grad_output, arguments(rng, shape[1], dtype), training, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_that_is_the_input_itself(layout, rng):
    x = LAYOUTS[layout](random_array(rng, (2, 5, 6, 7), "float32") + 1)
    result = functional.batch_norm(x, training=True)
    expected = functional.batch_norm_backward(x.copy(), x, None, result.mean, result.inverse_std, training=True)
    got = functional.batch_norm_backward(x, x, None, result.mean, result.inverse_std, training=True)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@each_training
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(layout, training, rng):
    x, grad_output = (random_array(rng, (2, 3, 5, 7), "float32") for _ in range(2))
    x, grad_output = LAYOUTS[layout](2 * x + 1), LAYOUTS[layout](grad_output)
    statistics = arguments(rng, 3, "float32")
    if layout == "broadcast_all" and training:
        pytest.skip("a variance of 0: test_constant_channel")
    result, grads = check(x, grad_output, statistics, training, "float32")
    assert layout_of(result.output) == layout_of(np.asarray(x, "float32")) == layout_of(grads[0])
    for array in (*result, *grads):
        assert array.flags.writeable
        assert not any(np.shares_memory(array, given) for given in (x, grad_output, *statistics))


@pytest.mark.parametrize("layout", ["fortran", "sliced", "negative_strides", "read_only", "byte_swapped"])
def test_strides_of_two_axes_and_statistics(layout, rng):
    x, grad_output = (LAYOUTS_2D[layout](random_array(rng, (9, 4), "float32")) for _ in range(2))
    statistics = tuple(LAYOUTS_2D[layout](a) for a in arguments(rng, 4, "float32"))
    check(x, grad_output, statistics, True, "float32")


def test_gradient_of_another_layout(rng):
    x, grad_output = (random_array(rng, (2, 3, 5, 7), "float32") for _ in range(2))
    last = LAYOUTS["channels_last"]
    for pair in ((last(x), grad_output), (x, last(grad_output))):
        _, grads = check(*pair, arguments(rng, 3, "float32"), True, "float32")
        assert layout_of(grads[0]) == layout_of(pair[0])


@each_training
@each_dtype
def test_equals_pytorch(dtype, training, rng):
    torch = pytest.importorskip("torch")
    x, grad_output = random_array(rng, (4, 6, 5, 7), dtype), random_array(rng, (4, 6, 5, 7), dtype)
    weight, bias, running_mean, running_var = arguments(rng, 6, dtype)
    result = functional.batch_norm(
        x, weight, bias, running_mean, running_var, training=training, momentum=0.3, eps=1e-3
    )
    grads = functional.batch_norm_backward(grad_output, x, weight, result.mean, result.inverse_std, training=training)

    leaves = [torch.from_numpy(a.copy()).requires_grad_() for a in (x, weight, bias)]
    statistics = [torch.from_numpy(a.copy()) for a in (running_mean, running_var)]
    output = torch.nn.functional.batch_norm(leaves[0], *statistics, *leaves[1:], training, 0.3, 1e-3)
    output.backward(torch.from_numpy(grad_output))
    expected = [output.detach(), *statistics, *(leaf.grad for leaf in leaves)]
    tolerance = {"rtol": 1e-5, "atol": 2e-5} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-12}
    for ours, theirs in zip((*result[:3], *grads), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), **tolerance)


def test_extreme_values_as_pytorch(rng):
    torch = pytest.importorskip("torch")
    x = random_array(rng, (2, 5, 3, 3), "float32")
    x[0, 0, 1, 1], x[1, 1, 0, 0], x[0, 2, 0, 0], x[0, 3, 0, 0], x[1, 3, 2, 2] = np.nan, np.inf, -np.inf, np.inf, -np.inf
    zeros, ones = np.zeros(5, "float32"), np.ones(5, "float32")
    grad_output = np.ones_like(x)
    for training in (True, False):
        leaf, statistics = torch.from_numpy(x).requires_grad_(), (torch.zeros(5), torch.ones(5))
        expected = torch.nn.functional.batch_norm(leaf, *statistics, training=training)
        result = functional.batch_norm(x, None, None, zeros, ones, training=training)
        for ours, theirs in zip(result[:3], (expected.detach(), *statistics), strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)
        expected.backward(torch.from_numpy(grad_output))
        grad, _, _ = functional.batch_norm_backward(
            grad_output, x, None, result.mean, result.inverse_std, training=training
        )
        np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_without_parameters_and_statistics(rng):
    x, g = (random_array(rng, (3, 4, 5, 5), "float64") for _ in range(2))
    result = functional.batch_norm(x, training=True)
    assert result.running_mean is None
    assert result.running_var is None
    expected = Reference(x, np.ones(4), np.zeros(4), np.zeros(4), np.ones(4), True)
    assert_close(result.output, expected.output.astype(float), "float64")
    grads = functional.batch_norm_backward(g, x, None, result.mean, result.inverse_std, training=True)
    for grad, wanted in zip(grads, expected.backward(g), strict=True):
        assert_close(grad, wanted.astype(float), "float64")


def test_by_hand():
    # Channel 0 holds 1, 3, 5, 7: mean 4, biased variance 5, unbiased 20 / 3. Channel 1 holds 2 everywhere.
    x = np.array([[[[1, 3]], [[2, 2]]], [[[5, 7]], [[2, 2]]]], "float64")
    weight, bias = np.array([2.0, 3.0]), np.array([1.0, -1.0])
    result = functional.batch_norm(x, weight, bias, np.zeros(2), np.ones(2), training=True, momentum=0.5, eps=4.0)
    # 1 / sqrt(5 + 4) = 1 / 3
    np.testing.assert_allclose(result.output[:, 0, 0], [[1 - 2, 1 - 2 / 3], [1 + 2 / 3, 1 + 2]])
    np.testing.assert_array_equal(result.output[:, 1], -1)
    np.testing.assert_allclose(result.running_mean, [2, 1])
    np.testing.assert_allclose(result.running_var, [0.5 + 10 / 3, 0.5])
    np.testing.assert_allclose(result.mean, [4, 2])
    np.testing.assert_allclose(result.inverse_std, [1 / 3, 1 / 2])
    # In evaluation: (x - 2) / sqrt(5 + 4) * weight + bias, and the statistics stay.
    given = np.array([2.0, 2.0]), np.array([5.0, 0.0])
    result = functional.batch_norm(x, weight, bias, *given, eps=4.0)
    np.testing.assert_allclose(result.output[:, 0, 0], [[1 - 2 / 3, 1 + 2 / 3], [3, 1 + 10 / 3]])
    np.testing.assert_array_equal(result.running_mean, given[0])
    assert result.running_mean is not given[0]
    grads = functional.batch_norm_backward(np.ones_like(x), x, weight, result.mean, result.inverse_std)
    np.testing.assert_allclose(grads[0][:, 0], 2 / 3)
    np.testing.assert_allclose(grads[1], [8 / 3, 0], atol=1e-15)
    np.testing.assert_array_equal(grads[2], [4, 4])


def test_constant_channel(rng):
    """The variance is exactly 0, so that nothing but eps scales."""
    x = np.full((4, 2, 3, 3), 1e6 + 0.1, "float32")
    result = functional.batch_norm(x, training=True)
    np.testing.assert_array_equal(result.inverse_std, 1 / np.sqrt(1e-5))
    np.testing.assert_allclose(result.output, 0, atol=1e-9)


@pytest.mark.parametrize(("dtype", "mean"), [("float32", 1e4), ("float32", -1e6), ("float64", 1e9), ("float64", -1e12)])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_large_mean(dtype, mean, layout, rng):
    x = LAYOUTS[layout](random_array(rng, (4, 3, 30, 20), dtype) + np.asarray(mean, dtype))
    result = functional.batch_norm(x, training=True)
    exact = Reference(x, np.ones(3), np.zeros(3), np.zeros(3), np.ones(3), True)
    np.testing.assert_allclose(result.inverse_std, exact.inverse_std.astype(float), rtol=1e-12)
    np.testing.assert_allclose(result.mean, exact.mean.astype(float), rtol=1e-15)
    # The reference's mean, too, has 64 bits: at 1e12 that leaves 1e-7.
    tolerance = 1e-6 if dtype == "float32" else 4e-16 * abs(mean)
    np.testing.assert_allclose(result.output, exact.output.astype(float), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_an_outlier_in_the_first_place(layout, rng):
    """The shift is the first element: the sums must stand its being far from all others."""
    x = random_array(rng, (2, 2, 100, 100), "float32")
    x[0, :, 0, 0] = 1e6
    result = functional.batch_norm(LAYOUTS[layout](x), training=True)
    exact = Reference(x, np.ones(2), np.zeros(2), np.zeros(2), np.ones(2), True)
    np.testing.assert_allclose(result.mean, exact.mean.astype(float), rtol=1e-9)
    np.testing.assert_allclose(result.inverse_std, exact.inverse_std.astype(float), rtol=1e-9)


@pytest.mark.parametrize("shape", [(1, 1, 2500, 4000), (10_000_000 // 4, 4)], ids=str)
def test_ten_million_elements(shape):
    """float32 sums would be off in the fourth digit. The values have a mean and a variance known exactly."""
    values = np.repeat(np.arange(1000, 2000, dtype="float32"), 4)  # in every channel each as often
    x = np.tile(values, 2500).reshape(shape)
    result = functional.batch_norm(x, training=True)
    np.testing.assert_allclose(result.mean, 1499.5, rtol=1e-13)
    np.testing.assert_allclose(result.inverse_std, 1 / np.sqrt((1000**2 - 1) / 12 + 1e-5), rtol=1e-13)


@pytest.mark.parametrize(
    "shape",
    [(3, 5, 97, 101), (2, 1, 300, 300), (1, 700, 10, 10), (TASK // 8, 17)],
    ids=["mixed", "segments", "blocks", "rows"],
)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_serial_and_parallel_agree_in_every_bit(shape, layout, rng, monkeypatch):
    x, g = (LAYOUTS[layout](random_array(rng, shape, "float32")) for _ in range(2))
    statistics = arguments(rng, shape[1], "float32")
    results = []
    for work, threads in ((float("inf"), 1), (0.0, 2)):
        monkeypatch.setattr(parallel, "PARALLEL_WORK_NS", work)
        with num_threads(min(threads, parallel.get_num_threads())):
            result = functional.batch_norm(x, *statistics, training=True)
            grads = functional.batch_norm_backward(g, x, statistics[0], result.mean, result.inverse_std, training=True)
        results.append([a.tobytes() for a in (*result, *grads)])
    assert results[0] == results[1]
    exact = Reference(x, *statistics, True)
    assert_close(result.output, exact.output.astype(float), "float32")
    for grad, wanted in zip(grads, exact.backward(g), strict=True):
        np.testing.assert_allclose(grad, wanted.astype(float), rtol=1e-4, atol=1e-4)


@each_training
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (0, 3), (2, 3, 0, 4)], ids=str)
def test_empty_batch(shape, training):
    """As in PyTorch: an empty output, and the statistics as they were."""
    x, weight = np.zeros(shape, "float32"), np.ones(3, "float32")
    given = np.array([1, 2, 3], "float32"), np.array([4, 5, 6], "float32")
    result = functional.batch_norm(x, weight, weight, *given, training=training)
    assert result.output.shape == shape
    np.testing.assert_array_equal(result.running_mean, given[0])
    np.testing.assert_array_equal(result.running_var, given[1])
    grads = functional.batch_norm_backward(x, x, weight, result.mean, result.inverse_std, training=training)
    assert grads[0].shape == shape
    np.testing.assert_array_equal(grads[1], [0, 0, 0])
    np.testing.assert_array_equal(grads[2], [0, 0, 0])
    assert {a.dtype for a in grads} == {np.dtype("float32")}


def test_bad_input():
    x, ones = np.ones((2, 3, 4, 4), "float32"), np.ones(3, "float32")
    norm = functional.batch_norm
    with pytest.raises(
        ShapeError, match=r"^batch_norm: weight.shape must be \(channels,\) = \(3,\); got weight.shape="
    ):
        norm(x, ones[:2], training=True)
    with pytest.raises(ShapeError, match=r"running_var.shape must be"):
        norm(x, None, None, ones, np.ones((3, 1), "float32"))
    with pytest.raises(ShapeError, match=r"at least 2 axes"):
        norm(ones, training=True)
    with pytest.raises(
        ShapeError, match=r"training needs more than one element per channel; got x.shape=\(1, 3, 1, 1\)"
    ):
        norm(x[:1, :, :1, :1], training=True)
    assert norm(x[:1, :, :1, :1], None, None, ones, ones).output.shape == (1, 3, 1, 1)
    with pytest.raises(ArgumentError, match=r"running_mean and running_var must be given unless training"):
        norm(x)
    with pytest.raises(ArgumentError, match=r"must be given together"):
        norm(x, None, None, ones, None, training=True)
    with pytest.raises(ArgumentError, match=r"momentum must be a number; got momentum=None"):
        norm(x, training=True, momentum=None)
    with pytest.raises(ArgumentError, match=r"momentum must be from 0 to 1; got momentum=1.5"):
        norm(x, training=True, momentum=1.5)
    for eps in (0.0, -1e-5, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match=r"eps must be greater than 0"):
            norm(x, training=True, eps=eps)
    with pytest.raises(DTypeError, match=r"must have one dtype"):
        norm(x, ones.astype("float64"), training=True)
    with pytest.raises(DTypeError, match=r"x must be float32 or float64"):
        norm(x.astype("uint8"), training=True)
    with pytest.raises(ShapeError, match=r"grad_output.shape must equal x.shape"):
        functional.batch_norm_backward(x[:1], x, ones, ones, ones)
    with pytest.raises(ShapeError, match=r"mean.shape must be"):
        functional.batch_norm_backward(x, x, ones, ones[:1], ones)
    with pytest.raises(DTypeError, match=r"mean must be an array"):
        functional.batch_norm_backward(x, x, ones, None, ones)
