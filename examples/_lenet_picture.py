"""The picture that train_lenet.py draws: the loss curve, the learned filters, and what one image excites."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

INK, PALE, ACCENT = "#22313f", "#b9c7d5", "#d1495b"
SIGNED, POSITIVE = "RdBu_r", "magma"  # weights of both signs around white; activations from black


class Portrait(NamedTuple):
    """What is drawn."""

    step_losses: list[float]
    epochs: int
    accuracy: float  # 0 to 1
    filters: np.ndarray  # (6, 5, 5)
    image: np.ndarray  # (28, 28)
    label: int
    probabilities: np.ndarray  # (10,)
    maps_1: np.ndarray  # (6, 28, 28), after conv1 and ReLU
    maps_2: np.ndarray  # (16, 10, 10), after conv2 and ReLU


def draw(path: Path, portrait: Portrait) -> None:
    """Writes the PNG; raises ImportError without matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    margins = ConstrainedLayoutEngine(rect=(0.012, 0.015, 0.976, 0.925))  # the title is above
    figure = Figure(figsize=(13, 8.6), dpi=110, layout=margins, facecolor="white")
    FigureCanvasAgg(figure)
    title = f"LeNet-5: {100 * portrait.accuracy:.2f} % of the test images right"
    figure.suptitle(title, fontsize=17, color=INK, weight="bold", y=0.982)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.2), hspace=0.06)
    left, right = top.subfigures(1, 2, width_ratios=(1.25, 1), wspace=0.04)
    _loss_curve(left, portrait.step_losses, portrait.epochs)
    _filters(right, portrait.filters)
    digit, first, second = bottom.subfigures(1, 3, width_ratios=(1, 1.05, 1.6), wspace=0.04)
    _digit(digit, portrait)
    _tiles(first, "after the first convolution, 28 x 28", portrait.maps_1, (3, 2))
    _tiles(second, "after the second convolution, 10 x 10", portrait.maps_2, (4, 4))
    figure.savefig(path)


def _heading(part, text):
    part.suptitle(text, fontsize=12.5, color=INK)


def _loss_curve(part, losses, epochs):
    """Every step pale, and their running mean over a third of an epoch."""
    _heading(part, "training loss")
    axes = part.subplots()
    losses = np.asarray(losses)
    at = (np.arange(len(losses)) + 1) * epochs / max(len(losses), 1)
    axes.plot(at, losses, color=PALE, linewidth=0.7, label="each step")
    window = max(len(losses) // (3 * max(epochs, 1)), 1)
    if len(losses) >= 2 * window:
        mean = np.convolve(losses, np.ones(window) / window, mode="valid")
        axes.plot(at[window - 1 :], mean, color=ACCENT, linewidth=2, label=f"mean of {window} steps")
    axes.set_yscale("log")
    axes.set_xlim(0, epochs)
    axes.set_xlabel("epoch", color=INK)
    axes.set_ylabel("cross-entropy", color=INK)
    axes.grid(True, which="major", color="#e6ebf0", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, labelcolor=INK)


def _filters(part, filters):
    _heading(part, "the six 5 x 5 filters it learned")
    axes = part.subplots(2, 3)
    limit = np.abs(filters).max() or 1.0
    for number, (place, weights) in enumerate(zip(axes.flat, filters, strict=True), 1):
        shown = place.imshow(weights, cmap=SIGNED, vmin=-limit, vmax=limit)
        _bare(place)
        place.set_title(str(number), fontsize=9, color=INK, pad=3)
    bar = part.colorbar(shown, ax=axes, shrink=0.85, aspect=25, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.set_label("weight", color=INK, fontsize=9)


def _digit(part, portrait):
    """The image, and under it what the network takes it for."""
    _heading(part, f"a test image of class {portrait.label}")
    image, bars = part.subplots(2, 1, height_ratios=(2.4, 1))
    image.imshow(portrait.image, cmap="gray_r", vmin=0, vmax=1)
    _bare(image)
    digits = np.arange(len(portrait.probabilities))
    best = int(portrait.probabilities.argmax())
    bars.bar(digits, portrait.probabilities, color=[ACCENT if d == best else PALE for d in digits], width=0.75)
    bars.set_xticks(digits)
    bars.set_yticks([])
    bars.set_ylim(0, 1.3)
    bars.text(
        best,
        portrait.probabilities[best] + 0.05,
        f"{100 * portrait.probabilities[best]:.1f} %",
        ha="center",
        color=INK,
        fontsize=9,
    )
    bars.tick_params(length=0, labelcolor=INK)
    bars.spines[["top", "right", "left"]].set_visible(False)
    bars.set_xlabel("what the network says", color=INK, fontsize=10)


def _tiles(part, text, maps, grid):
    """Activation maps on one scale, black where nothing answers."""
    _heading(part, text)
    axes = part.subplots(*grid)
    most = maps.max() or 1.0
    for number, (place, activation) in enumerate(zip(axes.flat, maps, strict=True), 1):
        place.imshow(activation, cmap=POSITIVE, vmin=0, vmax=most)
        _bare(place)
        place.set_ylabel(str(number), rotation=0, fontsize=8, color=INK, labelpad=7, va="center")


def _bare(axes):
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#9aa7b4")
        spine.set_linewidth(0.6)
