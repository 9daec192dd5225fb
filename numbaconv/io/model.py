"""Saving a model to one .safetensors file, and loading it or a bare state dict."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from .. import nn
from ..errors import FileFormatError, StateDictError, message
from ..nn import state
from .architecture import build, custom_classes, describe
from .tensors import PathLike, read_tensors, write_tensors

_KEY = "numbaconv"  # of the metadata
_FORMAT = 1


def save(model: nn.Module, path: PathLike) -> None:
    """Writes weights, buffers and architecture to a .safetensors file, which PyTorch can read as a state dict.

    The file is replaced in one step: after a failure the old one is still there. Of a model with classes of one's
    own the weights are stored, and `load` needs the model. Gradients, `trainable`, the mode, and the steps of
    Dropout are not stored.

    Args:
        model: the model.
        path: the file, by custom ``*.safetensors``.
    """
    header: dict[str, Any] = {"format": _FORMAT}
    custom = custom_classes(model)
    if custom:
        header["custom"] = custom
    else:
        header["architecture"] = describe(model)
    write_tensors(path, model.state_dict(), {_KEY: json.dumps(header)})


def load(path: PathLike, *, model: nn.Module | None = None) -> nn.Module:
    """The model in a file that `save` wrote, rebuilt without running any code from it, in training mode.

    Args:
        path: the file.
        model: loads the weights into this one instead (see `load_state`), whatever the file says of architecture.

    Returns:
        The model.

    Raises:
        FileFormatError: if the file is truncated, corrupt, or tells no architecture this library can build.
        StateDictError: if `model` is given and its names and shapes are not the file's.
    """
    if model is not None:
        load_state(path, model)
        return model
    tensors, metadata = read_tensors(path)
    built = build(_architecture(path, metadata))
    try:
        _take_dtypes(built, tensors)
        built.load_state_dict(tensors)
    except StateDictError as error:
        rule = "the weights in the file must fit the architecture in it"
        raise FileFormatError(message("load", rule, path=str(path), reason=str(error))) from None
    return built


def load_state(path: PathLike, model: nn.Module, *, strict: bool = True) -> state.Mismatch:
    """Loads weights and buffers from a .safetensors file, such as one of a PyTorch state dict, into a model.

    Args:
        path: the file.
        model: the model; values are cast to its dtype.
        strict: False lets names be missing or unexpected.

    Returns:
        (missing, unexpected) names.

    Raises:
        FileFormatError: if the file is truncated or corrupt.
        StateDictError: if names or shapes do not fit; the model is unchanged.
    """
    return model.load_state_dict(read_tensors(path)[0], strict)


def _architecture(path: PathLike, metadata: dict[str, str]) -> Any:
    """The description in the metadata."""
    name = str(path)
    if _KEY not in metadata:
        rule = "the file holds arrays but no architecture"
        raise FileFormatError(message("load", rule, "Build the model and call load(path, model=model).", path=name))
    try:
        header = json.loads(metadata[_KEY])
        version, architecture, custom = header["format"], header.get("architecture"), header.get("custom")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise FileFormatError(message("load", "the file's architecture must be valid JSON", path=name)) from None
    if version != _FORMAT:
        fix = "A newer numbaconv may have written it."
        raise FileFormatError(message("load", f"the file's format must be {_FORMAT}", fix, path=name, format=version))
    if custom:
        rule = "the file's model has classes that are not this library's"
        fix = "Build the model and call load(path, model=model)."
        raise FileFormatError(message("load", rule, fix, path=name, classes=custom))
    return architecture


def _take_dtypes(model: nn.Module, tensors: dict[str, np.ndarray]) -> None:
    """A float64 layer was saved as one: loading must not round it."""
    for entry in state.entries(model):
        array = tensors.get(entry.key)
        if array is not None and array.dtype == np.float64 and entry.value.dtype == np.float32:
            entry.assign(nn.init.placeholder(tuple(entry.value.shape), np.float64))
