"""Pooling and its backwards: against plain float64 loops, against PyTorch, and by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from compare import CHANNELS_LAST, LAYOUTS, Unchanged, assert_close, random_array

from numbaconv import functional, jit
from numbaconv.cpu.layout import layout_of
from numbaconv.errors import ArgumentError, DTypeError, ShapeError

DTYPES = ("float32", "float64")


class PoolCase(NamedTuple):
    """The arguments of one pooling, named for what it is there to catch."""

    name: str
    x: tuple[int, int, int, int]
    kernel_size: Any
    stride: Any = None
    padding: Any = 0
    dilation: Any = 1  # max_pool2d only
    ceil_mode: bool = False

    @property
    def options(self):
        return {"stride": self.stride, "padding": self.padding, "ceil_mode": self.ceil_mode}


CASES = [
    PoolCase("2x2", (2, 3, 8, 6), 2),
    PoolCase("2x2_leaves_a_rest", (2, 3, 7, 9), 2),
    PoolCase("2x2_ceil", (2, 3, 7, 9), 2, ceil_mode=True),
    PoolCase("3x3_stride2_pad1", (2, 3, 9, 8), 3, 2, 1),
    PoolCase("3x3_stride2_pad1_ceil", (2, 3, 8, 9), 3, 2, 1, ceil_mode=True),
    PoolCase("3x3_stride1_pad1", (1, 5, 6, 7), 3, 1, 1),
    PoolCase("3x2_stride_1_3", (2, 3, 7, 8), (3, 2), (1, 3)),
    PoolCase("2x3_pad_1_0", (2, 3, 5, 7), (2, 3), (2, 1), (1, 0)),
    PoolCase("stride_larger_than_kernel", (1, 3, 11, 10), 2, 4),
    PoolCase("stride_larger_than_kernel_ceil", (1, 3, 11, 10), 2, (4, 5), ceil_mode=True),
    PoolCase("last_ceil_window_would_start_in_the_padding", (1, 2, 5, 5), 2, 4, 1, ceil_mode=True),
    PoolCase("ceil_larger_than_input", (1, 2, 3, 4), 5, 2, 2, ceil_mode=True),
    PoolCase("dilation2", (1, 3, 9, 8), 3, 2, 1, 2),
    PoolCase("dilation_3_2_ceil", (2, 2, 10, 9), 2, (2, 3), 1, (3, 2), True),
    PoolCase("kernel_1", (2, 3, 4, 5), 1),
    PoolCase("kernel_1_stride_2", (2, 3, 4, 5), 1, 2),
    PoolCase("whole_image", (2, 3, 4, 5), (4, 5)),
    PoolCase("one_row", (2, 3, 1, 9), (1, 3), 2),
    PoolCase("one_pixel", (3, 4, 1, 1), 1),
    PoolCase("one_channel", (3, 1, 6, 7), 2, 1),
    PoolCase("channels_70", (2, 70, 5, 4), 2, 1, 1),  # more than one block of channels, and a rest
    PoolCase("no_images", (0, 3, 6, 7), 2),
]
each_case = pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
each_plain_case = pytest.mark.parametrize(
    "case", [c for c in CASES if c.dilation == 1], ids=[c.name for c in CASES if c.dilation == 1]
)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_order = pytest.mark.parametrize("order", ["channels_first", "channels_last"])
both_counts = pytest.mark.parametrize("count_include_pad", [True, False], ids=["count_pad", "do_not_count"])
ADAPTIVE = [((2, 3, 8, 6), 2), ((2, 3, 7, 9), (3, 4)), ((1, 2, 3, 4), (5, 7)), ((2, 70, 7, 5), 1), ((0, 3, 4, 4), 2)]
each_adaptive = pytest.mark.parametrize(("shape", "output_size"), ADAPTIVE, ids=str)


# --- the definitions, one loop per index -------------------------------------------------------------------


def as_pair(value):
    return value if isinstance(value, tuple) else (value, value)


def windows(size, kernel, stride, padding, dilation, ceil_mode):
    """The positions of every window along one axis; those outside 0 .. size - 1 are padding, or beyond it."""
    found = []
    start = -padding
    while True:
        taps = [start + tap * dilation for tap in range(kernel)]
        fits = taps[-1] < size + padding
        # With ceil_mode one more window may hang over, if it starts inside the image or the padding before it.
        hangs = ceil_mode and start < size and (not found or found[-1][-1] < size + padding - 1)
        if not fits and not hangs:
            return found
        found.append(taps)
        start += stride


def axes_of(case):
    kernel, dilation, padding = map(as_pair, (case.kernel_size, case.dilation, case.padding))
    stride = kernel if case.stride is None else as_pair(case.stride)
    return [windows(case.x[2 + i], kernel[i], stride[i], padding[i], dilation[i], case.ceil_mode) for i in (0, 1)]


def max_loops(x, case):
    """(maxima, positions): the first of equals; a NaN beats everything before it."""
    rows, columns = axes_of(case)
    n_images, channels, height, width = x.shape
    output = np.empty((n_images, channels, len(rows), len(columns)))
    indices = np.empty(output.shape, np.int64)
    for n, c, p, q in np.ndindex(output.shape):
        inside = [(h, w) for h in rows[p] for w in columns[q] if 0 <= h < height and 0 <= w < width]
        best = inside[0]
        for place in inside[1:]:
            if x[n, c][place] > x[n, c][best] or np.isnan(x[n, c][place]):
                best = place
        output[n, c, p, q], indices[n, c, p, q] = x[n, c][best], best[0] * width + best[1]
    return output, indices


def max_backward_loops(grad_output, indices, shape):
    grad_input = np.zeros(shape)
    for n, c, p, q in np.ndindex(grad_output.shape):
        grad_input[n, c].flat[indices[n, c, p, q]] += grad_output[n, c, p, q]
    return grad_input


def mean_windows(case, count_include_pad):
    """[(places inside, number of elements that count)] of every output, by (p, q)."""
    padding = as_pair(case.padding)
    height, width = case.x[2:]
    found = {}
    for p, rows in enumerate(axes_of(case)[0]):
        for q, columns in enumerate(axes_of(case)[1]):
            padded = [(h, w) for h in rows for w in columns if h < height + padding[0] and w < width + padding[1]]
            inside = [(h, w) for h, w in padded if 0 <= h < height and 0 <= w < width]
            found[p, q] = inside, len(padded) if count_include_pad else len(inside)
    return found


def adaptive_windows(size, output_size):
    found = {}
    for p in range(output_size[0]):
        rows = range(int(np.floor(p * size[0] / output_size[0])), int(np.ceil((p + 1) * size[0] / output_size[0])))
        for q in range(output_size[1]):
            first = int(np.floor(q * size[1] / output_size[1]))
            columns = range(first, int(np.ceil((q + 1) * size[1] / output_size[1])))
            found[p, q] = [(h, w) for h in rows for w in columns], len(rows) * len(columns)
    return found


def mean_loops(x, found):
    output = np.zeros((*x.shape[:2], *(1 + max(place[axis] for place in found) for axis in (0, 1))))
    for (p, q), (inside, count) in found.items():
        for h, w in inside:
            output[:, :, p, q] += x[:, :, h, w].astype(np.float64) / count
    return output


def mean_backward_loops(grad_output, shape, found):
    grad_input = np.zeros(shape)
    for (p, q), (inside, count) in found.items():
        for h, w in inside:
            grad_input[:, :, h, w] += grad_output[:, :, p, q].astype(np.float64) / count
    return grad_input


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
        monkeypatch.setattr(jit, "PARALLEL_WORK_NS", work)
        y, indices = functional.max_pool2d(x, 3, return_indices=True, **options)
        grad = functional.max_pool2d_backward(y, indices, x.shape, 3, **options)
        mean = functional.avg_pool2d(x, 3, **options)
        mean_grad = functional.avg_pool2d_backward(mean, x.shape, 3, **options)
        results.append([a.tobytes() for a in (y, indices, grad, mean, mean_grad)])
    assert results[0] == results[1]


def test_both_orders_agree_in_every_bit(rng):
    x = random_array(rng, (2, 7, 9, 8), "float32")
    last = LAYOUTS["channels_last"](x)
    for pool in (lambda a: functional.avg_pool2d(a, 3, stride=2), lambda a: functional.adaptive_avg_pool2d(a, 3)):
        np.testing.assert_array_equal(pool(x), pool(last))


# --- bad input ---------------------------------------------------------------------------------------------

BAD = {
    "rank": ({"x": np.ones((2, 2), "f4")}, ShapeError, r"x must have 4 axes .*; got x.shape=\(2, 2\)"),
    "no kernel": ({"kernel_size": 0}, ArgumentError, "kernel_size must be at least 1; got kernel_size=0"),
    "kernel of three": ({"kernel_size": (1, 2, 3)}, ArgumentError, "kernel_size must be an int or a"),
    "half a kernel": ({"kernel_size": 1.5}, ArgumentError, "kernel_size must be an int; got kernel_size=1.5"),
    "zero stride": ({"stride": 0}, ArgumentError, "stride must be at least 1; got stride=0"),
    "negative stride": ({"stride": (1, -1)}, ArgumentError, "stride must be at least 1; got stride=-1"),
    "padding": ({"padding": 2}, ArgumentError, "padding must be at most half of kernel_size"),
    "negative padding": ({"padding": -1}, ArgumentError, "padding must be at least 0"),
    "large kernel": ({"kernel_size": 9}, ShapeError, "the window must not be larger than the padded input"),
    "no channels": ({"x": np.ones((2, 0, 5, 5), "f4")}, ShapeError, "x.shape"),
    "integers": ({"x": np.ones((2, 3, 5, 5), "i4")}, DTypeError, "x must be float32 or float64; got x.dtype='int32'"),
}


@pytest.mark.parametrize(("change", "error", "text"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("op", ["max_pool2d", "avg_pool2d"])
def test_bad_arguments(op, change, error, text):
    arguments = {"x": np.ones((2, 3, 5, 5), "f4"), "kernel_size": 2, **change}
    with pytest.raises(error, match=f"^{op}: .*{text}"):
        getattr(functional, op)(**arguments)


@pytest.mark.parametrize(
    ("x", "output_size", "error", "text"),
    [
        (np.ones((3, 4), "f4"), 1, ShapeError, "x must have 4 axes"),
        (np.ones((3, 0, 4, 4), "f4"), 1, ShapeError, "every axis of x but N must be at least 1"),
        (np.ones((3, 4, 4), "f4"), 0, ArgumentError, "output_size must be at least 1"),
        (np.ones((3, 4, 4), "f4"), (1, None), ArgumentError, "output_size must be an int"),
    ],
)
def test_bad_adaptive_arguments(x, output_size, error, text):
    with pytest.raises(error, match=f"^adaptive_avg_pool2d: {text}"):
        functional.adaptive_avg_pool2d(x, output_size)


def test_dilation_over_the_whole_image():
    """A window without an element has no maximum; PyTorch returns -inf and an index outside of the image."""
    with pytest.raises(ShapeError, match=r"max_pool2d: every window must hold an element of x; got x.shape="):
        functional.max_pool2d(np.ones((1, 1, 3, 3), "f4"), 2, padding=1, dilation=4)
    y = functional.max_pool2d(
        np.ones((1, 1, 3, 3), "f4"), (4, 1), padding=(2, 0), dilation=(4, 1), stride=9, ceil_mode=True
    )
    np.testing.assert_array_equal(y, [[[[1]]]])  # its taps: rows -2, 2, 6, 10


def test_bad_indices():
    x = np.arange(16, dtype="f4").reshape(1, 1, 4, 4)
    y, indices = functional.max_pool2d(x, 2, return_indices=True)

    def backward(grad_output=y, indices=indices, input_shape=(1, 1, 4, 4)):
        return functional.max_pool2d_backward(grad_output, indices, input_shape, 2)

    for wrong in (-1, 16, 2**31 - 1):
        bad = indices.copy()
        bad[0, 0, 1, 1] = wrong
        with pytest.raises(ArgumentError, match=r"max_pool2d_backward: indices must be from 0 to H \* W - 1 = 15; got"):
            backward(indices=bad)
    with pytest.raises(ArgumentError, match="largest=4294967311"):
        backward(indices=indices.astype("int64") + 2**32)  # int64: would be in range if cut to 32 bits
    for dtype in ("int64", "uint8", ">i4"):
        np.testing.assert_array_equal(backward(indices=indices.astype(dtype)), backward())
    with pytest.raises(DTypeError, match=r"indices must be integers; got indices.dtype='float32'"):
        backward(indices=indices.astype("f4"))
    with pytest.raises(DTypeError, match="must be an array"):
        backward(indices=[[[[5, 7], [13, 15]]]])
    with pytest.raises(ShapeError, match=r"indices.shape must equal grad_output.shape"):
        backward(indices=indices[:, :, :1])
    with pytest.raises(ShapeError, match=r"grad_output.shape must equal output.shape"):
        backward(grad_output=y[:, :, :1], indices=indices[:, :, :1])
    with pytest.raises(ShapeError, match=r"grad_output.shape must equal output.shape"):
        backward(input_shape=(1, 4, 4))
    with pytest.raises(ShapeError, match="x must have 4 axes"):
        backward(input_shape=(4, 4))


def test_bad_gradients():
    grad_output = np.ones((2, 3, 2, 2), "f4")
    with pytest.raises(ShapeError, match=r"avg_pool2d_backward: grad_output.shape must equal output.shape"):
        functional.avg_pool2d_backward(grad_output, (2, 3, 7, 7), 2)
    for shape in ((2, 4, 5, 5), (3, 5, 5), (1, 3, 5, 5)):
        with pytest.raises(
            ShapeError, match="adaptive_avg_pool2d_backward: grad_output and the input must have the same"
        ):
            functional.adaptive_avg_pool2d_backward(grad_output, shape)
    with pytest.raises(ShapeError, match="adaptive_avg_pool2d_backward: every axis of input but N"):
        functional.adaptive_avg_pool2d_backward(grad_output, (2, 3, 0, 5))
