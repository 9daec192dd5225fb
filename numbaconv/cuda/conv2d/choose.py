"""Which algorithm computes a convolution: the first in the direction's list that supports it.

A function of the problem, the element type, what is allowed, and whether the GPU has tensor cores for float32. All
algorithms have all directions.
"""

from __future__ import annotations

import functools
from typing import Any

from ...errors import ArgumentError, message
from ...shapes import Conv2dProblem
from ..precision import tf32_mode
from . import grouped, implicit_gemm, pointwise
from .algorithm import Algorithm
from .tensor_core import TensorCores
from .tensor_core import supports as tensor_cores_support

DIRECTIONS = ("forward", "backward_input", "backward_weight")
TENSOR_CORES_SINCE = (8, 0)  # compute capability


def _on_tensor_cores(name: str, exact: bool) -> Algorithm:
    run = TensorCores(exact)

    def backward_weight(problem, grad_output, x, needs_bias):
        return run.backward_weight(problem, grad_output, x), None

    return Algorithm(name, tensor_cores_support, run.pack_weight, run.forward, run.backward_input, backward_weight)


# By the mode of `allow_tf32` that they are for.
_TENSOR_CORES: dict[bool | str, Algorithm] = {
    True: _on_tensor_cores("tensor_core", False),
    "3x": _on_tensor_cores("tensor_core_3x", True),
}

# In order of preference, the same for the three directions; the last takes everything.
ALGORITHMS: tuple[Algorithm, ...] = (
    *_TENSOR_CORES.values(),
    grouped.ALGORITHM,
    pointwise.ALGORITHM,
    implicit_gemm.ALGORITHM,
)


def _refused(algorithm: Algorithm, dtype: str, mode: bool | str, cc: tuple[int, int]) -> str:
    """Why an algorithm may not be used whatever the problem, or nothing."""
    if algorithm not in _TENSOR_CORES.values():
        return ""
    if dtype != "float32":
        return f"tensor cores are for float32, not {dtype}"
    if cc < TENSOR_CORES_SINCE:
        return f"the GPU's compute capability is {cc[0]}.{cc[1]}, below 8.0"
    return "" if _TENSOR_CORES.get(mode) is algorithm else f"numbaconv.cuda.allow_tf32 is {mode}"


def verdicts(problem: Conv2dProblem, dtype: str, mode: bool | str, cc: tuple[int, int]) -> list[tuple[Algorithm, str]]:
    """Every algorithm, in order, with "" or the reason why not."""
    return [(a, _refused(a, dtype, mode, cc) or a.supports(problem) or a.pays(problem)) for a in ALGORITHMS]


@functools.lru_cache(maxsize=4096)
def choose(problem: Conv2dProblem, forced: str | None, dtype: str, mode: bool | str, cc: tuple[int, int]) -> Algorithm:
    """The algorithm that computes a problem.

    Args:
        forced: the name of one; tensor cores may be forced whatever the mode.
        dtype: of the elements, by name.
        mode: of `allow_tf32`.
        cc: the GPU's compute capability.

    Raises:
        ArgumentError: if the forced algorithm is unknown, or does not support the problem.
    """
    if forced is None:
        return next(a for a, reason in verdicts(problem, dtype, mode, cc) if not reason)
    chosen = next((a for a in ALGORITHMS if a.name == forced), None)
    if chosen is None:
        names = ", ".join(a.name for a in ALGORITHMS)
        raise ArgumentError(message("algorithm", f"on a GPU the name must be one of {names}", algorithm=forced))
    its_mode: bool | str = next((m for m, a in _TENSOR_CORES.items() if a is chosen), mode)
    reason = _refused(chosen, dtype, its_mode, cc) or chosen.supports(problem)
    if reason:
        raise ArgumentError(
            message("algorithm", f"{forced} does not support this problem: {reason}", **_facts(problem))
        )
    return chosen


def _facts(problem: Conv2dProblem) -> dict[str, Any]:
    return {
        "kernel_size": problem.weight_shape[2:],
        "stride": problem.stride,
        "padding": problem.padding,
        "groups": problem.groups,
    }


def explain(problem: Conv2dProblem, dtype: str, cc: tuple[int, int]) -> str:
    """Every algorithm's verdict on every direction, one line each; the chosen one is marked."""
    lines = [
        f"conv2d x={problem.input_shape} weight={problem.weight_shape} -> {problem.output_shape}, {dtype}, "
        f"compute capability {cc[0]}.{cc[1]}"
    ]
    rows = verdicts(problem, dtype, tf32_mode(), cc)
    chosen = next(a for a, reason in rows if not reason)
    for direction in DIRECTIONS:
        for a, reason in rows:
            verdict = "chosen" if a is chosen else reason or "supported, but comes later in the list"
            lines.append(f"  {direction:<16} {a.name:<15} {verdict}")
    return "\n".join(lines)
