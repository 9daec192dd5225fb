"""Sizes at both ends: empty arrays, and requests too large."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv import functional, jit, nn, optim, parallel
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


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Linear(2**22, 2**22),
        lambda: nn.Linear(2**40, 2**40),
        lambda: nn.Conv2d(2**20, 2**20, 3),
        lambda: nn.BatchNorm2d(2**45),
    ],
)
def test_layers_too_large(layer):
    with pytest.raises(DeviceMemoryError, match=r"bytes=\d{12,}, available=\d+"):
        layer()


@jit.kernel
def _greedy(first, end, out, size):
    if parallel.on_threads():
        return
    for task in range(first, end):
        scratch = np.empty(size)
        scratch[0] = out[task] = 1


@pytest.mark.parametrize("threads", [1, 2])
def test_a_kernel_that_finds_no_memory(threads):
    """It says so, on the threads too, and the next call is right."""
    out = np.zeros(4)
    with parallel.num_threads(min(threads, parallel.get_num_threads())):
        with pytest.raises(MemoryError, match="no memory to work in"):
            parallel.launch(_greedy, 4, 1e9, out, 2**58)
        assert not out.any()
        parallel.launch(_greedy, 4, 1e9, out, 1)
    assert out.all()


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


# --- more than 2^31 elements -------------------------------------------------------------------------------
# Zeros take no memory until they are written, so arrays that are only read are as good as free.

ROWS, WIDTH = 2**16 + 128, 2**15


def _spotted(channels, channels_last=False):
    """An image of zeros, of more than 2^31 elements, but for two at the far end of each channel."""
    shape = (1, channels, ROWS // channels // 8 * 8, WIDTH)
    if channels_last:
        x = np.zeros([shape[i] for i in (0, 2, 3, 1)], "float32").transpose(0, 3, 1, 2)
    else:
        x = np.zeros(shape, "float32")
    assert x.size > 2**31
    x[..., -8, 5], x[..., -1, -1] = 3, 7
    return x


OF_WINDOWS = {
    "max_pool2d": (1, lambda x: functional.max_pool2d(x, 8)),
    "avg_pool2d": (1, lambda x: functional.avg_pool2d(x, 8) * 64),
    "conv2d": (1, lambda x: functional.conv2d(x, np.ones((1, 1, 8, 8), "float32"), stride=8)),
    "depthwise": (16, lambda x: functional.conv2d(x, np.ones((16, 1, 8, 8), "float32"), stride=8, groups=16)),
}


@pytest.mark.full
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("op", OF_WINDOWS)
def test_windows_over_many_elements(op, channels_last):
    channels, call = OF_WINDOWS[op]
    y = call(_spotted(channels, channels_last))
    for c in range(channels):
        assert y[0, c, -1, -1] == 7
        assert y[0, c, -1, 0] == 3
        assert y[0, c].sum(dtype=np.float64) == 10


@pytest.mark.full
def test_weight_gradients_over_many_elements():
    x = _spotted(1)
    grad = np.zeros((1, 1, ROWS // 8, WIDTH // 8), "float32")
    grad[..., -1, -1], grad[..., -1, 0] = 1, 10
    grads = functional.conv2d_backward_weight(grad, x, (1, 1, 8, 8), stride=8)
    expected = np.zeros((8, 8))
    expected[7, 7], expected[0, 5] = 7, 30
    np.testing.assert_array_equal(grads[0, 0], expected)


@pytest.mark.full
def test_linear_over_many_elements():
    x = np.zeros((2**21 + 1, 1024), "float32")
    x[-1, -1], x[-1, 0] = 2, 1
    weight = np.ones((4, 1024), "float32")
    weight[1] = 3
    y = functional.linear(x, weight)
    assert not y[:-1].any()
    np.testing.assert_array_equal(y[-1], [3, 9, 3, 3])
    grad = np.zeros_like(y)
    grad[-1] = 1, 2, 3, 4
    _, grad_weight, _ = functional.linear_backward(grad, x, weight, needs=(False, True, True))
    np.testing.assert_array_equal(grad_weight[:, [0, 1, 1023]], [[1, 0, 2], [2, 0, 4], [3, 0, 6], [4, 0, 8]])


@pytest.mark.full
@pytest.mark.skipif(memory.available() < 14e9, reason="it writes an array of 8.6 GB")
def test_results_of_many_elements():
    """The end of what is written is right, and so is what lies around the 2^31st element."""
    grad = np.zeros((1, 1, ROWS // 8, WIDTH // 8), "float32")
    grad[..., -1, -1] = 1
    grad[0, 0, 2**31 // WIDTH // 8, 0] = 2
    weight = np.arange(1, 65, dtype="float32").reshape(1, 1, 8, 8)
    out = functional.conv2d_backward_input(grad, weight, (1, 1, ROWS, WIDTH), stride=8)
    np.testing.assert_array_equal(out[0, 0, -8:, -8:], weight[0, 0])
    np.testing.assert_array_equal(out[0, 0, 2**16 : 2**16 + 8, :8], 2 * weight[0, 0])
    assert out.sum(dtype=np.float64) == 3 * weight.sum()
    del out
    x = np.zeros(2**31 + 5, "float32")
    x[-1], x[2**31], x[0] = 3, 2, -1
    y = functional.relu(x)
    assert y[-1] == 3
    assert y[2**31] == 2
    assert y[0] == 0
