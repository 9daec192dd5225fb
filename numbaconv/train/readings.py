"""Results on their way from a device to the host, while the next batches are queued."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .metrics import RunningMetrics

_BATCHES_AHEAD = 2  # whose results may be under way: enough to keep a device busy, and soon enough to stop


class Arrivals:
    """Results in the order of their batches."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._under_way: deque[tuple[Any, Any]] = deque()

    def add(self, values: tuple[Any, ...], about: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Begins to copy `values`; gives (values on the host, `about`) of what has arrived of all that were added."""
        self._under_way.append((self._backend.read(values), about))
        while self._under_way and (self._under_way[0][0].done or len(self._under_way) > _BATCHES_AHEAD):
            yield self._next()

    def rest(self) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Waits for the others."""
        while self._under_way:
            yield self._next()

    def _next(self) -> tuple[tuple[Any, ...], Any]:
        reading, about = self._under_way.popleft()
        return reading.wait(), about


class Result(NamedTuple):
    """What a batch gives: its mean loss (a float, or an array of one), and its output."""

    loss: Any
    output: Any


class Readings:
    """Losses of batches, and the metrics that they join, as they arrive."""

    def __init__(self, backend: Any, metrics: RunningMetrics) -> None:
        self._arrivals, self._metrics = Arrivals(backend), metrics
        self.losses: list[float] = []

    def add(self, result: Result, target: np.ndarray) -> None:
        """The result of a batch with this target (on the host)."""
        self._take(self._arrivals.add(result, target))

    def finish(self) -> None:
        """Waits for all of them."""
        self._take(self._arrivals.rest())

    def _take(self, arrived: Iterator[tuple[tuple[Any, ...], Any]]) -> None:
        for (loss, output), target in arrived:
            self.losses.append(float(loss))
            self._metrics.add(self.losses[-1], output, target)


def forward_ahead(loss: Any, output: Any, target: Any) -> tuple[Any, Any]:
    """`forward_ahead_ctx` of a loss, or `forward_ctx` of an object that has no more."""
    return getattr(loss, "forward_ahead_ctx", loss.forward_ctx)(output, target)
