"""What training changes in place: optimizer steps, gradient sums and scales.

These run per parameter and step, so checks are few: one dtype, one device, one shape, memory that can be written.
Hyperparameters are checked where they are set, in `optim`. Subnormal numbers count as zero in optimizer steps on x86,
as in convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..arguments import require_same_shape
from ..backend import enter, load_backend, to_host
from ..errors import ArgumentError, DeviceError, message

Array = Any
Arrays = Array | Sequence[Array]


def _require_shared(op: str, name: str, given: Array, entered: Array) -> None:
    """`enter` copies arrays of foreign byte order or alignment: an update of the copy would be lost."""
    if entered is not given and isinstance(given, np.ndarray) and not np.may_share_memory(entered, given):
        raise ArgumentError(
            message(
                op,
                f"{name} must be in native byte order and aligned, for it is changed in place",
                **{f"{name}__dtype": given.dtype.str, f"{name}__strides": given.strides},
            )
        )


def _listed(op: str, **arrays: Any) -> list[tuple[Array, ...]]:
    """One tuple of arrays for each parameter, of arguments that are an array each, or a list or tuple of them."""
    lists = [value if isinstance(value, (list, tuple)) else (value,) for value in arrays.values()]
    lengths = {name: len(value) for name, value in zip(arrays, lists, strict=True)}
    if len(set(lengths.values())) > 1:
        raise ArgumentError(message(op, "there must be equally many of each", **lengths))
    return list(zip(*lists, strict=True))


# (backend, dtype, device): the arrays that go to one call, one list for each argument.
_Groups = dict[tuple[Any, Any, Any], list[list[Array]]]


def _collect(groups: _Groups, backend: Any, arrays: tuple[Array, ...]) -> None:
    first = arrays[0]
    key = backend, first.dtype, getattr(first, "device", None)
    lists = groups.get(key)
    if lists is None:
        lists = groups[key] = [[] for _ in arrays]
    for place, array in zip(lists, arrays, strict=True):
        place.append(array)


def sgd_update(
    parameter: Arrays,
    grad: Arrays,
    velocity: Arrays | None = None,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    first: bool = False,
) -> None:
    """One step of stochastic gradient descent, in place.

    With g = grad + weight_decay * parameter: without velocity, parameter -= lr * g. With it, velocity becomes
    momentum * velocity + (1 - dampening) * g (g itself at the first step) and parameter -= lr * velocity; with
    `nesterov`, parameter -= lr * (g + momentum * velocity).

    Lists of parameters, gradients and velocities are one step of all of them, which a GPU does at once.

    Args:
        parameter: float32 or float64, any shape, C-contiguous and writable; changed.
        grad: of the same shape and dtype, any strides.
        velocity: of the same shape and dtype, C-contiguous and writable; changed. None: no momentum.
        first: velocity holds nothing yet.

    Raises:
        ShapeError, DTypeError, DeviceError: if the arrays do not fit together; nothing is changed.
        ArgumentError: if an array that is to be changed cannot be.
    """
    op = "sgd_update"
    groups: _Groups = {}
    listed = _listed(op, parameter=parameter, grad=grad, **({} if velocity is None else {"velocity": velocity}))
    for given in listed:
        given_v = given[2] if velocity is not None else None
        backend, p, g, v = enter(op, ("velocity",), parameter=given[0], grad=given[1], velocity=given_v)
        _require_shared(op, "parameter", given[0], p)
        require_same_shape(op, "grad", g.shape, "parameter", p.shape)
        if v is not None:
            _require_shared(op, "velocity", given_v, v)
            require_same_shape(op, "velocity", v.shape, "parameter", p.shape)
        _collect(groups, backend, (p, g) if v is None else (p, g, v))
    rates = float(lr), float(momentum), float(dampening), float(weight_decay)
    for (backend, _, _), (ps, gs, *vs) in groups.items():
        backend.sgd_update(tuple(ps), tuple(gs), tuple(vs[0]) if vs else None, *rates, bool(nesterov), bool(first))


def adam_update(
    parameter: Arrays,
    grad: Arrays,
    mean: Arrays,
    square: Arrays,
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    step: int,
) -> None:
    """One step of Adam, in place.

    mean and square are the exponential averages of g and g^2, with g = grad + weight_decay * parameter, and
    parameter -= lr / (1 - beta1^step) * mean / (sqrt(square / (1 - beta2^step)) + eps). `decoupled` (AdamW):
    g = grad, and the parameter is first multiplied by 1 - lr * weight_decay.

    Lists of parameters, gradients, means and squares are one step of all of them, which a GPU does at once.

    Args:
        parameter, mean, square: float32 or float64 of one shape, C-contiguous and writable; changed.
        grad: of the same shape and dtype, any strides.
        step: 1 at the first step, where mean and square are zeros.

    Raises:
        ShapeError, DTypeError, DeviceError: if the arrays do not fit together; nothing is changed.
        ArgumentError: if an array that is to be changed cannot be.

    Source: Kingma and Ba, "Adam", 2015, algorithm 1; Loshchilov and Hutter, "Decoupled weight decay", 2019.
    """
    op = "adam_update"
    groups: _Groups = {}
    for given_p, given_g, given_m, given_s in _listed(op, parameter=parameter, grad=grad, mean=mean, square=square):
        backend, p, g, m, s = enter(op, parameter=given_p, grad=given_g, mean=given_m, square=given_s)
        require_same_shape(op, "grad", g.shape, "parameter", p.shape)
        for name, given, entered in (("parameter", given_p, p), ("mean", given_m, m), ("square", given_s, s)):
            _require_shared(op, name, given, entered)
            require_same_shape(op, name, entered.shape, "parameter", p.shape)
        _collect(groups, backend, (p, g, m, s))
    rates = float(lr), float(beta1), float(beta2), float(eps), float(weight_decay)
    for (backend, _, _), lists in groups.items():
        backend.adam_update(*map(tuple, lists), *rates, bool(decoupled), int(step))


def clip_update(arrays: Sequence[Array], max_norm: float) -> float | Array:
    """Scales arrays in place, so that together their 2-norm is at most `max_norm`.

    Args:
        arrays: float32 or float64, writable, any shapes and strides, all on one device; changed.
        max_norm: at least 0.

    Returns:
        The norm before, accumulated in float64: a float, or on a device that runs ahead of the host an array of
        shape (), which `as_float` waits for. If it is NaN the arrays become NaN.

    Raises:
        DeviceError: if the arrays are on several devices.
        ArgumentError: if an array cannot be changed.
    """
    op = "clip_update"
    entered, backends = [], []
    for given in arrays:
        backend, a = enter(op, array=given)
        _require_shared(op, "array", given, a)
        entered.append(a)
        backends.append((backend, getattr(a, "device", None)))
    if len(set(backends)) > 1:
        raise DeviceError(message(op, "all arrays must be on one device"))
    return backends[0][0].clip_update(tuple(entered), float(max_norm)) if entered else 0.0


def require_finite(value: float | Array, describe: Callable[[float], Exception]) -> None:
    """Stops training where a number is infinite or not a number.

    Args:
        value: a float; or an array of one float64, on a device that runs ahead of the host.
        describe: makes the error.

    Raises:
        What `describe(value)` returns: at once, or (on such a device) when the host next waits for it. Until then
        updates of parameters change nothing there.
    """
    backend = load_backend("cpu") if isinstance(value, float) else enter("require_finite", value=value)[0]
    backend.require_finite(value, describe)


def as_float(value: float | Array) -> float:
    """A float, or an array of one element, as a float; waits for the device it is on."""
    return value if isinstance(value, float) else float(to_host(value))


def assign(target: Array, source: Array) -> None:
    """Copies in place: target = source.

    Args:
        target: float32 or float64, writable, any strides; changed.
        source: of the same shape and dtype, any strides.

    Raises:
        ShapeError, DTypeError, DeviceError: if the arrays do not fit together.
        ArgumentError: if target cannot be changed.
    """
    op = "assign"
    backend, a, b = enter(op, target=target, source=source)
    _require_shared(op, "target", target, a)
    require_same_shape(op, "source", b.shape, "target", a.shape)
    backend.assign(a, b)


def accumulate(target: Array, source: Array) -> None:
    """Adds in place: target += source.

    Args:
        target: float32 or float64, writable, any strides; changed.
        source: of the same shape and dtype, any strides.

    Raises:
        ShapeError, DTypeError, DeviceError: if the arrays do not fit together.
        ArgumentError: if target cannot be changed.
    """
    op = "accumulate"
    backend, a, b = enter(op, target=target, source=source)
    _require_shared(op, "target", target, a)
    require_same_shape(op, "source", b.shape, "target", a.shape)
    backend.accumulate(a, b)


def scale_update(array: Array, factor: float) -> None:
    """Multiplies in place: array *= factor.

    Args:
        array: float32 or float64, writable, any strides; changed.

    Raises:
        ArgumentError: if the array cannot be changed.
    """
    op = "scale_update"
    backend, a = enter(op, array=array)
    _require_shared(op, "array", array, a)
    backend.scale_update(a, float(factor))


def sum_of_squares(x: Array) -> float:
    """The sum of all x^2, accumulated in float64: the square of the 2-norm.

    Args:
        x: float32 or float64, any shape and strides.
    """
    backend, x = enter("sum_of_squares", x=x)
    return backend.sum_of_squares(x)


def zeros_like(x: Array) -> Array:
    """A new C-contiguous array of zeros, with x's shape, dtype and device.

    Args:
        x: float32 or float64, any shape and strides.
    """
    backend, x = enter("zeros_like", x=x)
    return backend.zeros_like(x)
