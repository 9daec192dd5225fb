"""Which backend owns an array, and moving arrays between devices.

The only file that knows which backends there are. Each is one row: its name, its package, and how its arrays
are told. ``cuda`` is imported when the first array or device name asks for it, never before.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from . import cpu
from .errors import ArgumentError, DeviceError, DTypeError, message

_DLPACK_CPU, _DLPACK_CUDA = 1, 2
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


class Row(NamedTuple):
    """One backend.

    Attributes:
        package: where its ops are.
        owns: whether an array lives there.
        install: what to do where it cannot be loaded.
        take: (package, op, name of an argument, array that lives there) -> the same as its own kind of array.
    """

    package: str
    owns: Callable[[Any], bool]
    install: str
    take: Callable[[ModuleType, str, str, Any], Any] = lambda package, op, name, x: x


def _owned_by_cuda(x: Any) -> bool:
    if hasattr(x, "__cuda_array_interface__") or hasattr(x, "__cuda_ndarray__"):
        return True
    device = getattr(x, "__dlpack_device__", None)
    return device is not None and device()[0] == _DLPACK_CUDA


ROWS: dict[str, Row] = {
    "cuda": Row(
        "numbaconv.cuda",
        _owned_by_cuda,
        'It needs an NVIDIA GPU, its driver, and `pip install "numbaconv[cuda13]"` (or "[cuda12]", for drivers before '
        "580).",
        lambda package, op, name, x: package.as_device_array(op, name, x),
    ),
}
_loaded: dict[str, ModuleType] = {"cpu": cpu}
_own_types: dict[type, str] = {}  # each backend's own kind of array


def load_backend(name: str, op: str = "backend") -> ModuleType:
    """The package of a backend by name ("cpu", "cuda").

    Raises:
        DeviceError: if there is none of that name, or it cannot be loaded; says what to install.
    """
    if name in _loaded:
        return _loaded[name]
    if name not in ROWS:
        raise DeviceError(message(op, f"device must be one of cpu, {', '.join(ROWS)}", device=name))
    try:
        module = importlib.import_module(ROWS[name].package)
    except ImportError as error:
        raise DeviceError(
            message(op, f"the {name} backend is not available here", ROWS[name].install, reason=str(error))
        ) from None
    _loaded[name] = module
    _own_types[module.DeviceArray] = name
    return module


def device_of(x: Any, op: str = "device_of", name: str = "x") -> str:
    """The name of the backend that owns an array: "cpu", "cuda".

    Raises:
        DTypeError: if it is no array at all.
    """
    return "cpu" if isinstance(x, np.ndarray) else _device_of(x, op, name)


def place_of(x: Any) -> str:
    """The device an array is on, as `to_device` takes it: "cpu", "cuda:1"."""
    device = device_of(x)
    if device == "cpu":
        return device
    return f"{device}:{getattr(own_array('place_of', 'x', x), 'device', 0)}"


def _device_of(x: Any, op: str, name: str) -> str:
    if type(x) in _own_types:
        return _own_types[type(x)]
    for device, row in ROWS.items():
        if row.owns(x):
            return device
    device_method = getattr(x, "__dlpack_device__", None)
    if device_method is not None and device_method()[0] == _DLPACK_CPU:
        return "cpu"
    raise DTypeError(
        message(
            op,
            f"{name} must be an array (NumPy, or any with DLPack)",
            'Lists and scalars: numpy.asarray(x, dtype="float32").',
            **{f"type({name})": type(x).__name__},
        )
    )


def _split_device(device: str, op: str) -> tuple[str, int]:
    """Device and index of a name: ("cuda", 1) for "cuda:1"."""
    if not isinstance(device, str):
        raise ArgumentError(message(op, 'device must be a name like "cpu", "cuda" or "cuda:1"', device=device))
    name, _, index = device.partition(":")
    if index and not index.isdigit():
        raise ArgumentError(message(op, 'device must be a name like "cpu", "cuda" or "cuda:1"', device=device))
    return name, int(index or 0)


def backend_at(device: str, op: str = "backend") -> tuple[ModuleType, int]:
    """The backend and the number of a device: of "cuda:1", cuda's and 1.

    Raises:
        DeviceError: if there is none of that name, or it cannot be loaded; says what to install.
    """
    name, index = _split_device(device, op)
    return load_backend(name, op), index


def to_device(x: Any, device: str) -> Any:
    """The array on `device` ("cpu", "cuda", "cuda:1"); itself if it is there already.

    Raises:
        DeviceError: if the device is not there; says what to install.
    """
    name, index = _split_device(device, "to_device")
    target = load_backend(name, "to_device")
    own = own_array("to_device", "x", x)
    if target is cpu:
        return to_host(own)
    if device_of(own) == name and own.device == index:
        return own
    return target.to_device(to_host(own), index)


def to_host(x: Any) -> np.ndarray:
    """The array as a NumPy array; itself if it is one, zero-copy if it is a DLPack array on the CPU."""
    x = own_array("to_host", "x", x)
    return x if isinstance(x, np.ndarray) else load_backend(device_of(x), "to_host").to_host(x)


def own_array(op: str, name: str, x: Any) -> Any:
    """Any array as its backend's own kind, without a copy: an ndarray, or a device array.

    Raises:
        DTypeError: if it cannot be taken.
    """
    device = "cpu" if isinstance(x, np.ndarray) else _device_of(x, op, name)
    if device == "cpu":
        return _host_array(op, name, x)
    return ROWS[device].take(load_backend(device, op), op, name, x)


def _host_array(op: str, name: str, x: Any) -> np.ndarray:
    """Anything that lives on the CPU as a plain ndarray, without a copy."""
    if isinstance(x, np.ma.MaskedArray):
        raise DTypeError(
            message(
                op, f"{name} must not be a masked array", "Fill it first: x.filled(0).", **{f"{name}__shape": x.shape}
            )
        )
    if isinstance(x, np.ndarray):
        return x if type(x) is np.ndarray else np.asarray(x)
    try:
        return np.from_dlpack(x)
    except (BufferError, RuntimeError, TypeError) as error:
        raise DTypeError(
            message(
                op,
                f"{name} could not be taken as an array",
                "A PyTorch tensor that requires grad: x.detach().",
                **{f"type({name})": type(x).__name__, "reason": str(error)},
            )
        ) from None


def _wrong_dtype(op: str, name: str, dtype: Any) -> DTypeError:
    fix = f'Convert it: {name}.astype("float32").'
    if getattr(dtype, "kind", "") in "iu":
        fix = f'Images: {name}.astype("float32") / 255.'
    return DTypeError(message(op, f"{name} must be float32 or float64", fix, **{f"{name}__dtype": str(dtype)}))


def _native(op: str, name: str, x: Any) -> Any:
    """A CPU array as backends expect it: ndarray, float32 or float64, native byte order, aligned, whole strides."""
    x = _host_array(op, name, x)
    dtype = x.dtype.newbyteorder("=")
    if dtype not in (_FLOAT32, _FLOAT64):
        raise _wrong_dtype(op, name, x.dtype)
    if x.dtype != dtype or not x.flags.aligned or any(stride % dtype.itemsize for stride in x.strides):
        x = x.astype(dtype, order="K", copy=True)
    return x


def enter(op: str, optional: tuple[str, ...] = ("bias",), /, **arrays: Any) -> tuple[Any, ...]:
    """The backend of these arrays, then the arrays as it expects them; None stays None where it is `optional`.

    Raises:
        DTypeError: not an array, not float32 or float64, or several dtypes.
        DeviceError: arrays of more than one device.
    """
    # The usual case in few tests; everything else goes the long way.
    dtype = None
    for x in arrays.values():
        if type(x) is not ndarray:
            if x is None and all(name in optional for name, y in arrays.items() if y is None):
                continue
            return _enter_slowly(op, optional, arrays)
        other, dtype = dtype, x.dtype
        if dtype is not other and (other is not None or (dtype is not _FLOAT32 and dtype is not _FLOAT64)):
            return _enter_slowly(op, optional, arrays)
        if not x.flags.aligned:
            return _enter_slowly(op, optional, arrays)
    return cpu, *arrays.values()


def _enter_own(optional: tuple[str, ...], arrays: dict[str, Any]) -> tuple[Any, ...] | None:
    """The usual case on another device: its own arrays, all of one dtype and place. None: it is not that."""
    kind = dtype = place = None
    for name, x in arrays.items():
        if x is None and name in optional:
            continue
        if kind is None:
            kind = type(x)
            if kind not in _own_types:
                return None
            dtype, place = x.dtype, x.device
        elif type(x) is not kind or x.dtype is not dtype or x.device != place:
            return None
    if dtype is not _FLOAT32 and dtype is not _FLOAT64:
        return None
    return _loaded[_own_types[kind]], *arrays.values()  # type: ignore[index]


def _enter_slowly(op: str, optional: tuple[str, ...], arrays: dict[str, Any]) -> tuple[Any, ...]:
    own = _enter_own(optional, arrays)
    if own is not None:
        return own
    present = {name: x for name, x in arrays.items() if x is not None or name not in optional}
    devices = {name: "cpu" if isinstance(x, np.ndarray) else _device_of(x, op, name) for name, x in present.items()}
    _require_one_device(op, devices)
    device = next(iter(devices.values()))
    backend = load_backend(device, op)
    if device == "cpu":
        present = {name: _native(op, name, x) for name, x in present.items()}
    else:
        present = {name: ROWS[device].take(backend, op, name, x) for name, x in present.items()}
        _require_one_device(op, {name: f"{device}:{getattr(x, 'device', 0)}" for name, x in present.items()})
    for name, x in present.items():
        if np.dtype(x.dtype) not in (_FLOAT32, _FLOAT64):
            raise _wrong_dtype(op, name, x.dtype)
    dtypes = {f"{name}__dtype": str(x.dtype) for name, x in present.items()}
    if len(set(dtypes.values())) > 1:
        names = " and ".join(present)
        raise DTypeError(message(op, f"{names} must have one dtype", 'Convert one: x.astype("float32").', **dtypes))
    return backend, *(present.get(name) for name in arrays)


def _require_one_device(op: str, devices: dict[str, str]) -> None:
    if len(set(devices.values())) > 1:
        raise DeviceError(
            message(op, "all arrays must be on one device", "Move them with to_device or model.to(device).", **devices)
        )


def in_channels_last(op: str, x: Any) -> Any:
    """A 4-D array with C innermost in memory (itself if it is so), anything else as it is."""
    if len(getattr(x, "shape", ())) != 4:
        return x
    # The usual case in few tests: networks ask after every layer.
    if type(x) is np.ndarray and (x.dtype is _FLOAT32 or x.dtype is _FLOAT64) and x.flags.aligned:
        return cpu.channels_last(x)
    backend, x = enter(op, x=x)
    return backend.channels_last(x)


def channels_last(x: Any) -> Any:
    """The same logical (N, C, H, W) array with C innermost in memory; itself if it is so already."""
    backend, x = enter("channels_last", x=x)
    return backend.channels_last(x)


def layout_of(x: Any) -> str:
    """How (N, C, H, W) lies in memory: "channels_first" or "channels_last".

    A C-contiguous array is channels_first (that wins ties), but for a one-channel array that `channels_last` made;
    anything else follows the stride of C.
    """
    backend, x = enter("layout_of", x=x)
    return backend.layout_of(x)
