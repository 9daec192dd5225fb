"""Stopping when the validation loss no longer falls, and going back to the best weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import to_host


class EarlyStop:
    """Remembers the weights of the best epoch."""

    def __init__(self, patience: int) -> None:
        self.patience = patience  # epochs without a new best before it says stop
        self.best_loss = float("inf")
        self.best_epoch: int | None = None
        self.best_weights: dict[str, np.ndarray] = {}

    def update(self, model: Any, epoch: int, validation_loss: float) -> bool:
        """Whether to stop after this epoch (from 1). A NaN is never a new best."""
        if validation_loss < self.best_loss:
            self.best_loss, self.best_epoch = validation_loss, epoch
            self.best_weights = {name: to_host(array).copy() for name, array in model.state_dict().items()}
        return epoch - (self.best_epoch or 0) >= self.patience

    def restore(self, model: Any) -> None:
        """Gives the model the best epoch's weights, if there is one."""
        if self.best_weights:
            model.load_state_dict(self.best_weights)
