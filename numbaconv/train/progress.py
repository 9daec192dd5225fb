"""The progress bar of an epoch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from .evaluation import Evaluation
from .metrics import RunningMetrics


def wanted(progress: bool | None) -> bool:
    """Whether to draw: as asked, or (None) if someone can see it."""
    return sys.stderr.isatty() if progress is None else bool(progress)


@contextmanager
def epoch_bar(show: bool, epoch: int, epochs: int, samples: int) -> Iterator[tqdm]:
    """A bar from 0 to `samples`, with images/s; draws nothing unless `show`."""
    with tqdm(
        total=samples,
        desc=f"epoch {epoch}/{epochs}",
        unit=" images",
        disable=not show,
        dynamic_ncols=True,
    ) as bar:
        yield bar


def show_metrics(bar: tqdm, metrics: RunningMetrics, validated: Evaluation | None = None) -> None:
    """Puts the figures so far at the end of the bar's line."""
    if bar.disable:
        return
    text = f"loss {metrics.loss:.4f}" + _accuracy(metrics.accuracy)
    if validated is not None:
        text += f", validation loss {validated.loss:.4f}" + _accuracy(validated.accuracy)
    bar.set_postfix_str(text, refresh=validated is not None)


def _accuracy(accuracy: float | None) -> str:
    return "" if accuracy is None else f", accuracy {100 * accuracy:.1f} %"
