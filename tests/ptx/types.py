"""The types of PTX and what they are in NumPy."""

from __future__ import annotations

import numpy as np

# Half precision types have no arithmetic here; they are moved as 16 bits, and converted (convert.py).
DTYPES: dict[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "pred": np.bool_,
        **{f"{kind}{bits}": f"{letter}{bits // 8}" for kind, letter in (("u", "u"), ("s", "i"), ("b", "u"))
           for bits in (8, 16, 32, 64)},
        "f32": np.float32,
        "f64": np.float64,
        "f16": np.uint16,
        "bf16": np.uint16,
        "f16x2": np.uint32,
        "bf16x2": np.uint32,
        "tf32": np.uint32,
        "f32x2": np.uint64,
    }.items()
}  # fmt: skip

UNSIGNED = {1: np.dtype("u1"), 2: np.dtype("u2"), 4: np.dtype("u4"), 8: np.dtype("u8")}
SIGNED = {1: np.dtype("i1"), 2: np.dtype("i2"), 4: np.dtype("i4"), 8: np.dtype("i8")}

# A NaN in float32 and, as two words of them, in float64: what memory holds before anyone has written it.
POISON = 0x7FFADEAD
POISON_BYTES = POISON.to_bytes(4, "little")


def size_of(type_name: str) -> int:
    """Bytes of a value."""
    return DTYPES[type_name].itemsize


def poisoned(shape: int | tuple[int, ...], dtype) -> np.ndarray:
    """A new array in which no element has been written yet."""
    out = np.empty(shape, dtype)
    flat = out.reshape(-1).view(np.uint8)
    flat[:] = np.resize(np.frombuffer(POISON_BYTES, np.uint8), flat.size)
    return out


def is_poison(array: np.ndarray) -> np.ndarray:
    """True where a number of 4 or 8 bytes still has the bits of the poison."""
    words = np.ascontiguousarray(array).view(UNSIGNED[array.itemsize])
    return words == (POISON if array.itemsize == 4 else POISON << 32 | POISON)


def is_float(type_name: str) -> bool:
    """A type with rounding and NaN."""
    return type_name in ("f32", "f64")


def is_signed(type_name: str) -> bool:
    """A two's complement type."""
    return type_name[0] == "s"
