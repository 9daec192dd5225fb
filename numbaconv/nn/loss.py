"""Losses: from a model's output and the target to a float, and back to the gradient where backward starts."""

from __future__ import annotations

from typing import Any, NamedTuple

from .. import functional as F
from ..arguments import integer
from ..errors import ArgumentError, message

Array = Any


class LossContext(NamedTuple):
    """What a loss's `backward_ctx` needs."""

    output: Array
    target: Array


class Loss:
    """Base of the losses; a loss of one's own implements the same two methods."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A subclass with a forward_ctx of its own must not inherit its parent's way past it.
        if "forward_ctx" in vars(cls) and "forward_ahead_ctx" not in vars(cls):
            cls.forward_ahead_ctx = Loss.forward_ahead_ctx  # type: ignore[method-assign]

    def forward_ctx(self, output: Array, target: Array) -> tuple[float, Any]:
        """The loss, and the context that `backward_ctx` needs."""
        rule = "a loss must implement forward_ctx(output, target) -> (loss, context)"
        raise NotImplementedError(message(type(self).__name__, rule))

    def forward_ahead_ctx(self, output: Array, target: Array) -> tuple[float | Array, Any]:
        """`forward_ctx` without waiting: the loss may be an array of one float64 on a device that runs ahead."""
        return self.forward_ctx(output, target)

    def backward_ctx(self, ctx: Any) -> Array:
        """Gradient of the loss with respect to `output`."""
        rule = "a loss must implement backward_ctx(context) -> grad_output"
        raise NotImplementedError(message(type(self).__name__, rule))

    def __call__(self, output: Array, target: Array) -> float:
        """The loss alone."""
        return self.forward_ctx(output, target)[0]


class CrossEntropyLoss(Loss):
    """Mean cross-entropy of logits (N, C, ...) and targets, as torch.nn.CrossEntropyLoss.

    Args:
        label_smoothing: share of the target that is spread over all classes, 0 to 1.
        ignore_index: positions of this class index count for nothing.

    Targets are class indices (an integer array of the logits' shape without C), or probabilities (the logits'
    shape and dtype).
    """

    def __init__(self, *, label_smoothing: float = 0.0, ignore_index: int = -100) -> None:
        if not 0 <= label_smoothing <= 1:
            rule = "label_smoothing must be between 0 and 1"
            raise ArgumentError(message("CrossEntropyLoss", rule, label_smoothing=label_smoothing))
        self.label_smoothing = float(label_smoothing)
        self.ignore_index = integer("CrossEntropyLoss", "ignore_index", ignore_index, -(2**63))

    def _arguments(self) -> dict[str, Any]:
        return {"label_smoothing": self.label_smoothing, "ignore_index": self.ignore_index, "reduction": "mean"}

    def forward_ctx(self, output: Array, target: Array) -> tuple[float, LossContext]:
        """The mean loss of the positions that are not ignored."""
        return F.cross_entropy(output, target, **self._arguments()), LossContext(output, target)

    def forward_ahead_ctx(self, output: Array, target: Array) -> tuple[float | Array, LossContext]:
        """See `Loss.forward_ahead_ctx`."""
        return F.cross_entropy(output, target, wait=False, **self._arguments()), LossContext(output, target)

    def backward_ctx(self, ctx: LossContext) -> Array:
        """Gradient of the logits: (softmax - target) / positions."""
        return F.cross_entropy_backward(ctx.output, ctx.target, **self._arguments())

    def __repr__(self) -> str:
        return f"CrossEntropyLoss(label_smoothing={self.label_smoothing}, ignore_index={self.ignore_index})"


class MSELoss(Loss):
    """Mean of (output - target)^2 over all elements."""

    def forward_ctx(self, output: Array, target: Array) -> tuple[float, LossContext]:
        """The mean squared error."""
        return F.mse_loss(output, target, reduction="mean"), LossContext(output, target)

    def forward_ahead_ctx(self, output: Array, target: Array) -> tuple[float | Array, LossContext]:
        """See `Loss.forward_ahead_ctx`."""
        return F.mse_loss(output, target, reduction="mean", wait=False), LossContext(output, target)

    def backward_ctx(self, ctx: LossContext) -> Array:
        """Gradient of the output: 2 * (output - target) / elements."""
        return F.mse_loss_backward(ctx.output, ctx.target, reduction="mean")

    def __repr__(self) -> str:
        return "MSELoss()"
