"""Training steps.

Nothing in a step waits for a device that runs ahead of the host: the loss goes to the host while the next steps are
queued. Should it turn out not to be finite, the updates behind it have changed nothing (`require_finite`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..backend import backend_at
from ..data import batches
from ..errors import DeviceError, NumbaconvError, message
from ..functional.update import require_finite
from ..optim.clip import clip_gradients
from .capture import Capture, refusal
from .readings import Result, forward_ahead

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]

# Told apart from the order's generator, which has the same seed, by numpy's spawn key.
_AUGMENT_STREAM = (1,)


class NotFiniteError(NumbaconvError, FloatingPointError):
    """A loss, or a norm of gradients, that is infinite or not a number."""


class Learner:
    """Takes steps. What it needs besides the batches is given once."""

    def __init__(
        self,
        model: Any,
        loss: Any,
        optimizer: Any,
        schedule: Callable[[int], float] | None,
        clip_norm: float | None,
        augment: Augment | None,
        seed: int,
        device: str,
        capture: bool,
    ) -> None:
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.schedule, self.clip_norm, self.augment, self.seed = schedule, clip_norm, augment, seed
        self.backend, index = backend_at(device, "fit")
        self._feed = self.backend.feeder(index)
        self._capture: Capture | None = None
        if capture:
            reason = refusal(model, loss, optimizer)
            if reason:
                _warn(reason)
            else:
                self._capture = Capture(model, optimizer, self.backend, index)

    def batches(
        self, x: np.ndarray, y: np.ndarray, batch_size: int, epoch: int, step: int
    ) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        """((x, y) on the host, (x, y) on the device) of one epoch (from 0), which begins with this step."""
        return self._feed(self._augmented(batches(x, y, batch_size, seed=self.seed, epoch=epoch), step))

    def _augmented(self, pairs: Any, step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number, (xb, yb) in enumerate(pairs, step):
            if self.augment is not None:
                key = np.random.SeedSequence((self.seed, number), spawn_key=_AUGMENT_STREAM)
                xb = self.augment(xb, np.random.default_rng(key))
            yield xb, yb

    def learn(self, step: int, x: Any, y: Any) -> Result:
        """Learns one batch. Contexts die with this frame, so the next step reuses their memory."""
        if self.schedule is not None:
            self.optimizer.lr = self.schedule(step)
        lr = float(self.optimizer.lr)
        result = self._passes(x, y, lambda value: require_finite(value, lambda v: _not_finite("loss", v, step, lr)))
        if self.clip_norm is not None:
            norm = clip_gradients(self.model.parameters(), self.clip_norm)
            require_finite(norm, lambda v: _not_finite("norm of all gradients", v, step, lr))
        self.optimizer.step()
        return result

    def _passes(self, x: Any, y: Any, check: Callable[[Any], None]) -> Result:
        """Forward and backward; the gradients are in the parameters."""
        if self._capture is not None:
            try:
                result = self._capture.passes(x, y, lambda: self._forward_backward(x, y, lambda value: None))
                check(result.loss)
                return result
            except DeviceError as error:
                self._capture = None
                _warn(str(error))
        return self._forward_backward(x, y, check)

    def _forward_backward(self, x: Any, y: Any, check: Callable[[Any], None]) -> Result:
        output, ctx = self.model.forward_ctx(x)
        value, loss_ctx = forward_ahead(self.loss, output, y)
        check(value)
        self.optimizer.zero_grad()
        self.model.backward_ctx(self.loss.backward_ctx(loss_ctx), ctx, needs_input=False)
        return Result(value, output)


def _warn(reason: str) -> None:
    warnings.warn(message("fit", "capture is off, every step is done as it comes", reason=reason), stacklevel=4)


def _not_finite(name: str, value: float, step: int, lr: float) -> NotFiniteError:
    return NotFiniteError(
        message(
            "fit",
            f"the {name} must stay finite; the weights are those before this step",
            "Look for NaN in the data; try a lower learning rate, warm-up or clip_norm.",
            value=value,
            step=step,
            lr=lr,
        )
    )
