"""The PTX interpreter's conversions and moves, against exact fractions and Python's integers."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import numpy as np
import pytest
from ptx.snippet import assemble, execute
from ptx.types import DTYPES, size_of
from ptx_exact import operands, round_fraction
from test_ptx_integer import as_type, values

INTEGERS = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"]
ROUND_TO_INTEGER = {
    "rni": lambda x: round(x),  # of a Fraction: ties to even
    "rzi": math.trunc,
    "rmi": math.floor,
    "rpi": math.ceil,
}


def convert(opcode, target, source, numbers):
    return execute(f"{opcode} %out, %a;", {"a": (source, numbers)}, {"out": target})["out"]


def floats(source, seed=0):
    """Numbers around every power of two up to 2^70, halves included, and NaN and infinities."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([
        [0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.49999997, math.inf, -math.inf, math.nan],
        *(2.0**k * np.array([1, -1, 1 + 2**-23, 1 - 2**-24, 1.3]) for k in range(70)),
        rng.integers(-300, 300, 60) / 2,
    ])  # fmt: skip
    return x.astype(DTYPES[source])


@pytest.mark.parametrize("source", ["f32", "f64"])
@pytest.mark.parametrize("target", [t for t in INTEGERS if size_of(t) > 1])
@pytest.mark.parametrize("rounding", ROUND_TO_INTEGER)
def test_float_to_integer(rounding, target, source):
    """Beyond the range: its end. NaN: 0, or the top bit where 64 bits take part (PTX ISA, cvt)."""
    limits = np.iinfo(DTYPES[target])

    def expected(x):
        if math.isnan(x):
            wide = source == "f64" or size_of(target) == 8
            return as_type(1 << 8 * size_of(target) - 1, target) if wide else 0
        if math.isinf(x):
            return limits.max if x > 0 else limits.min
        return min(max(ROUND_TO_INTEGER[rounding](Fraction(x)), limits.min), limits.max)

    x = floats(source)
    got = convert(f"cvt.{rounding}.{target}.{source}", target, source, x)
    assert got.tolist() == [expected(v) for v in x.tolist()]


@pytest.mark.parametrize("target", ["f32", "f64"])
@pytest.mark.parametrize("source", [t for t in INTEGERS if size_of(t) > 1])
@pytest.mark.parametrize("rounding", ["rn", "rz", "rm", "rp"])
def test_integer_to_float(rounding, source, target):
    numbers = values(source)
    got = convert(f"cvt.{rounding}.{target}.{source}", target, source, np.array(numbers, DTYPES[source]))
    assert got.tolist() == [round_fraction(Fraction(v), target, rounding) for v in numbers]


@pytest.mark.parametrize("source", INTEGERS)
@pytest.mark.parametrize("target", INTEGERS)
def test_integer_to_integer(target, source):
    """The low bits; with .sat the nearest number of the target."""
    numbers = values(source)
    array = np.array(numbers, DTYPES[source])
    limits = np.iinfo(DTYPES[target])
    got = convert(f"cvt.{target}.{source}", target, source, array)
    assert got.tolist() == [as_type(v, target) for v in numbers]
    own = np.iinfo(DTYPES[source])
    if own.min < limits.min or own.max > limits.max:  # else there is no .sat
        got = convert(f"cvt.sat.{target}.{source}", target, source, array)
        assert got.tolist() == [min(max(v, limits.min), limits.max) for v in numbers]


def test_a_small_integer_fills_a_wide_register_by_its_sign():
    a = np.array([200, 100], np.uint32)
    got = execute("cvt.s8.u32 %x, %a;\ncvt.u8.u32 %y, %a;", {"a": ("u32", a)}, {"x": "s32", "y": "u32"})
    assert got["x"].tolist() == [200 - 256, 100]
    assert got["y"].tolist() == [200, 100]


@pytest.mark.parametrize("rounding", ["rn", "rz", "rm", "rp"])
def test_narrower_float(rounding):
    x = operands("f64", 1)
    x = np.concatenate([x, operands("f32", 2).astype(np.float64) * (1 + 2.0**-24)])
    got = convert(f"cvt.{rounding}.f32.f64", "f32", "f64", x)
    assert got.tolist() == [round_fraction(Fraction(v), "f32", rounding) for v in x.tolist()]


def test_wider_float_and_whole_numbers_in_float():
    x = floats("f32")
    np.testing.assert_array_equal(convert("cvt.f64.f32", "f64", "f32", x), x.astype(np.float64))
    for rounding, function in ROUND_TO_INTEGER.items():
        got = convert(f"cvt.{rounding}.f32.f32", "f32", "f32", x)
        wanted = [function(Fraction(v)) if math.isfinite(v) else v for v in x.tolist()]
        np.testing.assert_array_equal(got, np.array(wanted, np.float32))
    np.testing.assert_array_equal(
        convert("cvt.sat.f32.f32", "f32", "f32", x), [0 if math.isnan(v) else min(max(v, 0), 1) for v in x.tolist()]
    )
    assert convert("cvt.ftz.f64.f32", "f64", "f32", np.array([1e-40, 1.0])).tolist() == [0, 1]


def test_half_precision():
    """f16 by Python's own (struct), bf16 by exact rounding; two at once keep the first operand high."""
    x = operands("f32", 3)
    x = np.where(np.abs(x) > 60000, np.float32(1.0009765), x)
    half = [struct.unpack("<H", struct.pack("<e", v))[0] for v in x.tolist()]
    assert convert("cvt.rn.f16.f32", "b16", "f32", x).tolist() == half
    assert convert("cvt.rn.f16.f64", "b16", "f64", x.astype(np.float64)).tolist() == half
    back = [struct.unpack("<e", struct.pack("<H", b))[0] for b in half]
    assert convert("cvt.f32.f16", "f32", "b16", np.array(half)).tolist() == back
    bfloat = [round_fraction(Fraction(v), "bf16") for v in x.tolist()]
    bits = [struct.unpack("<I", struct.pack("<f", v))[0] >> 16 for v in bfloat]
    got = convert("cvt.rn.bf16.f32", "b16", "f32", x)
    assert [g & (0x7FFF if not g & 0x7FFF else 0xFFFF) for g in got.tolist()] == [
        b & (0x7FFF if not b & 0x7FFF else 0xFFFF) for b in bits
    ]
    assert convert("cvt.f32.bf16", "f32", "b16", got).tolist() == bfloat
    both = execute("cvt.rn.f16x2.f32 %out, %a, %b;", {"a": ("f32", x), "b": ("f32", x[::-1])}, {"out": "b32"})["out"]
    assert both.tolist() == [high << 16 | low for high, low in zip(half, half[::-1], strict=True)]
    both = execute("cvt.rn.bf16x2.f32 %out, %a, %b;", {"a": ("f32", x), "b": ("f32", x[::-1])}, {"out": "b32"})["out"]
    assert both.tolist() == [int(high) << 16 | int(low) for high, low in zip(got, got[::-1], strict=True)]


def test_tf32():
    """10 bits of fraction: ties away from zero (.rna), to even (.rn), cut (.rz)."""
    x = np.array([1.0, 1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-11, 1 + 2**-12, 1 + 2**-11 + 2**-20, math.inf])
    unit = 2.0**-10
    wanted = {
        "rna": [1, 1 + unit, 1 + unit, 1 + 2 * unit, -1 - unit, 1, 1 + unit, math.inf],
        "rn": [1, 1 + unit, 1, 1 + 2 * unit, -1, 1, 1 + unit, math.inf],
        "rz": [1, 1 + unit, 1, 1 + unit, -1, 1, 1, math.inf],
    }
    for rounding, numbers in wanted.items():
        got = convert(f"cvt.{rounding}.tf32.f32", "b32", "f32", x).view(np.float32)
        assert got.tolist() == numbers, rounding


# --- moves --------------------------------------------------------------------------------------------------


def test_packing_and_unpacking():
    a, b = np.arange(4) + 0xA0000001, np.arange(4) + 0xB0000002
    inputs = {"a": ("b32", a), "b": ("b32", b)}
    declarations = ".reg .b64 %p;\n.reg .b16 %h<4>;\n.reg .b32 %unused;"
    got = execute("mov.b64 %out, {%a, %b};", inputs, {"out": "b64"}, declarations)["out"]
    assert got.tolist() == [int(y) << 32 | int(x) for x, y in zip(a, b, strict=True)]
    got = execute("mov.b64 %p, {%a, %b};\nmov.b64 {%x, %y}, %p;", inputs, {"x": "b32", "y": "b32"}, declarations)
    assert got["x"].tolist() == a.tolist()
    assert got["y"].tolist() == b.tolist()
    got = execute("mov.b64 %p, {%a, %b};\nmov.b64 {_, %y}, %p;", inputs, {"y": "b32"}, declarations)
    assert got["y"].tolist() == b.tolist()
    body = "mov.b64 %p, {%a, %b};\nmov.b64 {%h0, %h1, %h2, %h3}, %p;\nmov.b32 %out, {%h3, %h0};"
    got = execute(body, inputs, {"out": "b32"}, declarations)["out"]
    assert got.tolist() == [int(x) % 2**16 << 16 | int(y) >> 16 for x, y in zip(a, b, strict=True)]


def test_bits_keep_their_type_in_a_move():
    x = np.array([1.5, -2.25, math.inf], np.float32)
    assert convert("mov.b32", "b32", "f32", x).tolist() == x.view(np.uint32).tolist()


LITERALS = {
    "u32": {"42": 42, "0x2A": 42, "0b101010": 42, "052": 42, "42U": 42, "-1": 2**32 - 1},
    "s64": {"-7": -7, "-9223372036854775808": -(2**63)},
    "f32": {"0f3FC00000": 1.5, "1.5": 1.5, "0d3FF8000000000000": 1.5},
    "f64": {"0d3FF8000000000000": 1.5, "2.5e2": 250.0},
}


@pytest.mark.parametrize("type_name", LITERALS)
def test_literals(type_name):
    for text, wanted in LITERALS[type_name].items():
        got = execute(f"mov.{type_name} %out, {text};", {}, {"out": type_name}, block=2)["out"]
        assert got.tolist() == [wanted] * 2, text


def test_names_are_those_of_their_scope():
    """A name declared again in braces is another register, of another type even."""
    body = """
    mov.u32 %out, 1;
    {
        .reg .b64 %out;
        mov.u64 %out, 77;
        {
            .reg .f32 %out;
            mov.f32 %out, 0f3F800000;
        }
    }
    {
        .reg .u32 r0;
        add.u32 r0, %out, 4;
        mov.u32 %out, r0;
    }
    """
    assert execute(body, {}, {"out": "u32"}, block=2)["out"].tolist() == [5, 5]


def test_special_registers():
    names = ["tid.x", "ntid.x", "ctaid.x", "nctaid.x", "laneid", "lanemask_lt", "lanemask_eq", "lanemask_ge"]
    outputs = {f"o{k}": "u32" for k in range(len(names))}
    got = execute("\n".join(f"mov.u32 %o{k}, %{n};" for k, n in enumerate(names)), {}, outputs, block=70)
    thread = np.arange(70)
    lane = thread % 32
    wanted = [thread, [70] * 70, [0] * 70, [1] * 70, lane, 2**lane - 1, 2**lane, 2**32 - 2**lane]
    for k, numbers in enumerate(wanted):
        assert got[f"o{k}"].tolist() == list(numbers), names[k]


def test_text_that_is_not_ptx_is_refused():
    pytest.importorskip("cuda.bindings.nvjitlink", reason="NVIDIA's assembler comes with numba-cuda")
    with pytest.raises(AssertionError, match="add"):
        execute("add.s33 %out, %a, %a;", {"a": ("s32", [1])}, {"out": "s32"})
    assert callable(assemble)
