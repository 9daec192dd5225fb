"""Is a backward pass the derivative of its forward pass? In float64, along random directions.

With a random cotangent u, L = sum(u * output) is a number, and the backward pass of u gives its gradient g. Along a
random direction d, g . d must equal (L(+eps d) - L(-eps d)) / (2 eps): two evaluations per direction whatever the
number of elements, and a wrong element anywhere shows in the sum (as in Chainer's gradient check).

An error is relative to the size that g . d typically has, rms(g) * |d|; so much difference as the rounding of the two
evaluations explains does not count. Central differences need a smooth function: an input within eps of a kink (of
ReLU at 0, of two equal maxima) shows as an error that is none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .arguments import integer
from .backend import to_host
from .errors import ArgumentError, NumbaconvError, message
from .nn import Module

__all__ = ["Check", "GradcheckError", "GradcheckResult", "gradcheck"]


class GradcheckError(NumbaconvError, AssertionError):
    """A backward pass that is not the derivative of its forward pass; `result` holds every check."""

    def __init__(self, text: str, result: GradcheckResult) -> None:
        super().__init__(text)
        self.result = result


class Check(NamedTuple):
    """One direction of one array: the derivative along it by differences and by the backward pass."""

    where: str
    numeric: float
    analytic: float
    error: float


@dataclass(frozen=True)
class GradcheckResult:
    """What `gradcheck` found; true if it passed."""

    checks: tuple[Check, ...]
    tolerance: float

    @property
    def worst(self) -> Check:
        """The check with the largest error."""
        return max(self.checks, key=lambda check: check.error)

    @property
    def worst_error(self) -> float:
        """Relative, see the module's first lines."""
        return self.worst.error

    @property
    def where(self) -> str:
        """What the worst error is in: "input 0", or a parameter's name."""
        return self.worst.where

    def __bool__(self) -> bool:
        return self.worst_error <= self.tolerance

    def __repr__(self) -> str:
        verdict = "passed" if self else "failed"
        text = f"worst error {self.worst_error:.2e} in {self.where}, tolerance {self.tolerance:.0e}"
        return f"<gradcheck {verdict}: {text}, {len(self.checks)} checks>"


def gradcheck(
    function_or_module: Any,
    inputs: Any,
    *,
    backward: Callable[..., Any] | None = None,
    directions: int = 3,
    eps: float = 1e-6,
    tolerance: float = 1e-6,
    seed: int = 0,
    raises: bool = True,
) -> GradcheckResult:
    """Compares a backward pass with differences of its forward pass.

    Args:
        function_or_module: a function of arrays that returns one array or number; or a Module, whose input and
            trainable parameters are all checked, in the mode it is in. Nothing given is changed: a module is copied,
            with its running statistics and dropout steps, for each evaluation.
        inputs: one array, or a sequence of them. Floating-point ones are converted to float64 and checked; others
            (labels) are passed on as they are.
        backward: for a function: (grad_output, *inputs) -> the gradient of each input, None for one that has none.
        directions: random directions per array.
        eps: step, per element.
        tolerance: largest relative error that passes.
        seed: of cotangent and directions.
        raises: False returns a result that failed instead of raising.

    Returns:
        A `GradcheckResult`, with the worst error and where it is.

    Raises:
        GradcheckError: if an error is above the tolerance, or a gradient is missing or misshapen.
        ArgumentError: for a function without `backward`.

    Example:
        ``gradcheck(F.tanh, x, backward=lambda g, x: F.tanh_backward(g, F.tanh(x)))``
    """
    integer("gradcheck", "directions", directions, 1)
    arrays = [_as_float64(x) for x in (inputs if isinstance(inputs, (list, tuple)) else [inputs])]
    if isinstance(function_or_module, Module):
        if len(arrays) != 1:
            raise ArgumentError(message("gradcheck", "a module takes one input", inputs=len(arrays)))
        subject: _Subject = _ModuleSubject(function_or_module, arrays[0])
    elif backward is None:
        fix = "Pass backward=lambda grad_output, *inputs: ..."
        raise ArgumentError(message("gradcheck", "a function needs its backward", fix, function=function_or_module))
    else:
        subject = _FunctionSubject(function_or_module, backward, arrays)
    result = GradcheckResult(tuple(_checks(subject, directions, eps, np.random.default_rng(seed))), tolerance)
    if raises and not result:
        worst = result.worst
        rule = f"the backward pass must be the derivative of the forward pass (tolerance {tolerance:g})"
        values = {"error": worst.error, "backward": worst.analytic, "differences": worst.numeric, "where": worst.where}
        raise GradcheckError(message("gradcheck", rule, **values), result)
    return result


def _as_float64(x: Any) -> np.ndarray:
    array = to_host(x) if hasattr(x, "__dlpack__") else np.asarray(x)
    return np.array(array, np.float64) if array.dtype.kind == "f" else array


class _Subject:
    """Something with named float64 arrays, a value that depends on them, and gradients."""

    arrays: dict[str, np.ndarray]

    def output(self, arrays: dict[str, np.ndarray]) -> Any:
        raise NotImplementedError

    def gradients(self, grad_output: Any) -> dict[str, Any]:
        raise NotImplementedError


class _FunctionSubject(_Subject):
    def __init__(self, function: Callable[..., Any], backward: Callable[..., Any], inputs: list[np.ndarray]) -> None:
        self.function, self.backward, self.inputs = function, backward, inputs
        self.arrays = {f"input {i}": x for i, x in enumerate(inputs) if x.dtype.kind == "f"}

    def output(self, arrays: dict[str, np.ndarray]) -> Any:
        return self.function(*(arrays.get(f"input {i}", x) for i, x in enumerate(self.inputs)))

    def gradients(self, grad_output: Any) -> dict[str, Any]:
        grads = self.backward(grad_output, *self.inputs)
        if not isinstance(grads, Sequence):
            grads = (grads,)
        # An input whose gradient is None is none to be checked (but see `_checks`: all of them None is a failure).
        return {f"input {i}": grad for i, grad in enumerate(grads) if grad is not None}


class _ModuleSubject(_Subject):
    def __init__(self, module: Module, x: np.ndarray) -> None:
        self.module = copy.deepcopy(module).to("cpu").astype("float64")
        self.module.zero_grad()
        trainable = {name: p.data for name, p in self.module.named_parameters() if p.trainable}
        self.arrays = {"input 0": x, **trainable}

    def _copy_with(self, arrays: dict[str, np.ndarray]) -> Module:
        module = copy.deepcopy(self.module)
        for name, parameter in module.named_parameters():
            if parameter.trainable:
                parameter.data = arrays[name]
        return module

    def output(self, arrays: dict[str, np.ndarray]) -> Any:
        return self._copy_with(arrays).forward_ctx(arrays["input 0"])[0]

    def gradients(self, grad_output: Any) -> dict[str, Any]:
        module = self._copy_with(self.arrays)
        _, ctx = module.forward_ctx(self.arrays["input 0"])
        grad_input = module.backward_ctx(grad_output, ctx, True)
        trainable = {name: p.grad for name, p in module.named_parameters() if p.trainable}
        return {"input 0": grad_input, **trainable}


def _checks(subject: _Subject, directions: int, eps: float, rng: np.random.Generator) -> list[Check]:
    """Every array of the subject, along `directions` directions each."""
    output = np.asarray(subject.output(subject.arrays))
    cotangent = rng.standard_normal(output.shape)
    grads = subject.gradients(cotangent if output.ndim else float(cotangent))
    # 64 units in the last place of each term of L: sums inside the function round too.
    rounding = 64 * np.finfo(np.float64).eps * float(np.sum(np.abs(cotangent * output))) / (2 * eps)
    checks: list[Check] = []
    for name, array in subject.arrays.items():
        if name not in grads and isinstance(subject, _FunctionSubject):
            continue
        grad = grads.get(name)
        if grad is None or np.shape(grad) != array.shape:
            state = "missing" if grad is None else f"of shape {np.shape(grad)} instead of {array.shape}"
            checks.append(Check(f"{name} (gradient {state})", np.nan, np.nan, np.inf))
            continue
        for _ in range(directions):
            direction = rng.standard_normal(array.shape)
            ends = [{**subject.arrays, name: array + step * direction} for step in (eps, -eps)]
            above, below = (float(np.sum(cotangent * np.asarray(subject.output(end)))) for end in ends)
            checks.append(_compare(name, (above - below) / (2 * eps), np.asarray(grad), direction, rounding))
    return checks or [Check("nothing (no gradient was given)", np.nan, np.nan, np.inf)]


def _compare(name: str, numeric: float, grad: np.ndarray, direction: np.ndarray, rounding: float) -> Check:
    analytic = float(np.sum(grad * direction))
    difference = abs(numeric - analytic)
    if not np.isfinite(difference):
        return Check(name, numeric, analytic, np.inf)
    excess = max(difference - rounding, 0.0)
    typical = float(np.sqrt(np.mean(np.square(grad)))) * float(np.linalg.norm(direction)) if grad.size else 0.0
    error = 0.0 if excess == 0 else np.inf if typical == 0 else excess / typical
    return Check(name, numeric, analytic, float(error))
