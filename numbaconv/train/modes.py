"""Modes of a model's modules (train / eval), put back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..nn import Module


@contextmanager
def restored_modes(model: Any) -> Iterator[None]:
    """Whatever happens inside, every module leaves in the mode it came in; a frozen layer may differ from others."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The whole model in eval mode, for a while; a function, such as a `Prepared`, has no modes."""
    if not isinstance(model, Module):
        yield
        return
    with restored_modes(model):
        model.eval()
        yield
