"""Sizes at both ends: arrays of more than 2^31 elements that take no memory, empty ones, and requests too large."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv import functional, nn, optim
from numbaconv.cpu import memory
from numbaconv.errors import DeviceMemoryError, NumbaconvError, ShapeError

FAR = 2**31 + 7  # elements: an index that is no int32
WIDE = 2**16


def sparse(tmp_path, shape, values):
    """A memory map with zeros that take no disk but for the pages of `values`, at flat positions."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(int(np.prod(shape, dtype=np.int64)) * 4)
    x = np.memmap(path, np.float32, "r+", shape=shape)
    for position, value in values.items():
        x.reshape(-1)[position] = value
    return x


# --- beyond 2^31 elements ----------------------------------------------------------------------------------


@pytest.mark.full
def test_pooling_and_conv_read_beyond_int32(tmp_path):
    """9 GB of zeros in a sparse file, of which the last pixels are not zero."""
    shape = (1, 2, WIDE, 2**14 + 8)
    size = shape[1] * shape[2] * shape[3]
    assert size > FAR
    x = sparse(tmp_path, shape, {size - 1: 5.0, FAR: 3.0, 11: 2.0})
    y = functional.max_pool2d(x, (WIDE, 1))
    plane, rest = divmod(FAR, shape[2] * shape[3])
    expected = np.zeros((1, 2, 1, shape[3]), np.float32)
    expected[0, 1, 0, -1], expected[0, plane, 0, rest % shape[3]], expected[0, 0, 0, 11] = 5, 3, 2
    np.testing.assert_array_equal(y, expected)
    assert functional.sum_of_squares(x) == 38.0


def test_a_far_image_of_a_view():
    """Strides that reach beyond 2^31 elements, of a view of little memory: rows 8 GB apart are the same row."""
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 6)).astype("float32")
    tall = np.broadcast_to(x[:, :, :, :, None, None], (*x.shape, 2**15, 2**15))
    part = tall[:, :, :, :, -1, -1]
    assert tall.size > FAR
    weight = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype("float32")
    np.testing.assert_array_equal(functional.conv2d(part, weight), functional.conv2d(x, weight))


def test_one_window_of_more_than_int32_pixels():
    """A mean over 2^31 equal elements with no memory would copy them: it is refused, or right; never wrong."""
    x = np.broadcast_to(np.float32(1.5), (1, 1, 2**20, 2**20))
    with pytest.raises(DeviceMemoryError, match=r"bytes=4398046511104"):
        functional.adaptive_avg_pool2d(x, 1)


# --- too large ---------------------------------------------------------------------------------------------

ONE = np.ones((1, 1, 4, 4), "float32")
FILTER = np.ones((1, 1, 1, 1), "float32")
MANY = np.broadcast_to(np.float32(1), (2**12, 2**10, 2**8, 2**8))
TOO_LARGE = {
    "conv2d": lambda: functional.conv2d(ONE, FILTER, padding=2**20),
    "conv2d of one long row": lambda: functional.conv2d(ONE, FILTER, padding=((2**40, 0), (0, 0))),
    "conv2d of a view": lambda: functional.conv2d(MANY, np.ones((1, 2**10, 1, 1), "float32")),
    "conv2d_backward_input": lambda: functional.conv2d_backward_input(ONE, FILTER, (1, 1, 2**20, 2**20), stride=2**18),
    "conv_transpose2d": lambda: functional.conv_transpose2d(ONE, FILTER, stride=2**20),
    "pad": lambda: functional.pad(ONE, 2**20),
    "adaptive_avg_pool2d": lambda: functional.adaptive_avg_pool2d(ONE, 2**20),
    "relu": lambda: functional.relu(MANY),
    "softmax": lambda: functional.softmax(MANY),
    "batch_norm": lambda: functional.batch_norm(MANY, training=True),
    "max_pool2d": lambda: functional.max_pool2d(MANY, 2),
    "linear": lambda: functional.linear(
        np.broadcast_to(np.float32(1), (2**22, 1)), np.broadcast_to(np.float32(1), (2**22, 1))
    ),
    "Linear": lambda: nn.Linear(2**22, 2**22).initialize(0),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_too_large(name):
    """Before anything is computed: one error that says how much."""
    with pytest.raises((DeviceMemoryError, ShapeError), match=r"; got .*=\d{11,}"):
        TOO_LARGE[name]()


def test_uncountable():
    for call in (
        lambda: functional.conv2d(ONE, FILTER, padding=2**30),
        lambda: functional.pad(ONE, 2**62),
        lambda: functional.adaptive_avg_pool2d(ONE, 2**31),
        lambda: functional.conv_transpose2d(ONE, FILTER, stride=2**40),
    ):
        with pytest.raises(ShapeError, match=r"must have fewer than 2\*\*59 elements"):
            call()


def test_a_step_that_does_not_fit_changes_nothing(monkeypatch):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).initialize(0)
    optimizer = optim.Adam(model.parameters())
    before = {name: value.copy() for name, value in model.state_dict().items()}
    x = np.ones((2, 1, 64, 64), "float32")
    monkeypatch.setattr(memory, "available", lambda: 1000)
    monkeypatch.setattr(memory, "_LARGEST_UNCHECKED", 2000)
    with pytest.raises(DeviceMemoryError, match=r"bytes=\d+, available=1000"):
        model.forward(x)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    monkeypatch.undo()
    output = model.forward(x)  # still usable
    model.backward(np.ones_like(output))
    optimizer.step()


def test_available_memory_is_plausible():
    assert 2**24 < memory.available() < 2**50


# --- nothing -----------------------------------------------------------------------------------------------

EMPTY = {
    "no images": (0, 3, 4, 5),
    "no channels": (2, 0, 4, 5),
    "no rows": (2, 3, 0, 5),
    "no columns": (2, 3, 4, 0),
    "nothing at all": (0, 0, 0, 0),
}
UNARY = ["relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu", "softmax", "log_softmax", "flatten"]
SIZED = {
    "conv2d": lambda x: functional.conv2d(x, np.ones((2, x.shape[1], 1, 1), x.dtype)),
    "conv2d padded": lambda x: functional.conv2d(x, np.ones((2, x.shape[1], 3, 3), x.dtype), padding=1),
    "conv_transpose2d": lambda x: functional.conv_transpose2d(x, np.ones((x.shape[1], 2, 2, 2), x.dtype)),
    "max_pool2d": lambda x: functional.max_pool2d(x, 2),
    "avg_pool2d": lambda x: functional.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: functional.adaptive_avg_pool2d(x, 2),
    "pad": lambda x: functional.pad(x, 1),
    "batch_norm": lambda x: functional.batch_norm(x, training=True).output,
    "mse_loss": lambda x: functional.mse_loss(x, x, reduction="sum"),
    "cross_entropy": lambda x: functional.cross_entropy(x, x, reduction="sum"),
    "linear": lambda x: functional.linear(x, np.ones((3, x.shape[3]), x.dtype)),
    "add": lambda x: functional.add(x, x),
    "concat": lambda x: functional.concat([x, x]),
}


@pytest.mark.parametrize("name", [*UNARY, *SIZED])
@pytest.mark.parametrize("case", EMPTY)
def test_empty_arrays(name, case):
    """An empty result of the right shape, or one clear error."""
    x = np.ones(EMPTY[case], "float32")
    try:
        result = SIZED[name](x) if name in SIZED else getattr(functional, name)(x)
    except NumbaconvError as error:
        assert "; got " in str(error)
        assert case != "no images", "a batch of nothing is right everywhere"
        return
    if isinstance(result, float):
        assert result == 0
        return
    assert result.dtype == np.float32
    assert result.shape[0] == x.shape[0]
    if name in UNARY[:-1]:
        assert result.shape == x.shape
    elif name != "pad" or case in ("no images", "no channels", "nothing at all"):
        assert result.size == 0
