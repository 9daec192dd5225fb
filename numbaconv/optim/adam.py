"""Adam, and AdamW, which keeps the weight decay out of the averages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from ..errors import ArgumentError, message
from ..functional.update import adam_update, zeros_like
from .checks import in_range
from .optimizer import Optimizer


class Adam(Optimizer):
    """Steps scaled by running averages of the gradient and its square; the update of torch.optim.Adam.

    parameter -= lr * mean / (1 - beta1^t) / (sqrt(square / (1 - beta2^t)) + eps), where mean and square are the
    exponential averages of g = grad + weight_decay * parameter and of g^2, and t counts the parameter's steps.

    Args:
        parameters: such as ``model.parameters()``.
        lr: learning rate, >= 0.
        betas: decay of the two averages, each 0 to less than 1.
        eps: added to the root, >= 0.
        weight_decay: factor of an L2 penalty, >= 0.

    Raises:
        ArgumentError: a number out of range.

    Source: Kingma and Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1.
    """

    state_names: ClassVar = ("mean", "square", "step")
    decoupled: ClassVar = False

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr)
        op = type(self).__name__
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ArgumentError(message(op, "betas must be a pair of numbers", betas=betas))
        self.betas = in_range(op, "betas[0]", betas[0], 0, 1), in_range(op, "betas[1]", betas[1], 0, 1)
        self.eps = in_range(op, "eps", eps, 0)
        self.weight_decay = in_range(op, "weight_decay", weight_decay, 0)

    def update(self, parameter: Any, state: dict[str, Any]) -> None:
        """See `Optimizer.update`."""
        Adam.update_all(self, [(parameter, state)])  # a subclass's would come back here

    def update_all(self, pairs: list[tuple[Any, dict[str, Any]]]) -> None:
        """See `Optimizer.update_all`. Parameters that were not always there have counted fewer steps."""
        by_step: dict[int, list[tuple[Any, dict[str, Any]]]] = {}
        for parameter, state in pairs:
            if not state:
                state.update(mean=zeros_like(parameter.data), square=zeros_like(parameter.data), step=np.int64(0))
            state["step"] += 1
            by_step.setdefault(int(state["step"]), []).append((parameter, state))
        for step, some in by_step.items():
            adam_update(
                [p.data for p, _ in some],
                [p.grad for p, _ in some],
                [state["mean"] for _, state in some],
                [state["square"] for _, state in some],
                lr=self.lr,
                beta1=self.betas[0],
                beta2=self.betas[1],
                eps=self.eps,
                weight_decay=self.weight_decay,
                decoupled=self.decoupled,
                step=step,
            )

    def __repr__(self) -> str:
        names = "lr", "betas", "eps", "weight_decay"
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)}' for name in names)})"


class AdamW(Adam):
    """Adam with decoupled weight decay: before each step the parameter is multiplied by 1 - lr * weight_decay.

    Arguments as `Adam`; the update of torch.optim.AdamW.

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization", 2019, algorithm 2.
    """

    decoupled: ClassVar = True

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, lr, betas=betas, eps=eps, weight_decay=weight_decay)
