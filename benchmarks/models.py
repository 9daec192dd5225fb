"""The networks whose training steps are timed, described once and built by each library."""

from __future__ import annotations

import math
import zlib
from typing import Any, NamedTuple

import numpy as np


class ModelRow(NamedTuple):
    """One training step: forward, cross-entropy, backward, an SGD step with momentum."""

    name: str
    input_shape: tuple[int, int, int, int]


MODELS = [
    ModelRow("lenet5_batch64", (64, 1, 28, 28)),
    ModelRow("vgg_cifar_batch64", (64, 3, 32, 32)),
    ModelRow("resnet18_cifar_batch64", (64, 3, 32, 32)),
]

# What `build` understands: ("conv", in, out, kernel, stride, padding), ("linear", in, out), ("norm", channels),
# ("relu",), ("max_pool", size), ("global_pool",), ("flatten",), ("residual", body, shortcut or None).
Layers = list[tuple[Any, ...]]


def lenet5() -> Layers:
    return [
        ("conv", 1, 6, 5, 1, 2), ("relu",), ("max_pool", 2), ("conv", 6, 16, 5, 1, 0), ("relu",), ("max_pool", 2),
        ("flatten",), ("linear", 400, 120), ("relu",), ("linear", 120, 84), ("relu",), ("linear", 84, 10),
    ]  # fmt: skip


def vgg_cifar() -> Layers:
    layers: Layers = []
    channels = 3
    for width in (64, 128, 256):
        for _ in range(2):
            layers += [("conv", channels, width, 3, 1, 1), ("relu",)]
            channels = width
        layers.append(("max_pool", 2))
    return [*layers, ("flatten",), ("linear", 256 * 16, 256), ("relu",), ("linear", 256, 10)]


def _block(channels: int, width: int, stride: int) -> Layers:
    body = [
        ("conv", channels, width, 3, stride, 1), ("norm", width), ("relu",),
        ("conv", width, width, 3, 1, 1), ("norm", width),
    ]  # fmt: skip
    same = channels == width and stride == 1
    shortcut = None if same else [("conv", channels, width, 1, stride, 0), ("norm", width)]
    return [("residual", body, shortcut), ("relu",)]


def resnet18_cifar() -> Layers:
    layers: Layers = [("conv", 3, 64, 3, 1, 1), ("norm", 64), ("relu",)]
    channels = 64
    for width in (64, 128, 256, 512):
        layers += _block(channels, width, 1 if width == 64 else 2) + _block(width, width, 1)
        channels = width
    return [*layers, ("global_pool",), ("flatten",), ("linear", 512, 10)]


LAYERS = {"lenet5_batch64": lenet5, "vgg_cifar_batch64": vgg_cifar, "resnet18_cifar_batch64": resnet18_cifar}


def initial(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter's first value, the same in every library: He normal, ones for a norm's weight, zeros for a bias."""
    if len(shape) > 1:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        return rng.standard_normal(shape, dtype="float32") * np.float32(math.sqrt(2 / math.prod(shape[1:])))
    return np.full(shape, float(name.endswith("weight")), np.float32)
