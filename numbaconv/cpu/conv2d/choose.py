"""Which algorithm computes a convolution: the first in the direction's list that supports it.

A pure function of the problem and the forced name, so it is asked once per problem.
"""

from __future__ import annotations

import functools
from typing import Any

from ...errors import ArgumentError, message
from ...shapes import Conv2dProblem
from . import col2im, depthwise, direct, im2col, planes, pointwise, sub_pixel, winograd_strided, winograd_variants
from .algorithm import Algorithm

DIRECTIONS = ("forward", "backward_input", "backward_weight")

# In order of preference, the same for the three directions; direct takes everything.
ALGORITHMS: tuple[Algorithm, ...] = (
    im2col.ALGORITHM,
    pointwise.ALGORITHM,
    depthwise.ALGORITHM,
    *winograd_variants.ALGORITHMS,
    winograd_strided.ALGORITHM,
    col2im.ALGORITHM,
    planes.ALGORITHM,
    sub_pixel.ALGORITHM,
    direct.ALGORITHM,
)


def verdicts(problem: Conv2dProblem, direction: str) -> list[tuple[str, str]]:
    """(name, "" or the reason why not) of every algorithm, in order."""
    return [
        (
            a.name,
            a.supports(problem) or a.pays(problem, direction) if getattr(a, direction) else f"it has no {direction}",
        )
        for a in ALGORITHMS
    ]


@functools.lru_cache(maxsize=4096)
def choose(problem: Conv2dProblem, direction: str, forced: str | None) -> Algorithm:
    """The algorithm that computes `direction` of `problem`.

    Raises:
        ArgumentError: if the forced algorithm is unknown, or does not support the problem.
    """
    if forced is not None:
        chosen = next((a for a in ALGORITHMS if a.name == forced), None)
        if chosen is None:
            names = ", ".join(a.name for a in ALGORITHMS)
            raise ArgumentError(message("algorithm", f"the name must be one of {names}", algorithm=forced))
        reason = chosen.supports(problem)
        if reason:
            raise ArgumentError(
                message("algorithm", f"{forced} does not support this problem: {reason}", **_facts(problem))
            )
        if getattr(chosen, direction) is not None:
            return chosen
    name = next(name for name, reason in verdicts(problem, direction) if not reason)
    return next(a for a in ALGORITHMS if a.name == name)


def _facts(problem: Conv2dProblem) -> dict[str, Any]:
    return {
        "kernel_size": problem.weight_shape[2:],
        "stride": problem.stride,
        "padding": problem.padding,
        "groups": problem.groups,
    }


def explain(problem: Conv2dProblem) -> str:
    """Every algorithm's verdict on every direction, one line each; the chosen one is marked."""
    lines = [f"conv2d x={problem.input_shape} weight={problem.weight_shape} -> {problem.output_shape}"]
    for direction in DIRECTIONS:
        rows = verdicts(problem, direction)
        chosen = next(name for name, reason in rows if not reason)
        for name, reason in rows:
            verdict = "chosen" if name == chosen else reason or "supported, but comes later in the list"
            lines.append(f"  {direction:<16} {name:<16} {verdict}")
    return "\n".join(lines)
