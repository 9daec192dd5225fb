"""Pairs of layers that one kernel computes: a convolution or linear layer and its ReLU, or a ReLU and its max pooling.

A pass over memory less for each, and one more for the pooling's backward, whose indices tell which outputs ReLU took
away. Both layers keep the contexts that they would keep alone, so a backward goes layer by layer. Results have the
same bits. (What `prepare` fuses for prediction, batch norm included, needs weights of its own: see prepared.py.)
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard, TypeVar

from .activation import OutputContext, ReLU
from .conv import Conv2d
from .linear import Linear
from .module import Module
from .pool import MaxPool2d

Array = Any
_Kind = TypeVar("_Kind", bound=Module)

# What a pair stands in for. A subclass that replaces any of it is a layer like any other.
_METHODS: dict[type[Module], frozenset[str]] = {
    Conv2d: frozenset(("__call__", "forward_ctx", "_forward", "_conv_arguments", "_padded", "_border", "_bias_data")),
    Linear: frozenset(("__call__", "forward_ctx", "_forward", "_bias_data")),
    ReLU: frozenset(("__call__", "forward_ctx", "backward_ctx")),
    MaxPool2d: frozenset(("__call__", "forward_ctx", "backward_ctx", "_forward", "_predict", "_window")),
}


def unchanged(module: Module | None, kind: type[_Kind], names: frozenset[str]) -> TypeGuard[_Kind]:
    """Whether a module is a `kind` that has these methods from there."""
    if not isinstance(module, kind) or not names.isdisjoint(vars(module)):
        return False
    return type(module) is kind or all(
        inspect.getattr_static(type(module), name) is inspect.getattr_static(kind, name) for name in names
    )


def _is(module: Module | None, kind: type[_Kind]) -> TypeGuard[_Kind]:
    return unchanged(module, kind, _METHODS[kind])


def in_pairs(layers: Sequence[Module]) -> Iterator[tuple[Module, Module | None]]:
    """The layers in order: those of a pair together, the others with None.

    A ReLU between a convolution and a pooling goes to the pooling, which saves it the backward pass too.
    """
    at = 0
    while at < len(layers):
        first = layers[at]
        second, third = (*layers[at + 1 : at + 3], None, None)[:2]
        pooled = _is(first, ReLU) and _is(second, MaxPool2d)
        ends = _is(second, ReLU) and not _is(third, MaxPool2d) and (_is(first, Conv2d) or _is(first, Linear))
        pair = (first, second) if pooled or ends else (first, None)
        yield pair
        at += 1 if pair[1] is None else 2


def predict(first: Any, second: Any, x: Array) -> Array:
    """The output of a pair."""
    return second._predict(x, True) if isinstance(second, MaxPool2d) else first._forward(x, True)[0]


def forward(first: Any, second: Any, x: Array) -> tuple[Array, tuple[Any, Any]]:
    """The output of a pair, and both contexts."""
    if isinstance(second, MaxPool2d):
        y, ctx = second._forward(x, True)
        return y, (OutputContext(None), ctx)
    y, ctx = first._forward(x, True)
    return y, (ctx, OutputContext(y))
