"""Going once through data without learning from it."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np

from ..arguments import integer
from ..backend import backend_at, to_host
from ..data import batches
from ..errors import ShapeError, message
from ..nn import CrossEntropyLoss
from .checks import check_inputs, check_samples, check_targets, model_device
from .metrics import RunningMetrics
from .modes import evaluating
from .readings import Arrivals, Readings, Result, forward_ahead


class Evaluation(NamedTuple):
    """How good a model is on some data."""

    loss: float  # mean over samples
    accuracy: float | None  # 0 to 1; None where the targets are not classes
    images_per_second: float


def evaluate(model: Any, x: Any, y: Any, *, batch_size: int = 256, loss: Any = None) -> Evaluation:
    """Mean loss and accuracy of a model in eval mode. Changes neither its mode nor its state.

    Args:
        model: an `nn.Module`, what its `prepare` returned, or any function of x.
        x: float32 or float64 (N, ...), N at least 1.
        y: targets (N, ...) as the loss takes them: int classes, probabilities, or values.
        batch_size: samples at a time; the result depends on it by rounding only.
        loss: an `nn` loss; None: `nn.CrossEntropyLoss()`.

    Returns:
        Evaluation(loss, accuracy, images_per_second).

    Raises:
        ShapeError, DTypeError, LabelError: if the data do not fit together or to the model.
    """
    batch_size = integer("evaluate", "batch_size", batch_size, 1)
    loss = CrossEntropyLoss() if loss is None else loss
    x, y = check_samples("evaluate", model, x, y)
    check_targets("evaluate", model, loss, x, y)
    return evaluate_checked(model, loss, x, y, batch_size)


def evaluate_checked(model: Any, loss: Any, x: np.ndarray, y: np.ndarray, batch_size: int) -> Evaluation:
    """`evaluate` for data that were checked before."""
    backend, index = backend_at(model_device(model), "evaluate")
    metrics = RunningMetrics(loss)
    readings = Readings(backend, metrics)
    start = time.perf_counter()
    with evaluating(model), backend.reuse_buffers():
        for (_, target), (xb, yb) in backend.feeder(index)(batches(x, y, batch_size, shuffle=False)):
            output = model(xb)
            value, _ = forward_ahead(loss, output, yb)
            readings.add(Result(value, output), target)
        readings.finish()
    seconds = time.perf_counter() - start
    return Evaluation(metrics.loss, metrics.accuracy, len(x) / seconds)


def predict(model: Any, x: Any, *, batch_size: int = 256) -> np.ndarray:
    """The outputs of a model in eval mode. Changes neither its mode nor its state.

    Args:
        model: an `nn.Module`, what its `prepare` returned, or any function of x.
        x: float32 or float64 (N, ...); N may be 0.
        batch_size: samples at a time.

    Returns:
        The model's outputs, (N, ...), on the host; classes are ``predict(model, x).argmax(axis=1)``.

    Raises:
        ShapeError, DTypeError: if x does not fit to the model.
    """
    batch_size = integer("predict", "batch_size", batch_size, 1)
    x = check_inputs("predict", model, x)
    backend, index = backend_at(model_device(model), "predict")
    arrivals = Arrivals(backend)
    starts = range(0, max(len(x), 1), batch_size)  # an empty x goes through once, for the result's shape
    result: np.ndarray | None = None
    with evaluating(model), backend.reuse_buffers():
        batches_of_x = ((x[start : start + batch_size],) for start in starts)
        for start, ((xb,), (given,)) in zip(starts, backend.feeder(index)(batches_of_x), strict=True):
            for (output,), (first, count) in arrivals.add((model(given),), (start, len(xb))):
                result = _joined(result, x, first, count, to_host(output))
        for (output,), (first, count) in arrivals.rest():
            result = _joined(result, x, first, count, to_host(output))
    assert result is not None
    return result


def _joined(result: np.ndarray | None, x: np.ndarray, first: int, count: int, output: np.ndarray) -> np.ndarray:
    """`result`, made if it is not there yet, with the output of samples first .. first + count - 1."""
    if output.ndim == 0 or len(output) != count:
        raise ShapeError(
            message(
                "predict",
                "the model must give one output for each sample",
                x__shape=(count, *x.shape[1:]),
                output__shape=output.shape,
            )
        )
    if result is None:
        result = np.empty((len(x), *output.shape[1:]), output.dtype)
    result[first : first + count] = output
    return result
