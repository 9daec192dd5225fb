"""What a training run was like, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class EpochResult(NamedTuple):
    """One epoch.

    ``loss`` and ``accuracy`` are means over the epoch's batches as they were trained on: in training mode, after
    augmentation, with the weights of that moment. An accuracy is None where the targets are not classes;
    validation figures are None without validation data.
    """

    epoch: int  # from 1
    loss: float
    accuracy: float | None  # 0 to 1
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float  # of the last step
    seconds: float  # of training and validation
    images_per_second: float  # of training

    def __str__(self) -> str:
        parts = [f"epoch {self.epoch}: loss {self.loss:.4f}"]
        if self.accuracy is not None:
            parts.append(f"accuracy {100 * self.accuracy:.2f} %")
        if self.validation_loss is not None:
            parts.append(f"validation loss {self.validation_loss:.4f}")
        if self.validation_accuracy is not None:
            parts.append(f"validation accuracy {100 * self.validation_accuracy:.2f} %")
        return ", ".join([*parts, f"{self.images_per_second:,.0f} images/s"])


@dataclass
class History:
    """A whole run.

    ``best_epoch`` (from 1) is the one whose weights early stop restores, None without early stop.
    """

    epochs: list[EpochResult] = field(default_factory=list)
    step_losses: list[float] = field(default_factory=list)  # of each step, before its update
    best_epoch: int | None = None
    stopped_early: bool = False

    def column(self, name: str) -> list[Any]:
        """One figure of every epoch: ``history.column("validation_loss")``."""
        return [getattr(result, name) for result in self.epochs]
