"""A model made ready for prediction: a snapshot with packed weights and fused layers.

A `Prepared` is built of *steps*, functions of one array. Of layers that compute what this library's do, it takes over
the weights: a convolution, the batch norm after it and the ReLU after that become one step. Any other layer is called
as it is, on a deep copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeGuard, TypeVar

import numpy as np

from .. import functional as F
from ..backend import enter, place_of, to_device, to_host
from ..errors import ArgumentError, NumbaconvError, message
from .activation import ReLU
from .containers import Concat, Residual, Sequential, add_branches, in_channels_last
from .conv import Conv2d
from .dropout import Dropout
from .fused import unchanged
from .linear import Linear
from .module import Module
from .norm import BatchNorm2d

Array = Any
Step = Callable[[Array], Array]
_Kind = TypeVar("_Kind", bound=Module)

# What a layer's prediction goes through. A subclass that replaces any of it is a layer like any other.
PREDICTS_BY: dict[type[Module], frozenset[str]] = {
    Conv2d: frozenset(("__call__", "forward_ctx", "_forward", "_conv_arguments", "_padded", "_border", "_bias_data")),
    Linear: frozenset(("__call__", "forward_ctx", "_forward", "_bias_data")),
    BatchNorm2d: frozenset(("__call__", "forward_ctx", "check_input")),
    ReLU: frozenset(("__call__", "forward_ctx")),
    Dropout: frozenset(("__call__", "forward_ctx")),
    Sequential: frozenset(("__call__", "_inner_predict")),
    Residual: frozenset(("__call__", "_inner_predict")),
    Concat: frozenset(("__call__", "_inner_predict")),
}


def predicts_as(module: Module | None, kind: type[_Kind]) -> TypeGuard[_Kind]:
    """Whether a module is a `kind` and computes what that does, as far as its methods tell."""
    return unchanged(module, kind, PREDICTS_BY[kind])


def _listed(name: str, steps: Iterable[tuple[str, Any]]) -> str:
    lines = [f"({label}): {step!r}".replace("\n", "\n  ") for label, step in steps]
    return f"{name}(\n  " + "\n  ".join(lines) + "\n)" if lines else f"{name}()"


# --- steps ------------------------------------------------------------------------------------------------
# Inside a container they take and give 4-D arrays that are channels-last.


class _Layer:
    """A layer as it is."""

    def __init__(self, module: Module) -> None:
        self.module = module

    def __call__(self, x: Array) -> Array:
        return in_channels_last(type(self.module).__name__, self.module(x))

    def __repr__(self) -> str:
        return repr(self.module)


class _Convolution:
    """Conv2d, the BatchNorm2d after it, and the ReLU after that."""

    def __init__(self, layer: Conv2d, norm: BatchNorm2d | None, relu: bool) -> None:
        weight, bias = layer.weight.data, layer._bias_data
        if norm is not None:
            weight, bias = folded(weight, bias, norm)
        self._convolve = F.prepare_conv2d(weight, bias, relu=relu, **layer._conv_arguments())
        self._padded = None if layer.padding_mode == "zeros" else layer._padded
        self._norm = norm
        self._name = " + ".join([repr(layer), *(["BatchNorm2d"] if norm else []), *(["ReLU"] if relu else [])])

    def __call__(self, x: Array, layout: str | None = None) -> Array:
        y = self._convolve(x if self._padded is None else self._padded(x), layout)
        if self._norm is not None and len(y.shape) != 4:
            self._norm.check_input(y)  # it takes no single image, fused or not
        return y

    def alone(self) -> Step:
        """The same, with as few calls in between as may be."""
        return self._convolve if self._padded is None and self._norm is None else self

    def __repr__(self) -> str:
        return self._name


class _FullyConnected:
    """Linear, and the ReLU after it."""

    def __init__(self, layer: Linear, relu: bool) -> None:
        self._multiply = F.prepare_linear(layer.weight.data, layer._bias_data, relu=relu)
        self._name = f"{layer!r} + ReLU" if relu else repr(layer)

    def __call__(self, x: Array) -> Array:
        y = self._multiply(x)
        return in_channels_last("Linear", y) if len(y.shape) == 4 else y

    def alone(self) -> Step:
        """The same outside a container."""
        return self._multiply

    def __repr__(self) -> str:
        return self._name


class _Chain:
    """Steps one after the other."""

    def __init__(self, steps: list[Any]) -> None:
        self.steps = tuple(steps)

    def __call__(self, x: Array) -> Array:
        for step in self.steps:
            x = step(x)
        return x

    def __repr__(self) -> str:
        return _listed("Sequential", ((str(i), step) for i, step in enumerate(self.steps)))


class _Sum:
    """Residual."""

    def __init__(self, body: Step, shortcut: Step | None) -> None:
        self._body, self._shortcut = body, shortcut

    def __call__(self, x: Array) -> Array:
        return add_branches(self._body(x), x if self._shortcut is None else self._shortcut(x))

    def __repr__(self) -> str:
        ways = [("body", self._body), ("shortcut", self._shortcut)]
        return _listed("Residual", ((name, step) for name, step in ways if step is not None))


class _Join:
    """Concat."""

    def __init__(self, branches: list[Step]) -> None:
        self._branches = tuple(branches)

    def __call__(self, x: Array) -> Array:
        return F.concat([branch(x) for branch in self._branches])

    def __repr__(self) -> str:
        return _listed("Concat", ((str(i), branch) for i, branch in enumerate(self._branches)))


class _Bordered:
    """A container's chain: converts what enters, and gives the result in the layout of x.

    A convolution reads any layout, and makes the copy it needs, if any, with its padding: it may come first as it is.
    """

    def __init__(self, op: str, chain: _Chain) -> None:
        self._op, self._chain = op, chain
        steps = chain.steps
        first = steps[0] if steps else None
        self._entry = first if isinstance(first, _Convolution) else None
        self._rest = _Chain(list(steps[1:])) if self._entry else chain

    def alone(self) -> Step:
        """The same, with as few calls in between as may be: one convolution gives what the container would."""
        return self._entry.alone() if self._entry and not self._rest.steps else self

    def __call__(self, x: Array) -> Array:
        if len(getattr(x, "shape", ())) != 4:
            return self._given_back(self._chain(x), "channels_first")
        backend, x = enter(self._op, x=x)
        layout = backend.layout_of(x)
        x = backend.channels_last(x) if self._entry is None else self._entry(x, "channels_last")
        return self._given_back(self._rest(x), layout)

    def _given_back(self, y: Array, layout: str) -> Array:
        if len(getattr(y, "shape", ())) != 4 or layout == "channels_last":
            return y
        backend, y = enter(self._op, x=y)
        return backend.contiguous(y)

    def __repr__(self) -> str:
        return repr(self._chain)


def folded(weight: Array, bias: Array | None, norm: BatchNorm2d) -> tuple[Array, Array]:
    """Weight and bias of the convolution that also normalises, by running statistics; worked out in float64.

    scale = gamma / sqrt(running_var + eps); weight * scale, (bias - running_mean) * scale + beta.
    """

    def values(array: Any, default: float) -> np.ndarray:
        return np.full(norm.num_features, default) if array is None else to_host(array).astype(np.float64)

    scale = values(norm.weight and norm.weight.data, 1.0) / np.sqrt(values(norm.running_var, 1.0) + norm.eps)
    shift = values(norm.bias and norm.bias.data, 0.0) + (values(bias, 0.0) - values(norm.running_mean, 0.0)) * scale
    scaled = to_host(weight).astype(np.float64) * scale[:, None, None, None]
    device, dtype = place_of(weight), weight.dtype
    return to_device(scaled.astype(dtype), device), to_device(shift.astype(dtype), device)


# --- from modules to steps --------------------------------------------------------------------------------


def _foldable(norm: Module | None, layer: Conv2d) -> bool:
    """Whether a batch norm can go into the convolution before it: by running statistics, and for its channels."""
    return (
        predicts_as(norm, BatchNorm2d)
        and norm.running_mean is not None
        and norm.num_features == layer.out_channels
        and len({np.dtype(array.dtype) for array in (layer.weight.data, *_arrays_of(norm))}) == 1
    )


def _arrays_of(norm: BatchNorm2d) -> Iterator[Array]:
    yield from (parameter.data for parameter in norm.parameters())
    yield from (norm.running_mean, norm.running_var)


def _in_order(module: Module) -> Iterator[Module]:
    """What a Sequential comes down to: layers in order, nested ones unfolded, without dropout."""
    if predicts_as(module, Sequential):
        for layer in module.layers:
            yield from _in_order(layer)
    elif not predicts_as(module, Dropout):
        yield module


class _Builder:
    """Makes steps of modules; a layer that stands in two places becomes one step."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, ...], Any] = {}

    def chain(self, module: Module) -> Any:
        """The step, or chain of steps, for a module inside a container."""
        steps = self.steps(list(_in_order(module)))
        return steps[0] if len(steps) == 1 else _Chain(steps)

    def steps(self, modules: list[Module]) -> list[Any]:
        """One step for each run of modules that can be fused."""
        steps = []
        at = 0
        while at < len(modules):
            run = self._run(modules, at)
            key = tuple(map(id, run))
            if key not in self._made:
                self._made[key] = self._step(run)
            steps.append(self._made[key])
            at += len(run)
        return steps

    def _run(self, modules: list[Module], first: int) -> list[Module]:
        """The modules from `first` that make one step: a convolution or linear layer, its norm, its ReLU."""
        layer, end = modules[first], first + 1
        following: list[Module | None] = [*modules[end : end + 2], None, None]
        if predicts_as(layer, Conv2d) and _foldable(following[0], layer):
            end += 1
            del following[0]
        if (predicts_as(layer, Conv2d) or predicts_as(layer, Linear)) and predicts_as(following[0], ReLU):
            end += 1
        return modules[first:end]

    def _step(self, run: list[Module]) -> Any:
        layer, relu = run[0], len(run) > 1 and predicts_as(run[-1], ReLU)
        if predicts_as(layer, Conv2d):
            return _Convolution(layer, next((m for m in run if isinstance(m, BatchNorm2d)), None), relu)
        if predicts_as(layer, Linear):
            return _FullyConnected(layer, relu)
        if predicts_as(layer, Residual):
            return _Sum(self.chain(layer.body), None if layer.shortcut is None else self.chain(layer.shortcut))
        if predicts_as(layer, Concat):
            return _Join([self.chain(branch) for branch in layer.branches])
        return _Layer(layer)


def _snapshot(model: Module) -> Module:
    """A deep copy in eval mode, without what only training needs."""
    try:
        copied = copy.deepcopy(model)
    except Exception as error:
        rule = "a model must allow copy.deepcopy"
        fix = "Give the layer that refuses a __deepcopy__ of its own."
        raise ArgumentError(message("prepare", rule, fix, reason=f"{type(error).__name__}: {error}")) from error
    for module in copied.eval().modules():
        module._slot = None
    copied.zero_grad()
    return copied


def _predictor(model: Module) -> Any:
    """What predicts for a model that nobody else has."""
    steps = _Builder().steps(list(_in_order(model)))
    if any(predicts_as(model, kind) for kind in (Sequential, Residual, Concat)):
        return _Bordered(type(model).__name__, _Chain(steps))
    return steps[0] if steps and not isinstance(steps[0], _Layer) else model


class Prepared:
    """What `Module.prepare` returns: ``y = predict(x)``. Printing it shows its steps, and what was fused.

    Immutable, independent of the model it was made of, and free to be called from several threads. It is not meant to
    be stored: pickle refuses it, save the model instead.

    Attributes:
        dtype: of the parameters, which x must have; None without parameters.
        device: where they are.
    """

    __slots__ = ("_predict", "_shown", "device", "dtype")

    _predict: Step
    _shown: Any
    device: str
    dtype: np.dtype | None

    def __init__(self, model: Module) -> None:
        snapshot = _snapshot(model)
        parameter = next(iter(snapshot.parameters()), None)
        set_once = object.__setattr__
        set_once(self, "dtype", None if parameter is None else np.dtype(parameter.dtype))
        set_once(self, "device", "cpu" if parameter is None else place_of(parameter.data))
        shown = predict = _predictor(snapshot)
        if isinstance(shown, (_Convolution, _FullyConnected, _Bordered)):
            predict = shown.alone()
        set_once(self, "_shown", shown)
        set_once(self, "_predict", predict)

    def __call__(self, x: Array) -> Array:
        """The model's output in eval mode, to rounding, in the layout of x."""
        try:
            return self._predict(x)
        except NumbaconvError:
            if self._predict is self._shown:
                raise
        return self._shown(x)  # refuses in the words of the model

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"Prepared: {name} cannot be set. Change the model, and prepare it again.")

    def __copy__(self) -> Prepared:
        return self

    def __deepcopy__(self, memo: Any) -> Prepared:
        return self

    def __reduce__(self) -> Any:
        raise TypeError(message("Prepared", "it cannot be pickled", "Save the model, and prepare what is loaded."))

    def __repr__(self) -> str:
        facts = [] if self.dtype is None else [f"dtype={self.dtype}", f"device={self.device!r}"]
        return f"Prepared({', '.join([repr(self._shown), *facts])})"
