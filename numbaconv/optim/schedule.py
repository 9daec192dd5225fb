"""Learning-rate schedules: pure functions of the step, counted from 0.

``optimizer.lr = schedule(step)`` before each step; there is no state, so a resumed run needs only its step number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..arguments import integer
from ..errors import ArgumentError, message
from .checks import in_range


@dataclass(frozen=True)
class StepSchedule:
    """lr * gamma^(step // step_size), as torch.optim.lr_scheduler.StepLR.

    Args:
        lr: learning rate at first, >= 0.
        step_size: steps between two drops, >= 1.
        gamma: factor of each drop, >= 0.
    """

    lr: float
    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        in_range("StepSchedule", "lr", self.lr, 0)
        in_range("StepSchedule", "gamma", self.gamma, 0)
        integer("StepSchedule", "step_size", self.step_size, 1)

    def __call__(self, step: int) -> float:
        """Learning rate of a step."""
        return self.lr * self.gamma ** (_step("StepSchedule", step) // self.step_size)


@dataclass(frozen=True)
class CosineSchedule:
    """From lr at step 0 along half a cosine to minimum at total_steps, and there it stays.

    As torch.optim.lr_scheduler.CosineAnnealingLR, which goes up again after total_steps.

    Args:
        lr: >= 0.
        total_steps: >= 1.
        minimum: >= 0.

    Source: Loshchilov and Hutter, "SGDR", 2017, equation 5, without restarts.
    """

    lr: float
    total_steps: int
    minimum: float = 0.0

    def __post_init__(self) -> None:
        in_range("CosineSchedule", "lr", self.lr, 0)
        in_range("CosineSchedule", "minimum", self.minimum, 0)
        integer("CosineSchedule", "total_steps", self.total_steps, 1)

    def __call__(self, step: int) -> float:
        """Learning rate of a step."""
        return _cosine(self.lr, self.minimum, _step("CosineSchedule", step) / self.total_steps)


@dataclass(frozen=True)
class OneCycleSchedule:
    """Up from max_lr / start_divisor to max_lr, then down to far below, each along half a cosine.

    As torch.optim.lr_scheduler.OneCycleLR with its cosine; after total_steps it stays at the lowest rate,
    max_lr / start_divisor / final_divisor.

    Args:
        max_lr: the peak, >= 0.
        total_steps: >= 1; the last is step total_steps - 1.
        warmup_fraction: share of the steps up to the peak, 0 to 1.
        start_divisor, final_divisor: > 0.

    Source: Smith and Topin, "Super-convergence", 2018.
    """

    max_lr: float
    total_steps: int
    warmup_fraction: float = field(default=0.3, kw_only=True)
    start_divisor: float = field(default=25.0, kw_only=True)
    final_divisor: float = field(default=1e4, kw_only=True)

    def __post_init__(self) -> None:
        op = "OneCycleSchedule"
        in_range(op, "max_lr", self.max_lr, 0)
        integer(op, "total_steps", self.total_steps, 1)
        in_range(op, "warmup_fraction", self.warmup_fraction, 0, 1, below=False)
        for name in ("start_divisor", "final_divisor"):
            if in_range(op, name, getattr(self, name), 0) == 0:
                raise ArgumentError(message(op, f"{name} must be greater than 0", **{name: getattr(self, name)}))

    def __call__(self, step: int) -> float:
        """Learning rate of a step."""
        start = self.max_lr / self.start_divisor
        last = self.total_steps - 1
        peak = self.warmup_fraction * self.total_steps - 1  # a float, as PyTorch has it
        step = min(_step("OneCycleSchedule", step), last)
        if step <= peak:
            return _cosine(start, self.max_lr, step / peak if peak else 1.0)
        return _cosine(self.max_lr, start / self.final_divisor, (step - peak) / (last - peak))


@dataclass(frozen=True)
class WarmupSchedule:
    """Linearly from start_factor * schedule(0) to schedule(0) in warmup_steps, then `schedule` from its step 0.

    As torch.optim.lr_scheduler.SequentialLR of a LinearLR and another.

    Args:
        warmup_steps: >= 0.
        schedule: what follows: a function of the step.
        start_factor: 0 to 1.
    """

    warmup_steps: int
    schedule: Callable[[int], float]
    start_factor: float = 1 / 3

    def __post_init__(self) -> None:
        integer("WarmupSchedule", "warmup_steps", self.warmup_steps, 0)
        in_range("WarmupSchedule", "start_factor", self.start_factor, 0, 1, below=False)
        if not callable(self.schedule):
            rule = "schedule must be a function of the step"
            raise ArgumentError(message("WarmupSchedule", rule, schedule=self.schedule))

    def __call__(self, step: int) -> float:
        """Learning rate of a step."""
        step = _step("WarmupSchedule", step)
        if step >= self.warmup_steps:
            return self.schedule(step - self.warmup_steps)
        return self.schedule(0) * (self.start_factor + (1 - self.start_factor) * step / self.warmup_steps)


def _step(op: str, step: Any) -> int:
    return integer(op, "step", step, 0)


def _cosine(start: float, end: float, fraction: float) -> float:
    """Half a cosine from `start` at fraction 0 to `end` at 1 and beyond."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(fraction, 1.0)))
