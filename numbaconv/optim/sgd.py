"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from ..errors import ArgumentError, message
from ..functional.update import sgd_update, zeros_like
from .checks import in_range
from .optimizer import Optimizer


class SGD(Optimizer):
    """Stochastic gradient descent; the update of torch.optim.SGD.

    With g = grad + weight_decay * parameter: velocity = momentum * velocity + (1 - dampening) * g (at first g), and
    parameter -= lr * velocity; with `nesterov`, parameter -= lr * (g + momentum * velocity); without momentum,
    parameter -= lr * g.

    Args:
        parameters: such as ``model.parameters()``.
        lr: learning rate, >= 0.
        momentum: 0 to less than 1 in practice; >= 0.
        dampening: share of the gradient that is kept out of the velocity, 0 to 1.
        weight_decay: factor of an L2 penalty, >= 0.
        nesterov: look one step ahead; needs momentum and no dampening.

    Raises:
        ArgumentError: a number out of range.

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.
    """

    state_names: ClassVar = ("velocity",)

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(parameters, lr)
        self.momentum = in_range("SGD", "momentum", momentum, 0)
        self.dampening = in_range("SGD", "dampening", dampening, 0, 1, below=False)
        self.weight_decay = in_range("SGD", "weight_decay", weight_decay, 0)
        self.nesterov = bool(nesterov)
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            rule = "nesterov needs momentum greater than 0 and dampening 0"
            raise ArgumentError(message("SGD", rule, momentum=momentum, dampening=dampening))

    def update(self, parameter: Any, state: dict[str, Any]) -> None:
        """See `Optimizer.update`."""
        SGD.update_all(self, [(parameter, state)])  # a subclass's would come back here

    def update_all(self, pairs: list[tuple[Any, dict[str, Any]]]) -> None:
        """See `Optimizer.update_all`."""
        if not self.momentum:
            self._update([p for p, _ in pairs], None, first=False)
            return
        new, known = [pair for pair in pairs if not pair[1]], [pair for pair in pairs if pair[1]]
        for parameter, state in new:
            state["velocity"] = zeros_like(parameter.data)
        for some, first in ((new, True), (known, False)):
            if some:
                self._update([p for p, _ in some], [state["velocity"] for _, state in some], first)

    def _update(self, parameters: list[Any], velocities: list[Any] | None, first: bool) -> None:
        sgd_update(
            [p.data for p in parameters],
            [p.grad for p in parameters],
            velocities,
            lr=self.lr,
            momentum=self.momentum,
            dampening=self.dampening,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            first=first,
        )

    def __repr__(self) -> str:
        names = "lr", "momentum", "dampening", "weight_decay", "nesterov"
        return f"SGD({', '.join(f'{name}={getattr(self, name)}' for name in names)})"
