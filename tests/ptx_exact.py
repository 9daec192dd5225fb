"""Arithmetic from exact fractions, rounded once: what the PTX interpreter's results are compared with."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from math import isqrt

import numpy as np

# Bits of the significand, exponent of the smallest normal number, struct code, of the bits as an integer.
FORMATS = {
    "f32": (24, -126, "f", "I"),
    "f64": (53, -1022, "d", "Q"),
    "f16": (11, -14, "e", "H"),
    "bf16": (8, -126, "", ""),
}


def round_fraction(value: Fraction, format_name: str, rounding: str = "rn") -> float:
    """The number of a format next to an exact value; overflow as IEEE 754 has it. A zero result is +0."""
    digits, least, _, _ = FORMATS[format_name]
    if value == 0:
        return 0.0
    sign, magnitude = (-1 if value < 0 else 1), abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, least) - digits + 1)
    whole, rest = divmod(magnitude, unit)
    up = {
        "rn": rest > unit / 2 or (rest == unit / 2 and whole % 2 == 1),
        "rna": rest >= unit / 2,
        "rz": False,
        "rm": sign < 0 and rest > 0,
        "rp": sign > 0 and rest > 0,
    }[rounding]
    rounded = (whole + up) * unit
    limit = Fraction(2) ** (-least + 2)
    if rounded >= limit:
        away = rounding in ("rn", "rna") or ((rounding == "rp") == (sign > 0) and rounding in ("rp", "rm"))
        return sign * math.inf if away else sign * float(limit - Fraction(2) ** (1 - least - digits + 1))
    return sign * float(rounded)


def operands(type_name: str, seed: int, count: int = 400) -> np.ndarray:
    """Finite numbers: specials, ordinary ones, random bits; then pairs of them cancel or meet rounding's ties."""
    rng = np.random.default_rng(seed)
    dtype = np.float32 if type_name == "f32" else np.float64
    info = np.finfo(dtype)
    specials = [0.0, 1.0, 0.5, 3.0, info.max, info.tiny, info.smallest_subnormal, 1 + info.eps, 1 - info.eps / 2]
    ordinary = rng.standard_normal(count) * 2.0 ** rng.integers(-30, 30, count)
    # Few significant bits: sums and products that end in exact ties.
    short = np.round(rng.standard_normal(count) * 64) * 2.0 ** rng.integers(-25, 25, count)
    bits = rng.integers(0, 2**63, count).astype(np.uint64)
    wild = (bits >> np.uint64(32)).astype(np.uint32).view(dtype) if type_name == "f32" else bits.view(dtype)
    wild = np.where(np.isfinite(wild), wild, 1)
    chosen = np.concatenate([specials, ordinary, short, wild]).astype(dtype)
    chosen = np.concatenate([chosen, -chosen])
    return rng.permutation(chosen)[:count]


def sqrt_of(value: Fraction) -> Fraction:
    """The square root to 200 bits beyond any format's, below the exact one unless that has few digits."""
    scale = 2 ** (2 * (400 + value.denominator.bit_length()))
    root = isqrt(value.numerator * scale // value.denominator)
    low = Fraction(root, isqrt(scale))
    # A root with a sticky digit: not mistaken for exact where it is not.
    return low if low * low == value else low + Fraction(1, 2 * isqrt(scale))


def bits_of(value: float, type_name: str) -> int:
    """The bits of a number."""
    _, _, code, integer = FORMATS[type_name]
    return struct.unpack("<" + integer, struct.pack("<" + code, value))[0]
