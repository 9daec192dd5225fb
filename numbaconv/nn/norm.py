"""Batch normalisation."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np

from .. import functional as F
from ..arguments import integer
from ..backend import place_of, to_device
from ..errors import ShapeError, message
from . import init
from .module import Module
from .parameter import Parameter

Array = Any


class BatchNorm2dContext(NamedTuple):
    """What `BatchNorm2d.backward_ctx` needs; `by_batch`: mean and inverse_std are functions of x."""

    x: Array
    mean: Array
    inverse_std: Array
    by_batch: bool


class BatchNorm2d(Module):
    """Normalises each channel of (N, C, H, W): (x - mean) / sqrt(var + eps) * weight + bias.

    In training by the batch (biased variance), while running means of both (the variance unbiased) are kept for
    evaluation. The semantics of torch.nn.BatchNorm2d.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics; None: their plain average.
        affine: whether there are weight and bias.
        track_running_stats: False: always by the batch, and no buffers.

    Parameters: weight and bias (C,). Buffers: running_mean and running_var (C,), num_batches_tracked (int64, ()).
    """

    arguments: ClassVar = ("num_features", "eps", "momentum", "affine", "track_running_stats")
    buffer_names: ClassVar = ("running_mean", "running_var", "num_batches_tracked")

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        self.num_features = integer("BatchNorm2d", "num_features", num_features, 1)
        self.eps, self.momentum = float(eps), None if momentum is None else float(momentum)
        self.affine, self.track_running_stats = bool(affine), bool(track_running_stats)
        shape = (self.num_features,)
        self.weight = Parameter(init.constant(shape, 1.0)) if affine else None
        self.bias = Parameter(init.constant(shape, 0.0)) if affine else None
        self.running_mean: Array | None = init.constant(shape, 0.0) if track_running_stats else None
        self.running_var: Array | None = init.constant(shape, 1.0) if track_running_stats else None
        self.num_batches_tracked = np.zeros((), np.int64) if track_running_stats else None

    def reset_parameters(self, rng: np.random.Generator, weight: init.WeightInitialiser | None = None) -> None:
        """weight 1, bias 0, and the running statistics as before the first batch; draws nothing."""
        if self.weight is not None and self.bias is not None:
            self.weight.data, self.bias.data = _like(self.weight.data, 1.0), _like(self.bias.data, 0.0)
        if self.running_mean is not None:
            self.running_mean, self.running_var = _like(self.running_mean, 0.0), _like(self.running_var, 1.0)
            self.num_batches_tracked = np.zeros((), np.int64)

    def check_input(self, x: Array) -> None:
        """Raises ShapeError unless x is (N, C, H, W) with this layer's C."""
        if len(x.shape) != 4 or x.shape[1] != self.num_features:
            rule = f"x must have 4 axes (N, C, H, W) with C = num_features = {self.num_features}"
            raise ShapeError(message("BatchNorm2d", rule, x__shape=tuple(x.shape)))

    def forward_ctx(self, x: Array) -> tuple[Array, BatchNorm2dContext]:
        """Output of x's shape; in training also updates the running statistics."""
        self.check_input(x)
        by_batch = self.training or self.running_mean is None
        tracking = self.training and self.num_batches_tracked is not None
        batches = 0 if self.num_batches_tracked is None else int(self.num_batches_tracked) + 1
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / batches if tracking else 0.0
        result = F.batch_norm(
            x,
            None if self.weight is None else self.weight.data,
            None if self.bias is None else self.bias.data,
            self.running_mean,
            self.running_var,
            training=by_batch,
            momentum=momentum,
            eps=self.eps,
        )
        if tracking:
            self.running_mean, self.running_var = result.running_mean, result.running_var
            self.num_batches_tracked = np.asarray(batches, np.int64)
        return result.output, BatchNorm2dContext(x, result.mean, result.inverse_std, by_batch)

    def backward_ctx(self, grad_output: Array, ctx: BatchNorm2dContext, needs_input: bool = True) -> Array | None:
        """See `Module.backward_ctx`."""
        if not needs_input and not self.has_trainable():
            return None
        weight = None if self.weight is None else self.weight.data
        grad_input, grad_weight, grad_bias = F.batch_norm_backward(
            grad_output, ctx.x, weight, ctx.mean, ctx.inverse_std, training=ctx.by_batch
        )
        if self.weight is not None and self.bias is not None:
            self.weight.accumulate_grad(grad_weight)
            self.bias.accumulate_grad(grad_bias)
        return grad_input if needs_input else None

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The input's."""
        if len(input_shape) != 3 or input_shape[0] != self.num_features:
            rule = f"input_shape must be (C, H, W) with C = num_features = {self.num_features}"
            raise ShapeError(message("BatchNorm2d", rule, input_shape=input_shape))
        return input_shape

    def extra_repr(self) -> str:
        """As PyTorch."""
        names = "eps", "momentum", "affine", "track_running_stats"
        return f"{self.num_features}, " + ", ".join(f"{name}={getattr(self, name)}" for name in names)


def _like(array: Array, value: float) -> Array:
    """An array of one value, of the same shape, dtype and device."""
    values = init.constant(tuple(array.shape), value, dtype=array.dtype)
    return to_device(values, place_of(array))
