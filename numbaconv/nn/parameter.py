"""Parameter: an array that is learned."""

from __future__ import annotations

from typing import Any

from .. import functional as F
from ..errors import ShapeError, message

Array = Any


class Parameter:
    """An array that is learned.

    Args:
        data: float32 or float64 array.
        trainable: False freezes it: no gradient is computed, optimizers skip it.

    Attributes:
        grad: gradient of the last backward passes, summed; None before the first.
    """

    __slots__ = ("data", "grad", "trainable")

    def __init__(self, data: Array, trainable: bool = True) -> None:
        self.data = data
        self.grad: Array | None = None
        self.trainable = trainable

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> Any:
        """Element type of the data."""
        return self.data.dtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(self.data.size)

    def accumulate_grad(self, grad: Array) -> None:
        """Adds a gradient; does nothing if the parameter is frozen.

        The first array is kept, not copied, and later ones are added into it: hand over one that nobody else uses.

        Args:
            grad: array of the parameter's shape and dtype.

        Raises:
            ShapeError: if the shapes differ.
        """
        if not self.trainable:
            return
        if tuple(grad.shape) != self.shape:
            rule = "grad.shape must equal the parameter's shape"
            raise ShapeError(message("accumulate_grad", rule, grad__shape=tuple(grad.shape), shape=self.shape))
        if self.grad is None:
            self.grad = grad
        else:
            F.accumulate(self.grad, grad)

    def zero_grad(self) -> None:
        """Forgets the gradient."""
        self.grad = None

    def __repr__(self) -> str:
        frozen = "" if self.trainable else ", trainable=False"
        return f"Parameter(shape={self.shape}, dtype={self.dtype}{frozen})"
