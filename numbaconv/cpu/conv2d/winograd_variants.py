"""The Winograd algorithms: tiles of 4 results along an axis, and of 2."""

from __future__ import annotations

import functools

import numpy as np

from ...shapes import Conv2dProblem
from . import winograd, winograd_filters
from .algorithm import Algorithm
from .winograd_weight_gradient import backward_weight

FEWEST_TILES = 32
FEWEST_CHANNELS = 32  # of a group, in and out: with 16 the transforms cost what the products save


def pays(results: int, problem: Conv2dProblem, direction: str) -> str:
    """Empty where there are tiles enough for the filters' transform to be worth it."""
    _, c, r, s = problem.weight_shape
    if min(c, problem.weight_shape[0] // problem.groups) < FEWEST_CHANNELS:
        return f"fewer than {FEWEST_CHANNELS} channels a group"
    n, _, p, q = problem.output_shape
    shape = winograd.shape_of(results, (r, s))
    tiles = n
    for size, dilation, m in ((p, problem.dilation[0], shape.results_h), (q, problem.dilation[1], shape.results_w)):
        tiles *= dilation * winograd.tiles_along(size, dilation, len(m))
    return f"{tiles} tiles, fewer than {FEWEST_TILES}" if tiles < FEWEST_TILES else ""


def _backward_input(
    results: int, problem: Conv2dProblem, grad_output: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> np.ndarray:
    packed = winograd_filters.pack_flipped(results, problem, weight, bias)
    return winograd.backward_input(results, problem, grad_output, packed)


def _algorithm(results: int) -> Algorithm:
    return Algorithm(
        name=f"winograd_{results}",
        supports=functools.partial(winograd.supports, results),
        pack_weight=functools.partial(winograd_filters.pack_weight, results),
        forward=functools.partial(winograd.forward, results),
        backward_input=functools.partial(_backward_input, results),
        backward_weight=functools.partial(backward_weight, results),
        pays=functools.partial(pays, results),
    )


ALGORITHMS = tuple(_algorithm(results) for results in (4, 2))
