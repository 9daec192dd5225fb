"""The PTX interpreter's integer and bit instructions, against Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from ptx.snippet import execute
from ptx.types import DTYPES, size_of

TYPES = ["u16", "s16", "u32", "s32", "u64", "s64"]


def values(type_name, seed=0, count=300):
    """Numbers of a type: the edges, powers of two and their neighbours, random bits of every length."""
    bits = 8 * size_of(type_name)
    rng = np.random.default_rng(seed)
    edges = [0, 1, 2, 3, 5, 7, *(2**k + d for k in range(3, bits) for d in (-1, 0, 1))]
    random = [int.from_bytes(rng.bytes(8), "little") >> int(rng.integers(64 - bits, 64)) for _ in range(count)]
    chosen = edges + [-e for e in edges] + random
    rng.shuffle(chosen)
    return [as_type(v, type_name) for v in chosen[:count]]


def as_type(number, type_name):
    """The number that a type's bits hold."""
    bits = 8 * size_of(type_name)
    number &= (1 << bits) - 1
    return number - (1 << bits) if type_name[0] == "s" and number >> (bits - 1) else number


def unsigned(number, type_name):
    return number & ((1 << 8 * size_of(type_name)) - 1)


def check(opcode, operand_types, result_type, expected, operands=None, body="", target="sm_100"):
    """`expected(*numbers)` for each thread, modulo the result's size."""
    operands = operands or [values(t, seed) for seed, t in enumerate(operand_types)]
    names = "abcd"[: len(operands)]
    body = body or f"{opcode} %out, {', '.join('%' + n for n in names)};"
    inputs = {n: (t, np.array(v, DTYPES[t])) for n, t, v in zip(names, operand_types, operands, strict=True)}
    got = execute(body, inputs, {"out": result_type}, target=target)["out"]
    wanted = [as_type(int(expected(*row)), result_type) for row in zip(*operands, strict=True)]
    wrong = [(row, int(g), w) for row, g, w in zip(zip(*operands, strict=True), got, wanted, strict=True) if g != w]
    assert not wrong, f"{opcode}: operands, got, wanted: {wrong[:3]}"


def truncated(a, b):
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
}


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("name", BINARY)
def test_two_operands(name, type_name):
    check(f"{name}.{type_name}", [type_name] * 2, type_name, BINARY[name])


@pytest.mark.parametrize("type_name", TYPES)
def test_mul_hi(type_name):
    check(f"mul.hi.{type_name}", [type_name] * 2, type_name, lambda a, b: a * b >> 8 * size_of(type_name))


@pytest.mark.parametrize("type_name", ["u16", "s16", "u32", "s32"])
def test_wide(type_name):
    double = f"{type_name[0]}{16 * size_of(type_name)}"
    check(f"mul.wide.{type_name}", [type_name] * 2, double, lambda a, b: a * b)
    check(f"mad.wide.{type_name}", [type_name, type_name, double], double, lambda a, b, c: a * b + c)


@pytest.mark.parametrize("type_name", TYPES)
def test_mad(type_name):
    check(f"mad.lo.{type_name}", [type_name] * 3, type_name, lambda a, b, c: a * b + c)
    check(f"mad.hi.{type_name}", [type_name] * 3, type_name, lambda a, b, c: (a * b >> 8 * size_of(type_name)) + c)


@pytest.mark.parametrize("type_name", ["u32", "s32"])
def test_24_bits(type_name):
    def product(a, b):
        a, b = (as_type((x & 0xFFFFFF) << 8, type_name) >> 8 for x in (a, b))
        return a * b

    check(f"mul24.lo.{type_name}", [type_name] * 2, type_name, product)
    check(f"mul24.hi.{type_name}", [type_name] * 2, type_name, lambda a, b: product(a, b) >> 16)
    check(f"mad24.lo.{type_name}", [type_name] * 3, type_name, lambda a, b, c: product(a, b) + c)


@pytest.mark.parametrize("type_name", TYPES)
def test_division(type_name):
    a, b = values(type_name), [v or 3 for v in values(type_name, 1)]
    check(f"div.{type_name}", [type_name] * 2, type_name, truncated, [a, b])
    check(f"rem.{type_name}", [type_name] * 2, type_name, lambda x, y: x - truncated(x, y) * y, [a, b])


@pytest.mark.parametrize("type_name", TYPES)
def test_sad(type_name):
    check(f"sad.{type_name}", [type_name] * 3, type_name, lambda a, b, c: abs(a - b) + c)


@pytest.mark.parametrize("type_name", ["s16", "s32", "s64"])
def test_sign(type_name):
    check(f"neg.{type_name}", [type_name], type_name, lambda a: -a)
    check(f"abs.{type_name}", [type_name], type_name, abs)


@pytest.mark.parametrize("type_name", ["b16", "b32", "b64"])
def test_logic(type_name):
    check(f"and.{type_name}", [type_name] * 2, type_name, lambda a, b: a & b)
    check(f"or.{type_name}", [type_name] * 2, type_name, lambda a, b: a | b)
    check(f"xor.{type_name}", [type_name] * 2, type_name, lambda a, b: a ^ b)
    check(f"not.{type_name}", [type_name], type_name, lambda a: ~a)
    check(f"cnot.{type_name}", [type_name], type_name, lambda a: a == 0)


@pytest.mark.parametrize("type_name", ["b16", "b32", "b64", "s16", "s32", "s64", "u32"])
def test_shifts(type_name):
    bits = 8 * size_of(type_name)
    counts = [int(k) for k in np.random.default_rng(3).integers(0, bits + 9, 298)] + [2**31, 2**32 - 1]
    operands = [values(type_name), counts]
    if type_name[0] == "b":
        check(f"shl.{type_name}", [type_name, "u32"], type_name, lambda a, n: a << min(n, bits), operands)
    check(f"shr.{type_name}", [type_name, "u32"], type_name, lambda a, n: a >> min(n, bits), operands)


@pytest.mark.parametrize("count", [0, 5, 31, 32, 40])
def test_shift_by_a_constant(count):
    operands = [values("s32")]
    check("", ["s32"], "s32", lambda a: a >> count, operands, f"shr.s32 %out, %a, {count};")
    check("", ["s32"], "s32", lambda a: a << min(count, 32), operands, f"shl.b32 %out, %a, {count};")


@pytest.mark.parametrize("mode", ["clamp", "wrap"])
def test_funnel_shift(mode):
    counts = [int(k) for k in np.random.default_rng(3).integers(0, 70, 300)]
    operands = [values("b32"), values("b32", 1), counts]

    def amount(n):
        return n & 31 if mode == "wrap" else min(n, 32)

    types = ["b32", "b32", "u32"]
    check(f"shf.l.{mode}.b32", types, "b32", lambda lo, hi, n: (hi << 32 | lo) << amount(n) >> 32, operands)
    check(f"shf.r.{mode}.b32", types, "b32", lambda lo, hi, n: (hi << 32 | lo) >> amount(n), operands)


@pytest.mark.parametrize("type_name", ["b32", "b64"])
def test_counting_bits(type_name):
    bits = 8 * size_of(type_name)
    check(f"popc.{type_name}", [type_name], "u32", lambda a: bin(a).count("1"))
    check(f"clz.{type_name}", [type_name], "u32", lambda a: bits - a.bit_length())
    check(f"brev.{type_name}", [type_name], type_name, lambda a: int(f"{a:0{bits}b}"[::-1], 2))


@pytest.mark.parametrize("type_name", ["u32", "s32", "u64", "s64"])
def test_bfind(type_name):
    def highest(a):
        return (~a if a < 0 else a).bit_length() - 1

    def distance(a):
        return -1 if highest(a) < 0 else 8 * size_of(type_name) - 1 - highest(a)

    check(f"bfind.{type_name}", [type_name], "u32", highest)
    check(f"bfind.shiftamt.{type_name}", [type_name], "u32", distance)


def places(bits, seed):
    rng = np.random.default_rng(seed)
    return [int(k) for k in np.where(rng.random(300) < 0.9, rng.integers(0, bits + 1, 300), rng.integers(0, 600, 300))]


@pytest.mark.parametrize("type_name", ["u32", "s32", "u64", "s64"])
def test_bfe(type_name):
    bits = 8 * size_of(type_name)

    def extract(a, start, length):  # the ISA's pseudocode, bit by bit
        start, length = start & 255, length & 255
        a = unsigned(a, type_name)
        sign = 0
        if type_name[0] == "s" and length:
            sign = a >> min(start + length - 1, bits - 1) & 1
        return sum((a >> start + k & 1 if k < length and start + k < bits else sign) << k for k in range(bits))

    operands = [values(type_name), places(bits, 1), places(bits, 2)]
    check(f"bfe.{type_name}", [type_name, "u32", "u32"], type_name, extract, operands)


@pytest.mark.parametrize("type_name", ["b32", "b64"])
def test_bfi(type_name):
    bits = 8 * size_of(type_name)

    def insert(a, b, start, length):
        start, length = start & 255, length & 255
        for k in range(min(length, max(bits - start, 0))):
            b = b & ~(1 << start + k) | (a >> k & 1) << start + k
        return b

    operands = [values(type_name), values(type_name, 5), places(bits, 1), places(bits, 2)]
    check(f"bfi.{type_name}", [type_name, type_name, "u32", "u32"], type_name, insert, operands)


def test_prmt():
    def permute(a, b, selection):
        source = (b << 32 | a).to_bytes(8, "little")
        out = []
        for k in range(4):
            nibble = selection >> 4 * k & 15
            byte = source[nibble & 7]
            out.append((255 if byte & 128 else 0) if nibble & 8 else byte)
        return int.from_bytes(bytes(out), "little")

    check("prmt.b32", ["b32"] * 3, "b32", permute)


@pytest.mark.parametrize("table", [0, 0x96, 0xE8, 0xCA, 0x1D, 255])
def test_lop3(table):
    def look_up(a, b, c):
        return sum((table >> ((a >> k & 1) << 2 | (b >> k & 1) << 1 | c >> k & 1) & 1) << k for k in range(32))

    operands = [values("b32", seed) for seed in range(3)]
    check("lop3", ["b32"] * 3, "b32", look_up, operands, f"lop3.b32 %out, %a, %b, %c, {table};")


@pytest.mark.parametrize("bits", [32, 64])
def test_carry(bits):
    """Two words added, subtracted and multiplied as one of twice the size."""
    t = f"u{bits}"
    a, b, c, d = (values(t, seed) for seed in range(4))
    a[:2] = d[:2] = [2**bits - 1] * 2  # a carry through both, and operands that meet their equals
    b[:2], c[:2] = [2**bits - 1, 0], [1, 2**bits - 1]
    both = 2 ** (2 * bits) - 1
    inputs = {n: (t, np.array(v, DTYPES[t])) for n, v in zip("abcd", (a, b, c, d), strict=True)}

    def run(body, expected):
        got = execute(body, inputs, {"lo": t, "hi": t})
        pairs = zip(got["lo"], got["hi"], strict=True)
        assert [int(hi) << bits | int(lo) for lo, hi in pairs] == [
            expected(hi << bits | lo, other_hi << bits | other_lo) & both
            for lo, hi, other_lo, other_hi in zip(a, b, c, d, strict=True)
        ]

    run(f"add.cc.{t} %lo, %a, %c;\naddc.{t} %hi, %b, %d;", lambda x, y: x + y)
    run(f"sub.cc.{t} %lo, %a, %c;\nsubc.{t} %hi, %b, %d;", lambda x, y: x - y)
    # x * (low word of y), by way of the carry of the lower product and the rest of y.
    run(
        f"mad.lo.cc.{t} %lo, %a, %c, %c;\nmadc.hi.{t} %hi, %a, %c, %d;",
        lambda x, y: (x & 2**bits - 1) * (y & 2**bits - 1) + y,
    )


def test_the_carry_goes_through_three_words():
    ones = np.full(4, 2**32 - 1, np.uint32)
    body = "add.cc.u32 %x, %a, 1;\naddc.cc.u32 %y, %a, 0;\naddc.u32 %z, 5, 0;"
    got = execute(body, {"a": ("u32", ones)}, {"x": "u32", "y": "u32", "z": "u32"})
    assert [got[k].tolist() for k in "xyz"] == [[0] * 4, [0] * 4, [6] * 4]


def test_minimum_of_three():
    check("min.s32", ["s32"] * 2, "s32", min)
    check("", ["s32"] * 3, "s32", min, body="min.s32 %out, %a, %b;\nmin.s32 %out, %out, %c;")


def test_the_borrow_goes_through_three_words():
    """0 - 1 in three words: the middle one borrows although its operands are equal."""
    zeros = np.zeros(4, np.uint32)
    body = "sub.cc.u32 %x, %a, 1;\nsubc.cc.u32 %y, %a, %a;\nsubc.u32 %z, 5, 0;"
    got = execute(body, {"a": ("u32", zeros)}, {"x": "u32", "y": "u32", "z": "u32"})
    assert [got[k].tolist() for k in "xyz"] == [[2**32 - 1] * 4, [2**32 - 1] * 4, [4] * 4]
