"""NaN and Inf go through every operation, forward and backward, as they go through PyTorch.

PyTorch's convolutions here are those without oneDNN, which leaves padding out of its sums: an infinite weight times
the zeros of the padding is NaN by the definition.
"""

from __future__ import annotations

import numpy as np
import pytest
from compare import LAYOUTS

from numbaconv import algorithm, functional

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
F = torch.nn.functional

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
SPECIAL = (np.nan, np.inf, -np.inf)


def spoilt(rng, shape, dtype="float32", share=0.05):
    """Standard normal numbers, some of them NaN, Inf or -Inf: at least one of each."""
    x = rng.standard_normal(shape).astype(dtype)
    places = rng.permutation(x.size)[: max(3, int(share * x.size))]
    x.flat[places] = np.resize(SPECIAL, places.size)
    return x


def kinds(x):
    """0 finite, 1 NaN, 2 Inf, 3 -Inf, of each element."""
    return np.select([np.isnan(x), np.isposinf(x), np.isneginf(x)], [1, 2, 3], 0)


def assert_same_kinds(actual, expected, what):
    actual, expected = kinds(np.asarray(actual)), kinds(np.asarray(expected))
    assert actual.shape == expected.shape
    wrong = np.argwhere(actual != expected)
    assert not wrong.size, f"{what}: {len(wrong)} places differ, first {wrong[0]}: {actual[tuple(wrong[0])]}"


def assert_same_but_for_padding(actual, expected, what):
    """As `assert_same_kinds`, but a padding's zero times Inf may be left out or be a factor: then a NaN is there."""
    nan, interior = 1, (..., slice(2, -2), slice(2, -2))
    if expected.ndim == 4 and min(expected.shape[-2:]) > 4:
        assert_same_kinds(actual[interior], expected[interior], f"{what}, where no filter reaches the padding")
    actual, expected = kinds(np.asarray(actual)), kinds(np.asarray(expected))
    assert actual.shape == expected.shape
    wrong = np.argwhere((actual != expected) & (actual != nan) & (expected != nan))
    assert not wrong.size, f"{what}: {len(wrong)} places differ, first {wrong[0]}: {actual[tuple(wrong[0])]}"


def with_gradients(function, grad_output, *arrays):
    """PyTorch's output and gradients; a None stays None."""
    tensors = [None if a is None else torch.from_numpy(a.copy()).requires_grad_() for a in arrays]
    with torch.backends.mkldnn.flags(enabled=False):
        output = function(*tensors)
    output.backward(torch.from_numpy(grad_output(output.shape)))
    return output.detach().numpy(), [None if t is None else t.grad.numpy() for t in tensors]


def gradients(rng, share=0.02):
    made = {}

    def grad_output(shape):
        if tuple(shape) not in made:
            made[tuple(shape)] = spoilt(rng, tuple(shape), share=share)
        return made[tuple(shape)]

    return grad_output


# --- elementwise, softmax ----------------------------------------------------------------------------------

# name: (ours, its backward, whether backward takes the output, PyTorch's)
ELEMENTWISE = {
    "relu": (functional.relu, functional.relu_backward, False, F.relu),
    "leaky_relu": (functional.leaky_relu, functional.leaky_relu_backward, False, F.leaky_relu),
    "sigmoid": (functional.sigmoid, functional.sigmoid_backward, True, torch.sigmoid),
    "tanh": (functional.tanh, functional.tanh_backward, True, torch.tanh),
    "gelu": (functional.gelu, functional.gelu_backward, False, F.gelu),
    "gelu_tanh": (
        lambda x: functional.gelu(x, approximate=True),
        lambda g, x: functional.gelu_backward(g, x, approximate=True),
        False,
        lambda x: F.gelu(x, approximate="tanh"),
    ),
    "silu": (functional.silu, functional.silu_backward, False, F.silu),
    "softmax": (functional.softmax, functional.softmax_backward, True, lambda x: F.softmax(x, -1)),
    "log_softmax": (functional.log_softmax, functional.log_softmax_backward, True, lambda x: F.log_softmax(x, -1)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activations(name, dtype, rng):
    ours, backward, takes_output, theirs = ELEMENTWISE[name]
    x = spoilt(rng, (9, 37), dtype)
    x[0] = -np.inf  # a softmax of nothing
    x[1, :3] = (1e4, -1e4, 0)
    grad_output = spoilt(rng, x.shape, dtype)
    expected, (expected_grad,) = with_gradients(theirs, lambda shape: grad_output, x)
    output = ours(x)
    assert_same_kinds(output, expected, name)
    assert_same_kinds(backward(grad_output, expected if takes_output else x), expected_grad, f"{name}_backward")


# --- convolution, linear -----------------------------------------------------------------------------------

# name: (x, weight, arguments) that it supports
CONVS = {
    "direct": ((2, 18, 9, 8), (20, 18, 3, 3), {"padding": 1, "stride": 2}),
    "direct folded": ((2, 3, 9, 8), (20, 3, 3, 3), {"padding": 1}),
    "planes": ((2, 3, 9, 20), (5, 3, 3, 3), {"padding": 1}),
    "im2col": ((2, 3, 9, 8), (20, 3, 3, 3), {"padding": 1}),
    "col2im": ((2, 3, 9, 8), (20, 3, 3, 3), {"padding": 1}),
    "pointwise": ((2, 18, 5, 4), (20, 18, 1, 1), {}),
    "depthwise": ((2, 19, 9, 8), (19, 1, 3, 3), {"padding": 1, "groups": 19}),
}


@pytest.mark.parametrize("where", ["x", "weight", "grad_output", "bias"])
@pytest.mark.parametrize("name", CONVS)
def test_conv2d(name, where, rng):
    shape, weight_shape, arguments = CONVS[name]
    arrays = {"x": shape, "weight": weight_shape, "bias": weight_shape[:1]}
    arrays = {key: rng.standard_normal(size).astype("float32") for key, size in arrays.items()}
    if where in arrays:
        arrays[where] = spoilt(rng, arrays[where].shape, share=0.002)
    x, weight, bias = arrays.values()
    make = gradients(rng, 0.01) if where == "grad_output" else lambda shape: np.ones(shape, "float32")
    expected, wanted = with_gradients(lambda *tensors: F.conv2d(*tensors, **arguments), make, x, weight, bias)
    with algorithm(name.split()[0]):
        output = functional.conv2d(x, weight, bias, **arguments)
        result = functional.conv2d_backward(make(expected.shape), x, weight, **arguments)
    check = assert_same_but_for_padding if where in ("weight", "grad_output") else assert_same_kinds
    check(output, expected, "output")
    for what, actual, value in zip(("grad_input", "grad_weight", "grad_bias"), result, wanted, strict=True):
        check(actual, value, what)


@pytest.mark.parametrize("where", ["x", "weight", "grad_output"])
def test_linear(where, rng):
    arrays = {"x": (5, 33), "weight": (17, 33), "grad_output": (5, 17)}
    arrays = {key: rng.standard_normal(size).astype("float32") for key, size in arrays.items()}
    arrays[where] = spoilt(rng, arrays[where].shape, share=0.005)
    x, weight, grad_output = arrays.values()
    expected, wanted = with_gradients(F.linear, lambda shape: grad_output, x, weight)
    assert_same_kinds(functional.linear(x, weight), expected, "output")
    for actual, value in zip(functional.linear_backward(grad_output, x, weight)[:2], wanted, strict=True):
        assert_same_kinds(actual, value, "gradient")


def test_conv_transpose2d(rng):
    x, weight = spoilt(rng, (2, 6, 5, 4), share=0.02), rng.standard_normal((6, 5, 3, 3)).astype("float32")
    make = gradients(rng)
    options = {"stride": 2, "padding": 1}
    expected, wanted = with_gradients(lambda *tensors: F.conv_transpose2d(*tensors, **options), make, x, weight)
    with algorithm("direct"):
        assert_same_kinds(functional.conv_transpose2d(x, weight, **options), expected, "output")
        result = functional.conv_transpose2d_backward(make(expected.shape), x, weight, **options)
    for actual, value in zip(result[:2], wanted, strict=True):
        assert_same_but_for_padding(actual, value, "gradient")


@pytest.mark.parametrize("name", ["winograd_2", "winograd_4"])
def test_winograd_loses_no_nan(name, rng):
    """It may make NaN more results than PyTorch does, of tiles that read an Inf or NaN; no other, and none fewer."""
    x = rng.standard_normal((1, 16, 24, 24)).astype("float32")
    weight = rng.standard_normal((16, 16, 3, 3)).astype("float32")
    x[0, 3, 2, 2], x[0, 5, 20, 3] = np.nan, np.inf
    expected = F.conv2d(torch.from_numpy(x), torch.from_numpy(weight), padding=1).numpy()
    with algorithm(name):
        output = functional.conv2d(x, weight, padding=1)
    assert not np.isfinite(output[~np.isfinite(expected)]).any()
    assert np.isfinite(output[:, :, :, 12:]).all()
    assert np.isfinite(output[:, :, 9:12]).all()


def test_strided_winograd_loses_no_nan(rng):
    """As at stride 1: no result but those of tiles that read one."""
    x = rng.standard_normal((1, 16, 40, 40)).astype("float32")
    weight = rng.standard_normal((16, 16, 3, 3)).astype("float32")
    x[0, 3, 2, 2], x[0, 5, 36, 3] = np.nan, np.inf
    expected = F.conv2d(torch.from_numpy(x), torch.from_numpy(weight), stride=2, padding=1).numpy()
    with algorithm("winograd_strided"):
        output = functional.conv2d(x, weight, stride=2, padding=1)
    assert not np.isfinite(output[~np.isfinite(expected)]).any()
    assert np.isfinite(output[:, :, :, 4:]).all()
    assert np.isfinite(output[:, :, 4:16]).all()


def test_sub_pixel_loses_no_nan(rng):
    """It may make NaN more results than PyTorch does: those a whole filter away, in whole strides; no other."""
    grad, weight = rng.standard_normal((1, 8, 12, 12)).astype("float32"), rng.standard_normal((8, 3, 5, 5))
    grad[0, 3, 2, 2], grad[0, 5, 9, 3] = np.nan, np.inf
    weight = weight.astype("float32")
    expected = F.conv_transpose2d(torch.from_numpy(grad), torch.from_numpy(weight), stride=3).numpy()
    with algorithm("sub_pixel"):
        output = functional.conv_transpose2d(grad, weight, stride=3)
    assert not np.isfinite(output[~np.isfinite(expected)]).any()
    assert np.isfinite(output[:, :, :, 15:]).all()
    assert np.isfinite(output[:, :, 12:27]).all()


# --- pooling -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [3, 19])
@pytest.mark.parametrize("order", ["channels_first", "channels_last"])
def test_pooling(channels, order, rng):
    x = LAYOUTS[order](spoilt(rng, (2, channels, 8, 7), share=0.1))
    make = gradients(rng, 0.05)
    options = {"stride": 2, "padding": 1}
    expected, (wanted,) = with_gradients(lambda t: F.max_pool2d(t, 3, **options), make, x)
    output, indices = functional.max_pool2d(x, 3, return_indices=True, **options)
    assert_same_kinds(output, expected, "max_pool2d")
    grad = functional.max_pool2d_backward(make(expected.shape), indices, x.shape, 3, **options)
    assert_same_kinds(grad, wanted, "max_pool2d_backward")
    fused = functional.max_pool2d(x, 3, relu=True, **options)
    assert_same_kinds(fused, F.relu(torch.from_numpy(expected)).numpy(), "max_pool2d with relu")
    expected, (wanted,) = with_gradients(lambda t: F.avg_pool2d(t, 3, **options), make, x)
    assert_same_kinds(functional.avg_pool2d(x, 3, **options), expected, "avg_pool2d")
    grad = functional.avg_pool2d_backward(make(expected.shape), x.shape, 3, **options)
    assert_same_kinds(grad, wanted, "avg_pool2d_backward")
    expected, (wanted,) = with_gradients(lambda t: F.adaptive_avg_pool2d(t, (3, 1)), make, x)
    assert_same_kinds(functional.adaptive_avg_pool2d(x, (3, 1)), expected, "adaptive_avg_pool2d")
    grad = functional.adaptive_avg_pool2d_backward(make(expected.shape), x.shape)
    assert_same_kinds(grad, wanted, "adaptive_avg_pool2d_backward")


# --- losses, batch norm ------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [5, 70])
def test_cross_entropy(classes, smoothing, rng):
    x = rng.standard_normal((12, classes)).astype("float32")
    target = np.arange(12) % classes
    x[0, 1], x[1, 1], x[2] = -np.inf, -np.inf, -np.inf  # another class's, the target's, all
    x[3, 3], x[4, 1], x[5, 2] = np.inf, np.inf, np.nan
    x[6, 0], x[7, :2] = 3e38, (-3e38, 3e38)

    def theirs(t):
        return F.cross_entropy(t, torch.from_numpy(target), label_smoothing=smoothing, reduction="none")

    # In float64: our sums do not overflow where float32's would
    expected, (wanted,) = with_gradients(theirs, np.ones, x.astype("float64"))
    losses = functional.cross_entropy(x, target, label_smoothing=smoothing, reduction="none")
    assert_same_kinds(losses, expected, "cross_entropy")
    grad = functional.cross_entropy_backward(x, target, label_smoothing=smoothing, reduction="sum")
    assert_same_kinds(grad, wanted, "cross_entropy_backward")
    finite = [0, 6, 8, 9, 10, 11]
    np.testing.assert_allclose(grad[finite], wanted[finite], rtol=1e-4, atol=1e-6)


def test_mse_loss(rng):
    x, target = spoilt(rng, (6, 7)), spoilt(rng, (6, 7))
    theirs = lambda t: F.mse_loss(t, torch.from_numpy(target), reduction="none")  # noqa: E731
    expected, (wanted,) = with_gradients(theirs, lambda shape: np.ones(shape, "float32"), x)
    assert_same_kinds(functional.mse_loss(x, target, reduction="none"), expected, "mse_loss")
    assert_same_kinds(functional.mse_loss_backward(x, target, reduction="sum"), wanted, "mse_loss_backward")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("special", SPECIAL, ids=str)
def test_batch_norm(special, training, rng):
    """One such number spoils its channel in training, itself otherwise; never another channel."""
    x = rng.standard_normal((3, 17, 4, 5)).astype("float32")
    x[1, 2, 0, 3] = special
    weight, bias = np.ones(17, "float32"), np.zeros(17, "float32")
    statistics = np.zeros(17, "float32"), np.ones(17, "float32")
    running = [torch.from_numpy(a.copy()) for a in statistics]
    grad_output = rng.standard_normal(x.shape).astype("float32")
    expected, wanted = with_gradients(
        lambda *t: F.batch_norm(t[0], *running, *t[1:], training=training), lambda shape: grad_output, x, weight, bias
    )
    result = functional.batch_norm(x, weight, bias, *statistics, training=training)
    assert_same_kinds(result.output, expected, "output")
    assert_same_kinds(result.running_mean, running[0].numpy(), "running_mean")
    assert_same_kinds(result.running_var, running[1].numpy(), "running_var")
    grads = functional.batch_norm_backward(grad_output, x, weight, result.mean, result.inverse_std, training=training)
    for name, actual, value in zip(("grad_input", "grad_weight", "grad_bias"), grads, wanted, strict=True):
        assert_same_kinds(actual, value, name)


# --- optimizers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_updates(name, rng):
    start = spoilt(rng, 57)
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    ours, first, second = start.copy(), np.zeros(57, "float32"), np.zeros(57, "float32")
    make = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01),
    }
    optimizer = make[name]([theirs])
    for step in (1, 2, 3):
        grad = spoilt(rng, 57) if step == 1 else rng.standard_normal(57).astype("float32")
        theirs.grad = torch.from_numpy(grad.copy())
        optimizer.step()
        if name == "sgd":
            functional.sgd_update(ours, grad, first, lr=0.1, momentum=0.9, weight_decay=0.01, first=step == 1)
        else:
            options = {"lr": 0.1, "weight_decay": 0.01, "decoupled": name == "adamw", "step": step}
            functional.adam_update(ours, grad, first, second, **options)
        assert_same_kinds(ours, theirs.detach().numpy(), f"step {step}")


@pytest.mark.parametrize("special", SPECIAL, ids=str)
def test_clipping(special, rng):
    grads = [rng.standard_normal((4, 5)).astype("float32"), rng.standard_normal(6).astype("float32")]
    grads[0][1, 1] = special
    parameters = [torch.nn.Parameter(torch.zeros(g.shape)) for g in grads]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = torch.from_numpy(grad.copy())
    expected = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    assert_same_kinds(functional.clip_update(grads, 1.0), expected.numpy(), "norm")
    for parameter, grad in zip(parameters, grads, strict=True):
        assert_same_kinds(grad, parameter.grad.numpy(), "clipped")


# --- long sums ---------------------------------------------------------------------------------------------

LONG = 10_000_000


def test_sums_of_ten_million_elements(rng):
    """One float32 accumulator would stop growing at 16,777,216: means of tenths would be off by a third."""
    x = np.full((LONG // 10, 10), np.float32(0.1))
    x[:, 3] += rng.random(LONG // 10, dtype="float32")
    zeros = np.broadcast_to(np.float32(0), x.shape)
    assert functional.mse_loss(x, zeros) == pytest.approx(np.square(x, dtype=np.float64).mean(), rel=1e-9)
    labels = np.broadcast_to(np.int64(3), x.shape[:1])
    wide = x.astype(np.float64)
    expected = (np.log(np.exp(wide).sum(1)) - wide[:, 3]).mean()
    assert functional.cross_entropy(x, labels) == pytest.approx(expected, rel=1e-6)
    assert functional.sum_of_squares(x) == pytest.approx(np.square(wide).sum(), rel=1e-9)
    np.testing.assert_allclose(functional.conv2d_backward_bias(x[:, :, None, None]), wide.sum(0), rtol=1e-6)


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_variance_beside_a_large_mean(mean, rng):
    x = (rng.standard_normal((LONG // 2, 2), dtype="float32") + np.float32(mean)).reshape(-1, 2, 1, 1)
    result = functional.batch_norm(x, training=True)
    wide = x.reshape(-1, 2).astype(np.float64)
    np.testing.assert_allclose(result.mean, wide.mean(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result.inverse_std, 1 / np.sqrt(wide.var(0) + 1e-5), rtol=1e-7)
