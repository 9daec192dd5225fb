"""Everything that can be wrong with the data, found before the first step instead of in the middle of a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import place_of, to_device, to_host
from ..errors import ArgumentError, DTypeError, LabelError, ShapeError, message
from ..nn import Module
from .modes import evaluating


def model_device(model: Any) -> str:
    """Where the model's parameters are; "cpu" if it has none."""
    if not isinstance(model, Module):
        return getattr(model, "device", "cpu")
    parameter = next(iter(model.parameters()), None)
    return "cpu" if parameter is None else place_of(parameter.data)


def _model_dtype(model: Any) -> np.dtype | None:
    """What x must be of; None if the model has no parameters, or is a function that does not say."""
    if not isinstance(model, Module):
        return getattr(model, "dtype", None)
    parameter = next(iter(model.parameters()), None)
    return None if parameter is None else np.dtype(parameter.data.dtype)


def _host_array(op: str, name: str, value: Any, asarray: str) -> np.ndarray:
    if not hasattr(value, "shape"):
        fix = f"Lists: numpy.{asarray}."
        raise DTypeError(message(op, f"{name} must be an array", fix, **{f"type({name})": type(value).__name__}))
    return to_host(value)


def check_inputs(op: str, model: Any, x: Any) -> np.ndarray:
    """`x` on the host, of the model's dtype, with its samples along the first axis."""
    x = _host_array(op, "x", x, 'asarray(x, dtype="float32")')
    if x.dtype.newbyteorder("=") not in (np.float32, np.float64):
        fix = 'Images: x.astype("float32") / 255.' if x.dtype.kind in "iu" else 'Convert it: x.astype("float32").'
        raise DTypeError(message(op, "x must be float32 or float64", fix, x__dtype=str(x.dtype)))
    if x.ndim < 2:
        raise ShapeError(message(op, "x must have its samples along the first of two or more axes", x__shape=x.shape))
    expected = _model_dtype(model)
    if expected is not None and expected != x.dtype.newbyteorder("="):
        dtype = expected.name
        raise DTypeError(
            message(
                op,
                "x must have the dtype of the model's parameters",
                f'Convert it: x.astype("{dtype}").',
                x__dtype=str(x.dtype),
                parameters=dtype,
            )
        )
    return x


def check_samples(op: str, model: Any, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets on the host: one of each, at least one, of usable dtypes."""
    x, y = check_inputs(op, model, x), _host_array(op, "y", y, "asarray(y)")
    if y.ndim == 0 or len(x) != len(y):
        raise ShapeError(message(op, "x and y must hold equally many samples", x__shape=x.shape, y__shape=y.shape))
    if len(x) == 0:
        raise ShapeError(message(op, "there must be at least one sample", x__shape=x.shape))
    if y.dtype.kind not in "iuf":
        fix = "Class labels: y.astype(numpy.int64)."
        raise DTypeError(message(op, "y must hold integers (classes) or floats", fix, y__dtype=str(y.dtype)))
    return x, y


def check_targets(op: str, model: Any, loss: Any, x: np.ndarray, y: np.ndarray) -> None:
    """Tries the model on one sample, in eval mode, and holds all labels against the number of its outputs.

    Raises:
        ShapeError, DTypeError: the model's or the loss's own, if the sample does not go through.
        DTypeError: floats where classes belong.
        LabelError: a label outside 0 .. classes - 1; says where.
    """
    ignore_index = getattr(loss, "ignore_index", None)
    if ignore_index is not None and y.dtype.kind == "f" and y.ndim == 1:
        raise DTypeError(
            message(op, "class labels must be integers", "Convert them: y.astype(numpy.int64).", y__dtype=str(y.dtype))
        )
    device = model_device(model)
    with evaluating(model):
        output = model(to_device(x[:1], device))
    if output.ndim < 2 or len(output) != 1:
        raise ShapeError(
            message(
                op,
                "the model must give one output (N, ...) for each sample",
                x__shape=x[:1].shape,
                output__shape=output.shape,
            )
        )
    if ignore_index is not None and y.dtype.kind in "iu":
        wrong = ((y < 0) | (y >= output.shape[1])) & (y != ignore_index)
        if wrong.any():
            first = tuple(int(i[0]) for i in np.nonzero(wrong))
            where = ", ".join(map(str, first))
            raise LabelError(
                message(
                    op,
                    f"labels must be 0 to {output.shape[1] - 1}, one for each output of the model",
                    **{f"y[{where}]": y[first].item()},
                )
            )
    loss.forward_ctx(output, to_device(y[:1], device))


def check_validation(op: str, validation: Any) -> None:
    """Says early what forms `validation` may have."""
    if isinstance(validation, float) and 0 < validation < 1:
        return
    if isinstance(validation, (tuple, list)) and len(validation) == 2:
        return
    raise ArgumentError(
        message(op, "validation must be (x, y), or a fraction between 0 and 1", validation=type(validation).__name__)
    )
