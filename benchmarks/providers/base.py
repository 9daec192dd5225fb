"""What a library under comparison must be able to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..cases import ConvRow
from ..models import ModelRow

Needs = tuple[bool, bool, bool]  # gradients of the input, the weight, the bias


class Unavailable(Exception):
    """This provider cannot run here; says why. Its benchmarks are skipped."""


class Provider:
    """One library. An operation it lacks raises `Unavailable`, and that row is skipped.

    Args:
        device: "cpu", "cuda", "cuda:1".
        threads: how many it may use.
    """

    name = ""

    def __init__(self, device: str, threads: int) -> None:
        if device != "cpu":
            raise Unavailable(f"{self.name} runs on the cpu only here")

    def version(self) -> str:
        """Version of the library."""
        raise NotImplementedError

    def limited_to(self, target: str) -> str:
        """Empty if all that has run so far kept to a target of `targets.py`, else why not."""
        return f"{self.name} cannot be limited to {target}"

    def array(self, x: Any, layout: str) -> Any:
        """A NumPy array as this library takes it; 4 axes lie in memory as `layout` says."""
        raise NotImplementedError

    def to_numpy(self, x: Any) -> Any:
        """A result as a NumPy array."""
        raise NotImplementedError

    def number(self, x: Any) -> float:
        """A loss as a float."""
        return float(x)

    def finish(self) -> None:
        """Waits until everything that was started is done (devices run behind)."""

    def timing(self, call: Callable[[], Any], seconds: float) -> dict[str, Any] | None:
        """Times by the device's own clock, as `worker.timing`; None: it has no other than the host's."""
        return None

    def allow_tf32(self) -> None:
        """From now on products may round to 10 bits of mantissa, on tensor cores."""
        raise Unavailable(f"{self.name} has no TF32 here")

    def conv2d(self, row: ConvRow, x: Any, weight: Any, bias: Any) -> Any:
        """The output."""
        raise Unavailable(f"{self.name} has no conv2d here")

    def prepared_conv2d(self, row: ConvRow, x: Any, weight: Any, bias: Any) -> Callable[[], Any]:
        """A call that convolves x with weights that are constant: packed beforehand, where the library can."""
        return lambda: self.conv2d(row, x, weight, bias)

    def conv2d_backward(self, row: ConvRow, grad_output: Any, x: Any, weight: Any, needs: Needs) -> tuple[Any, ...]:
        """(grad_input, grad_weight, grad_bias), None where not needed."""
        raise Unavailable(f"{self.name} has no conv2d_backward here")

    def linear(self, x: Any, weight: Any, bias: Any) -> Any:
        """The output."""
        raise Unavailable(f"{self.name} has no linear here")

    def linear_backward(self, grad_output: Any, x: Any, weight: Any) -> tuple[Any, ...]:
        """(grad_input, grad_weight, grad_bias)."""
        raise Unavailable(f"{self.name} has no linear_backward here")

    def training_step(self, row: ModelRow, x: Any, labels: Any) -> Callable[[], Any]:
        """A call that trains one step and returns the loss."""
        raise Unavailable(f"{self.name} has no training step here")

    def prediction(self, row: ModelRow, x: Any) -> Callable[[], Any]:
        """A call that predicts, prepared where the library can."""
        raise Unavailable(f"{self.name} has no prediction here")

    def forward(self, op: str, x: Any, arguments: dict[str, Any]) -> tuple[Any, Any]:
        """(output, context for `backward`) of an operation that is bound by memory, by its name."""
        raise Unavailable(f"{self.name} has no {op} here")

    def backward(self, op: str, grad_output: Any, x: Any, context: Any, arguments: dict[str, Any]) -> Any:
        """grad_input."""
        raise Unavailable(f"{self.name} has no backward of {op} here")
