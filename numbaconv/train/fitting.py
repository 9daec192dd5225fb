"""The training loop.

Randomness has no state. The order of an epoch is a function of (seed, epoch), augmentation of (seed, step),
dropout of (seed, layer, step): a run that resumes after any epoch therefore gives the very bits of one that was
never interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import integer
from ..errors import ArgumentError, message
from ..nn import CrossEntropyLoss, seed_dropout
from .checkpoint import Run, read_checkpoint, write_checkpoint
from .checks import check_samples, check_targets, check_validation, model_device
from .early_stop import EarlyStop
from .evaluation import Evaluation, evaluate_checked
from .history import EpochResult, History
from .learner import Augment, Learner, NotFiniteError
from .metrics import RunningMetrics
from .modes import restored_modes
from .progress import epoch_bar, show_metrics, wanted
from .readings import Readings

__all__ = ["NotFiniteError", "fit"]

# Told apart from the generators of order and augmentation, which have the same seed, by numpy's spawn key.
_VALIDATION_STREAM = (2,)


def fit(
    model: Any,
    x: Any,
    y: Any,
    *,
    epochs: int,
    optimizer: Any,
    batch_size: int = 64,
    loss: Any = None,
    schedule: Callable[[int], float] | None = None,
    validation: tuple[Any, Any] | float | None = None,
    early_stop: int | None = None,
    clip_norm: float | None = None,
    augment: Augment | None = None,
    seed: int = 0,
    device: str = "cpu",
    capture: bool = False,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
    on_epoch: Callable[[EpochResult], None] | None = None,
) -> History:
    """Trains a model.

    Ctrl-C (KeyboardInterrupt) and errors pass through; the checkpoint is then that of the last whole epoch, and
    `resume` goes on from there. A loss that is not finite stops the run before it reaches the weights, where PyTorch
    would go on with weights of NaN.

    Args:
        model: an `nn.Module`; moved to `device`, its modes are put back at the end.
        x: float32 or float64 (N, ...), as the parameters.
        y: targets (N, ...) as the loss takes them: int classes, probabilities, or values.
        epochs: passes over the data in all; a resumed run counts those it had done.
        optimizer: of the model's parameters; `schedule` sets its `lr`.
        batch_size: samples of a step; the last batch of an epoch may be smaller.
        loss: an `nn` loss; None: `nn.CrossEntropyLoss()`.
        schedule: learning rate of each step, a function of the step, which starts at 0 and counts across epochs.
        validation: (x, y), or the fraction of the samples (drawn by `seed`) that is kept out of training.
        early_stop: stops after this many epochs without a new lowest validation loss; whenever the run ends, the
            model then gets the weights of the best epoch.
        clip_norm: largest 2-norm of all gradients together; larger ones are scaled down.
        augment: changes a batch on the host before it is learnt, ``augment(xb, generator) -> xb``.
        seed: of the order, augmentation, dropout and validation fraction; the initial weights are the model's own.
        device: "cpu", "cuda", "cuda:1".
        capture: on a GPU, has the driver write down forward and backward passes once and do them again by itself: for
            models whose layers are small. Warns, with the reason, where that cannot be, and goes on without.
        checkpoint: safetensors file, written at the start and after every epoch, atomically.
        resume: goes on from `checkpoint` if it is there.
        progress: a bar for every epoch on stderr; None: if that is a terminal.
        on_epoch: called with the result of each epoch, after its checkpoint.

    Returns:
        History: figures of each epoch, losses of each step.

    Raises:
        ShapeError, DTypeError, LabelError: if data, model and loss do not fit together; before the first step.
        ArgumentError: for arguments out of range or that need another.
        CheckpointError, FileFormatError: if `checkpoint` is of another run, or damaged.
        NotFiniteError: if the loss of a step (or, with clip_norm, the norm of its gradients) is not finite.
        DeviceError: if the device is not there.
    """
    epochs, batch_size = integer("fit", "epochs", epochs, 0), integer("fit", "batch_size", batch_size, 1)
    seed = integer("fit", "seed", seed, 0)
    loss = CrossEntropyLoss() if loss is None else loss
    _check_options(early_stop, validation, clip_norm, checkpoint, resume)
    _check_optimizer(model, optimizer)
    model.to(device)
    optimizer.follow()
    x, y = check_samples("fit", model, x, y)
    check_targets("fit", model, loss, x, y)
    x, y, held_out = _hold_out(model, loss, x, y, validation, seed)

    history = History()
    stopper = None if early_stop is None else EarlyStop(early_stop)
    settings = {"optimizer": type(optimizer).__name__, "seed": seed, "batch_size": batch_size, "samples": len(x)}
    run = Run(settings, model, optimizer, history, stopper)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and resume and path.exists():
        read_checkpoint(path, run)
    else:
        seed_dropout(model, seed)
    if path is not None:
        write_checkpoint(path, run)  # a path that cannot be written is found now, not after an epoch

    learner = Learner(model, loss, optimizer, schedule, clip_norm, augment, seed, model_device(model), capture)
    show = wanted(progress)
    # One pool for the whole run: activations and gradients of a step lie where those of the step before lay.
    with restored_modes(model), learner.backend.reuse_buffers():
        for epoch in range(len(history.epochs) + 1, epochs + 1):
            if history.stopped_early:
                break
            result = _epoch(learner, x, y, batch_size, held_out, epoch, epochs, history.step_losses, show)
            history.epochs.append(result)
            if stopper is not None and result.validation_loss is not None:
                history.stopped_early = stopper.update(model, epoch, result.validation_loss)
            if path is not None:
                write_checkpoint(path, run)
            if on_epoch is not None:
                on_epoch(result)
    if stopper is not None:
        stopper.restore(model)
        history.best_epoch = stopper.best_epoch
    return history


def _check_options(early_stop: Any, validation: Any, clip_norm: Any, checkpoint: Any, resume: bool) -> None:
    if validation is not None:
        check_validation("fit", validation)
    if early_stop is not None:
        integer("fit", "early_stop", early_stop, 1)
        if validation is None:
            raise ArgumentError(
                message("fit", "early_stop needs validation data", "Add validation=0.1, say.", early_stop=early_stop)
            )
    if clip_norm is not None and not clip_norm > 0:
        raise ArgumentError(message("fit", "clip_norm must be positive", clip_norm=clip_norm))
    if resume and checkpoint is None:
        raise ArgumentError(message("fit", "resume needs checkpoint, the file to go on from", resume=resume))


def _check_optimizer(model: Any, optimizer: Any) -> None:
    """A model built anew beside the optimizer of the old one would learn nothing, and nobody would be told."""
    own = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in own for parameter in optimizer.parameters):
        raise ArgumentError(
            message(
                "fit",
                "optimizer must hold parameters of this model",
                "Make it after the model: optim.Adam(model.parameters()).",
            )
        )


def _hold_out(
    model: Any, loss: Any, x: np.ndarray, y: np.ndarray, validation: Any, seed: int
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """(x, y) to learn from, and (x, y) to validate on."""
    if validation is None:
        return x, y, None
    if not isinstance(validation, float):
        held_out = check_samples("fit: validation", model, *validation)
        check_targets("fit: validation", model, loss, *held_out)
        return x, y, held_out
    count = round(validation * len(x))
    if not 0 < count < len(x):
        raise ArgumentError(
            message("fit", "validation must leave samples on both sides", validation=validation, samples=len(x))
        )
    order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=_VALIDATION_STREAM)).permutation(len(x))
    learn, keep = np.sort(order[count:]), np.sort(order[:count])
    return x[learn], y[learn], (x[keep], y[keep])


def _epoch(
    learner: Learner,
    x: np.ndarray,
    y: np.ndarray,
    batch_size: int,
    held_out: tuple[np.ndarray, np.ndarray] | None,
    epoch: int,
    epochs: int,
    step_losses: list[float],
    show: bool,
) -> EpochResult:
    """One epoch (from 1), then validation. The losses of its steps join `step_losses` when it is whole."""
    metrics = RunningMetrics(learner.loss)
    readings = Readings(learner.backend, metrics)
    validated: Evaluation | None = None
    start = time.perf_counter()
    with epoch_bar(show, epoch, epochs, len(x)) as bar:
        learner.model.train()
        pairs = learner.batches(x, y, batch_size, epoch - 1, len(step_losses))
        for step, ((_, target), (xb, yb)) in enumerate(pairs, len(step_losses)):
            readings.add(learner.learn(step, xb, yb), target)
            show_metrics(bar, metrics)
            bar.update(len(target))
        readings.finish()
        trained = time.perf_counter()
        if held_out is not None:
            validated = evaluate_checked(learner.model, learner.loss, *held_out, max(batch_size, 256))
            show_metrics(bar, metrics, validated)
    step_losses += readings.losses
    return EpochResult(
        epoch=epoch,
        loss=metrics.loss,
        accuracy=metrics.accuracy,
        validation_loss=None if validated is None else validated.loss,
        validation_accuracy=None if validated is None else validated.accuracy,
        learning_rate=float(learner.optimizer.lr),
        seconds=time.perf_counter() - start,
        images_per_second=len(x) / (trained - start),
    )
