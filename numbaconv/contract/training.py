"""Operations of training: what is changed in place, and where arrays and batches are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

Array = Any  # numpy.ndarray on cpu, a device array on cuda

# --- training ---------------------------------------------------------------------------------------------


def sgd_update(
    parameters: tuple[Array, ...],
    grads: tuple[Array, ...],
    velocities: tuple[Array, ...] | None,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    first: bool,
) -> None:
    """One step of SGD of each parameter, in place; so are the velocities. `first`: they start as the gradients."""
    raise NotImplementedError


def adam_update(
    parameters: tuple[Array, ...],
    grads: tuple[Array, ...],
    means: tuple[Array, ...],
    squares: tuple[Array, ...],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    step: int,
) -> None:
    """One step (1, 2, ...) of Adam, or AdamW if `decoupled`, of each parameter, in place; so are means and squares."""
    raise NotImplementedError


def clip_update(arrays: tuple[Array, ...], max_norm: float) -> float | Array:
    """Scales all arrays, in place, so that together their 2-norm is at most `max_norm`; returns the norm before.

    A float, or where the device runs ahead of the host an array of shape (), float64.
    """
    raise NotImplementedError


def require_finite(value: float | Array, describe: Callable[[float], Exception]) -> None:
    """Raises describe(value) if a number (or an array of one float64) is infinite or NaN.

    At once; or, where the device runs ahead, at the next wait for it: until then updates change nothing.
    """
    raise NotImplementedError


def assign(target: Array, source: Array) -> None:
    """Target becomes source, in place."""
    raise NotImplementedError


def accumulate(target: Array, source: Array) -> None:
    """Target += source, in place."""
    raise NotImplementedError


def scale_update(array: Array, factor: float) -> None:
    """Array *= factor, in place."""
    raise NotImplementedError


def sum_of_squares(x: Array) -> float:
    """Sum of x^2, accumulated in float64."""
    raise NotImplementedError


def zeros_like(x: Array) -> Array:
    """A new C-contiguous array of zeros, of x's shape and dtype."""
    raise NotImplementedError


# --- memory -----------------------------------------------------------------------------------------------


def to_device(x: Array, index: int) -> Array:
    """A NumPy array on this backend's device number `index`."""
    raise NotImplementedError


def to_host(x: Array) -> Array:
    """The array as a NumPy array."""
    raise NotImplementedError


def channels_last(x: Array) -> Array:
    """The same logical (N, C, H, W) array with C innermost in memory; itself if it is so already."""
    raise NotImplementedError


def contiguous(x: Array) -> Array:
    """The same array in C order; itself if it is so already."""
    raise NotImplementedError


def layout_of(x: Array) -> str:
    """Either "channels_first" or "channels_last"."""
    raise NotImplementedError


def reuse_buffers() -> AbstractContextManager[Any]:
    """While this is entered, outputs of this thread's calls reuse the memory of earlier ones nobody holds."""
    raise NotImplementedError


class Reading(Protocol):
    """Arrays on their way to the host."""

    @property
    def done(self) -> bool:
        """Whether `wait` returns at once."""

    def wait(self) -> tuple[Any, ...]:
        """The arrays as NumPy arrays; a float that was among them is one still.

        Raises:
            LabelError: or what else went wrong on the device in what was asked of it before.
        """


def read(values: tuple[Any, ...]) -> Reading:
    """Begins to copy arrays to the host, as they are now; floats may be among them."""
    raise NotImplementedError


Batch = tuple[np.ndarray, ...]


def feeder(index: int) -> Callable[[Iterator[Batch]], Iterator[tuple[Batch, tuple[Array, ...]]]]:
    """A function that takes batches to device number `index`: it gives (batch, the same on the device) in turn.

    Where it can, it copies one while the one before is computed on. Arrays on the device are good until the next.
    """
    raise NotImplementedError


class Recorded(Protocol):
    """Work that was written down."""

    def replay(self) -> None:
        """Queues all of it; results are in the arrays that the calls returned, and in no others."""


def record(index: int, rehearsal: bool) -> AbstractContextManager[Recorded]:
    """While it is entered, what is asked of device number `index` on this thread is written down and not done.

    With `rehearsal` it is done and not written down, in the memory that is going to be used.

    Raises:
        DeviceError: where that is not possible; says why.
    """
    raise NotImplementedError
