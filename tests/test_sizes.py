"""Sizes at both ends: empty arrays, and requests too large."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv import functional, nn, optim
from numbaconv.cpu import memory
from numbaconv.errors import DeviceMemoryError, NumbaconvError, ShapeError

# --- too large ---------------------------------------------------------------------------------------------

ONE = np.ones((1, 1, 4, 4), "float32")
FILTER = np.ones((1, 1, 1, 1), "float32")
MANY = np.broadcast_to(np.float32(1), (2**12, 2**10, 2**8, 2**8))
TOO_LARGE = {
    "conv2d": lambda: functional.conv2d(ONE, FILTER, padding=2**20),
    "conv2d of one long row": lambda: functional.conv2d(ONE, FILTER, padding=((2**40, 0), (0, 0))),
    "conv2d of a view": lambda: functional.conv2d(MANY, np.ones((1, 2**10, 1, 1), "float32")),
    "pad": lambda: functional.pad(ONE, 2**20),
    "adaptive_avg_pool2d": lambda: functional.adaptive_avg_pool2d(ONE, 2**20),
    "relu": lambda: functional.relu(MANY),
    "softmax": lambda: functional.softmax(MANY),
    "batch_norm": lambda: functional.batch_norm(MANY, training=True),
    "max_pool2d": lambda: functional.max_pool2d(MANY, 2),
    "linear": lambda: functional.linear(
        np.broadcast_to(np.float32(1), (2**22, 1)), np.broadcast_to(np.float32(1), (2**22, 1))
    ),
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
    call = SIZED.get(name) or getattr(functional, name)
    if case != "no images":  # a batch of nothing is right everywhere
        try:
            call(x)
        except NumbaconvError:
            with pytest.raises(NumbaconvError, match="; got "):
                call(x)
            return
    result = call(x)
    if isinstance(result, float):
        assert result == 0
        return
    assert result.dtype == np.float32
    assert result.shape[0] == x.shape[0]
    if name in UNARY[:-1]:
        assert result.shape == x.shape
    elif name != "pad" or case in ("no images", "no channels", "nothing at all"):
        assert result.size == 0
