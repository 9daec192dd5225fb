"""What an algorithm file exports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...shapes import Conv2dProblem
from ..array import DeviceArray

Packed = Any  # whatever an algorithm's forward wants of weight and bias


class Algorithm(NamedTuple):
    """One way to compute a convolution.

    ``supports(problem)`` is "" or the reason why not; ``pays(problem)`` too, where it could but something later in the
    list is faster: it is then taken only if forced. Arrays are dense and aligned, and not empty.

    The forward pass has two steps, so that the first can be done once: ``pack_weight(problem, weight, bias, kept)``,
    whose result depends on the layer and not on the size of x, and shares no memory with the weight if it is `kept`;
    and ``forward(problem, x, packed, relu)``, whose result is channels-last. So is that of ``backward_input(problem,
    grad_output, weight, bias)``. ``backward_weight(problem, grad_output, x, needs_bias)`` gives grad_weight in C order,
    and grad_bias if it is wanted and costs nothing on the way, else None.
    """

    name: str
    supports: Callable[[Conv2dProblem], str]
    pack_weight: Callable[[Conv2dProblem, DeviceArray, DeviceArray | None, bool], Packed]
    forward: Callable[[Conv2dProblem, DeviceArray, Packed, bool], DeviceArray]
    backward_input: Callable[[Conv2dProblem, DeviceArray, DeviceArray, DeviceArray | None], DeviceArray]
    backward_weight: Callable[[Conv2dProblem, DeviceArray, DeviceArray, bool], tuple[DeviceArray, DeviceArray | None]]
    pays: Callable[[Conv2dProblem], str] = lambda problem: ""
