"""Where weights start: distributions drawn from a NumPy Generator.

Numbers are drawn in float64 and cast, in C order of the shape, so that one seed gives one model on every device and
in every dtype. The fans are PyTorch's: of a weight (K, C, R, S), fan_in = C * R * S and fan_out = K * R * S.
"""

from __future__ import annotations

import contextlib
import math
import operator
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from ..cpu import memory
from ..errors import ArgumentError, ShapeError, message

Rng = np.random.Generator | int | None
Shape = tuple[int, ...]


class WeightInitialiser(Protocol):
    """What `Module.initialize` takes: `kaiming_normal`, `xavier_uniform`, … or a function of one's own."""

    def __call__(self, shape: Shape, rng: np.random.Generator, *, dtype: Any) -> np.ndarray:
        """An array of this shape and dtype."""


def generator(rng: Rng) -> np.random.Generator:
    """A Generator as it is, one seeded with an int, or (None) one seeded by the operating system.

    Raises:
        ArgumentError: for anything else, and for a negative seed.
    """
    if isinstance(rng, np.random.Generator):
        return rng
    try:
        if isinstance(rng, bool):
            raise TypeError
        return np.random.default_rng(None if rng is None else operator.index(rng))
    except (TypeError, ValueError):
        raise ArgumentError(
            message("generator", "rng must be a numpy Generator, an int seed of at least 0, or None", rng=rng)
        ) from None


def gain(nonlinearity: str = "relu", negative_slope: float = 0.01) -> float:
    """The factor that keeps the variance of a signal through an activation.

    Args:
        nonlinearity: "linear" (or "sigmoid"), "tanh", "relu", "leaky_relu".
        negative_slope: of "leaky_relu".

    Raises:
        ArgumentError: for any other name.

    Source: He et al. 2015, "Delving Deep into Rectifiers"; the values are those of torch.nn.init.calculate_gain.
    """
    gains = {
        "linear": 1.0,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "leaky_relu": math.sqrt(2 / (1 + negative_slope**2)),
    }
    if nonlinearity not in gains:
        rule = f"nonlinearity must be one of {', '.join(gains)}"
        raise ArgumentError(message("gain", rule, nonlinearity=nonlinearity))
    return gains[nonlinearity]


def kaiming_uniform(
    shape: Shape, rng: Rng, *, nonlinearity: str = "relu", fan: str = "fan_in", dtype: Any = np.float32
) -> np.ndarray:
    """Uniform in ±gain * sqrt(3 / fan).

    Args:
        shape: of the weight: (out, in, ...).
        rng: Generator, int seed, or None.
        nonlinearity: the activation after the layer, see `gain`.
        fan: "fan_in" keeps the variance of activations, "fan_out" that of gradients.
        dtype: float32 or float64.

    Returns:
        An array of `shape`.

    Source: He et al. 2015, equation 10.
    """
    return uniform(shape, gain(nonlinearity) * math.sqrt(3 / _fan("kaiming_uniform", shape, fan)), rng, dtype=dtype)


def kaiming_normal(
    shape: Shape, rng: Rng, *, nonlinearity: str = "relu", fan: str = "fan_in", dtype: Any = np.float32
) -> np.ndarray:
    """Normal with standard deviation gain / sqrt(fan). Arguments as for `kaiming_uniform`."""
    return normal(shape, gain(nonlinearity) / math.sqrt(_fan("kaiming_normal", shape, fan)), rng, dtype=dtype)


def xavier_uniform(shape: Shape, rng: Rng, *, nonlinearity: str = "linear", dtype: Any = np.float32) -> np.ndarray:
    """Uniform in ±gain * sqrt(6 / (fan_in + fan_out)). Arguments as for `kaiming_uniform`.

    Source: Glorot and Bengio 2010, equation 16.
    """
    return uniform(shape, gain(nonlinearity) * math.sqrt(6 / sum(fans(shape))), rng, dtype=dtype)


def xavier_normal(shape: Shape, rng: Rng, *, nonlinearity: str = "linear", dtype: Any = np.float32) -> np.ndarray:
    """Normal with standard deviation gain * sqrt(2 / (fan_in + fan_out)). Arguments as for `kaiming_uniform`."""
    return normal(shape, gain(nonlinearity) * math.sqrt(2 / sum(fans(shape))), rng, dtype=dtype)


def fans(shape: Shape) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (out, in, ...).

    Raises:
        ShapeError: if there are fewer than two axes, or an empty one.
    """
    if len(shape) < 2 or min(shape) < 1:
        rule = "a weight must have at least 2 axes (out, in, ...), none empty"
        raise ShapeError(message("fans", rule, shape=tuple(shape)))
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def _fan(op: str, shape: Shape, fan: str) -> int:
    if fan not in ("fan_in", "fan_out"):
        raise ArgumentError(message(op, 'fan must be "fan_in" or "fan_out"', fan=fan))
    return fans(shape)[fan == "fan_out"]


def uniform(shape: Shape, bound: float, rng: Rng, *, dtype: Any = np.float32) -> np.ndarray:
    """Uniform in ±bound."""
    if _placeholders.active:
        return placeholder(shape, dtype)
    require_memory(shape, dtype)
    # Two separate operations: `Generator.uniform` may fuse them on some CPUs, and differ in the last bit.
    draw = generator(rng).random(shape)
    draw *= 2 * bound
    draw -= bound
    return np.asarray(draw, dtype)


def normal(shape: Shape, std: float, rng: Rng, *, dtype: Any = np.float32) -> np.ndarray:
    """Normal with mean 0."""
    if _placeholders.active:
        return placeholder(shape, dtype)
    require_memory(shape, dtype)
    draw = generator(rng).standard_normal(shape)
    draw *= std
    return np.asarray(draw, dtype)


def constant(shape: Shape, value: float, *, dtype: Any = np.float32) -> np.ndarray:
    """All elements `value`."""
    if _placeholders.active:
        return placeholder(shape, dtype)
    require_memory(shape, dtype)
    return np.full(shape, value, dtype)


def require_memory(shape: Shape, dtype: Any) -> None:
    """Before a weight is drawn, in float64.

    Raises:
        DeviceMemoryError: with the number of bytes, if there are not so many.
    """
    if not _placeholders.active:
        memory.require(math.prod(shape) * (8 + np.dtype(dtype).itemsize))


# --- building a model whose weights come from elsewhere -----------------------------------------------------


class _Placeholders(threading.local):
    active = False


_placeholders = _Placeholders()


@contextlib.contextmanager
def placeholders() -> Iterator[None]:
    """While entered, layers built on this thread get `placeholder` arrays instead of drawn weights.

    For loaders: nothing is drawn only to be replaced, and a file that claims a layer of a million by a million
    costs no memory before its weights turn out to be missing.
    """
    before = _placeholders.active
    _placeholders.active = True
    try:
        yield
    finally:
        _placeholders.active = before


def placeholder(shape: Shape, dtype: Any) -> np.ndarray:
    """A read-only array of zeros of this shape that takes the memory of one element."""
    return np.broadcast_to(np.zeros((), dtype), shape)
