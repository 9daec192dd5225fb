"""Floating-point instructions.

Approximate instructions (ex2, lg2, sin, cos, tanh, rcp, rsqrt, sqrt and div with .approx) give the nearest float32 to
the exact value here; hardware is allowed a few units in the last place more, differently on every architecture.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import arithmetic
from .decode import Decoder, Step, elementwise, simple
from .syntax import Instruction, PtxSyntaxError
from .types import DTYPES

ROUNDINGS = ("rn", "rz", "rm", "rp")


def rounding_of(instruction: Instruction) -> str:
    """The rounding an opcode names; the nearest is the default."""
    return next((part for part in instruction.parts if part in ROUNDINGS), "rn")


def build(decoder: Decoder, instruction: Instruction, function: Callable) -> Step:
    """A floating-point instruction of one type, with .ftz and .sat."""
    type_name = instruction.parts[-1]
    if type_name == "f32x2":
        return packed(decoder, instruction, function)
    if type_name not in ("f32", "f64"):
        raise PtxSyntaxError(f"line {instruction.line}: no arithmetic of {type_name} here: {instruction.text}")
    return simple(decoder, instruction, with_modifiers(instruction, function), type_name)


def with_modifiers(instruction: Instruction, function: Callable) -> Callable:
    """The function between flushed operands and result, and saturated, as its opcode says."""
    flushes, saturates = instruction.has("ftz") and "f64" not in instruction.parts, instruction.has("sat")
    if not flushes and not saturates:
        return function

    def modified(*operands):
        if flushes:
            operands = [arithmetic.flush(operand) for operand in operands]
        out = function(*operands)
        if flushes:
            out = arithmetic.flush(out)
        return arithmetic.saturate(out) if saturates else out

    return modified


def packed(decoder: Decoder, instruction: Instruction, function: Callable) -> Step:
    """Two float32 in a register of 64 bits."""
    modified = with_modifiers(instruction, function)

    def both(*operands):
        halves = [np.ascontiguousarray(operand).view(np.float32) for operand in operands]
        return modified(*halves).view(np.uint64)

    return simple(decoder, instruction, both, "f32x2")


def rounded(make: Callable) -> Callable:
    """An instruction that rounds as its opcode says; `make(rounding)` gives the function."""
    return lambda decoder, instruction: build(decoder, instruction, make(rounding_of(instruction)))


def exact(function: Callable) -> Callable:
    """An instruction that never rounds."""
    return lambda decoder, instruction: build(decoder, instruction, function)


def nearest(function: Callable) -> Callable:
    """A function of float64 arrays, rounded to the type at the end."""

    def in_float64(x):
        return function(x.astype(np.float64)).astype(x.dtype)

    return in_float64


def extremum(plain: Callable, with_nan: Callable) -> Callable:
    """min, max, of two numbers or (sm_100) three; .NaN lets NaN win."""

    def make(decoder: Decoder, instruction: Instruction) -> Step:
        function = with_nan if instruction.has("NaN") else plain
        if len(instruction.operands) == 4:
            return build(decoder, instruction, lambda x, y, z: function(function(x, y), z))
        return build(decoder, instruction, function)

    return make


def copy_sign(sign, magnitude):
    """The sign of the first operand, all else of the second."""
    return np.copysign(magnitude, sign)


def test_property(decoder: Decoder, instruction: Instruction) -> Step:
    """testp: what kind of number it is."""
    type_name, name = instruction.parts[-1], instruction.parts[1]
    tiny = np.finfo(DTYPES[type_name]).tiny
    tests = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda x: ~np.isnan(x),
        "notanumber": np.isnan,
        "normal": lambda x: np.isfinite(x) & (np.abs(x) >= tiny),
        "subnormal": lambda x: (np.abs(x) < tiny) & (x != 0),
    }
    target = decoder.target(instruction.operands[0], "pred")
    return elementwise(tests[name], target, [decoder.source(instruction.operands[1], type_name)])


def reciprocal(decoder: Decoder, instruction: Instruction) -> Step:
    """rcp. The approximation in f64 has only the upper 32 bits of a number."""
    if instruction.has("approx") and instruction.parts[-1] == "f64":
        return build(decoder, instruction, lambda x: upper_half(np.divide(1.0, x)))
    divide = arithmetic.divide(rounding_of(instruction))
    return build(decoder, instruction, lambda x: divide(np.ones_like(x), x))


def reciprocal_root(decoder: Decoder, instruction: Instruction) -> Step:
    """rsqrt."""
    if instruction.parts[-1] == "f64":
        return build(decoder, instruction, lambda x: upper_half(1.0 / np.sqrt(x)))
    return build(decoder, instruction, nearest(lambda x: 1.0 / np.sqrt(x)))


def upper_half(x):
    """A float64 without the lower 32 of its bits."""
    return (np.ascontiguousarray(x).view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)


FUSED = rounded(arithmetic.multiply_add)
TABLE: dict[str, Callable[[Decoder, Instruction], Step]] = {
    "add": rounded(arithmetic.add),
    "sub": rounded(arithmetic.subtract),
    "mul": rounded(arithmetic.multiply),
    "fma": FUSED,
    "mad": FUSED,
    "div": rounded(arithmetic.divide),
    "sqrt": rounded(arithmetic.square_root),
    "rcp": reciprocal,
    "rsqrt": reciprocal_root,
    "neg": exact(np.negative),
    "abs": exact(np.abs),
    "min": extremum(arithmetic.minimum, arithmetic.minimum_nan),
    "max": extremum(arithmetic.maximum, arithmetic.maximum_nan),
    "copysign": exact(copy_sign),
    "testp": test_property,
    "ex2": exact(nearest(np.exp2)),
    "lg2": exact(nearest(np.log2)),
    "sin": exact(nearest(np.sin)),
    "cos": exact(nearest(np.cos)),
    "tanh": exact(nearest(np.tanh)),
}
