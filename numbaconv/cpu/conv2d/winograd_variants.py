"""The Winograd algorithms: tiles of 4 results along an axis, and of 2."""

from __future__ import annotations

import functools

from ...shapes import Conv2dProblem
from . import winograd
from .algorithm import Algorithm
from .winograd_tiling import count_tiles, shape_of
from .winograd_weight_gradient import backward_weight

# What the filters' transforms take is gained back with so many tiles, by the number of results along an axis; in the
# weight-gradient, whose sums are transformed and are as many, with more.
FEWEST_TILES = {4: 12, 2: 16}
FEWEST_TILES_OF_WEIGHT_GRADIENT = 32
FEWEST_CHANNELS = 32  # of a group, in and out: with 16 the transforms cost what the products save


def pays(results: int, problem: Conv2dProblem, direction: str) -> str:
    """Empty where there are tiles enough for the filters' transform to be worth it."""
    _, c, r, s = problem.weight_shape
    if min(c, problem.weight_shape[0] // problem.groups) < FEWEST_CHANNELS:
        return f"fewer than {FEWEST_CHANNELS} channels a group"
    n, _, p, q = problem.output_shape
    tiles = count_tiles(n, (p, q), problem.dilation, shape_of(results, (r, s)))
    fewest = FEWEST_TILES_OF_WEIGHT_GRADIENT if direction == "backward_weight" else FEWEST_TILES[results]
    return f"{tiles} tiles, fewer than {fewest}" if tiles < fewest else ""


def _algorithm(results: int) -> Algorithm:
    return Algorithm(
        name=f"winograd_{results}",
        supports=functools.partial(winograd.supports, results),
        pack_weight=functools.partial(winograd.pack_weight, results),
        forward=functools.partial(winograd.forward, results),
        backward_input=functools.partial(winograd.backward_input, results),
        backward_weight=functools.partial(backward_weight, results),
        pays=functools.partial(pays, results),
    )


ALGORITHMS = tuple(_algorithm(results) for results in (4, 2))
