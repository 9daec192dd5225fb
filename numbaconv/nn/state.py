"""A model's parameters and buffers as a flat dict of arrays, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..backend import place_of, to_device, to_host
from ..errors import DTypeError, StateDictError, message
from .parameter import Parameter

if TYPE_CHECKING:
    from .module import Module


def join(prefix: str, name: str) -> str:
    """Dotted names: ("0", "weight") gives "0.weight"."""
    return f"{prefix}.{name}" if prefix else name


def walk(module: Module, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Module]]:
    """(dotted name, module) of a module and everything below; each once if `seen` is a set."""
    if seen is not None:
        if id(module) in seen:
            return
        seen.add(id(module))
    yield prefix, module
    for name, child in module.named_children():
        yield from walk(child, join(prefix, name), seen)


class Entry(NamedTuple):
    """One array of a model: attribute `attribute` of a Parameter or (a buffer) of a Module."""

    key: str
    holder: Any
    attribute: str

    @property
    def value(self) -> Any:
        """The array."""
        return getattr(self.holder, self.attribute)

    def assign(self, value: Any) -> None:
        """Puts another array in its place."""
        setattr(self.holder, self.attribute, value)


def entries(module: Module, seen: set[int] | None = None) -> Iterator[Entry]:
    """Every parameter and buffer in PyTorch's order; a shared layer under each of its names unless `seen`."""
    for prefix, owner in walk(module, seen=seen):
        for name, parameter in owner._members(Parameter):
            yield Entry(join(prefix, name), parameter, "data")
        for name in owner.buffer_names:
            if getattr(owner, name) is not None:
                yield Entry(join(prefix, name), owner, name)


def transform(module: Module, function: Callable[[Any], Any]) -> None:
    """Replaces every floating-point array (data, gradients, buffers) by `function` of it: all of them, or none."""
    found = list(entries(module, seen=set()))
    found += [Entry(key, holder, "grad") for key, holder, attribute in found if attribute == "data"]
    floating = [entry for entry in found if entry.value is not None and np.dtype(entry.value.dtype).kind == "f"]
    results = [(entry, function(entry.value)) for entry in floating]
    for entry, value in results:
        entry.assign(value)


def float_dtype(dtype: Any) -> np.dtype:
    """float32 or float64 as a NumPy dtype.

    Raises:
        DTypeError: for anything else.
    """
    try:
        name = "" if dtype is None else np.dtype(dtype).name  # np.dtype(None) would be float64
    except TypeError:
        name = ""
    if name not in ("float32", "float64"):
        raise DTypeError(message("astype", 'dtype must be "float32" or "float64"', dtype=dtype))
    return np.dtype(name)


def state_dict(module: Module) -> dict[str, np.ndarray]:
    """Copies of every parameter and buffer on the host, C-contiguous."""
    return {entry.key: np.array(to_host(entry.value), order="C", copy=True) for entry in entries(module)}


class Mismatch(NamedTuple):
    """Names of the model that the state dict lacks, and names it has that the model lacks."""

    missing: list[str]
    unexpected: list[str]


def load_state_dict(module: Module, values: Mapping[str, Any], strict: bool = True) -> Mismatch:
    """See `Module.load_state_dict`: everything is converted and checked before the first array is replaced."""
    if not isinstance(values, Mapping):
        rule = "state_dict must map names to arrays"
        fix = "A file: numbaconv.io.load_state(path, model)."
        raise DTypeError(message("load_state_dict", rule, fix, **{"type(state_dict)": type(values).__name__}))
    found = list(entries(module))
    known = {entry.key for entry in found}
    missing = [entry.key for entry in found if entry.key not in values]
    unexpected = [key for key in values if key not in known]
    wrong: dict[str, str] = {}
    loaded: list[tuple[Entry, Any]] = []
    for entry in found:
        if entry.key in values:
            value = _fitting(values[entry.key], entry.value)
            if isinstance(value, str):
                wrong[entry.key] = value
            else:
                loaded.append((entry, value))
    if wrong or (strict and (missing or unexpected)):
        _refuse(module, missing, unexpected, wrong, strict)
    for entry, value in loaded:
        entry.assign(value)
    return Mismatch(missing, unexpected)


def _fitting(value: Any, present: Any) -> Any:
    """A copy of `value` with the dtype and device of the present array; or (a str) why it does not fit."""
    if hasattr(value, "detach"):
        value = value.detach()  # a PyTorch parameter refuses DLPack while it requires a gradient
    try:
        array = to_host(value)
    except DTypeError as error:
        return str(error)
    if array.shape != tuple(present.shape):
        return f"shape {array.shape} instead of {tuple(present.shape)}"
    target = np.dtype(present.dtype)
    if array.dtype.kind not in ("f" if target.kind == "f" else "iu"):
        return f"dtype {array.dtype} instead of {target}"
    return to_device(np.array(array, target, order="C", copy=True), place_of(present))


def _refuse(module: Module, missing: list[str], unexpected: list[str], wrong: dict[str, str], strict: bool) -> None:
    """Raises one StateDictError that names every key at fault."""
    faults: dict[str, Any] = {}
    if strict and missing:
        faults["missing"] = missing
    if strict and unexpected:
        faults["unexpected"] = unexpected
    if wrong:
        faults["misshapen"] = wrong
    fix = "The model is unchanged."
    if strict and not wrong:
        fix += " strict=False loads the names that both have."
    rule = f"names and shapes must be those of the {type(module).__name__}"
    raise StateDictError(message("load_state_dict", rule, fix, **faults))
