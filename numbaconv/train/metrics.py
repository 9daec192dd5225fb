"""Mean loss and accuracy over batches."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import to_host


class RunningMetrics:
    """Sums over the batches seen so far.

    Accuracy counts where the largest output along axis 1 is the target class: targets are class indices
    (N, ...) or probabilities (N, C, ...) of a classification; of other losses it is None.
    """

    def __init__(self, loss: Any) -> None:
        # Only a loss over classes has an index to ignore; that tells classification from regression.
        self._ignore_index: int | None = getattr(loss, "ignore_index", None)
        self._count = 0  # of samples, or of the labels that are not ignored: what the loss is a mean over
        self._loss_sum = 0.0
        self._correct = 0

    def add(self, loss: float, output: Any, target: np.ndarray) -> None:
        """One batch: its mean loss, the model's output, the target (on the host)."""
        count = len(target)
        if self._ignore_index is not None:
            classes = target.argmax(axis=1) if target.dtype.kind == "f" else target
            count = int(np.count_nonzero(classes != self._ignore_index))
            self._correct += int(np.count_nonzero(to_host(output).argmax(axis=1) == classes))
        if count:
            self._count += count
            self._loss_sum += loss * count

    @property
    def loss(self) -> float:
        """Mean over what was added; NaN before."""
        return self._loss_sum / self._count if self._count else float("nan")

    @property
    def accuracy(self) -> float | None:
        """Share of right answers, 0 to 1."""
        return self._correct / self._count if self._count and self._ignore_index is not None else None
