"""Sequential, Residual, Concat: PyTorch's numbers, layouts, what backward leaves out, numbered dropout."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from compare import assert_close, random_array

from numbaconv import nn
from numbaconv.cpu import layout
from numbaconv.errors import ArgumentError, ShapeError, StateError
from numbaconv.gradcheck import gradcheck


class Probe(nn.Module):
    """Passes x on, and remembers what it saw."""

    def __init__(self, trainable=False):
        self.seen, self.backwards = [], []
        if trainable:
            self.weight = nn.Parameter(np.ones(1, np.float32))

    def forward_ctx(self, x):
        self.seen.append(x)
        return x, None

    def backward_ctx(self, grad_output, ctx, needs_input=True):
        self.backwards.append((grad_output, needs_input))
        return grad_output if needs_input else None


def lenet5():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


@pytest.fixture(scope="session")
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.set_num_threads(1)
    return torch


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lenet5_is_pytorchs(torch, dtype):
    """Loss, every gradient and the input's, from weights that moved through a state dict."""
    t = torch.nn
    torch.manual_seed(0)
    theirs = t.Sequential(
        *(t.Conv2d(1, 6, 5, padding=2), t.ReLU(), t.MaxPool2d(2), t.Conv2d(6, 16, 5), t.ReLU(), t.MaxPool2d(2)),
        *(t.Flatten(), t.Linear(400, 120), t.ReLU(), t.Linear(120, 84), t.ReLU(), t.Linear(84, 10)),
    ).to(getattr(torch, dtype))
    ours = lenet5().astype(dtype)
    ours.load_state_dict(theirs.state_dict())
    rng = np.random.default_rng(0)
    x, labels = random_array(rng, (4, 1, 28, 28), dtype), rng.integers(0, 10, 4)
    tensor = torch.from_numpy(x).requires_grad_()
    expected = t.CrossEntropyLoss()(theirs(tensor), torch.from_numpy(labels))
    expected.backward()
    loss = nn.CrossEntropyLoss()
    value, ctx = loss.forward_ctx(ours.forward(x), labels)
    assert value == pytest.approx(expected.item(), rel=1e-5 if dtype == "float32" else 1e-12)
    grad_input = ours.backward(loss.backward_ctx(ctx), needs_input=True)
    assert_close(grad_input, tensor.grad.numpy(), dtype, "grad_input")
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert_close(parameter.grad, gradients[name].grad.numpy(), dtype, name)
    assert repr(ours) == repr(theirs).replace("Flatten(start_dim=1, end_dim=-1)", "Flatten()")
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_residual_and_concat_are_pytorchs(torch):
    body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    model = nn.Sequential(
        nn.Residual(body, nn.Conv2d(3, 4, 1)),
        nn.Concat(nn.Conv2d(4, 2, 1), nn.Sequential(), nn.AvgPool2d(3, 1, padding=1)),
        nn.Residual(nn.Conv2d(10, 10, 3, padding=1)),
    ).astype("float64")
    x = random_array(np.random.default_rng(1), (2, 3, 5, 6), "float64")
    w = {key: torch.from_numpy(value).requires_grad_() for key, value in model.state_dict().items() if value.ndim}
    f, tensor = torch.nn.functional, torch.from_numpy(x).requires_grad_()
    y = f.conv2d(tensor, w["0.body.0.weight"], padding=1)
    y = torch.relu(f.batch_norm(y, None, None, w["0.body.1.weight"], w["0.body.1.bias"], training=True))
    y = y + f.conv2d(tensor, w["0.shortcut.weight"], w["0.shortcut.bias"])
    y = torch.cat([f.conv2d(y, w["1.0.weight"], w["1.0.bias"]), y, f.avg_pool2d(y, 3, 1, 1)], 1)
    y = y + f.conv2d(y, w["2.body.weight"], w["2.body.bias"], padding=1)
    grad_output = random_array(np.random.default_rng(2), tuple(y.shape), "float64")
    y.backward(torch.from_numpy(grad_output))
    assert_close(model.forward(x), y.detach().numpy(), "float64", "output")
    assert_close(model.backward(grad_output, needs_input=True), tensor.grad.numpy(), "float64", "grad_input")
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, w[name].grad.numpy(), "float64", name)


def test_gradcheck_of_containers():
    block = nn.Residual(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Tanh()))
    model = nn.Sequential(block, nn.Concat(nn.Conv2d(2, 1, 1), block), nn.Flatten(), nn.Linear(3 * 12, 2))
    assert gradcheck(model, np.random.default_rng(3).standard_normal((2, 2, 3, 4)))


# --- layout -------------------------------------------------------------------------------------------------


def test_channels_last_inside_contiguous_outside(monkeypatch):
    probes = [Probe() for _ in range(6)]
    inner = nn.Sequential(probes[1], nn.Residual(probes[2]), nn.Concat(probes[3], nn.Sequential(probes[4])))
    model = nn.Sequential(probes[0], inner, probes[5])
    x = np.zeros((2, 3, 4, 5), np.float32)
    copies = []
    monkeypatch.setattr(layout, "empty", lambda *a, real=layout.empty: copies.append(a) or real(*a))
    y = model.forward(x)
    assert y.flags.c_contiguous
    for probe in probes:
        assert layout.is_channels_last(probe.seen[0])
    # One at the entry, the results of add and concat, and none between.
    assert len(copies) <= 3
    grad_input = model.backward(y, needs_input=True)
    assert grad_input.flags.c_contiguous
    for probe in probes:
        assert layout.is_channels_last(probe.backwards[0][0])
    assert model(x).flags.c_contiguous
    assert not x.any()


def test_a_layer_that_answers_in_another_layout_is_put_right():
    class Contiguous(Probe):
        def forward_ctx(self, x):
            return np.ascontiguousarray(x), None

        def backward_ctx(self, grad_output, ctx, needs_input=True):
            return np.ascontiguousarray(grad_output)

    probes = [Probe(), Probe()]
    model = nn.Sequential(probes[0], Contiguous(), probes[1])
    y = model.forward(np.zeros((2, 3, 4, 5), np.float32))
    model.backward(y, needs_input=True)
    assert layout.is_channels_last(probes[1].seen[0])
    assert layout.is_channels_last(probes[0].backwards[0][0])


def test_a_subclass_with_its_own_forward_is_a_layer_like_any_other():
    class Doubled(nn.Sequential):
        def forward_ctx(self, x):
            return super().forward_ctx(2 * x)

        def backward_ctx(self, grad_output, ctx, needs_input=True):
            return 2 * super().backward_ctx(grad_output, ctx, needs_input)

    x = np.arange(60.0).reshape(1, 3, 4, 5)
    for model in (Doubled(nn.ReLU()), nn.Sequential(Doubled(nn.ReLU()))):
        np.testing.assert_array_equal(model(x), 2 * x)
        np.testing.assert_array_equal(model.forward(x), 2 * x)
        np.testing.assert_array_equal(model.backward(x, needs_input=True), np.where(x > 0, 2 * x, 0))


# --- what backward leaves out -------------------------------------------------------------------------------


def test_the_gradient_of_the_input_is_computed_only_when_asked_for():
    probes = [Probe(), Probe(trainable=True), Probe()]
    model = nn.Sequential(*probes)
    x = np.ones((2, 3), np.float32)
    model.forward(x)
    assert model.backward(x) is None
    assert [len(probe.backwards) for probe in probes] == [0, 1, 1]
    assert probes[1].backwards[0][1] is False
    assert probes[2].backwards[0][1] is True
    model.forward(x)
    np.testing.assert_array_equal(model.backward(x, needs_input=True), x)
    assert [len(probe.backwards) for probe in probes] == [1, 2, 2]
    assert all(probe.backwards[-1][1] for probe in probes)


def test_backward_stops_above_what_is_frozen():
    probes = [Probe(trainable=True), Probe(), Probe(trainable=True), Probe()]
    model = nn.Sequential(nn.Sequential(*probes[:2]), nn.Residual(probes[2]), probes[3])
    probes[0].weight.trainable = False
    x = np.ones((2, 3), np.float32)
    model.forward(x)
    model.backward(x)
    assert [len(probe.backwards) for probe in probes] == [0, 0, 1, 1]
    probes[2].weight.trainable = False
    model.forward(x)
    model.backward(x)
    assert [len(probe.backwards) for probe in probes] == [0, 0, 1, 1]


def test_branches_that_learn_nothing_are_left_out():
    probes = [Probe(trainable=True), Probe(), Probe(), Probe(trainable=True)]
    model = nn.Concat(nn.Residual(probes[0], probes[1]), probes[2], probes[3])
    x = np.ones((2, 3), np.float32)
    y = model.forward(x)
    assert y.shape == (2, 9)
    model.backward(y)
    assert [len(probe.backwards) for probe in probes] == [1, 0, 0, 1]


# --- contexts -----------------------------------------------------------------------------------------------


def test_one_layer_in_two_places(torch):
    layer = nn.Linear(3, 3).astype("float64")
    model = nn.Sequential(layer, nn.Tanh(), layer)
    x = random_array(np.random.default_rng(4), (2, 3), "float64")
    weight, bias = (torch.from_numpy(p.data).requires_grad_() for p in model.parameters())
    f = torch.nn.functional
    y = f.linear(torch.tanh(f.linear(torch.from_numpy(x), weight, bias)), weight, bias)
    y.sum().backward()
    model.forward(x)
    model.backward(np.ones((2, 3)))
    assert len(model.parameters()) == 2
    assert_close(layer.weight.grad, weight.grad.numpy(), "float64", "weight")
    assert_close(layer.bias.grad, bias.grad.numpy(), "float64", "bias")
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_two_passes_in_flight():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    rng = np.random.default_rng(5)
    x, z, g = (random_array(rng, shape, "float32") for shape in ((4, 3), (4, 3), (4, 2)))
    _, first = model.forward_ctx(x)
    _, second = model.forward_ctx(z)
    model.backward_ctx(g, first)
    model.backward_ctx(g, second)
    both = model[0].weight.grad
    model.zero_grad()
    for each in (x, z):
        model.forward(each)
        model.backward(g)
    np.testing.assert_array_equal(both, model[0].weight.grad)
    assert isinstance(first.contexts, tuple)


def test_a_context_of_other_layers_is_refused():
    model = nn.Sequential(nn.Linear(3, 2))
    model.forward(np.ones((1, 3), np.float32))
    model.append(nn.ReLU())
    with pytest.raises(StateError, match="same layers; got contexts=1, layers=2"):
        model.backward(np.ones((1, 2), np.float32))


def test_an_exception_in_a_layer_leaves_nothing_stale():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    model.forward(np.ones((1, 3), np.float32))
    with pytest.raises(ShapeError):
        model.forward(np.ones((1, 4), np.float32))
    with pytest.raises(StateError):
        model.backward(np.ones((1, 2), np.float32))


def test_prediction_holds_no_activations():
    """By the time the last layer runs, the first one's output is gone."""

    class Owner(Probe):
        def forward_ctx(self, x):
            y = x + 1
            self.seen = [weakref.ref(y)]
            return y, None

    class Last(Probe):
        def forward_ctx(self, x):
            self.seen = [[layer.seen[0]() is None for layer in layers[:-1]]]
            return x, None

    layers = [Owner(), Owner(), Owner()]
    last = Last()
    nn.Sequential(*layers, last)(np.zeros((1, 2), np.float32))
    assert last.seen == [[True, True]]


# --- a list of layers ---------------------------------------------------------------------------------------


def test_sequential_is_a_list_of_layers():
    layers = [nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4)]
    model = nn.Sequential(*layers)
    assert len(model) == 3
    assert list(model) == layers
    assert model[0] is layers[0]
    assert model[-1] is layers[2]
    head = model[:2]
    assert isinstance(head, nn.Sequential)
    assert list(head) == layers[:2]
    assert head[0].weight is model[0].weight
    assert model.append(nn.Sigmoid()) is model
    assert len(model) == 4
    assert len(head) == 2
    model[-1] = nn.Tanh()
    assert isinstance(model[3], nn.Tanh)
    with pytest.raises(IndexError):
        model[9]
    assert nn.Sequential()
    assert repr(nn.Sequential()) == "Sequential()"
    x = np.ones((1, 2), np.float32)
    assert nn.Sequential()(x) is x


def test_repr_of_nested_containers():
    model = nn.Sequential(nn.Residual(nn.Sequential(nn.ReLU())), nn.Concat(nn.Tanh(), nn.SiLU()))
    expected = """\
Sequential(
  (0): Residual(
    (body): Sequential(
      (0): ReLU()
    )
  )
  (1): Concat(
    (0): Tanh()
    (1): SiLU()
  )
)"""
    assert repr(model) == expected


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: nn.Sequential(nn.ReLU(), nn.ReLU), r"layers\[1\] must be an nn\.Module.*Write nn\.ReLU\(\)"),
        (lambda: nn.Sequential([nn.ReLU()]), r"layers\[0\] must be an nn\.Module"),
        (lambda: nn.Sequential().append(abs), r"layer must be an nn\.Module"),
        (lambda: nn.Residual(None), r"body must be an nn\.Module"),
        (lambda: nn.Residual(nn.ReLU(), 1), r"shortcut must be an nn\.Module"),
        (lambda: nn.Concat(), "at least one branch"),
        (lambda: nn.Concat(nn.ReLU(), 2), r"branches\[1\] must be"),
    ],
)
def test_bad_layers(make, says):
    with pytest.raises(ArgumentError, match=says):
        make()


def test_ways_that_do_not_meet():
    with pytest.raises(ShapeError, match=r"Residual: body\(x\)\.shape must equal shortcut\(x\)\.shape"):
        nn.Residual(nn.Linear(3, 2))(np.ones((1, 3), np.float32))


# --- dropout ------------------------------------------------------------------------------------------------


def numbers(model):
    return [module.layer for module in model.modules() if isinstance(module, nn.Dropout)]


def test_dropout_layers_are_numbered_in_order():
    inner = nn.Sequential(nn.Dropout(), nn.Residual(nn.Sequential(nn.Dropout())))
    assert numbers(inner) == [0, 1]
    model = nn.Sequential(nn.Dropout(), inner, nn.Concat(nn.Dropout(), nn.Dropout()))
    assert numbers(model) == [0, 1, 2, 3, 4]
    model.append(nn.Dropout())
    model[0] = nn.Sequential(nn.Dropout())
    assert len(set(numbers(model))) == 6


def test_slices_leave_the_models_numbers_alone():
    model = nn.Sequential(nn.Dropout(), nn.Dropout(), nn.Dropout())
    assert numbers(model[1:]) == [1, 2]
    assert numbers(model) == [0, 1, 2]


def test_two_dropouts_never_share_a_mask():
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    x = np.ones((50, 50), np.float32)
    first, _ = model[0].forward_ctx(x)
    second, _ = model[1].forward_ctx(x)
    assert not np.array_equal(first, second)
    once = nn.Dropout()
    twice, ctx = nn.Sequential(once, once).forward_ctx(x)
    assert [c.key.step for c in ctx.contexts] == [0, 1]
    assert (twice == 4).mean() == pytest.approx(0.25, abs=0.05)


def test_seed_dropout():
    model = nn.Sequential(nn.Dropout(), nn.Residual(nn.Dropout()))
    x = np.ones((20, 20), np.float32)
    nn.seed_dropout(model, 5)
    first, later = model(x), model(x)
    assert not np.array_equal(first, later)
    nn.seed_dropout(model, 5)
    np.testing.assert_array_equal(model(x), first)
    nn.seed_dropout(model, 5, step=1)
    np.testing.assert_array_equal(model(x), later)
    nn.seed_dropout(model, 6)
    assert not np.array_equal(model(x), first)
    with pytest.raises(ArgumentError, match="seed_dropout: seed must be at least 0"):
        nn.seed_dropout(model, -1)
