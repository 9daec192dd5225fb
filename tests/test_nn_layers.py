"""Every layer: output, gradients, state and repr are PyTorch's; its backward is the derivative of its forward."""

from __future__ import annotations

import numpy as np
import pytest
from compare import assert_close, random_array

from numbaconv import nn
from numbaconv.errors import ArgumentError, NumbaconvError, ShapeError
from numbaconv.gradcheck import gradcheck

# name: (our layer, PyTorch's as an expression of torch.nn, input shape)
LAYERS = {
    "conv": (lambda: nn.Conv2d(3, 4, 3), "Conv2d(3, 4, 3)", (2, 3, 6, 7)),
    "conv no bias": (lambda: nn.Conv2d(3, 4, 3, bias=False), "Conv2d(3, 4, 3, bias=False)", (2, 3, 6, 7)),
    "conv everything": (
        lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        "Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2)",
        (2, 4, 6, 7),
    ),
    "conv same": (lambda: nn.Conv2d(3, 4, 4, padding="same"), "Conv2d(3, 4, 4, padding='same')", (2, 3, 6, 7)),
    "conv reflect": (
        lambda: nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="reflect"),
        "Conv2d(3, 4, 3, padding=(1, 2), padding_mode='reflect')",
        (2, 3, 6, 7),
    ),
    "conv replicate same": (
        lambda: nn.Conv2d(3, 4, 4, padding="same", padding_mode="replicate"),
        "Conv2d(3, 4, 4, padding='same', padding_mode='replicate')",
        (2, 3, 6, 7),
    ),
    "conv circular": (
        lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1, padding_mode="circular"),
        "Conv2d(3, 4, 3, stride=2, padding=1, padding_mode='circular')",
        (2, 3, 6, 7),
    ),
    "conv one image": (lambda: nn.Conv2d(3, 4, 3, padding=1), "Conv2d(3, 4, 3, padding=1)", (3, 6, 7)),
    "transposed": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        "ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)",
        (2, 4, 4, 5),
    ),
    "transposed dilated": (
        lambda: nn.ConvTranspose2d(4, 2, (2, 3), dilation=(1, 2), bias=False),
        "ConvTranspose2d(4, 2, (2, 3), dilation=(1, 2), bias=False)",
        (2, 4, 4, 5),
    ),
    "linear": (lambda: nn.Linear(12, 5), "Linear(12, 5)", (4, 12)),
    "linear no bias": (lambda: nn.Linear(12, 5, bias=False), "Linear(12, 5, bias=False)", (4, 12)),
    "relu": (nn.ReLU, "ReLU()", (2, 3, 4, 5)),
    "leaky relu": (lambda: nn.LeakyReLU(0.2), "LeakyReLU(0.2)", (2, 3, 4, 5)),
    "sigmoid": (nn.Sigmoid, "Sigmoid()", (2, 3, 4, 5)),
    "tanh": (nn.Tanh, "Tanh()", (2, 3, 4, 5)),
    "gelu": (nn.GELU, "GELU()", (2, 3, 4, 5)),
    "gelu tanh": (lambda: nn.GELU(approximate=True), "GELU(approximate='tanh')", (2, 3, 4, 5)),
    "silu": (nn.SiLU, "SiLU()", (2, 3, 4, 5)),
    "softmax": (nn.Softmax, "Softmax(1)", (2, 3, 4, 5)),
    "max pool": (lambda: nn.MaxPool2d(2), "MaxPool2d(2)", (2, 3, 6, 7)),
    "max pool everything": (
        lambda: nn.MaxPool2d((3, 2), 2, padding=1, dilation=(1, 2), ceil_mode=True),
        "MaxPool2d((3, 2), 2, padding=1, dilation=(1, 2), ceil_mode=True)",
        (2, 3, 6, 7),
    ),
    "avg pool": (
        lambda: nn.AvgPool2d(3, 2, padding=1, count_include_pad=False, ceil_mode=True),
        "AvgPool2d(3, 2, padding=1, count_include_pad=False, ceil_mode=True)",
        (2, 3, 6, 7),
    ),
    "adaptive": (lambda: nn.AdaptiveAvgPool2d((2, 3)), "AdaptiveAvgPool2d((2, 3))", (2, 3, 6, 7)),
    "batch norm": (lambda: nn.BatchNorm2d(3, eps=0.1), "BatchNorm2d(3, eps=0.1)", (2, 3, 4, 5)),
    "batch norm plain": (
        lambda: nn.BatchNorm2d(3, affine=False, track_running_stats=False),
        "BatchNorm2d(3, affine=False, track_running_stats=False)",
        (2, 3, 4, 5),
    ),
    "batch norm average": (lambda: nn.BatchNorm2d(3, momentum=None), "BatchNorm2d(3, momentum=None)", (2, 3, 4, 5)),
    "flatten": (nn.Flatten, "Flatten()", (2, 3, 4, 5)),
}
EVERY = pytest.mark.parametrize("name", LAYERS)


@pytest.fixture(scope="session")
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.set_num_threads(1)
    return torch


def pair(torch, name, dtype="float64"):
    """(ours, PyTorch's) with the same weights, none of them as they start."""
    make, expression, shape = LAYERS[name]
    rng = np.random.default_rng(1)
    ours = make().astype(dtype)
    theirs = eval(expression, vars(torch.nn)).to(getattr(torch, dtype))
    state = {k: rng.uniform(0.5, 1.5, v.shape).astype(v.dtype) for k, v in ours.state_dict().items()}
    ours.load_state_dict(state)
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    return ours, theirs, random_array(rng, shape, dtype)


def compare(torch, ours, theirs, x):
    """Output and every gradient of one pass, in x's dtype."""
    tensor = torch.from_numpy(x).requires_grad_()
    expected = theirs(tensor)
    actual, ctx = ours.forward_ctx(x)
    grad_output = random_array(np.random.default_rng(2), actual.shape, x.dtype)
    expected.backward(torch.from_numpy(grad_output))
    ours.zero_grad()
    grad_input = ours.backward_ctx(grad_output, ctx)
    assert_close(np.ascontiguousarray(actual), expected.detach().numpy(), x.dtype, "output")
    assert_close(np.ascontiguousarray(grad_input), tensor.grad.numpy(), x.dtype, "grad_input")
    grads = dict(theirs.named_parameters())
    assert {key for key, _ in ours.named_parameters()} == set(grads)
    for key, parameter in ours.named_parameters():
        assert_close(parameter.grad, grads[key].grad.numpy(), x.dtype, key)


@EVERY
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # PyTorch on its own speed
def test_parity(torch, name, training):
    ours, theirs, x = pair(torch, name)
    ours.train(training)
    theirs.train(training)
    before = x.copy()
    compare(torch, ours, theirs, x)
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    assert list(ours.state_dict()) == list(state)
    for key, value in ours.state_dict().items():
        assert value.dtype == state[key].dtype
        np.testing.assert_allclose(value, state[key], rtol=1e-12, err_msg=key)
    np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(x, before)


@EVERY
def test_repr(torch, name):
    ours, theirs, _ = pair(torch, name)
    known = {
        "gelu": "GELU(approximate=False)",
        "gelu tanh": "GELU(approximate=True)",
        "flatten": "Flatten()",
        "softmax": "Softmax(axis=1)",
    }
    expected = repr(theirs).replace(", bias=True, track", ", track")  # newer PyTorch's BatchNorm2d says more
    if name == "avg pool":
        assert repr(ours).startswith("AvgPool2d(kernel_size=3, stride=2, padding=1")
    elif not name.startswith("batch norm"):
        assert repr(ours) == known.get(name, expected)
    else:
        assert repr(ours) == expected.replace(", bias=False, track", ", track")


@EVERY
def test_shapes_without_running(name):
    make, _, shape = LAYERS[name]
    if len(shape) == 3:
        pytest.skip("one image has no batch axis to leave out")
    layer = make().astype("float64")
    output = layer(np.ones(shape))
    assert layer.output_shape(shape[1:]) == output.shape[1:]
    assert layer.multiply_adds(shape[1:]) >= 0


@EVERY
def test_gradcheck(name):
    make, _, shape = LAYERS[name]
    rng = np.random.default_rng(3)
    layer = make()
    x = rng.permutation(np.prod(shape)).reshape(shape) / np.prod(shape) - 0.5003  # no ties, none near 0
    for training in (True, False):
        if hasattr(layer, "running_var"):
            layer.train(training)
        assert gradcheck(layer, x, directions=2)


@EVERY
def test_contexts_are_named_tuples_that_can_be_used_again(name):
    make, _, shape = LAYERS[name]
    layer = make().astype("float64")
    x = random_array(np.random.default_rng(4), shape, "float64")
    y, ctx = layer.forward_ctx(x)
    assert hasattr(ctx, "_fields")
    first = layer.backward_ctx(np.ones_like(y), ctx)
    grads = [np.array(p.grad) for p in layer.parameters()]
    second = layer.backward_ctx(np.ones_like(y), ctx)
    np.testing.assert_array_equal(first, second)
    for parameter, grad in zip(layer.parameters(), grads, strict=True):
        np.testing.assert_allclose(parameter.grad, 2 * grad, rtol=1e-14)
    assert layer.backward_ctx(np.ones_like(y), ctx, needs_input=False) is None


@pytest.mark.parametrize("name", ["conv", "transposed", "linear", "batch norm"])
def test_freezing(name):
    make, _, shape = LAYERS[name]
    layer = make().astype("float64")
    y, ctx = layer.forward_ctx(random_array(np.random.default_rng(4), shape, "float64"))
    layer.weight.trainable = False
    layer.backward_ctx(np.ones_like(y), ctx)
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    layer.zero_grad()
    layer.bias.trainable = False
    assert layer.backward_ctx(np.ones_like(y), ctx) is not None
    assert layer.backward_ctx(np.ones_like(y), ctx, needs_input=False) is None
    assert layer.weight.grad is layer.bias.grad is None


def test_float32_parity(torch):
    """One layer in the default dtype; the operations have their own tests in both."""
    ours, theirs, x = pair(torch, "conv", "float32")
    compare(torch, ours, theirs, x)


def test_contexts_hold_only_what_backward_needs():
    x = np.ones((1, 2, 4, 4))
    y, ctx = nn.ReLU().forward_ctx(x)
    assert ctx.output is y
    for layer in (nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten()):
        assert layer.forward_ctx(x)[1] == ((1, 2, 4, 4),)
    _, ctx = nn.MaxPool2d(2).forward_ctx(x)
    assert ctx.indices.dtype.kind == "i"


def test_asymmetric_padding(torch):
    """Rows above, below; columns left, right. PyTorch has it through `pad` only."""
    ours = nn.Conv2d(2, 3, 3, padding=((1, 0), (2, 3))).astype("float64")
    x = random_array(np.random.default_rng(5), (1, 2, 4, 5), "float64")
    padded = torch.nn.functional.pad(torch.from_numpy(x), (2, 3, 1, 0))
    expected = torch.nn.functional.conv2d(padded, *(torch.from_numpy(p.data) for p in ours.parameters()))
    np.testing.assert_allclose(ours(x), expected.numpy(), rtol=1e-12, atol=1e-12)
    assert "padding=((1, 0), (2, 3))" in repr(ours)
    assert ours.output_shape((2, 4, 5)) == (3, 3, 8)


# --- batch norm's and dropout's state -----------------------------------------------------------------------


def test_running_statistics_over_batches(torch):
    for momentum in (0.1, None):
        ours = nn.BatchNorm2d(3, momentum=momentum).astype("float64")
        theirs = torch.nn.BatchNorm2d(3, momentum=momentum).double()
        rng = np.random.default_rng(6)
        for _ in range(3):
            x = rng.standard_normal((4, 3, 2, 2)) * 3 + 1
            ours.forward(x)
            theirs(torch.from_numpy(x))
        for key, value in theirs.state_dict().items():
            np.testing.assert_allclose(ours.state_dict()[key], value.numpy(), rtol=1e-12)
        assert ours.num_batches_tracked == 3
        ours.eval()
        before = ours.state_dict()
        ours(x)
        assert all(np.array_equal(before[key], value) for key, value in ours.state_dict().items())


def test_batch_norm_wants_its_channels():
    for shape in ((4, 2, 3, 3), (4, 3)):
        with pytest.raises(ShapeError, match="BatchNorm2d: x must have 4 axes"):
            nn.BatchNorm2d(3)(np.ones(shape, np.float32))


def test_dropout():
    layer = nn.Dropout(0.25, seed=3)
    x = np.ones((100, 100), np.float32)
    first, ctx = layer.forward_ctx(x)
    assert set(np.unique(first)) == {np.float32(0), np.float32(4 / 3)}
    assert abs((first == 0).mean() - 0.25) < 0.02
    assert ctx.key == (3, 0, 0)
    assert layer.step == 1
    second, _ = layer.forward_ctx(x)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(layer.backward_ctx(x, ctx), first)
    assert layer.backward_ctx(x, ctx, needs_input=False) is None
    layer.step = 0
    np.testing.assert_array_equal(layer(x), first)


def test_dropout_does_nothing_in_eval_mode():
    layer = nn.Dropout(0.5).eval()
    x = np.ones(5, np.float32)
    y, ctx = layer.forward_ctx(x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(layer.backward_ctx(x, ctx), x)
    assert layer.step == 0
    assert repr(layer) == "Dropout(p=0.5)"
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ArgumentError, match="Dropout: p must be"):
            nn.Dropout(p)


def test_gradcheck_of_dropout_uses_one_mask():
    layer = nn.Dropout(0.5)
    assert gradcheck(layer, np.random.default_rng(7).standard_normal((8, 9)))
    assert layer.step == 0


# --- losses -------------------------------------------------------------------------------------------------


def test_cross_entropy(torch):
    rng = np.random.default_rng(8)
    logits, labels = rng.standard_normal((6, 5)), rng.integers(0, 5, 6)
    labels[2] = 4
    for arguments in ({}, {"label_smoothing": 0.1}, {"ignore_index": 4}):
        loss = nn.CrossEntropyLoss(**arguments)
        tensor = torch.from_numpy(logits).requires_grad_()
        expected = torch.nn.CrossEntropyLoss(**arguments)(tensor, torch.from_numpy(labels))
        expected.backward()
        value, ctx = loss.forward_ctx(logits, labels)
        assert type(value) is float
        assert value == pytest.approx(expected.item(), rel=1e-12) == loss(logits, labels)
        np.testing.assert_allclose(loss.backward_ctx(ctx), tensor.grad.numpy(), rtol=1e-10, atol=1e-14)
    assert repr(nn.CrossEntropyLoss()) == "CrossEntropyLoss(label_smoothing=0.0, ignore_index=-100)"
    with pytest.raises(ArgumentError, match="label_smoothing"):
        nn.CrossEntropyLoss(label_smoothing=2)


def test_mse(torch):
    rng = np.random.default_rng(9)
    output, target = rng.standard_normal((2, 4, 3))
    tensor = torch.from_numpy(output).requires_grad_()
    expected = torch.nn.MSELoss()(tensor, torch.from_numpy(target))
    expected.backward()
    value, ctx = nn.MSELoss().forward_ctx(output, target)
    assert value == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(nn.MSELoss().backward_ctx(ctx), tensor.grad.numpy(), rtol=1e-10)
    assert repr(nn.MSELoss()) == "MSELoss()"


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=1), nn.MSELoss()], ids=repr)
def test_gradcheck_of_losses(loss):
    rng = np.random.default_rng(10)
    output, labels, target = rng.standard_normal((5, 3)), rng.integers(0, 3, 5), rng.standard_normal((5, 3))
    to = labels if isinstance(loss, nn.CrossEntropyLoss) else target

    def backward(grad_output, output):
        return grad_output * loss.backward_ctx(loss.forward_ctx(output, to)[1])

    assert gradcheck(lambda output: loss(output, to), output, backward=backward)


def test_a_loss_of_ones_own_says_what_is_missing():
    for call in (lambda loss: loss(1, 2), lambda loss: loss.backward_ctx(None)):
        with pytest.raises(NotImplementedError, match="Loss: a loss must implement"):
            call(nn.Loss())


# --- bad arguments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: nn.Conv2d(0, 4, 3), "Conv2d: in_channels must be at least 1"),
        (lambda: nn.Conv2d(3, 4.0, 3), "Conv2d: out_channels must be an int"),
        (lambda: nn.Conv2d(3, 4, 0), "Conv2d: kernel_size must be at least 1"),
        (lambda: nn.Conv2d(3, 4, (3, 3, 3)), "Conv2d: kernel_size must be an int or a"),
        (lambda: nn.Conv2d(3, 4, 3, stride=0), "Conv2d: stride must be at least 1"),
        (lambda: nn.Conv2d(3, 4, 3, padding=-1), "Conv2d: padding must be at least 0"),
        (lambda: nn.Conv2d(3, 4, 3, padding="full"), 'Conv2d: padding must be "same"'),
        (lambda: nn.Conv2d(4, 6, 3, groups=4), "Conv2d: groups must divide"),
        (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), "Conv2d: padding_mode must be one of zeros, reflect"),
        (lambda: nn.ConvTranspose2d(4, 6, 3, groups=3), "ConvTranspose2d: groups must divide"),
        (lambda: nn.ConvTranspose2d(4, 6, 3, padding="same"), "ConvTranspose2d: padding must be an int"),
        (lambda: nn.Linear(0, 1), "Linear: in_features must be at least 1"),
        (lambda: nn.MaxPool2d(2, 0), "MaxPool2d: stride must be at least 1"),
        (lambda: nn.AvgPool2d("2"), "AvgPool2d: kernel_size must be an int"),
        (lambda: nn.AdaptiveAvgPool2d(0), "AdaptiveAvgPool2d: output_size must be at least 1"),
        (lambda: nn.BatchNorm2d(True), "BatchNorm2d: num_features must be an int"),
        (lambda: nn.Dropout(seed=-1), "Dropout: seed must be at least 0"),
        (lambda: nn.Linear(3, 3, rng="seed"), "rng must be"),
    ],
)
def test_bad_arguments(make, says):
    with pytest.raises(ArgumentError, match=says):
        make()


def test_an_empty_batch():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2))
    model.astype("float64")
    y = model.forward(np.ones((0, 2, 6, 6)))
    assert y.shape == (0, 2)
    grad_input = model.backward(y, needs_input=True)
    assert grad_input.shape == (0, 2, 6, 6)
    assert all(not p.grad.any() for p in model.parameters())


def test_errors_of_the_operations_come_through():
    with pytest.raises(NumbaconvError, match="x must be float32 or float64"):
        nn.Sequential(nn.Conv2d(1, 2, 3))(np.zeros((1, 1, 5, 5), np.uint8))
    with pytest.raises(ShapeError, match=r"weight\.shape"):
        nn.Conv2d(1, 2, 3)(np.zeros((1, 2, 5, 5), np.float32))
