"""Optimizers, learning-rate schedules and gradient clipping; their updates equal PyTorch's."""

from __future__ import annotations

from .adam import Adam, AdamW
from .clip import clip_grad_norm
from .optimizer import Optimizer
from .schedule import CosineSchedule, OneCycleSchedule, StepSchedule, WarmupSchedule
from .sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CosineSchedule",
    "OneCycleSchedule",
    "Optimizer",
    "StepSchedule",
    "WarmupSchedule",
    "clip_grad_norm",
]
