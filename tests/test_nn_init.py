"""Initial weights: bounds and spreads by hand or by torch.nn.init, and one seed gives one model."""

from __future__ import annotations

import math

import numpy as np
import pytest

from numbaconv import nn
from numbaconv.errors import ArgumentError, ShapeError
from numbaconv.nn import init

SHAPE = (64, 32, 3, 3)  # fan_in 288, fan_out 576

UNIFORM = [
    (init.kaiming_uniform, {}, math.sqrt(6 / 288)),
    (init.kaiming_uniform, {"fan": "fan_out"}, math.sqrt(6 / 576)),
    (init.kaiming_uniform, {"nonlinearity": "linear"}, math.sqrt(3 / 288)),
    (init.xavier_uniform, {}, math.sqrt(6 / 864)),
    (init.xavier_uniform, {"nonlinearity": "tanh"}, 5 / 3 * math.sqrt(6 / 864)),
]
NORMAL = [
    (init.kaiming_normal, {}, math.sqrt(2 / 288)),
    (init.kaiming_normal, {"fan": "fan_out"}, math.sqrt(2 / 576)),
    (init.xavier_normal, {}, math.sqrt(2 / 864)),
]


@pytest.mark.parametrize(("function", "arguments", "bound"), UNIFORM)
def test_uniform(function, arguments, bound):
    draw = function(SHAPE, 0, **arguments)
    assert draw.shape == SHAPE
    assert draw.dtype == np.float32
    assert 0.999 * bound < np.abs(draw).max() <= bound * (1 + 1e-6)
    assert abs(draw.std() - bound / math.sqrt(3)) < 0.01 * bound
    assert abs(draw.mean()) < 0.02 * bound


@pytest.mark.parametrize(("function", "arguments", "std"), NORMAL)
def test_normal(function, arguments, std):
    draw = function(SHAPE, 0, **arguments)
    assert draw.shape == SHAPE
    assert abs(draw.std() - std) < 0.02 * std
    assert np.abs(draw).max() > 3 * std


def test_gains_are_those_of_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for name in ("linear", "sigmoid", "tanh", "relu", "leaky_relu"):
        assert init.gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))
    assert init.gain("leaky_relu", 0.2) == pytest.approx(torch.nn.init.calculate_gain("leaky_relu", 0.2))


def test_float64_and_float32_are_the_same_draw():
    wide = init.kaiming_normal(SHAPE, 3, dtype="float64")
    np.testing.assert_array_equal(wide.astype("float32"), init.kaiming_normal(SHAPE, 3))


def test_seeds():
    generator = np.random.default_rng(5)
    assert init.generator(generator) is generator
    assert init.generator(np.int64(5)).random() == np.random.default_rng(5).random()
    assert init.generator(None).random() != init.generator(None).random()
    for bad in (-1, 1.5, "seed", True, np.random):
        with pytest.raises(ArgumentError, match="rng must be"):
            init.generator(bad)


def test_bad_arguments():
    with pytest.raises(ArgumentError, match="nonlinearity must be one of"):
        init.gain("swish")
    with pytest.raises(ArgumentError, match="fan must be"):
        init.kaiming_normal(SHAPE, 0, fan="in")
    for shape in ((3,), (), (4, 0)):
        with pytest.raises(ShapeError, match="at least 2 axes"):
            init.xavier_normal(shape, 0)


# --- layers and models --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (lambda rng: nn.Conv2d(8, 100, 5, groups=2, rng=rng), 4 * 25),
        (lambda rng: nn.ConvTranspose2d(100, 8, 5, rng=rng), 8 * 25),  # PyTorch's fan_in: the outputs
        (lambda rng: nn.Linear(100, 100, rng=rng), 100),
    ],
)
def test_layers_start_as_those_of_pytorch(layer, fan_in):
    """Uniform in ±1 / sqrt(fan_in), weight and bias."""
    made, bound = layer(0), 1 / math.sqrt(fan_in)
    for parameter in made.parameters():
        assert np.abs(parameter.data).max() <= bound * (1 + 1e-6)
        assert np.abs(parameter.data).max() > 0.8 * bound
    assert made.weight.data.std() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert np.array_equal(made.weight.data, layer(0).weight.data)
    assert not np.array_equal(made.weight.data, layer(1).weight.data)
    assert not np.array_equal(layer(None).weight.data, layer(None).weight.data)


def model():
    head = [nn.Flatten(), nn.Linear(18, 4)]
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Residual(nn.Conv2d(2, 2, 3, padding=1)), *head)


def arrays(model):
    return [p.data.copy() for p in model.parameters()]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_one_seed_gives_one_model():
    first, second = model().initialize(7), model().initialize(np.random.default_rng(7))
    assert same(arrays(first), arrays(second))
    assert not same(arrays(first), arrays(model().initialize(8)))
    # Layers are drawn in order: the first is what it would be alone.
    alone = nn.Conv2d(1, 2, 3, rng=7)
    np.testing.assert_array_equal(alone.weight.data, first[0].weight.data)
    np.testing.assert_array_equal(alone.bias.data, first[0].bias.data)


def test_initialize_in_float64_is_the_same_model():
    wide = model().astype("float64").initialize(7)
    assert {a.dtype for a in arrays(wide)} == {np.dtype("float64")}
    assert same([a.astype("float32") for a in arrays(wide)], arrays(model().initialize(7)))


def test_initialize_with_a_distribution():
    made = model().initialize(7, weight=init.kaiming_normal)
    rng = np.random.default_rng(7)
    for layer in (made[0], made[2].body, made[4]):
        np.testing.assert_array_equal(layer.weight.data, init.kaiming_normal(layer.weight.shape, rng))
        assert not layer.bias.data.any()


def test_initialize_resets_batch_norm():
    made = model()
    norm = made[1]
    norm.weight.data[:] = 5
    norm.running_mean, norm.num_batches_tracked = np.ones(2, np.float32), np.array(3)
    made.initialize(0)
    np.testing.assert_array_equal(norm.weight.data, [1, 1])
    np.testing.assert_array_equal(norm.running_mean, [0, 0])
    assert norm.num_batches_tracked == 0


def test_placeholders_take_no_memory():
    with init.placeholders():
        layer = nn.Linear(10**6, 10**6)
        assert init.kaiming_normal((10**6, 10**6), 0).strides == (0, 0)
        assert nn.BatchNorm2d(10**9).weight.shape == (10**9,)
    assert layer.weight.shape == (10**6, 10**6)
    assert layer.weight.data.strides == (0, 0)
    assert nn.Linear(3, 3).weight.data.strides != (0, 0)
