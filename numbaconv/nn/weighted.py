"""What convolutions and linear layers share: a weight, perhaps a bias, and how they are drawn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend import place_of, to_device
from . import init
from .module import Module
from .parameter import Parameter

Array = Any


class Weighted(Module):
    """A layer with `weight` and `bias`; drawn from PyTorch's default, uniform in ±1 / sqrt(fan_in)."""

    weight: Parameter
    bias: Parameter | None

    def _make_parameters(self, weight_shape: tuple[int, ...], bias_shape: tuple[int] | None, rng: init.Rng) -> None:
        init.require_memory(weight_shape, np.float32)
        self.weight = Parameter(init.placeholder(weight_shape, np.float32))
        self.bias = None if bias_shape is None else Parameter(init.placeholder(bias_shape, np.float32))
        self.reset_parameters(init.generator(rng))

    def reset_parameters(self, rng: np.random.Generator, weight: init.WeightInitialiser | None = None) -> None:
        """Draws weight and bias anew; see `Module.initialize`."""
        # Of a transposed convolution's weight this is PyTorch's fan too, though it counts the outputs.
        bound = 1 / math.sqrt(math.prod(self.weight.shape[1:]))
        if weight is None:
            _replace(self.weight, init.uniform(self.weight.shape, bound, rng, dtype=self.weight.dtype))
        else:
            _replace(self.weight, weight(self.weight.shape, rng, dtype=self.weight.dtype))
        if self.bias is None:
            return
        if weight is None:
            _replace(self.bias, init.uniform(self.bias.shape, bound, rng, dtype=self.bias.dtype))
        else:
            _replace(self.bias, init.constant(self.bias.shape, 0.0, dtype=self.bias.dtype))

    @property
    def _bias_data(self) -> Array | None:
        return None if self.bias is None else self.bias.data

    def _needs(self, needs_input: bool) -> tuple[bool, bool, bool]:
        """Which of (grad_input, grad_weight, grad_bias) to compute."""
        return needs_input, self.weight.trainable, self.bias is not None and self.bias.trainable

    def _accumulate(self, grad_weight: Array | None, grad_bias: Array | None) -> None:
        if grad_weight is not None:
            self.weight.accumulate_grad(grad_weight)
        if self.bias is not None and grad_bias is not None:
            self.bias.accumulate_grad(grad_bias)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments; `bias` as a bool."""
        return {**super().config(), "bias": self.bias is not None}


def _replace(parameter: Parameter, values: np.ndarray) -> None:
    """New values on the parameter's device; a user's initialiser must keep its shape."""
    values = np.asarray(values, parameter.dtype).reshape(parameter.shape)
    parameter.data = values if isinstance(parameter.data, np.ndarray) else to_device(values, place_of(parameter.data))
