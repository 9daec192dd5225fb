"""Pooling and its backwards: against plain float64 loops, against PyTorch, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from compare import CHANNELS_LAST, LAYOUTS, Unchanged, assert_close, random_array
from guards import guarded
from pool_reference import (
    ADAPTIVE,
    CASES,
    PoolCase,
    adaptive_windows,
    as_pair,
    max_backward_loops,
    max_loops,
    mean_backward_loops,
    mean_loops,
    mean_windows,
)

from numbaconv import functional, parallel
from numbaconv.cpu.layout import layout_of

DTYPES = ("float32", "float64")


each_case = pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
each_plain_case = pytest.mark.parametrize(
    "case", [c for c in CASES if c.dilation == 1], ids=[c.name for c in CASES if c.dilation == 1]
)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_order = pytest.mark.parametrize("order", ["channels_first", "channels_last"])
both_counts = pytest.mark.parametrize("count_include_pad", [True, False], ids=["count_pad", "do_not_count"])
each_adaptive = pytest.mark.parametrize(("shape", "output_size"), ADAPTIVE, ids=str)


def few_values(rng, shape, dtype):
    """Whole numbers, so that windows hold equal maxima."""
    return rng.integers(-3, 4, shape).astype(dtype)


# --- against the definitions -------------------------------------------------------------------------------


@pytest.mark.reduced
@each_case
@each_order
@each_dtype
def test_max_pool2d(case, order, dtype, rng):
    x = LAYOUTS[order](few_values(rng, case.x, dtype))
    expected, places = max_loops(x, case)
    options = {**case.options, "dilation": case.dilation}
    with Unchanged(x):
        y, indices = functional.max_pool2d(x, case.kernel_size, return_indices=True, **options)
        alone = functional.max_pool2d(x, case.kernel_size, **options)
    assert_close(y, expected, dtype)
    np.testing.assert_array_equal(alone, y)
    assert indices.dtype == np.int32
    np.testing.assert_array_equal(indices, places)
    grad_output = LAYOUTS[order](random_array(rng, y.shape, dtype))
    with Unchanged(grad_output, indices):
        grad = functional.max_pool2d_backward(grad_output, indices, case.x, case.kernel_size, **options)
    assert_close(grad, max_backward_loops(grad_output, places, case.x), dtype)
    if x.size and 1 not in (x.shape[1], *y.shape[2:]):
        assert [layout_of(a) for a in (y, indices, alone, grad)] == [order] * 4


@pytest.mark.reduced
@each_case
@each_order
@each_dtype
def test_max_pool2d_of_relu(case, order, dtype, rng):
    """One pass for both: the output, and the gradient that passes neither where the maximum is not positive."""
    x = LAYOUTS[order](few_values(rng, case.x, dtype) - 1)
    expected, places = max_loops(x, case)
    options = {**case.options, "dilation": case.dilation, "relu": True}
    y, indices = functional.max_pool2d(x, case.kernel_size, return_indices=True, **options)
    np.testing.assert_array_equal(y, np.maximum(expected, 0))
    np.testing.assert_array_equal(functional.max_pool2d(x, case.kernel_size, **options), y)
    np.testing.assert_array_equal(indices, np.where(expected <= 0, -1, places))
    grad_output = LAYOUTS[order](random_array(rng, y.shape, dtype))
    with Unchanged(grad_output, indices):
        grad = functional.max_pool2d_backward(grad_output, indices, case.x, case.kernel_size, **options)
    passed = np.where(expected <= 0, 0, grad_output)
    assert_close(grad, max_backward_loops(passed, places, case.x), dtype)


@both_counts
def test_avg_pool2d_of_one_pixel_in_padding(count_include_pad, rng):
    """Four windows hold the pixel: a quarter of it each, or all of it."""
    x, share = random_array(rng, (2, 3, 1, 1), "float64"), 0.25 if count_include_pad else 1.0
    options = {"kernel_size": 2, "stride": 1, "padding": 1, "count_include_pad": count_include_pad}
    y = functional.avg_pool2d(x, **options)
    np.testing.assert_allclose(y, np.tile(x, (2, 2)) * share, rtol=1e-15)
    grad_output = random_array(rng, y.shape, "float64")
    grad_input = functional.avg_pool2d_backward(grad_output, input_shape=x.shape, **options)
    np.testing.assert_allclose(grad_input, grad_output.sum((2, 3), keepdims=True) * share, rtol=1e-14)


@pytest.mark.reduced
@each_plain_case
@each_order
@each_dtype
@both_counts
def test_avg_pool2d(case, order, dtype, count_include_pad, rng):
    x = LAYOUTS[order](random_array(rng, case.x, dtype))
    found = mean_windows(case, count_include_pad)
    options = {**case.options, "count_include_pad": count_include_pad}
    with Unchanged(x):
        y = functional.avg_pool2d(x, case.kernel_size, **options)
    assert_close(y, mean_loops(x, found), dtype)
    grad_output = LAYOUTS[order](random_array(rng, y.shape, dtype))
    with Unchanged(grad_output):
        grad = functional.avg_pool2d_backward(grad_output, case.x, case.kernel_size, **options)
    assert_close(grad, mean_backward_loops(grad_output, case.x, found), dtype)
    if x.size and 1 not in (x.shape[1], *y.shape[2:]):
        assert [layout_of(a) for a in (y, grad)] == [order] * 2


@each_adaptive
@each_order
@each_dtype
def test_adaptive_avg_pool2d(shape, output_size, order, dtype, rng):
    x = LAYOUTS[order](random_array(rng, shape, dtype))
    found = adaptive_windows(shape[2:], as_pair(output_size))
    y = functional.adaptive_avg_pool2d(x, output_size)
    assert_close(y, mean_loops(x, found), dtype)
    grad_output = LAYOUTS[order](random_array(rng, y.shape, dtype))
    grad = functional.adaptive_avg_pool2d_backward(grad_output, shape)
    assert_close(grad, mean_backward_loops(grad_output, shape, found), dtype)


# --- against PyTorch ---------------------------------------------------------------------------------------


def torch_gradient(function, x, grad_output):
    torch = pytest.importorskip("torch")
    leaf = torch.from_numpy(np.ascontiguousarray(x)).requires_grad_()
    function(torch.nn.functional, leaf).backward(torch.from_numpy(np.ascontiguousarray(grad_output)))
    return leaf.grad.numpy()


@each_case
def test_max_pool2d_equals_pytorch(case, rng):
    torch = pytest.importorskip("torch")
    x = few_values(rng, case.x, "float32")
    options = {**case.options, "dilation": case.dilation}
    y, indices = functional.max_pool2d(x, case.kernel_size, return_indices=True, **options)
    expected, places = torch.nn.functional.max_pool2d(
        torch.from_numpy(x), case.kernel_size, return_indices=True, **options
    )
    np.testing.assert_array_equal(y, expected.numpy())
    np.testing.assert_array_equal(indices, places.numpy())
    grad_output = random_array(rng, y.shape, "float32")
    grad = functional.max_pool2d_backward(grad_output, indices, case.x, case.kernel_size, **options)
    expected = torch_gradient(lambda f, t: f.max_pool2d(t, case.kernel_size, **options), x, grad_output)
    np.testing.assert_allclose(grad, expected, rtol=1e-6, atol=1e-6)


@each_plain_case
@both_counts
def test_avg_pool2d_equals_pytorch(case, count_include_pad, rng):
    torch = pytest.importorskip("torch")
    x = random_array(rng, case.x, "float64")
    options = {**case.options, "count_include_pad": count_include_pad}
    y = functional.avg_pool2d(x, case.kernel_size, **options)
    expected = torch.nn.functional.avg_pool2d(torch.from_numpy(x), case.kernel_size, **options).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-13)
    grad_output = random_array(rng, y.shape, "float64")
    grad = functional.avg_pool2d_backward(grad_output, case.x, case.kernel_size, **options)
    expected = torch_gradient(lambda f, t: f.avg_pool2d(t, case.kernel_size, **options), x, grad_output)
    np.testing.assert_allclose(grad, expected, rtol=1e-13, atol=1e-13)


@each_adaptive
def test_adaptive_avg_pool2d_equals_pytorch(shape, output_size, rng):
    torch = pytest.importorskip("torch")
    x = random_array(rng, shape, "float64")
    y = functional.adaptive_avg_pool2d(x, output_size)
    expected = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(x), output_size).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-13)
    if shape[0]:  # PyTorch's backward refuses an empty batch
        grad_output = random_array(rng, y.shape, "float64")
        grad = functional.adaptive_avg_pool2d_backward(grad_output, shape)
        expected = torch_gradient(lambda f, t: f.adaptive_avg_pool2d(t, output_size), x, grad_output)
        np.testing.assert_allclose(grad, expected, rtol=1e-13, atol=1e-13)


def with_odd_values(rng, order):
    x = random_array(rng, (2, 5, 8, 9), "float32")
    x[rng.random(x.shape) < 0.1] = np.nan
    x[rng.random(x.shape) < 0.1] = np.inf
    x[rng.random(x.shape) < 0.1] = -np.inf
    x[0, 0, :4, :4] = -np.inf  # a window with nothing else: its first element is the maximum
    return LAYOUTS[order](x)


@each_order
def test_nan_and_inf_as_pytorch(order, rng):
    torch = pytest.importorskip("torch")
    x = with_odd_values(rng, order)
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    y, indices = functional.max_pool2d(x, 3, stride=2, padding=1, return_indices=True)
    expected, places = torch.nn.functional.max_pool2d(tensor, 3, 2, 1, return_indices=True)
    np.testing.assert_array_equal(y, expected.numpy())
    np.testing.assert_array_equal(indices, places.numpy())
    np.testing.assert_array_equal(functional.max_pool2d(x, 3, stride=2, padding=1), y)
    for ours, theirs in (
        (functional.avg_pool2d(x, 2), torch.nn.functional.avg_pool2d(tensor, 2)),
        (functional.adaptive_avg_pool2d(x, 3), torch.nn.functional.adaptive_avg_pool2d(tensor, 3)),
    ):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-6)


@each_order
def test_nan_and_inf(order, rng):
    x = with_odd_values(rng, order)
    case = PoolCase("", x.shape, 3, 2, 1)
    expected, places = max_loops(x, case)
    y, indices = functional.max_pool2d(x, 3, stride=2, padding=1, return_indices=True)
    np.testing.assert_array_equal(y, expected.astype("float32"))
    np.testing.assert_array_equal(indices, places)
    found = mean_windows(case, True)
    grad_output = with_odd_values(rng, order)[:, :, :4, :5]
    with np.errstate(invalid="ignore"):
        means, grads = mean_loops(x, found), mean_backward_loops(grad_output, x.shape, found)
    np.testing.assert_allclose(functional.avg_pool2d(x, 3, stride=2, padding=1), means, rtol=1e-5, atol=1e-6)
    grad = functional.avg_pool2d_backward(grad_output, x.shape, 3, stride=2, padding=1)
    np.testing.assert_allclose(grad, grads, rtol=1e-5, atol=1e-6)


# --- by hand -----------------------------------------------------------------------------------------------

IMAGE = np.array([[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]], "float32").reshape(1, 1, 4, 4)


def test_max_pool2d_by_hand():
    y, indices = functional.max_pool2d(IMAGE, 2, return_indices=True)
    np.testing.assert_array_equal(y, [[[[6, 8], [3, 4]]]])
    np.testing.assert_array_equal(indices, [[[[5, 7], [8, 15]]]])
    grad = functional.max_pool2d_backward(np.array([[[[10, 20], [30, 40]]]], "float32"), indices, IMAGE.shape, 2)
    np.testing.assert_array_equal(grad[0, 0], [[0, 0, 0, 0], [0, 10, 0, 20], [30, 0, 0, 0], [0, 0, 0, 40]])


def test_overlapping_windows_add_up():
    x = np.array([0, 0, 9, 0, 0], "float32").reshape(1, 1, 1, 5)
    y, indices = functional.max_pool2d(x, (1, 3), stride=1, return_indices=True)
    np.testing.assert_array_equal(y.ravel(), [9, 9, 9])
    grad = functional.max_pool2d_backward(np.array([[[[1, 2, 4]]]], "float32"), indices, x.shape, (1, 3), stride=1)
    np.testing.assert_array_equal(grad.ravel(), [0, 0, 7, 0, 0])


def test_avg_pool2d_by_hand():
    np.testing.assert_array_equal(functional.avg_pool2d(IMAGE, 2), [[[[3.25, 5.25], [2, 2]]]])
    grad = functional.avg_pool2d_backward(np.array([[[[4, 8], [12, 16]]]], "float32"), IMAGE.shape, 2)
    np.testing.assert_array_equal(grad[0, 0], np.kron([[1, 2], [3, 4]], np.ones((2, 2))))


def test_what_counts_in_a_mean():
    """Rows of ones, kernel 3, stride 2, padding 1, ceil_mode: a mean below 1 has counted zeros."""
    options = {"stride": (1, 2), "padding": (0, 1), "ceil_mode": True}
    three, two = np.ones((1, 1, 1, 3)), np.ones((1, 1, 1, 2))
    # [pad 1 1], [1 1 pad]: the windows tile the padded row
    np.testing.assert_allclose(functional.avg_pool2d(three, (1, 3), **options).ravel(), [2 / 3, 2 / 3])
    # [pad 1 1], [1 pad beyond]: what lies beyond the padding does not count
    np.testing.assert_allclose(functional.avg_pool2d(two, (1, 3), **options).ravel(), [2 / 3, 1 / 2])
    alone = functional.avg_pool2d(two, (1, 3), count_include_pad=False, **options)
    np.testing.assert_allclose(alone.ravel(), [1, 1])


def test_adaptive_by_hand():
    x = np.arange(5.0).reshape(1, 1, 1, 5)
    np.testing.assert_array_equal(functional.adaptive_avg_pool2d(x, (1, 2)).ravel(), [1, 3])  # 0 1 2, 2 3 4
    grad = functional.adaptive_avg_pool2d_backward(np.array([[[[3.0, 6.0]]]]), x.shape)
    np.testing.assert_array_equal(grad.ravel(), [1, 1, 3, 2, 2])


def test_mean_of_equal_numbers_is_that_number():
    x = np.full((1, 3, 7, 7), 0.1)
    np.testing.assert_allclose(functional.adaptive_avg_pool2d(x, 1), 0.1, rtol=1e-15)
    np.testing.assert_array_equal(functional.avg_pool2d(np.ones((1, 2, 9, 9)), 7, stride=1), 1)
    # float32 additions one after the other would be off by 1e-4 here
    large = np.full((1, 2, 500, 500), 0.1, "float32")
    np.testing.assert_array_equal(functional.adaptive_avg_pool2d(large, 1), np.float32(0.1))


@pytest.mark.reduced
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mean_of_planes_of_every_size(dtype, rng):
    """Whole vectors of planes and what is left over: right, and the same bits wherever a plane is."""
    for size in (*range(1, 36), 48, 49, 63, 64, 65, 128, 129, 255, 256, 257, 700):
        x = rng.standard_normal((2, 37, 1, size)).astype(dtype)
        x[:, 11:] = x[:1, :1]
        output = functional.adaptive_avg_pool2d(x, 1)
        assert_close(output, x.astype("float64").mean((2, 3), keepdims=True), dtype, str(size))
        assert (output[:, 11:] == output[0, 0]).all()


@pytest.mark.reduced
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", range(1, 20))
def test_tiles_of_few_channels(channels, dtype, rng):
    """Vectors written over the next pixels: what comes after a row, and after the array, stays as it is."""
    for kernel, size, padding in (
        (2, (6, 8), 0),
        (3, (7, 11), 0),
        ((1, 2), (3, 5), 0),
        (4, (4, 4), 0),
        ((2, 1), (1, 6), (1, 0)),
        (1, (3, 4), 0),
    ):
        x = LAYOUTS["channels_last"](rng.standard_normal((2, channels, *size)).astype(dtype))
        case = PoolCase("", x.shape, kernel, None, padding)
        with guarded():
            output = functional.avg_pool2d(x, kernel, padding=padding)
            grad_output = LAYOUTS["channels_last"](rng.standard_normal(output.shape).astype(dtype))
            grad = functional.avg_pool2d_backward(grad_output, x.shape, kernel, padding=padding)
        windows = mean_windows(case, True)
        assert_close(output, mean_loops(x, windows), dtype, "output")
        assert_close(grad, mean_backward_loops(grad_output, x.shape, windows), dtype, "gradient")


# --- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(layout, rng):
    """Any strides in, the right numbers out, in the order of the input."""
    case = PoolCase("", (2, 3, 6, 8), 2)
    x = LAYOUTS[layout](few_values(rng, case.x, "float32"))
    expected, places = max_loops(np.asarray(x), case)
    found = mean_windows(case, True)
    grad_output = LAYOUTS[layout](random_array(rng, expected.shape, "float32"))
    with np.errstate(invalid="ignore"):  # some fill the gaps with NaN
        held = LAYOUTS["read_only" if layout == "broadcast_all" else layout](places)  # broadcast_all makes floats
    with Unchanged(x, grad_output, held):
        y, indices = functional.max_pool2d(x, 2, return_indices=True)
        mean = functional.avg_pool2d(x, 2)
        # Stride-0 layouts repeat a slice of the indices: what then comes back is worked out from what was passed.
        grad = functional.max_pool2d_backward(grad_output, held, case.x, 2)
        mean_grad = functional.avg_pool2d_backward(grad_output, case.x, 2)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(indices, places)
    assert_close(mean, mean_loops(np.asarray(x), found), "float32")
    assert_close(grad, max_backward_loops(grad_output, held, case.x), "float32")
    assert_close(mean_grad, mean_backward_loops(grad_output, case.x, found), "float32")
    order = "channels_last" if layout in CHANNELS_LAST else "channels_first"
    assert [layout_of(a) for a in (y, mean, grad, mean_grad)] == [order] * 4


@pytest.mark.parametrize(
    "make", [np.ascontiguousarray, lambda x: np.ascontiguousarray(x.transpose(1, 2, 0)).transpose(2, 0, 1)]
)
def test_one_image(make, rng):
    x = make(random_array(rng, (3, 7, 8), "float32"))
    y, indices = functional.max_pool2d(x, 2, return_indices=True)
    batch_y, batch_indices = functional.max_pool2d(x[None], 2, return_indices=True)
    assert y.shape == indices.shape == (3, 3, 4)
    np.testing.assert_array_equal(y, batch_y[0])
    np.testing.assert_array_equal(indices, batch_indices[0])
    np.testing.assert_array_equal(functional.max_pool2d(x, 2), y)
    np.testing.assert_array_equal(functional.avg_pool2d(x, 2), functional.avg_pool2d(x[None], 2)[0])
    np.testing.assert_array_equal(functional.adaptive_avg_pool2d(x, 2), functional.adaptive_avg_pool2d(x[None], 2)[0])
    for backward in (
        lambda g, shape, i: functional.max_pool2d_backward(g, i, shape, 2),
        lambda g, shape, i: functional.avg_pool2d_backward(g, shape, 2),
        lambda g, shape, i: functional.adaptive_avg_pool2d_backward(g, shape),
    ):
        grad = backward(y, (3, 7, 8), indices)
        assert grad.shape == (3, 7, 8)
        np.testing.assert_array_equal(grad, backward(y[None], [1, 3, 7, 8], indices[None])[0])


@each_order
def test_serial_and_parallel_agree_in_every_bit(order, rng, monkeypatch):
    x = LAYOUTS[order](random_array(rng, (2, 70, 33, 31), "float32"))
    options = {"stride": 2, "padding": 1}
    results = []
    for work in (float("inf"), 0.0):
        monkeypatch.setattr(parallel, "PARALLEL_WORK_NS", work)
        y, indices = functional.max_pool2d(x, 3, return_indices=True, **options)
        grad = functional.max_pool2d_backward(y, indices, x.shape, 3, **options)
        mean = functional.avg_pool2d(x, 3, **options)
        mean_grad = functional.avg_pool2d_backward(mean, x.shape, 3, **options)
        results.append([a.tobytes() for a in (y, indices, grad, mean, mean_grad)])
    assert results[0] == results[1]


def test_both_orders_agree_in_every_bit(rng):
    """Of sums without rounding: they add in different orders."""
    x = few_values(rng, (2, 7, 9, 8), "float32")
    last = LAYOUTS["channels_last"](x)
    for pool in (lambda a: functional.avg_pool2d(a, 3, stride=2), lambda a: functional.adaptive_avg_pool2d(a, 3)):
        np.testing.assert_array_equal(pool(x), pool(last))
