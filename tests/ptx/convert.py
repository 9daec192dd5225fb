"""cvt and cvta: between types, rounded as the opcode says.

Half-precision types are 16 bits to the rest of the interpreter; here they become float32 and come from float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import arithmetic
from .decode import Decoder, Step, elementwise
from .memory import LOCAL_WINDOW, SHARED_WINDOW, WINDOW_BITS
from .syntax import Instruction, PtxSyntaxError
from .types import DTYPES, is_signed, size_of

TO_INTEGER = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
FLOATS = ("f16", "bf16", "f32", "f64")


def to_wide(x, type_name: str):
    """A floating-point operand as float32 or float64, exactly."""
    if type_name == "f16":
        return x.view(np.float16).astype(np.float32)
    if type_name == "bf16":
        return (x.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return x


def from_wide(rounding: str, type_name: str) -> Callable:
    """float32 or float64 -> a floating-point type."""
    if type_name == "f64":
        return lambda x: x.astype(np.float64)
    if type_name == "f32":
        to_float32 = arithmetic.narrow(rounding)
        return lambda x: x if x.dtype == np.float32 else to_float32(x)
    if type_name == "f16":
        if rounding != "rn":
            raise PtxSyntaxError(f"cvt.{rounding} to f16 is not interpreted")
        return lambda x: x.astype(np.float16).view(np.uint16)
    return lambda x: to_bfloat16(x.astype(np.float32), rounding)


def to_bfloat16(x, rounding: str):
    """The upper half of a float32, to nearest even or towards zero."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    if rounding == "rn":
        bits = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return np.where(np.isnan(x), np.uint16(0x7FFF), (bits >> np.uint32(16)).astype(np.uint16))


def to_tf32(x, rounding: str):
    """float32 with 10 bits of fraction: .rna (nearest, ties away), .rn (ties to even), .rz."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    extra = {"rna": np.uint32(0x1000), "rn": np.uint32(0xFFF) + (bits >> np.uint32(13) & np.uint32(1)), "rz": 0}
    rounded = (bits + extra[rounding]) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(x), rounded, np.where(np.isnan(x), np.uint32(0x7FFFFFFF), bits))


def float_to_integer(rounding: str, target: str, source: str) -> Callable:
    """Out of range: the nearest there is. NaN: 0, or the lowest signed number if 64 bits take part."""
    dtype = DTYPES[target]
    limits = np.iinfo(dtype)
    nan = dtype.type(0)
    if source == "f64" or dtype.itemsize == 8:
        nan = np.array(1 << (8 * dtype.itemsize - 1), f"u{dtype.itemsize}").view(dtype)[()]
    over = np.float64(2.0) ** (8 * dtype.itemsize - (1 if is_signed(target) else 0))

    def convert(x):
        whole = TO_INTEGER[rounding](x.astype(np.float64))
        inside = (whole >= float(limits.min)) & (whole < over)
        out = np.where(inside, whole, 0).astype(dtype)
        out = np.where(whole >= over, dtype.type(limits.max), out)
        out = np.where(whole < float(limits.min), dtype.type(limits.min), out)
        return np.where(np.isnan(x), nan, out)

    return convert


def integer_to_float(rounding: str, target: str) -> Callable:
    """Rounded once, also from 64 bits to f32 and by direction."""
    dtype = DTYPES[target] if target in ("f32", "f64") else np.dtype(np.float32)

    def convert(x):
        nearest = x.astype(dtype)
        if rounding == "rn" or x.dtype.itemsize < 4:
            return nearest
        # Both halves are exact in float64; what is left of them after `nearest` has the sign of the error.
        high, low = x >> x.dtype.type(x.dtype.itemsize * 4), x & x.dtype.type((1 << x.dtype.itemsize * 4) - 1)
        rest = high.astype(np.float64) * 2.0 ** (x.dtype.itemsize * 4) - nearest.astype(np.float64)
        return arithmetic.step(nearest, rest + low.astype(np.float64), rounding, np.True_)

    return convert


def integer_to_integer(target: str, saturates: bool) -> Callable:
    """The low bits, or with .sat the nearest number there is."""
    dtype = DTYPES[target]
    limits = np.iinfo(dtype)

    def clamp(x):
        own = np.iinfo(x.dtype)
        low, high = max(limits.min, own.min), min(limits.max, own.max)
        return np.clip(x, x.dtype.type(low), x.dtype.type(high)).astype(dtype)

    return clamp if saturates else lambda x: x.astype(dtype)


def convert(decoder: Decoder, instruction: Instruction) -> Step:
    """cvt."""
    target, source = instruction.parts[-2:]
    names = ("rna", "rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi")
    rounding = next((part for part in instruction.parts if part in names), "")
    operands = instruction.operands
    if target == "tf32":
        function = lambda x: to_tf32(x, rounding)  # noqa: E731
    elif target in ("f16x2", "bf16x2"):
        half = from_wide(rounding, target[:-2])
        function = lambda x, y: half(x).astype(np.uint32) << np.uint32(16) | half(y)  # noqa: E731
    elif source in FLOATS and target in FLOATS:
        function = _float_to_float(instruction, rounding, target, source)
    elif source in FLOATS:
        inner = float_to_integer(rounding, target, source)
        flushes = instruction.has("ftz") and source == "f32"
        function = lambda x: inner(arithmetic.flush(x) if flushes else to_wide(x, source))  # noqa: E731
    elif target in FLOATS:
        inner = integer_to_float(rounding, target)
        outer = from_wide(rounding, target) if target in ("f16", "bf16") else lambda x: x
        function = lambda x: outer(inner(x))  # noqa: E731
    else:
        function = integer_to_integer(target, instruction.has("sat"))
    if instruction.has("relu", "satfinite"):
        raise PtxSyntaxError(f"line {instruction.line}: {instruction.opcode} is not interpreted")
    slots = [decoder.source(operand, source) for operand in operands[1:]]
    return elementwise(function, decoder.target(operands[0], target), slots)


def _float_to_float(instruction: Instruction, rounding: str, target: str, source: str) -> Callable:
    whole = TO_INTEGER.get(rounding)
    narrow = from_wide(rounding or "rn", target)
    flushes, saturates = instruction.has("ftz"), instruction.has("sat")

    def function(x):
        x = to_wide(x, source)
        if flushes and x.dtype == np.float32:
            x = arithmetic.flush(x)
        if whole:
            x = whole(x)
        if saturates:
            x = arithmetic.saturate(x)
        out = narrow(x)
        return arithmetic.flush(out) if flushes and out.dtype == np.float32 else out

    return function


def convert_address(decoder: Decoder, instruction: Instruction) -> Step:
    """cvta: between a state space and the generic one, where shared and local memory have a window each."""
    type_name = instruction.parts[-1]
    windows = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}
    space = next((part for part in instruction.parts if part in windows), "")
    base = np.uint64(windows.get(space, 0) << WINDOW_BITS)
    if size_of(type_name) != 8:
        raise PtxSyntaxError(f"line {instruction.line}: addresses of 32 bits are not interpreted")
    target = decoder.target(instruction.operands[0], type_name)
    source = decoder.source(instruction.operands[1], type_name)
    if instruction.has("to"):
        return elementwise(lambda x: x - base, target, [source])
    return elementwise(lambda x: x + base, target, [source])


TABLE = {"cvt": convert, "cvta": convert_address}
