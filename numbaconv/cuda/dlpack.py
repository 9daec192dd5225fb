"""DLPack capsules by ctypes: the structure `DLManagedTensor` of dlpack.h, read and written.

A capsule called "dltensor" owns its tensor until somebody takes it: then it is called "used_dltensor", and the taker
calls the tensor's deleter when it is done.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

CPU, CUDA = 1, 2
_NAME, _USED_NAME = b"dltensor", b"used_dltensor"
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_KINDS = {code: kind for kind, code in _CODES.items()}


class _Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("index", ctypes.c_int32))


class _DType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),  # in elements; NULL: C order
        ("byte_offset", ctypes.c_uint64),
    )


class _ManagedTensor(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_ManagedTensor))
_ManagedTensor._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))

_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _api(name: str, result: Any, *arguments: Any) -> Any:
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.PYFUNCTYPE(result, *arguments))


# By address (c_void_p), for a capsule that is being destroyed may not be counted as referenced once more.
_capsule_new = _api("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor)
_capsule_is_valid = _api("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_capsule_pointer = _api("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_capsule_rename = _api("PyCapsule_SetName", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)


class Tensor:
    """A tensor taken from a capsule; the producer may have it back when this object is gone."""

    def __init__(self, managed: Any) -> None:
        self._managed = managed
        tensor = managed.contents.tensor
        self.address = int(tensor.data or 0) + tensor.byte_offset
        self.shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
        self.dtype = _dtype(tensor.dtype)
        self.strides: tuple[int, ...] | None = None
        if tensor.strides:
            self.strides = tuple(tensor.strides[axis] * self.dtype.itemsize for axis in range(tensor.ndim))

    def __del__(self) -> None:
        if self._managed.contents.deleter:
            self._managed.contents.deleter(self._managed)


def read(capsule: Any) -> Tensor:
    """Takes the tensor out of a capsule.

    Raises:
        ValueError: an element type NumPy has not, or a capsule that was taken before.
    """
    if not _capsule_is_valid(id(capsule), _NAME):
        raise ValueError("the DLPack capsule is of another version, or was taken before")
    managed = ctypes.cast(_capsule_pointer(id(capsule), _NAME), ctypes.POINTER(_ManagedTensor))
    _dtype(managed.contents.tensor.dtype)  # before it is taken
    _capsule_rename(id(capsule), _USED_NAME)
    return Tensor(managed)


def _dtype(dtype: _DType) -> np.dtype:
    if dtype.code not in _KINDS or dtype.lanes != 1:
        raise ValueError(f"its element type is not NumPy's: DLPack code {dtype.code}, {dtype.bits} bits")
    return np.dtype(f"{_KINDS[dtype.code]}{dtype.bits // 8}")


# --- out ----------------------------------------------------------------------------------------------------

# Tensors that others hold, by the address of their structure: what must stay alive until they are deleted.
_lent: dict[int, tuple[Any, ...]] = {}


def write(array: Any, device_type: int = CUDA) -> Any:
    """A capsule of a device array, which stays alive as long as somebody holds the capsule's tensor."""
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    strides = (ctypes.c_int64 * array.ndim)(*(s // array.itemsize for s in array.strides))
    managed = _ManagedTensor()
    managed.tensor = _Tensor(
        data=array.address,
        device=_Device(device_type, array.device),
        ndim=array.ndim,
        dtype=_DType(_CODES[array.dtype.kind], 8 * array.itemsize, 1),
        shape=shape,
        strides=strides,
        byte_offset=0,
    )
    managed.deleter = _delete
    address = ctypes.addressof(managed)
    _lent[address] = managed, shape, strides, array
    return _capsule_new(address, _NAME, _destroy)


@_Deleter
def _delete(managed: Any) -> None:
    _lent.pop(ctypes.addressof(managed.contents), None)


@_Destructor
def _destroy(capsule: int) -> None:
    """A capsule is gone: if nobody took its tensor, that goes too."""
    if _capsule_is_valid(capsule, _NAME):
        _lent.pop(_capsule_pointer(capsule, _NAME), None)
