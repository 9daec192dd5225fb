"""pad, flatten, add, concat and their backwards: against NumPy, against PyTorch, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from compare import CHANNELS_LAST, LAYOUTS, Unchanged, assert_close, random_array

from numbaconv import functional, parallel
from numbaconv.cpu.activation import CHUNK
from numbaconv.cpu.layout import layout_of
from numbaconv.errors import ArgumentError, DTypeError, ShapeError

DTYPES = ("float32", "float64")
NUMPY_MODE = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
TORCH_MODE = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}

# (shape, padding, (top, bottom, left, right))
PADDINGS = [
    ((2, 3, 4, 5), 0, (0, 0, 0, 0)),
    ((2, 3, 4, 5), 1, (1, 1, 1, 1)),
    ((2, 3, 4, 5), (2, 3), (2, 2, 3, 3)),
    ((2, 3, 4, 5), [(1, 0), (0, 2)], (1, 0, 0, 2)),
    ((1, 2, 4, 5), ((3, 3), (4, 4)), (3, 3, 4, 4)),  # as much as reflect can
    ((0, 3, 4, 5), 2, (2, 2, 2, 2)),
]
each_padding = pytest.mark.parametrize(("shape", "padding", "sides"), PADDINGS, ids=str)
each_mode = pytest.mark.parametrize("mode", NUMPY_MODE)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def numpy_pad(x, sides, mode):
    top, bottom, left, right = sides
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), mode=NUMPY_MODE[mode])


def numpy_pad_backward(grad_output, shape, sides, mode):
    """Pads the numbers of the elements as they would be padded: they say where each gradient goes back to."""
    places = numpy_pad(np.arange(1, 1 + np.prod(shape)).reshape(shape), sides, mode)  # 0: a zero of the border
    grads = np.zeros(1 + np.prod(shape))
    np.add.at(grads, places.ravel(), grad_output.ravel())
    return grads[1:].reshape(shape)


# --- pad ---------------------------------------------------------------------------------------------------


@pytest.mark.reduced
@each_padding
@each_mode
@each_dtype
@pytest.mark.parametrize("order", ["channels_first", "channels_last"])
def test_pad(shape, padding, sides, mode, dtype, order, rng):
    x = LAYOUTS[order](random_array(rng, shape, dtype))
    with Unchanged(x):
        y = functional.pad(x, padding, mode=mode)
    np.testing.assert_array_equal(y, numpy_pad(x, sides, mode))
    assert y.dtype == dtype
    grad_output = LAYOUTS[order](random_array(rng, y.shape, dtype))
    with Unchanged(grad_output):
        grad = functional.pad_backward(grad_output, shape, padding, mode=mode)
    assert_close(grad, numpy_pad_backward(grad_output, shape, sides, mode), dtype)
    if x.size:
        assert layout_of(y) == layout_of(grad) == order


@each_padding
@each_mode
def test_pad_equals_pytorch(shape, padding, sides, mode, rng):
    torch = pytest.importorskip("torch")
    if shape[0] == 0:
        pytest.skip("PyTorch refuses some modes for an empty batch")
    x = random_array(rng, shape, "float64")
    leaf = torch.from_numpy(x).requires_grad_()
    top, bottom, left, right = sides
    expected = torch.nn.functional.pad(leaf, (left, right, top, bottom), mode=TORCH_MODE[mode])
    y = functional.pad(x, padding, mode=mode)
    np.testing.assert_array_equal(y, expected.detach().numpy())
    grad_output = random_array(rng, y.shape, "float64")
    expected.backward(torch.from_numpy(grad_output))
    grad = functional.pad_backward(grad_output, shape, padding, mode=mode)
    np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-13, atol=1e-13)


def test_pad_further_than_the_image(rng):
    """replicate has no limit, circular goes once around."""
    x = random_array(rng, (1, 2, 2, 3), "float64")
    for mode, sides in (("replicate", (5, 4, 7, 6)), ("circular", (2, 2, 3, 3))):
        padding = sides[:2], sides[2:]
        y = functional.pad(x, padding, mode=mode)
        np.testing.assert_array_equal(y, numpy_pad(x, sides, mode))
        grad = functional.pad_backward(y, x.shape, padding, mode=mode)
        assert_close(grad, numpy_pad_backward(y, x.shape, sides, mode), "float64")


@pytest.mark.parametrize(
    ("mode", "row", "gradient"),
    [
        ("zeros", [0, 0, 1, 2, 3, 0, 0], [1, 1, 1]),
        ("reflect", [3, 2, 1, 2, 3, 2, 1], [2, 3, 2]),
        ("replicate", [1, 1, 1, 2, 3, 3, 3], [3, 1, 3]),
        ("circular", [2, 3, 1, 2, 3, 1, 2], [2, 3, 2]),
    ],
)
def test_pad_by_hand(mode, row, gradient):
    x = np.array([1, 2, 3], "float32").reshape(1, 1, 1, 3)
    y = functional.pad(x, (0, 2), mode=mode)
    np.testing.assert_array_equal(y.ravel(), row)
    grad = functional.pad_backward(np.ones_like(y), x.shape, (0, 2), mode=mode)
    np.testing.assert_array_equal(grad.ravel(), gradient)


def test_pad_value():
    y = functional.pad(np.ones((1, 1, 1, 2), "float32"), ((0, 1), (1, 0)), value=-np.inf)
    np.testing.assert_array_equal(y[0, 0], [[-np.inf, 1, 1], [-np.inf, -np.inf, -np.inf]])


@each_mode
def test_pad_of_one_image(mode, rng):
    x = random_array(rng, (3, 4, 5), "float32")
    y = functional.pad(x, 2, mode=mode)
    assert y.shape == (3, 8, 9)
    np.testing.assert_array_equal(y, functional.pad(x[None], 2, mode=mode)[0])
    grad = functional.pad_backward(y, [3, 4, 5], 2, mode=mode)
    np.testing.assert_array_equal(grad, functional.pad_backward(y[None], (1, 3, 4, 5), 2, mode=mode)[0])


@pytest.mark.parametrize("layout", LAYOUTS)
@each_mode
def test_pad_strides(layout, mode, rng):
    x = LAYOUTS[layout](random_array(rng, (2, 3, 4, 5), "float32"))
    with Unchanged(x):
        y = functional.pad(x, 1, mode=mode)
        grad = functional.pad_backward(x, (2, 3, 2, 3), 1, mode=mode)
    np.testing.assert_array_equal(y, numpy_pad(x, (1, 1, 1, 1), mode))
    assert_close(grad, numpy_pad_backward(np.asarray(x), (2, 3, 2, 3), (1, 1, 1, 1), mode), "float32")
    assert layout_of(y) == layout_of(grad) == ("channels_last" if layout in CHANNELS_LAST else "channels_first")
    assert not np.shares_memory(functional.pad(x, 0, mode=mode), x)


IMAGE = np.ones((1, 1, 3, 4), "float32")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"padding": -1}, ArgumentError, "padding must be at least 0; got padding=-1"),
        ({"padding": 1.5}, ArgumentError, "padding must be an int; got padding=1.5"),
        ({"padding": "same"}, ArgumentError, "padding must be ints or pairs"),
        ({"padding": (1, 2, 3)}, ArgumentError, "padding must be an int or a"),
        ({"padding": 1, "mode": "mirror"}, ArgumentError, "mode must be one of zeros, reflect, replicate, circular"),
        ({"padding": 1, "mode": None}, ArgumentError, "mode must be one of"),
        ({"padding": 3, "mode": "reflect"}, ArgumentError, "reflect padding must be at most 2 here"),
        ({"padding": (0, 5), "mode": "circular"}, ArgumentError, "circular padding must be at most 4 here"),
        ({"padding": 1, "value": "0"}, ArgumentError, "value must be a number; got value='0'"),
        ({"padding": 1, "mode": "reflect", "value": 1.0}, ArgumentError, 'value is for mode "zeros" only'),
        ({"padding": 1, "x": IMAGE[0, 0]}, ShapeError, "x must have 4 axes"),
        ({"padding": 1, "x": IMAGE[:, :, :0], "mode": "replicate"}, ShapeError, "replicate needs at least one row"),
        ({"padding": 1, "x": IMAGE.astype(int)}, DTypeError, "x must be float32 or float64"),
    ],
)
def test_bad_padding(arguments, error, text):
    with pytest.raises(error, match=f"^pad: {text}"):
        functional.pad(**{"x": IMAGE, **arguments})


def test_bad_pad_gradient():
    with pytest.raises(ShapeError, match=r"pad_backward: grad_output.shape must equal output.shape; got"):
        functional.pad_backward(IMAGE, IMAGE.shape, 1)


# --- flatten -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_flatten(layout, rng):
    """In the logical order, whatever the strides."""
    x = LAYOUTS[layout](random_array(rng, (2, 3, 4, 5), "float32"))
    expected = [[x[n, c, h, w] for c in range(3) for h in range(4) for w in range(5)] for n in range(2)]
    with Unchanged(x):
        y = functional.flatten(x)
    np.testing.assert_array_equal(y, expected)
    flat = LAYOUTS[layout if "channels_last" not in layout else "channels_first"](y)
    with Unchanged(flat):
        grad = functional.flatten_backward(flat, x.shape)
    np.testing.assert_array_equal(grad, np.asarray(flat).reshape(2, 3, 4, 5))


def test_flatten_large_channels_last(rng):
    x = LAYOUTS["channels_last"](random_array(rng, (4, 37, 29, 31), "float32"))
    np.testing.assert_array_equal(functional.flatten(x), np.array(x, order="C").reshape(4, -1))


def test_flatten_of_other_ranks(rng):
    x = random_array(rng, (3, 4), "float32")
    assert np.shares_memory(functional.flatten(x), x)
    np.testing.assert_array_equal(functional.flatten(x), x)
    assert functional.flatten(np.empty((0, 3, 4, 5), "float32")).shape == (0, 60)
    assert functional.flatten(np.empty((2, 0, 4, 5), "float32")).shape == (2, 0)
    assert functional.flatten_backward(np.empty((0, 60), "float32"), [0, 3, 4, 5]).shape == (0, 3, 4, 5)
    y = functional.flatten(x.reshape(1, 3, 4, 1))
    assert np.shares_memory(y, x)


def test_bad_flatten():
    with pytest.raises(ShapeError, match=r"flatten: x must have at least 2 axes .*; got x.shape=\(3,\)"):
        functional.flatten(np.ones(3))
    with pytest.raises(ShapeError, match=r"flatten_backward: grad_output.shape must equal output.shape; got"):
        functional.flatten_backward(np.ones((2, 5)), (2, 3, 2))
    with pytest.raises(ShapeError, match="flatten_backward: input_shape must have at least 2 axes"):
        functional.flatten_backward(np.ones((2, 5)), (10,))


# --- add ---------------------------------------------------------------------------------------------------


@pytest.mark.reduced
@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
def test_add(layout, dtype, rng):
    plain, other = random_array(rng, (2, 3, 4, 5), dtype), LAYOUTS[layout](random_array(rng, (2, 3, 4, 5), dtype))
    with Unchanged(plain, other):
        first, second = functional.add(plain, other), functional.add(other, plain)
    np.testing.assert_array_equal(first, plain + other)
    np.testing.assert_array_equal(second, plain + other)
    assert layout_of(first) == "channels_first"
    assert layout_of(second) == ("channels_last" if layout in CHANNELS_LAST else "channels_first")


def test_add_by_hand():
    x, y = np.array([[1, np.nan], [np.inf, 4]]), np.array([[10, 1], [-np.inf, -4]])
    np.testing.assert_array_equal(functional.add(x, y), [[11, np.nan], [np.nan, 0]])
    assert functional.add(np.empty((0, 3)), np.empty((0, 3))).shape == (0, 3)
    grads = functional.add_backward(x)
    assert grads[0] is x
    assert grads[1] is x


def test_add_serial_and_parallel_agree_in_every_bit(rng, monkeypatch):
    x, y = (random_array(rng, 3 * CHUNK + 5, "float32") for _ in range(2))
    for work in (float("inf"), 0.0):
        monkeypatch.setattr(parallel, "PARALLEL_WORK_NS", work)
        np.testing.assert_array_equal(functional.add(x, y), x + y)


def test_bad_add():
    with pytest.raises(ShapeError, match=r"add: x.shape must equal y.shape; got x.shape=\(2, 3\), y.shape=\(1, 3\)"):
        functional.add(np.ones((2, 3)), np.ones((1, 3)))  # nothing is broadcast
    with pytest.raises(DTypeError, match="add: x and y must have one dtype"):
        functional.add(np.ones((2, 3)), np.ones((2, 3), "float32"))
    with pytest.raises(DTypeError, match="add_backward: grad_output must be float32 or float64"):
        functional.add_backward(np.ones(2, int))


# --- concat ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
def test_concat(layout, dtype, rng):
    arrays = [LAYOUTS[layout](random_array(rng, (2, c, 4, 5), dtype)) for c in (3, 2, 4)]
    with Unchanged(*arrays):
        y = functional.concat(arrays)
    np.testing.assert_array_equal(y, np.concatenate(arrays, axis=1))
    assert y.dtype == dtype
    assert layout_of(y) == layout_of(arrays[0])
    with Unchanged(y):
        pieces = functional.concat_backward(y, [3, 2, 4])
    for piece, array in zip(pieces, arrays, strict=True):
        np.testing.assert_array_equal(piece, array)
        assert np.shares_memory(piece, y)


def test_concat_of_other_shapes(rng):
    rows = random_array(rng, (3, 4), "float32"), random_array(rng, (3, 2), "float32")
    np.testing.assert_array_equal(functional.concat(rows), np.hstack(rows))
    alone = functional.concat([rows[0]])
    np.testing.assert_array_equal(alone, rows[0])
    assert not np.shares_memory(alone, rows[0])
    empty = [np.empty((0, c, 2, 2), "float32") for c in (1, 2)]
    assert functional.concat(empty).shape == (0, 3, 2, 2)
    assert [p.shape for p in functional.concat_backward(np.empty((0, 3, 2, 2)), (1, 2))] == [(0, 1, 2, 2), (0, 2, 2, 2)]


def test_concat_mixed_orders_follow_the_first(rng):
    first, last = (LAYOUTS[o](random_array(rng, (2, 3, 4, 5), "float32")) for o in ("channels_first", "channels_last"))
    for arrays in ((first, last), (last, first)):
        y = functional.concat(arrays)
        np.testing.assert_array_equal(y, np.concatenate(arrays, axis=1))
        assert layout_of(y) == layout_of(arrays[0])


def test_bad_concat():
    x = np.ones((2, 3, 4, 5), "float32")
    for wrong in ([], x, None):
        with pytest.raises(ArgumentError, match="concat: arrays must be a list or tuple of at least one array; got"):
            functional.concat(wrong)
    for wrong in ([x, x[:1]], [x, x[:, :, :2]], [x, x[0]], [x[0, 0, 0]]):
        with pytest.raises(ShapeError, match="concat: arrays must have at least 2 axes and differ in axis 1 only; got"):
            functional.concat(wrong)
    with pytest.raises(DTypeError, match=r"concat: arrays\[0\] and arrays\[1\] must have one dtype"):
        functional.concat([x, x.astype("float64")])
    with pytest.raises(DTypeError, match=r"concat: arrays\[1\] must be an array"):
        functional.concat([x, "x"])
    with pytest.raises(ShapeError, match=r"concat_backward: sizes must add up to grad_output.shape\[1\]; got"):
        functional.concat_backward(x, (1, 1))
    with pytest.raises(ArgumentError, match="concat_backward: sizes must be at least 0; got sizes=-1"):
        functional.concat_backward(x, (4, -1))
