"""Every operation's backward against differences of its forward, in float64 along random directions."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv import functional as F
from numbaconv.gradcheck import gradcheck

RNG = np.random.default_rng(11)
X = RNG.standard_normal((2, 4, 6, 5))
ROWS = RNG.standard_normal((3, 7))
WEIGHT = RNG.standard_normal((6, 2, 3, 3))
CONV = {"stride": 2, "padding": ((1, 2), (0, 1)), "dilation": (1, 2), "groups": 2}
UP_WEIGHT = RNG.standard_normal((4, 3, 3, 2))
UP = {"stride": (2, 3), "padding": 1, "output_padding": (1, 0), "dilation": (1, 2), "groups": 2}
POOL = {"stride": (2, 1), "padding": 1, "ceil_mode": True}
KEY = {"seed": 3, "layer": 1, "step": 2}
LABELS = np.array([0, 6, -100])
PARAMETERS = RNG.standard_normal((2, 4))


def elementwise(name, uses_output=False, **options):
    forward, backward = getattr(F, name), getattr(F, f"{name}_backward")
    return (
        lambda x: forward(x, **options),
        [X],
        lambda g, x: backward(g, forward(x, **options) if uses_output else x, **options),
    )


def max_pool_backward(g, x):
    _, indices = F.max_pool2d(x, 3, return_indices=True, **POOL)
    return F.max_pool2d_backward(g, indices, x.shape, 3, **POOL)


def norm_backward(training):
    def backward(g, x, weight, bias):
        running = (None, None) if training else (np.zeros(4), np.ones(4))
        result = F.batch_norm(x, weight, bias, *running, training=training)
        return F.batch_norm_backward(g, x, weight, result.mean, result.inverse_std, training=training)

    return backward


OPS = {
    "conv2d": (
        lambda x, w, b: F.conv2d(x, w, b, **CONV),
        [X, WEIGHT, RNG.standard_normal(6)],
        lambda g, x, w, b: F.conv2d_backward(g, x, w, **CONV),
    ),
    "conv2d_parts": (
        lambda x, w, b: F.conv2d(x, w, b, **CONV),
        [X, WEIGHT, RNG.standard_normal(6)],
        lambda g, x, w, b: (
            F.conv2d_backward_input(g, w, x.shape, **CONV),
            F.conv2d_backward_weight(g, x, w.shape, **CONV),
            F.conv2d_backward_bias(g),
        ),
    ),
    "conv_transpose2d": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, **UP),
        [X, UP_WEIGHT, RNG.standard_normal(6)],
        lambda g, x, w, b: F.conv_transpose2d_backward(g, x, w, **UP),
    ),
    "linear": (F.linear, [ROWS, RNG.standard_normal((5, 7)), RNG.standard_normal(5)], lambda g, x, w, b: (
        F.linear_backward(g, x, w)
    )),
    "relu": elementwise("relu"),
    "leaky_relu": elementwise("leaky_relu", negative_slope=0.3),
    "sigmoid": elementwise("sigmoid", uses_output=True),
    "tanh": elementwise("tanh", uses_output=True),
    "gelu": elementwise("gelu"),
    "gelu_tanh": elementwise("gelu", approximate=True),
    "silu": elementwise("silu"),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, **POOL), [X], max_pool_backward),
    "avg_pool2d": (
        lambda x: F.avg_pool2d(x, 3, **POOL), [X], lambda g, x: F.avg_pool2d_backward(g, x.shape, 3, **POOL)
    ),
    "adaptive_avg_pool2d": (
        lambda x: F.adaptive_avg_pool2d(x, (4, 3)), [X], lambda g, x: F.adaptive_avg_pool2d_backward(g, x.shape)
    ),
    "batch_norm_training": (
        lambda x, w, b: F.batch_norm(x, w, b, training=True).output, [X, *PARAMETERS], norm_backward(True)
    ),
    "batch_norm": (
        lambda x, w, b: F.batch_norm(x, w, b, np.zeros(4), np.ones(4)).output, [X, *PARAMETERS], norm_backward(False)
    ),
    "dropout": (lambda x: F.dropout(x, 0.4, **KEY), [X], lambda g, x: F.dropout_backward(g, 0.4, **KEY)),
    **{
        f"pad_{mode}": (
            lambda x, mode=mode: F.pad(x, ((1, 2), (0, 3)), mode=mode),
            [X],
            lambda g, x, mode=mode: F.pad_backward(g, x.shape, ((1, 2), (0, 3)), mode=mode),
        )
        for mode in ("zeros", "reflect", "replicate", "circular")
    },
    "flatten": (F.flatten, [X], lambda g, x: F.flatten_backward(g, x.shape)),
    "add": (F.add, [X, X[::-1]], lambda g, x, y: F.add_backward(g)),
    "concat": (lambda x, y: F.concat([x, y]), [X, X[:, :3]], lambda g, x, y: F.concat_backward(g, (4, 3))),
    **{
        f"{name}_axis{axis}": (
            lambda x, name=name, axis=axis: getattr(F, name)(x, axis),
            [X],
            lambda g, x, name=name, axis=axis: getattr(F, f"{name}_backward")(g, getattr(F, name)(x, axis), axis),
        )
        for name in ("softmax", "log_softmax")
        for axis in (1, -1)
    },
    "cross_entropy": (
        lambda x, labels: F.cross_entropy(x, labels, label_smoothing=0.1),
        [ROWS, LABELS],
        lambda g, x, labels: F.cross_entropy_backward(x, labels, label_smoothing=0.1, grad_output=g),
    ),
    "mse_loss": (
        lambda x: F.mse_loss(x, ROWS[::-1]), [ROWS], lambda g, x: F.mse_loss_backward(x, ROWS[::-1], grad_output=g)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPS)
def test_gradcheck(name):
    forward, inputs, backward = OPS[name]
    assert gradcheck(forward, inputs, backward=backward, directions=2)


def test_every_backward_is_checked():
    parts = {"conv2d_backward_input", "conv2d_backward_weight", "conv2d_backward_bias"}  # conv2d_parts
    every = {name.removesuffix("_backward") for name in dir(F) if "_backward" in name and name not in parts}
    unchecked = {op for op in every if not any(name == op or name.startswith(f"{op}_") for name in OPS)}
    assert not unchecked
