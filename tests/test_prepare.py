"""Prepared models: the numbers of the model and of PyTorch, a snapshot that nothing changes, what is fused."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from compare import assert_close, random_array

import numbaconv
from numbaconv import functional as F
from numbaconv import nn, optim, train
from numbaconv.errors import ArgumentError, DTypeError, ShapeError

LAYOUTS = ["channels_first", "channels_last"]


@pytest.fixture(scope="session")
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.set_num_threads(1)
    return torch


class Twice(nn.Module):
    """A layer of one's own."""

    def forward_ctx(self, x):
        return x * 2, None


class OwnConvolution(nn.Conv2d):
    """Computes something else than its parent."""

    def forward_ctx(self, x):
        y, ctx = super().forward_ctx(x)
        return y + 1, ctx


class OwnSequential(nn.Sequential):
    def forward_ctx(self, x):
        y, ctx = super().forward_ctx(x)
        return -y, ctx


class NamedConvolution(nn.Conv2d):
    """Computes what its parent does."""

    def __init__(self, channels):
        super().__init__(channels, channels, 3, padding=1)


class Block(nn.Module):
    """A model written by hand around layers."""

    def __init__(self):
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward_ctx(self, x):
        return self.norm(self.conv(x)), None


def shared():
    layer = nn.Conv2d(3, 3, 3, padding=1)
    return nn.Sequential(layer, nn.ReLU(), layer, layer, nn.BatchNorm2d(3))


def patched():
    """A method replaced on one instance."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    model[1].forward_ctx = lambda x: (x - 5, None)
    return model


# Each a function that makes a model for x (N, 3, 9, 11), and the steps that its snapshot must come down to.
MODELS = {
    "empty": (nn.Sequential, []),
    "convolution": (lambda: nn.Sequential(nn.Conv2d(3, 5, 3)), ["Conv2d"]),
    "fused": (
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.ReLU()),
        ["Conv2d + BatchNorm2d + ReLU", "ReLU"],
    ),
    "many channels": (
        lambda: nn.Sequential(nn.Conv2d(3, 40, 1), nn.ReLU(), nn.Conv2d(40, 37, 3), nn.BatchNorm2d(37), nn.ReLU()),
        ["Conv2d + ReLU", "Conv2d + BatchNorm2d + ReLU"],
    ),
    "depthwise": (
        lambda: nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.BatchNorm2d(3, affine=False), nn.ReLU()),
        ["Conv2d + BatchNorm2d + ReLU"],
    ),
    "norm first": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.BatchNorm2d(4)),
        ["BatchNorm2d", "Conv2d + ReLU", "BatchNorm2d"],
    ),
    "no statistics": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()),
        ["Conv2d", "BatchNorm2d", "ReLU"],
    ),
    "dropout": (
        lambda: nn.Sequential(nn.Dropout(0.5), nn.Conv2d(3, 4, 2), nn.Dropout(0.9), nn.ReLU(), nn.Dropout()),
        ["Conv2d + ReLU"],
    ),
    "nested": (
        lambda: nn.Sequential(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 2)), nn.BatchNorm2d(4)), nn.ReLU()),
        ["Conv2d + BatchNorm2d + ReLU"],
    ),
    "classifier": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(320, 7), nn.ReLU(), nn.Linear(7, 2)),
        ["Conv2d", "Flatten", "Linear + ReLU", "Linear"],
    ),
    "linear of rows": (lambda: nn.Sequential(nn.Linear(11, 4), nn.ReLU()), ["Linear + ReLU"]),
    "reflect": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU()),
        ["Conv2d + ReLU"],
    ),
    "circular": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=2, padding_mode="circular")), ["Conv2d"]),
    "same": (lambda: nn.Sequential(nn.Conv2d(3, 4, (2, 3), padding="same", dilation=(1, 2))), ["Conv2d"]),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU()),
        ["ConvTranspose2d", "BatchNorm2d", "ReLU"],
    ),
    "shared": (shared, ["Conv2d + ReLU", "Conv2d", "Conv2d + BatchNorm2d"]),
    "residual": (
        lambda: nn.Sequential(
            nn.Residual(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())),
            nn.ReLU(),
            nn.Residual(nn.Conv2d(3, 6, 1), nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6))),
            nn.Residual(nn.Dropout()),
        ),
        ["Residual", "ReLU", "Residual", "Residual"],
    ),
    "residual alone": (lambda: nn.Residual(nn.Conv2d(3, 3, 1)), ["Residual"]),
    "concat": (
        lambda: nn.Sequential(
            nn.Concat(nn.Sequential(), nn.Conv2d(3, 1, 1), nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)))
        ),
        ["Concat"],
    ),
    "concat alone": (lambda: nn.Concat(nn.Conv2d(3, 1, 1), nn.Conv2d(3, 1, 1)), ["Concat"]),
    "one channel": (lambda: nn.Sequential(nn.Conv2d(3, 1, 3), nn.Conv2d(1, 1, 3), nn.ReLU()), ["Conv2d"]),
    "own layer": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Twice(), nn.ReLU()), ["Conv2d", "Twice", "ReLU"]),
    "own convolution": (
        lambda: nn.Sequential(OwnConvolution(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        ["OwnConvolution", "BatchNorm2d", "ReLU"],
    ),
    "own sequential": (
        lambda: nn.Sequential(OwnSequential(nn.Conv2d(3, 4, 3), nn.Dropout()), nn.ReLU()),
        ["OwnSequential", "ReLU"],
    ),
    "own sequential outside": (lambda: OwnSequential(nn.Conv2d(3, 4, 3), nn.ReLU()), ["OwnSequential"]),
    "named convolution": (
        lambda: nn.Sequential(NamedConvolution(3), nn.BatchNorm2d(3), nn.ReLU()),
        ["NamedConvolution + BatchNorm2d + ReLU"],
    ),
    "own module": (lambda: nn.Sequential(Block(), nn.Dropout(), nn.ReLU()), ["Block", "ReLU"]),
    "patched": (patched, ["Conv2d", "ReLU"]),
    "a convolution alone": (lambda: nn.Conv2d(3, 4, 3, padding=1), ["Conv2d"]),
    "a pooling alone": (lambda: nn.MaxPool2d(2), ["MaxPool2d"]),
    "a module alone": (Block, ["Block"]),
}  # fmt: skip


def made(name, dtype="float32"):
    """A model with statistics that matter, in training mode."""
    model = MODELS[name][0]()
    rng = np.random.default_rng(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            if module.affine:
                module.weight.data = random_array(rng, module.weight.shape, "float32")
                module.bias.data = random_array(rng, module.bias.shape, "float32")
            if module.track_running_stats:
                module.running_mean = random_array(rng, module.running_mean.shape, "float32")
                module.running_var = rng.random(module.running_var.shape, np.float32) + 0.1
    return model.astype(dtype)


def in_layout(x, layout):
    return numbaconv.channels_last(x) if layout == "channels_last" else x


def expected_of(model, x):
    return copy.deepcopy(model).eval()(np.ascontiguousarray(x)).astype(np.float64)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_it_predicts_as_the_model_in_eval_mode(name, dtype, layout, rng):
    model = made(name, dtype)
    predict = model.prepare()
    for images in (1, 5):
        x = in_layout(random_array(rng, (images, 3, 9, 11), dtype), layout)
        before = x.copy()
        y = predict(x)
        assert_close(y, expected_of(model, x), dtype, name)
        np.testing.assert_array_equal(x, before)
        if name != "own sequential outside":  # gives what its forward_ctx gives
            assert y.ndim != 4 or numbaconv.layout_of(y) == layout
        assert y.ndim == 4 or y.flags.c_contiguous


@pytest.mark.parametrize("name", MODELS)
def test_what_is_fused_is_shown(name):
    text = repr(made(name).prepare())
    assert text.startswith("Prepared(")
    at = 0
    for step in MODELS[name][1]:
        first, *others = step.split(" + ")
        at = text.index(first + "(", at)
        line = text[at:].split("\n")[0]
        assert line.count(" + ") == len(others), line
        assert all(f" + {other}" in line for other in others), line
        at += len(first)
    assert "Dropout" not in text or name == "own sequential"


def resnet(library, Residual, Concat):
    """Conv-bn-relu, residual and inception blocks, in this library's layers or PyTorch's."""

    def unit(inputs, outputs, kernel, **arguments):
        return [
            library.Conv2d(inputs, outputs, kernel, bias=False, **arguments),
            library.BatchNorm2d(outputs),
            library.ReLU(),
        ]

    return library.Sequential(
        *unit(3, 16, 5, stride=2, padding=2),
        library.MaxPool2d(2),
        Residual(library.Sequential(*unit(16, 16, 3, padding=1), *unit(16, 16, 3, padding=1)[:2])),
        library.ReLU(),
        Concat(
            library.Sequential(*unit(16, 6, 1)),
            library.Sequential(*unit(16, 8, 1), *unit(8, 33, 3, padding=1)),
            library.Sequential(*unit(16, 16, 3, padding=1, groups=16), *unit(16, 5, 1)),
        ),
        Residual(library.Conv2d(44, 48, 3, stride=2, padding=1), library.Conv2d(44, 48, 1, stride=2)),
        library.Dropout(0.3),
        library.Conv2d(48, 48, 3, padding=1),
        library.ReLU(),
        library.Flatten(),
        library.Linear(48 * 16, 30),
        library.ReLU(),
        library.Linear(30, 10),
    )


@pytest.mark.parametrize("images", [1, 5])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_residual_network_is_pytorchs(torch, dtype, layout, images, rng):
    class Residual(torch.nn.Module):
        def __init__(self, body, shortcut=None):
            super().__init__()
            self.body, self.shortcut = body, shortcut

        def forward(self, x):
            return self.body(x) + (x if self.shortcut is None else self.shortcut(x))

    class Concat(torch.nn.Module):
        def __init__(self, *branches):
            super().__init__()
            for index, branch in enumerate(branches):
                self.add_module(str(index), branch)

        def forward(self, x):
            return torch.cat([branch(x) for branch in self.children()], 1)

    torch.manual_seed(0)
    theirs = resnet(torch.nn, Residual, Concat).to(getattr(torch, dtype))
    x = random_array(rng, (images, 3, 30, 30), dtype)
    with torch.no_grad():
        for _ in range(3):  # so that the statistics are not 0 and 1
            theirs(torch.from_numpy(random_array(rng, (8, 3, 30, 30), dtype) * 2 + 1))
        expected = theirs.double().eval()(torch.from_numpy(x).double()).numpy()
    ours = resnet(nn, nn.Residual, nn.Concat).astype(dtype)
    ours.load_state_dict(theirs.state_dict())
    predict = ours.prepare()
    assert repr(predict).count(" + BatchNorm2d") == 8
    assert_close(predict(in_layout(x, layout)), expected, dtype, looser=4)  # ten layers


# --- a snapshot -------------------------------------------------------------------------------------------


def arrays_of(model):
    return {key: value.tobytes() for key, value in model.state_dict().items()}


def test_later_changes_of_the_model_are_not_seen(rng):
    model = made("fused")
    x = random_array(rng, (4, 3, 9, 11), "float32")
    predict = model.prepare()
    before = predict(x)
    for parameter in model.parameters():
        parameter.data[...] = 7
    model[1].running_mean[...] = 3
    np.testing.assert_array_equal(predict(x), before)
    np.testing.assert_array_equal(predict(x[:1]), before[:1])  # a shape it had not seen
    model[0] = nn.Conv2d(3, 5, 1)
    model[0].stride = (3, 3)
    model.astype("float64")
    np.testing.assert_array_equal(predict(x), before)
    assert not np.array_equal(model.prepare()(x.astype("float64")), before)


@pytest.mark.parametrize("name", ["own module", "own convolution", "norm first", "own sequential"])
def test_nor_of_layers_that_are_called_as_they_are(name, rng):
    model = made(name)
    x = random_array(rng, (2, 3, 9, 11), "float32")
    predict = model.prepare()
    before = predict(x)
    for parameter in model.parameters():
        parameter.data[...] = 7
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var[...] = 3
    np.testing.assert_array_equal(predict(x), before)


def test_a_training_step_in_between_changes_the_model_only(rng):
    model = made("classifier")
    x, y = random_array(rng, (8, 3, 9, 11), "float32"), np.arange(8) % 2
    predict = model.prepare()
    before, weights = predict(x), arrays_of(model)
    train.fit(model, x, y, epochs=1, optimizer=optim.SGD(model.parameters(), lr=0.1))
    assert arrays_of(model) != weights
    np.testing.assert_array_equal(predict(x), before)


@pytest.mark.parametrize("name", ["fused", "norm first", "dropout", "own module", "no statistics"])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_is(name, training, rng):
    model = made(name).train(training)
    if training:
        model.modules()[1].eval()  # a frozen layer
    x = random_array(rng, (2, 3, 9, 11), "float32")
    model.forward(x)
    modes, arrays = [module.training for module in model.modules()], arrays_of(model)
    kept, steps = model._slot, [layer.step for layer in model.modules() if isinstance(layer, nn.Dropout)]
    predict = model.prepare()
    first = predict(x)
    np.testing.assert_array_equal(predict(x), first)
    assert [module.training for module in model.modules()] == modes
    assert arrays_of(model) == arrays
    assert model._slot is kept
    assert [layer.step for layer in model.modules() if isinstance(layer, nn.Dropout)] == steps


def test_it_cannot_be_changed_pickled_or_doubled():
    predict = made("fused").prepare()
    with pytest.raises(AttributeError, match="cannot be set"):
        predict.dtype = "float64"
    with pytest.raises(TypeError, match=r"^Prepared: it cannot be pickled\. Save the model"):
        pickle.dumps(predict)
    assert copy.copy(predict) is predict
    assert copy.deepcopy(predict) is predict
    assert (predict.dtype, predict.device) == (np.dtype("float32"), "cpu")
    assert nn.ReLU().prepare().dtype is None


def test_a_layer_that_refuses_to_be_copied():
    class Locked(Twice):
        def __init__(self):
            self.lock = threading.Lock()

    with pytest.raises(ArgumentError, match=r"^prepare: a model must allow copy\.deepcopy; got reason=.*lock"):
        nn.Sequential(Locked()).prepare()


def test_several_threads_may_call_it(rng):
    inputs = [random_array(rng, (1 + i % 3, 3, 9 + i % 4, 11), "float32") for i in range(24)]
    model = made("many channels")
    alone, predict = model.prepare(), model.prepare()
    expected = [alone(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for got, want in zip(pool.map(predict, inputs), expected, strict=True):
                np.testing.assert_array_equal(got, want)


# --- what it takes and what it refuses --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["convolution", "reflect", "a convolution alone", "dropout"])
def test_one_image(name, rng):
    model = made(name)
    image = random_array(rng, (3, 9, 11), "float32")
    y = model.prepare()(image)
    assert y.ndim == 3
    assert_close(y, expected_of(model, image), "float32")


@pytest.mark.parametrize("name", ["convolution", "fused", "classifier", "residual", "a convolution alone"])
def test_any_strides(name, rng):
    model = made(name)
    big = random_array(rng, (5, 6, 18, 12), "float32")
    x = big[::-2, 1::2, ::2, :11]
    x.flags.writeable = False
    assert_close(model.prepare()(x), expected_of(model, x), "float32")


def test_no_images(rng):
    y = made("fused").prepare()(np.empty((0, 3, 9, 11), np.float32))
    assert y.shape == (0, 5, 4, 5)


def test_a_tensor_of_pytorch(torch, rng):
    model = made("fused")
    x = random_array(rng, (2, 3, 9, 11), "float32")
    assert_close(model.prepare()(torch.from_numpy(x)), expected_of(model, x), "float32")


def test_nan_passes_a_fused_relu(rng):
    x = random_array(rng, (1, 3, 9, 11), "float32")
    x[0, 1, 4, 4] = np.nan
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    y = model.prepare()(x)
    assert np.isnan(y[0, :, 4, 4]).all()
    assert np.isnan(y).sum() == 4


WRONG = {
    "channels": np.zeros((2, 4, 9, 11), np.float32),
    "rank 2": np.zeros((2, 3), np.float32),
    "rank 5": np.zeros((1, 2, 3, 9, 11), np.float32),
    "too small": np.zeros((2, 3, 1, 1), np.float32),
    "dtype": np.zeros((2, 3, 9, 11), np.float64),
    "integers": np.zeros((2, 3, 9, 11), np.uint8),
    "list": [[1.0]],
    "None": None,
    "one image": np.zeros((3, 9, 11), np.float32),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    "name", ["convolution", "fused", "classifier", "residual", "reflect", "norm first", "a convolution alone"]
)
def test_it_refuses_what_the_model_refuses_in_the_same_words(name, wrong):
    model = made(name).eval()
    predict = model.prepare()
    expected = refusal(model, WRONG[wrong])
    for _ in range(2):
        assert refusal(predict, WRONG[wrong]) == expected


def refusal(function, x):
    """Class and words of what is raised, but for the bias that folding gives a convolution that had none."""
    try:
        return function(x).shape
    except Exception as error:
        return type(error), str(error).replace(" and bias", "").replace(", bias.dtype='float32'", "")


def test_a_norm_for_other_channels_is_not_folded():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(5))
    with pytest.raises(ShapeError, match=r"^BatchNorm2d: x must have 4 axes .*num_features = 5; got x.shape=\(1, 4"):
        model.prepare()(np.zeros((1, 3, 2, 2), np.float32))


def test_many_shapes(rng):
    model = made("convolution")
    predict = model.prepare()
    for width in range(3, 303):
        predict(np.zeros((1, 3, 3, width), np.float32))
    x = random_array(rng, (2, 3, 9, 11), "float32")
    assert_close(predict(x), expected_of(model, x), "float32")


# --- with the rest of the library -------------------------------------------------------------------------


def test_predict_and_evaluate_take_it(rng):
    model = made("classifier").eval()
    x, y = random_array(rng, (10, 3, 9, 11), "float32"), np.arange(10) % 2
    predict = model.prepare()
    seen = []

    def counting(batch):
        seen.append(len(batch))
        return predict(batch)

    expected = train.predict(model, x)
    assert_close(train.predict(predict, x, batch_size=4), expected.astype(np.float64), "float32")
    assert_close(train.predict(counting, x, batch_size=4), expected.astype(np.float64), "float32")
    assert seen == [4, 4, 2]
    assert train.predict(predict, x[:0]).shape == (0, 2)
    ours, theirs = train.evaluate(predict, x, y, batch_size=3), train.evaluate(model, x, y)
    assert ours.accuracy == theirs.accuracy
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    with pytest.raises(DTypeError, match=r"^predict: x must have the dtype of the model's parameters"):
        train.predict(predict, x.astype(np.float64))


# --- the operations under it ------------------------------------------------------------------------------


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_prepared_operations(bias, relu, rng):
    weight, offset = random_array(rng, (6, 2, 3, 3), "float32"), random_array(rng, (6,), "float32")
    arguments = {"stride": [1, 2], "padding": ((1, 0), (0, 2)), "groups": np.int64(2)}
    f = F.prepare_conv2d(weight, offset if bias else None, relu=relu, **arguments)
    x = random_array(rng, (2, 4, 7, 8), "float32")
    expected = F.conv2d(x, weight, offset if bias else None, **arguments)
    weight[...] = offset[...] = 0
    assert_close(f(x), np.maximum(expected, 0 if relu else -np.inf).astype(np.float64), "float32")
    assert_close(f(x[0]), np.maximum(expected[0], 0 if relu else -np.inf).astype(np.float64), "float32")

    weight, offset = random_array(rng, (6, 4), "float32"), random_array(rng, (6,), "float32")
    g = F.prepare_linear(weight, offset if bias else None, relu=relu)
    for shape in ((4,), (2, 4), (9, 4), (2, 3, 4), (0, 4)):
        x = random_array(rng, shape, "float32")
        expected = F.linear(x, weight, offset if bias else None)
        assert_close(g(x), np.maximum(expected, 0 if relu else -np.inf).astype(np.float64), "float32")
    x = random_array(rng, (2, 4), "float32")
    before = g(x)
    weight[...] = offset[...] = 0
    np.testing.assert_array_equal(g(x), before)


def test_what_is_wrong_with_the_weights_is_said_when_they_are_prepared():
    weight = np.zeros((6, 2, 3, 3), np.float32)
    with pytest.raises(ShapeError, match=r"^prepare_conv2d: weight must have 4 axes"):
        F.prepare_conv2d(weight[0])
    with pytest.raises(ShapeError, match=r"^prepare_conv2d: bias\.shape must be"):
        F.prepare_conv2d(weight, np.zeros(5, np.float32))
    with pytest.raises(ShapeError, match=r"^prepare_conv2d: groups must divide"):
        F.prepare_conv2d(weight, groups=4)
    with pytest.raises(ArgumentError, match=r"^prepare_conv2d: groups must be an int"):
        F.prepare_conv2d(weight, groups="2")
    with pytest.raises(ArgumentError, match=r"^prepare_conv2d: stride must be at least 1"):
        F.prepare_conv2d(weight, stride=0)
    with pytest.raises(DTypeError, match=r"^prepare_conv2d: weight and bias must have one dtype"):
        F.prepare_conv2d(weight, np.zeros(6))
    with pytest.raises(ShapeError, match=r"^prepare_linear: weight must have 2 axes"):
        F.prepare_linear(weight)
    with pytest.raises(ShapeError, match=r"^prepare_linear: bias\.shape must be"):
        F.prepare_linear(weight[0, 0], np.zeros(5, np.float32))
    with pytest.raises(DTypeError, match=r"^prepare_linear: weight must be float32 or float64"):
        F.prepare_linear(np.zeros((2, 2), np.int64))
