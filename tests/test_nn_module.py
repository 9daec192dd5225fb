"""Parameter and Module: contexts, the one slot, names, freezing, modes, state dicts. Layers in NumPy only."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from numbaconv import nn
from numbaconv.errors import DeviceError, DTypeError, ShapeError, StateDictError, StateError


class Scale(nn.Module):
    """A layer as the documentation says one is written: no ``super().__init__()``, no registration."""

    def __init__(self, factor=2.0):
        self.factor = nn.Parameter(np.array([factor], np.float32))

    def forward_ctx(self, x):
        return x * self.factor.data, x

    def backward_ctx(self, grad_output, ctx, needs_input=True):
        self.factor.accumulate_grad(np.sum(grad_output * ctx, keepdims=True).reshape(1))
        return grad_output * self.factor.data if needs_input else None


class Pair(nn.Module):
    """A model of one's own: children as attributes, in a list, one twice, and a frozen parameter."""

    def __init__(self):
        self.first = Scale(2.0)
        self.more = [Scale(3.0), Scale(5.0)]
        self.again = self.first
        self.offset = nn.Parameter(np.zeros((2, 3), np.float32), trainable=False)

    def forward_ctx(self, x):
        contexts = []
        for layer in (self.first, *self.more):
            x, ctx = layer.forward_ctx(x)
            contexts.append(ctx)
        return x, contexts

    def backward_ctx(self, grad_output, ctx, needs_input=True):
        for layer, context in zip((*self.more[::-1], self.first), reversed(ctx), strict=True):
            grad_output = layer.backward_ctx(grad_output, context)
        return grad_output


class Failing(Scale):
    def forward_ctx(self, x):
        raise RuntimeError("out of order")


X = np.array([1.0, -2.0], np.float32)
ONES = np.ones(2, np.float32)


def test_forward_backward():
    layer = Scale()
    np.testing.assert_array_equal(layer.forward(X), [2, -4])
    np.testing.assert_array_equal(layer.backward(ONES, needs_input=True), [2, 2])
    np.testing.assert_array_equal(layer.factor.grad, [-1])


def test_backward_gives_no_input_gradient_unless_asked():
    layer = Scale()
    layer.forward(X)
    assert layer.backward(ONES) is None
    assert layer.factor.grad is not None


def test_backward_consumes_the_forward():
    layer = Scale()
    with pytest.raises(StateError, match=r"backward: .*Call forward\(x\)"):
        layer.backward(ONES)
    layer.forward(X)
    layer.backward(ONES)
    with pytest.raises(StateError):
        layer.backward(ONES)


def test_forward_replaces_the_forward_before_it():
    layer = Scale()
    layer.forward(X)
    layer.forward(np.array([10.0, 0.0], np.float32))
    layer.backward(ONES)
    np.testing.assert_array_equal(layer.factor.grad, [10])


def test_a_prediction_keeps_nothing_and_disturbs_nothing():
    layer = Scale()
    layer(X)
    with pytest.raises(StateError):
        layer.backward(ONES)
    layer.forward(X)
    layer(100 * X)
    layer.backward(ONES)
    np.testing.assert_array_equal(layer.factor.grad, [-1])
    assert layer.training


def test_forward_in_eval_mode_keeps_nothing():
    layer = Scale()
    layer.forward(X)
    layer.eval().forward(X)
    with pytest.raises(StateError, match="eval mode"):
        layer.backward(ONES)
    with pytest.raises(StateError):
        layer.train().backward(ONES)


def test_an_exception_leaves_nothing_stale():
    layer = Scale()
    layer.forward(X)
    with pytest.raises(TypeError):
        layer.forward(None)
    with pytest.raises(StateError):
        layer.backward(ONES)
    layer.forward(X)
    with pytest.raises(TypeError):
        layer.backward(None)
    with pytest.raises(StateError):
        layer.backward(ONES)
    assert layer.factor.grad is None


def test_contexts_let_two_passes_be_in_flight():
    layer = Scale()
    _, first = layer.forward_ctx(X)
    _, second = layer.forward_ctx(10 * X)
    layer.backward_ctx(ONES, first)
    np.testing.assert_array_equal(layer.factor.grad, [-1])
    layer.zero_grad()
    layer.backward_ctx(ONES, second)
    np.testing.assert_array_equal(layer.factor.grad, [-10])


def test_a_subclass_with_its_own_forward_predicts_through_it():
    class Doubled(nn.MaxPool2d):  # whose __call__ is a shortcut
        def forward_ctx(self, x):
            return 2 * x, None

    np.testing.assert_array_equal(Doubled(2)(X), 2 * X)
    with pytest.raises(RuntimeError, match="out of order"):
        Failing()(X)


def test_a_layer_without_the_protocol_says_what_is_missing():
    class Nothing(nn.Module):
        pass

    for call in (
        lambda m: m(X),
        lambda m: m.backward_ctx(X, None),
        lambda m: m.summary((2,), show=False),
    ):
        with pytest.raises(NotImplementedError, match="Nothing: a layer must implement"):
            call(Nothing())
    with pytest.raises(NotImplementedError, match="Scale: a layer with parameters must implement reset_parameters"):
        Scale().initialize(0)


# --- parameters ---------------------------------------------------------------------------------------------


def test_accumulate_grad():
    parameter = nn.Parameter(np.zeros(2, np.float32))
    first, second = np.array([1, 2], np.float32), np.array([10, 20], np.float32)
    parameter.accumulate_grad(first)
    assert parameter.grad is first
    parameter.accumulate_grad(second)
    np.testing.assert_array_equal(parameter.grad, [11, 22])
    np.testing.assert_array_equal(second, [10, 20])
    parameter.zero_grad()
    assert parameter.grad is None
    with pytest.raises(ShapeError, match=r"grad\.shape=\(3,\)"):
        parameter.accumulate_grad(np.zeros(3, np.float32))


def test_a_frozen_parameter_takes_no_gradient():
    layer = Scale()
    layer.factor.trainable = False
    layer.forward(X)
    layer.backward(ONES)
    assert layer.factor.grad is None
    assert not layer.has_trainable()
    assert repr(layer.factor) == "Parameter(shape=(1,), dtype=float32, trainable=False)"


def test_names():
    model = Pair()
    assert [name for name, _ in model.named_modules()] == ["", "first", "more.0", "more.1"]
    names = ["offset", "first.factor", "more.0.factor", "more.1.factor"]
    assert [name for name, _ in model.named_parameters()] == names
    assert [id(p) for p in model.parameters()] == [id(p) for _, p in model.named_parameters()]
    assert model.modules()[1] is model.first
    # As in PyTorch, a shared layer is in the state dict under each of its names.
    assert sorted(model.state_dict()) == sorted([*names, "again.factor"])


def test_modes_reach_every_module():
    model = Pair()
    assert model.eval() is model
    assert not any(module.training for module in model.modules())
    model.train()
    assert all(module.training for module in model.modules())


def test_a_parameter_cannot_be_overwritten_by_an_array():
    layer = Scale()
    with pytest.raises(DTypeError, match=r"Scale: factor is a Parameter.*assign factor\.data"):
        layer.factor = np.ones(1)
    layer.factor = nn.Parameter(np.ones(1, np.float32))
    layer.factor = None
    assert layer.parameters() == []


def test_copies_are_independent():
    model = Pair()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.again is twin.first
        twin.first.factor.data[0] = 7
        assert model.first.factor.data[0] == 2


# --- all of it at once --------------------------------------------------------------------------------------


def test_astype_converts_data_gradients_and_buffers():
    model = nn.BatchNorm2d(3)
    model.weight.grad = np.ones(3, np.float32)
    assert model.astype("float64") is model
    arrays = [model.weight.data, model.weight.grad, model.bias.data, model.running_mean, model.running_var]
    assert {a.dtype for a in arrays} == {np.dtype("float64")}
    assert model.num_batches_tracked.dtype == np.int64
    for dtype in ("int32", "float16", None, "words"):
        with pytest.raises(DTypeError, match="astype: dtype must be"):
            model.astype(dtype)
    assert model.weight.dtype == np.float64


def test_to_another_device():
    model = Pair()
    before = model.state_dict()
    assert model.to("cpu") is model
    with pytest.raises(DeviceError, match="install"):
        model.to("cuda")
    assert all(np.array_equal(before[key], value) for key, value in model.state_dict().items())


def test_a_state_dict_is_a_copy():
    model = Pair()
    state = model.state_dict()
    state["first.factor"][0] = 9
    assert model.first.factor.data[0] == 2
    model.first.factor.data[0] = 4
    assert state["first.factor"][0] == 9


def test_load_state_dict():
    model = Pair()
    state = {key: value + 1 for key, value in model.state_dict().items()}
    first = model.first.factor
    assert model.load_state_dict(state) == ([], [])
    assert model.first.factor is first
    assert first.data[0] == 3
    state["first.factor"][0] = 100
    assert first.data[0] == 3
    assert not model.offset.trainable


def test_load_state_dict_casts():
    model = Scale()
    for value in (np.array([3.0], ">f8"), np.array([3.0], np.float16), np.array([3.0])[::-1]):
        model.load_state_dict({"factor": value})
        assert model.factor.data.dtype == np.dtype("float32")
        assert model.factor.data.dtype.isnative
        assert model.factor.data[0] == 3


def test_a_state_dict_that_does_not_fit_is_refused_whole():
    model = Pair()
    before = model.state_dict()
    state = {key: value + 1 for key, value in before.items()}
    del state["more.0.factor"]
    state["more.7.factor"] = np.zeros(1, np.float32)
    state["offset"] = np.zeros((3, 2), np.float32)
    state["more.1.factor"] = np.zeros(1, np.int64)
    state["again.factor"] = [1.0]
    with pytest.raises(StateDictError) as caught:
        model.load_state_dict(state)
    text = str(caught.value)
    assert text.startswith("load_state_dict: names and shapes must be those of the Pair; got missing=")
    for part in (
        "missing=['more.0.factor']",
        "unexpected=['more.7.factor']",
        "'offset': 'shape (3, 2) instead of (2, 3)'",
        "'more.1.factor': 'dtype int64 instead of float32'",
        "again.factor",
        "The model is unchanged.",
    ):
        assert part in text, text
    assert all(np.array_equal(before[key], value) for key, value in model.state_dict().items())


def test_not_strict():
    model = Pair()
    state = {"first.factor": np.array([8.0]), "again.factor": np.array([8.0]), "else": np.zeros(1)}
    mismatch = model.load_state_dict(state, strict=False)
    assert set(mismatch.missing) == {"offset", "more.0.factor", "more.1.factor"}
    assert mismatch.unexpected == ["else"]
    assert model.first.factor.data[0] == 8
    with pytest.raises(StateDictError, match="misshapen"):
        model.load_state_dict({"offset": np.zeros(3)}, strict=False)


@pytest.mark.parametrize("state", ["weights.safetensors", [1, 2], None])
def test_a_state_dict_must_be_a_mapping(state):
    with pytest.raises(DTypeError, match="state_dict must map names to arrays"):
        Scale().load_state_dict(state)
