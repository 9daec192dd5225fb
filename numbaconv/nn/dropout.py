"""Dropout, reproducible: the mask is a function of (seed, layer, step, element)."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from .. import functional as F
from ..arguments import integer
from ..errors import ArgumentError, message
from .module import Module

Array = Any


class DropoutKey(NamedTuple):
    """What names one mask."""

    seed: int
    layer: int
    step: int


class DropoutContext(NamedTuple):
    """What `Dropout.backward_ctx` needs: the mask is drawn again. None: nothing was dropped."""

    key: DropoutKey | None


class Dropout(Module):
    """In training zeroes each element with probability p and divides the others by 1 - p; else does nothing.

    Args:
        p: probability, 0 to 1.
        seed: one for a whole model; see `seed_dropout`.
        layer: number of this layer in its model; containers renumber where two are the same.

    Attributes:
        step: counts the forward passes in training; set it back (with seed and layer) to repeat a run.
    """

    arguments: ClassVar = ("p", "seed", "layer")

    def __init__(self, p: float = 0.5, *, seed: int = 0, layer: int = 0) -> None:
        if not 0 <= p <= 1:
            raise ArgumentError(message("Dropout", "p must be between 0 and 1", p=p))
        self.p = float(p)
        self.seed = integer("Dropout", "seed", seed, 0)
        self.layer = integer("Dropout", "layer", layer, 0)
        self.step = 0

    def forward_ctx(self, x: Array) -> tuple[Array, DropoutContext]:
        """Output of x's shape; in training counts `step` up."""
        if not self.training or self.p == 0:
            return x, DropoutContext(None)
        key = DropoutKey(self.seed, self.layer, self.step)
        y = F.dropout(x, self.p, **key._asdict())
        self.step += 1
        return y, DropoutContext(key)

    def backward_ctx(self, grad_output: Array, ctx: DropoutContext, needs_input: bool = True) -> Array | None:
        """See `Module.backward_ctx`."""
        if not needs_input:
            return None
        if ctx.key is None:
            return grad_output
        return F.dropout_backward(grad_output, self.p, **ctx.key._asdict())

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The input's."""
        return input_shape

    def extra_repr(self) -> str:
        """As PyTorch."""
        return f"p={self.p}"


def dropout_layers(model: Module) -> list[Dropout]:
    """The Dropout layers of a model in the order of `modules()`."""
    return [module for module in model.modules() if isinstance(module, Dropout)]


def seed_dropout(model: Module, seed: int, *, step: int = 0) -> None:
    """Gives every Dropout of a model this seed and step, and numbers them in order.

    Args:
        seed: int of at least 0.
        step: how many training passes have been made already.
    """
    seed, step = integer("seed_dropout", "seed", seed, 0), integer("seed_dropout", "step", step, 0)
    for number, layer in enumerate(dropout_layers(model)):
        layer.seed, layer.layer, layer.step = seed, number, step


def number_dropout(model: Module) -> None:
    """Renumbers Dropout layers that share a number with one before them: two must never share a mask.

    Numbers that differ stay, so that a slice of a model leaves the model's own numbers alone.
    """
    used: set[int] = set()
    for layer in dropout_layers(model):
        if layer.layer in used:
            layer.layer = max(used) + 1
        used.add(layer.layer)
