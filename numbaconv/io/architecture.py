"""A model's architecture as plain data (dicts, lists, strings, numbers), and a model from it.

Only the classes in `CLASSES` are ever built, with arguments they declare, and only from plain values: a file
cannot name other code. A module is ``{"class": name, "arguments": {...}}``; one that stands in a second place is
``{"again": i}``, the i-th module of the file counted from the front.
"""

from __future__ import annotations

import inspect
from typing import Any

from .. import nn
from ..errors import ArgumentError, FileFormatError, NumbaconvError, message

CLASSES: dict[str, type[nn.Module]] = {
    cls.__name__: cls
    for cls in (
        nn.AdaptiveAvgPool2d,
        nn.AvgPool2d,
        nn.BatchNorm2d,
        nn.Concat,
        nn.Conv2d,
        nn.ConvTranspose2d,
        nn.Dropout,
        nn.Flatten,
        nn.GELU,
        nn.LeakyReLU,
        nn.Linear,
        nn.MaxPool2d,
        nn.ReLU,
        nn.Residual,
        nn.Sequential,
        nn.SiLU,
        nn.Sigmoid,
        nn.Softmax,
        nn.Tanh,
    )
}

# Arguments that hold modules; every other argument is a plain value.
_MODULE_LISTS: dict[type[nn.Module], str] = {nn.Sequential: "layers", nn.Concat: "branches"}


def custom_classes(model: nn.Module) -> list[str]:
    """Names of the classes in a model that no file can rebuild."""
    return sorted({type(m).__name__ for m in model.modules() if CLASSES.get(type(m).__name__) is not type(m)})


def describe(model: nn.Module) -> dict[str, Any]:
    """The architecture of a model of allow-listed classes.

    Raises:
        ArgumentError: if there is a class of another kind in it.
    """
    custom = custom_classes(model)
    if custom:
        rule = "only this library's own layers can be described"
        raise ArgumentError(message("describe", rule, custom=custom))
    return _describe(model, {})


def _describe(value: Any, numbers: dict[int, int]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_describe(item, numbers) for item in value]
    if not isinstance(value, nn.Module):
        return value
    if id(value) in numbers:
        return {"again": numbers[id(value)]}
    numbers[id(value)] = len(numbers)
    arguments = {name: _describe(argument, numbers) for name, argument in value.config().items()}
    return {"class": type(value).__name__, "arguments": arguments}


def build(description: Any) -> nn.Module:
    """The model that a description from anywhere asks for; its weights are `nn.init.placeholder` arrays.

    Raises:
        FileFormatError: for an unknown class, an argument it does not have or take, or anything else amiss.
    """
    try:
        with nn.init.placeholders():
            return _build(description, [])
    except FileFormatError:
        raise
    except (NumbaconvError, TypeError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        rule = "the architecture in the file must be one that can be built"
        raise FileFormatError(message("load", rule, reason=f"{type(error).__name__}: {error}")) from None


def _build(description: Any, built: list[nn.Module | None]) -> nn.Module:
    """`built` lists the modules in the order `_describe` numbers them: a container before what it contains."""
    if not isinstance(description, dict):
        raise _malformed("a module must be a dict", description)
    if set(description) == {"again"}:
        return _earlier(description["again"], built)
    if set(description) != {"class", "arguments"} or not isinstance(description["arguments"], dict):
        raise _malformed('a module must have "class" and "arguments"', description)
    cls = CLASSES.get(description["class"]) if isinstance(description["class"], str) else None
    if cls is None:
        raise _malformed(f"class must be one of {', '.join(CLASSES)}", description["class"])
    number = len(built)
    built.append(None)
    arguments = {name: _argument(value, built) for name, value in description["arguments"].items()}
    _check_arguments(cls, arguments)
    module = cls.from_config(arguments)
    built[number] = module
    return module


def _earlier(number: Any, built: list[nn.Module | None]) -> nn.Module:
    known = type(number) is int and 0 <= number < len(built)
    module = built[number] if known else None
    if module is None:  # later in the file, or a container inside itself
        raise _malformed('"again" must be the number of a module before this one', number)
    return module


def _argument(value: Any, built: list[nn.Module | None]) -> Any:
    if isinstance(value, dict):
        return _build(value, built)
    if isinstance(value, list):
        return tuple(_argument(item, built) for item in value)
    return value


def _check_arguments(cls: type[nn.Module], arguments: dict[str, Any]) -> None:
    """Refuses what `config` never writes: names the class lacks, and `rng`."""
    listed = _MODULE_LISTS.get(cls)
    allowed = {listed} if listed else set(inspect.signature(cls).parameters) - {"rng"}
    if not set(arguments) <= allowed or (listed and not isinstance(arguments.get(listed), tuple)):
        raise _malformed(f"arguments of {cls.__name__} must be {', '.join(sorted(allowed))}", arguments)


def _malformed(rule: str, value: Any) -> FileFormatError:
    text = repr(value)
    return FileFormatError(message("load", rule, found=text if len(text) <= 200 else text[:200] + "…"))
