"""What an algorithm file exports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...shapes import Conv2dProblem

Packed = Any  # whatever an algorithm's forward wants of weight and bias


class Algorithm(NamedTuple):
    """One way to compute a convolution.

    ``supports(problem)`` is "" or the reason why not; ``pays(problem, direction)`` too, where it could but something
    later in the list is faster: it is then taken only if forced. A direction that it does not have is None.

    The forward pass has two steps, so that the first can be done once: ``pack_weight(problem, weight, bias, kept)``,
    whose result depends on the layer and not on the size of x, and is scratch, gone at the next call, unless `kept`;
    and ``forward(problem, x, packed, relu)``, whose x is dense and whose result is dense in either order, as comes
    naturally: `conv2d` brings it into that of x. One that gives it in that of x, whose ``forward`` can be told, has
    ``bind(problem, packed, relu, layout, dtype)`` too: a function of x, all that does not depend on x decided.

    ``gradients(problem, grad_output, x, weight, needs)`` has one that is quicker in computing the three at once.
    """

    name: str
    supports: Callable[[Conv2dProblem], str]
    pack_weight: Callable[[Conv2dProblem, np.ndarray, np.ndarray | None, bool], Packed] | Any
    forward: Callable[..., np.ndarray] | Any
    backward_input: Callable[[Conv2dProblem, np.ndarray, np.ndarray, np.ndarray | None], np.ndarray] | Any
    backward_weight: Callable[[Conv2dProblem, np.ndarray, np.ndarray], np.ndarray] | Any
    pays: Callable[[Conv2dProblem, str], str] = lambda problem, direction: ""
    bind: Callable[[Conv2dProblem, Packed, bool, str, np.dtype], Callable[[np.ndarray], np.ndarray]] | None = None
    gradients: Callable[..., tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]] | None = None
