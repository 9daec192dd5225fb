"""What a parsed PTX module consists of, and what its literals mean."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .types import DTYPES


class PtxSyntaxError(Exception):
    """Text that is not PTX, or PTX this interpreter does not read."""


class Register(NamedTuple):
    """A declared register, or a special one such as %tid.x."""

    name: str


class Symbol(NamedTuple):
    """A variable, a label or a function."""

    name: str


class Literal(NamedTuple):
    """A number as written."""

    text: str


class Address(NamedTuple):
    """[base + offset]."""

    base: Register | Symbol | Literal
    offset: int


class Vector(NamedTuple):
    """{a, b, ...}."""

    items: tuple


class Pair(NamedTuple):
    """a|b: a result and a predicate."""

    first: Register
    second: Register


class Negated(NamedTuple):
    """!predicate."""

    operand: Register


class Parameter(NamedTuple):
    """A parameter of a function: scalars have their type, structures are bytes."""

    name: str
    type: str
    size: int
    align: int


class Variable(NamedTuple):
    """A variable of a module or function; `initial` holds its bytes, or None where they are not given."""

    name: str
    space: str
    size: int
    align: int
    initial: bytes | None
    external: bool


@dataclass
class Instruction:
    """``@guard opcode operands;``."""

    opcode: str
    operands: tuple
    guard: Register | None = None
    guard_negated: bool = False
    line: int = 0
    text: str = ""
    span: tuple[int, int] = (0, 0)  # of the module's text, guard and semicolon included

    def __post_init__(self):
        self.parts = self.opcode.split(".")

    def has(self, *modifiers: str) -> bool:
        """True if the opcode carries one of them."""
        return any(modifier in self.parts for modifier in modifiers)


@dataclass
class Function:
    """A kernel (entry) or device function."""

    name: str
    entry: bool
    parameters: list[Parameter]
    returns: list[Parameter]
    registers: dict[str, str] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    body: list[Instruction | str] = field(default_factory=list)  # a str is a label
    branch_targets: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass
class ParsedModule:
    """Everything a module declares."""

    functions: dict[str, Function]
    variables: dict[str, Variable]
    target: str


def literal_bits(text: str, type_name: str):
    """A literal as a NumPy scalar of a type: the bits of 0f and 0d, the value of everything else."""
    dtype = DTYPES[type_name]
    if type_name == "pred":
        return np.bool_(int(text.rstrip("U"), 0))
    if text[:2] in ("0f", "0F"):
        value = np.array(int(text[2:], 16), np.uint32)
        return value.view(np.float32).astype(dtype)[()] if type_name == "f64" else value.view(DTYPES[type_name])[()]
    if text[:2] in ("0d", "0D"):
        value = np.array(int(text[2:], 16), np.uint64)
        return value.view(np.float64).astype(dtype)[()] if type_name == "f32" else value.view(DTYPES[type_name])[()]
    if "." in text:
        return dtype.type(float(text))
    number = integer(text)
    if dtype.kind == "f":
        return dtype.type(number)
    bits = 8 * dtype.itemsize
    return np.array(number & ((1 << bits) - 1), f"u{dtype.itemsize}").view(dtype)[()]


def integer(text: str) -> int:
    """An integer literal: decimal, 0x, 0b or octal, perhaps with the suffix U."""
    text = text.rstrip("U")
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        return sign * int(digits, 8)
    return sign * int(digits, 0)


def float_literal(value: float, type_name: str) -> str:
    """A number as 0f or 0d literal, for tests that write PTX."""
    if type_name == "f32":
        return "0f" + struct.pack(">f", value).hex().upper()
    return "0d" + struct.pack(">d", value).hex().upper()
