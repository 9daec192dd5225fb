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
# Of a group, in and out. With fewer, the smallest tiles and the weight-gradient gain nothing; the others do with many
# tiles, if vectors of channels are well filled (8x16x56x56 -> 16: 1.1 to 0.55 ms; 17 and 33 channels: 0.33 to 0.37).
FEWEST_CHANNELS, FEW_CHANNELS = 32, 16
FULL_ENOUGH = 0.38  # of the vectors of in and of out channels, multiplied
FEWEST_TERMS_OF_FEW_CHANNELS = 1 << 10  # tiles times taps


def pays(results: int, problem: Conv2dProblem, direction: str) -> str:
    """Empty where there are tiles enough for the filters' transform to be worth it."""
    k, c, r, s = problem.weight_shape
    k //= problem.groups
    few = min(c, k) < FEWEST_CHANNELS
    fills = min(c, k) >= FEW_CHANNELS and c * k >= FULL_ENOUGH * (-(-c // 16) * 16) * (-(-k // 16) * 16)
    if few and (not fills or results == 2 or direction == "backward_weight"):
        return f"{c} and {k} channels a group are too few"
    n, _, p, q = problem.output_shape
    tiles = count_tiles(n, (p, q), problem.dilation, shape_of(results, (r, s)))
    fewest = FEWEST_TILES_OF_WEIGHT_GRADIENT if direction == "backward_weight" else FEWEST_TILES[results]
    fewest = max(fewest, -(-FEWEST_TERMS_OF_FEW_CHANNELS // (r * s))) if few else fewest
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
