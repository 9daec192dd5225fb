"""What an algorithm file exports."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ...shapes import Conv2dProblem

Forward = Callable[[Conv2dProblem, np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]
BackwardWeight = Callable[[Conv2dProblem, np.ndarray, np.ndarray], np.ndarray]


class Algorithm(NamedTuple):
    """One way to compute a convolution.

    ``supports(problem)`` is "" or the reason why not; ``pays(problem)`` too, where it could but something later in the
    list is faster: it is then taken only if forced. A direction that it does not have is None.
    """

    name: str
    supports: Callable[[Conv2dProblem], str]
    forward: Forward | None  # (problem, x, weight, bias)
    backward_input: Forward | None  # (problem, grad_output, weight, bias)
    backward_weight: BackwardWeight | None  # (problem, grad_output, x)
    pays: Callable[[Conv2dProblem], str] = lambda problem: ""
