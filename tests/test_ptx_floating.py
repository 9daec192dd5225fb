"""The PTX interpreter's floating-point instructions, against exact fractions rounded once."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from ptx.snippet import execute
from ptx.types import DTYPES
from ptx_exact import operands, round_fraction, sqrt_of

ROUNDINGS = ["rn", "rz", "rm", "rp"]


def run(body, *arrays, types=None, out="f32", target="sm_100"):
    names = "abcd"[: len(arrays)]
    types = types or [out] * len(arrays)
    inputs = {n: (t, a) for n, t, a in zip(names, types, arrays, strict=True)}
    return execute(body, inputs, {"out": out}, target=target)["out"]


def check_exactly(body, type_name, rounding, exact, *arrays):
    """The exact result, a Fraction, rounded once. Numbers are compared, and NaN; the sign of zero is not."""
    got = run(body, *arrays, out=type_name)
    for row, value in zip(zip(*(a.tolist() for a in arrays), strict=True), got.tolist(), strict=True):
        wanted = round_fraction(exact(*map(Fraction, row)), type_name, rounding)
        assert value == wanted, f"{body} {[x.hex() for x in row]}: {value.hex()}, exactly {wanted.hex()}"


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("type_name", ["f32", "f64"])
def test_add_sub_mul(type_name, rounding):
    a, b = operands(type_name, 1), operands(type_name, 2)
    b[:50] = -np.nextafter(a[:50], 0)  # cancellation
    check_exactly(f"add.{rounding}.{type_name} %out, %a, %b;", type_name, rounding, lambda x, y: x + y, a, b)
    check_exactly(f"sub.{rounding}.{type_name} %out, %a, %b;", type_name, rounding, lambda x, y: x - y, a, b)
    if type_name == "f64" and rounding != "rn":  # what rounding left out of a tiny product is no float64
        a, b = (np.where(np.abs(x) < 1e-100, x.dtype.type(1), x) for x in (a, b))
    check_exactly(f"mul.{rounding}.{type_name} %out, %a, %b;", type_name, rounding, lambda x, y: x * y, a, b)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("type_name", ["f32", "f64"])
def test_fma(type_name, rounding):
    a, b, c = (operands(type_name, seed) for seed in (3, 4, 5))
    with np.errstate(over="ignore"):
        product = a * b
    c[:150] = np.where(np.isfinite(product), -product, c)[:150]  # what remains is what the product's rounding lost
    if type_name == "f64" and rounding != "rn":
        a, b, c = (np.where(np.abs(x) < 1e-100, x.dtype.type(1), x) for x in (a, b, c))
    check_exactly(
        f"fma.{rounding}.{type_name} %out, %a, %b, %c;", type_name, rounding, lambda x, y, z: x * y + z, a, b, c
    )


def test_fma_in_float32_is_not_float64_rounded_again():
    """A tie of float32 that float64 makes from something just above a tie: the second rounding would go down."""
    a, b, c = np.float32(1 + 2**-12), np.float32(1 + 2**-12), np.float32(2**-60)
    twice = np.float32(np.float64(a) * np.float64(b) + np.float64(c))
    once = round_fraction(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)), "f32")
    assert float(twice) != once
    got = run("fma.rn.f32 %out, %a, %b, %c;", *(np.full(4, x, np.float32) for x in (a, b, c)))
    assert got.tolist() == [once] * 4


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("type_name", ["f32", "f64"])
def test_division_and_roots(type_name, rounding):
    a, b = operands(type_name, 6), operands(type_name, 7)
    b = np.where(b == 0, b.dtype.type(3), b)
    if rounding != "rn":
        a, b = (np.where((np.abs(x) < 1e-30) | (np.abs(x) > 1e30), x.dtype.type(7), x) for x in (a, b))
    check_exactly(f"div.{rounding}.{type_name} %out, %a, %b;", type_name, rounding, lambda x, y: x / y, a, b)
    check_exactly(f"rcp.{rounding}.{type_name} %out, %a;", type_name, rounding, lambda x: 1 / x, b)
    check_exactly(f"sqrt.{rounding}.{type_name} %out, %a;", type_name, rounding, sqrt_of, np.abs(a))


@pytest.mark.parametrize("type_name", ["f32", "f64"])
def test_infinities_and_nan(type_name):
    inf, nan = math.inf, math.nan
    a = np.array([inf, inf, nan, 0.0, 1.0, -1.0, 0.0])
    b = np.array([-inf, 1.0, 1.0, inf, 0.0, 0.0, -0.0])
    out = {"out": type_name}
    for opcode, wanted in {
        "add": [nan, inf, nan, inf, 1, -1, 0],
        "mul": [-inf, inf, nan, nan, 0, 0, 0],
        "div.rn": [nan, inf, nan, 0, inf, -inf, nan],
    }.items():
        got = execute(f"{opcode}.{type_name} %out, %a, %b;", {"a": (type_name, a), "b": (type_name, b)}, out)["out"]
        np.testing.assert_array_equal(got, wanted, err_msg=opcode)
    got = execute(f"sqrt.rn.{type_name} %out, %a;", {"a": (type_name, [-1.0, inf, -0.0, nan])}, out)["out"]
    np.testing.assert_array_equal(got, [nan, inf, 0, nan])
    assert math.copysign(1, got[2]) == -1


def test_directed_overflow_stops_at_the_largest_number():
    largest = np.full(4, np.finfo(np.float32).max)
    assert run("add.rz.f32 %out, %a, %a;", largest)[0] == largest[0]
    assert run("add.rm.f32 %out, %a, %a;", largest)[0] == largest[0]
    assert run("add.rp.f32 %out, %a, %a;", largest)[0] == np.inf
    assert run("add.rm.f32 %out, %a, %b;", np.ones(4), -np.ones(4)).view(np.uint32)[0] == 1 << 31, "an exact zero is -0"


@pytest.mark.parametrize("type_name", ["f32", "f64"])
def test_min_and_max(type_name):
    """A number beats NaN, -0 is below 0; with .NaN, NaN wins."""
    inf, nan = math.inf, math.nan
    a = np.array([1.0, nan, 1.0, nan, -0.0, 0.0, -inf, 3.0])
    b = np.array([2.0, 1.0, nan, nan, 0.0, -0.0, 1.0, 3.0])
    inputs = {"a": (type_name, a), "b": (type_name, b)}
    wanted = {"min": [1.0, 1.0, 1.0, nan, -0.0, -0.0, -inf, 3.0], "max": [2.0, 1.0, 1.0, nan, 0.0, 0.0, 1.0, 3.0]}
    for name, result in wanted.items():
        got = execute(f"{name}.{type_name} %out, %a, %b;", inputs, {"out": type_name})["out"]
        np.testing.assert_array_equal(got, result)
        np.testing.assert_array_equal(np.signbit(got[4:6]), np.signbit(result[4:6]))
    if type_name == "f32":
        for name, result in wanted.items():
            result[1:4] = [nan] * 3
            got = execute(f"{name}.NaN.f32 %out, %a, %b;", inputs, {"out": "f32"})["out"]
            np.testing.assert_array_equal(got, result)


def test_max_of_three_and_packed_pairs():
    """What sm_100 added: three operands, and two numbers in a register."""
    a, b, c = (operands("f32", seed)[:64] for seed in (1, 2, 3))
    got = run("max.f32 %out, %a, %b, %c;", a, b, c)
    np.testing.assert_array_equal(got, np.maximum(np.maximum(a, b), c))
    body = "mov.b64 %p, {%a, %b};\nmov.b64 %q, {%c, %a};\nfma.rn.f32x2 %p, %p, %q, %q;\nmov.b64 {%x, %y}, %p;"
    inputs = {n: ("f32", v) for n, v in zip("abc", (a, b, c), strict=True)}
    got = execute(body, inputs, {"x": "f32", "y": "f32"}, ".reg .b64 %p, %q;")
    for name, (x, y, z) in {"x": (a, c, c), "y": (b, a, a)}.items():
        wanted = [
            round_fraction(Fraction(i) * Fraction(j) + Fraction(k), "f32")
            for i, j, k in zip(x.tolist(), y.tolist(), z.tolist(), strict=True)
        ]
        assert got[name].tolist() == wanted


@pytest.mark.parametrize("type_name", ["f32", "f64"])
def test_signs(type_name):
    a, b = operands(type_name, 8), operands(type_name, 9)
    a[0], b[1] = np.nan, -0.0
    np.testing.assert_array_equal(run(f"neg.{type_name} %out, %a;", a, out=type_name), -a)
    np.testing.assert_array_equal(run(f"abs.{type_name} %out, %a;", a, out=type_name), np.abs(a))
    wanted = [math.copysign(y, x) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_array_equal(run(f"copysign.{type_name} %out, %a, %b;", a, b, out=type_name), wanted)


def test_flush_to_zero_and_saturation():
    tiny = np.array([1e-40, -1e-40, 1e-20, 0.5, 2.0, np.nan, -3.0, np.inf], np.float32)
    got = run("add.ftz.f32 %out, %a, 0f00000000;", tiny)
    np.testing.assert_array_equal(got, [0, 0, *tiny[2:]])
    got = run("mul.ftz.f32 %out, %a, %a;", tiny)
    assert got[2] == 0, "a subnormal result"
    assert run("mul.f32 %out, %a, %a;", tiny)[2] == round_fraction(Fraction(float(tiny[2])) ** 2, "f32") > 0
    got = run("add.sat.f32 %out, %a, 0f00000000;", tiny)
    np.testing.assert_array_equal(got, [tiny[0], 0, tiny[2], 0.5, 1, 0, 0, 1])


APPROXIMATIONS = {
    "ex2.approx": (math.exp2 if hasattr(math, "exp2") else lambda x: 2.0**x, -20, 20),
    "lg2.approx": (math.log2, 1e-3, 1e3),
    "rcp.approx": (lambda x: 1 / x, 0.1, 30),
    "rsqrt.approx": (lambda x: x**-0.5, 0.1, 30),
    "sqrt.approx": (math.sqrt, 0, 30),
    "sin.approx": (math.sin, -3, 3),
    "cos.approx": (math.cos, -3, 3),
    "tanh.approx": (math.tanh, -5, 5),
}


@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_approximations(name):
    function, low, high = APPROXIMATIONS[name]
    x = np.random.default_rng(0).uniform(low, high, 200).astype(np.float32)
    wanted = [function(v) for v in x.tolist()]
    np.testing.assert_allclose(run(f"{name}.f32 %out, %a;", x), wanted, rtol=1e-6, atol=1e-7)


def test_approximate_division():
    a, b = np.random.default_rng(0).uniform(0.5, 9, (2, 200)).astype(np.float32)
    for name in ("approx", "full"):
        np.testing.assert_allclose(run(f"div.{name}.f32 %out, %a, %b;", a, b), a / b.astype(np.float64), rtol=3e-7)


@pytest.mark.parametrize("name", ["rcp", "rsqrt"])
def test_approximations_in_float64_have_no_lower_half(name):
    x = np.random.default_rng(0).uniform(0.1, 30, 200)
    got = run(f"{name}.approx.ftz.f64 %out, %a;", x, out="f64")
    np.testing.assert_allclose(got, 1 / x if name == "rcp" else x**-0.5, rtol=2e-6)
    assert not (got.view(np.uint64) & 0xFFFFFFFF).any()


# --- comparisons --------------------------------------------------------------------------------------------

ORDERED = {
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
}
NUMBERS = [1.0, 2.0, math.nan, math.inf, -math.inf, 0.0, -0.0]
PAIRS = [(x, y) for x in NUMBERS for y in NUMBERS]


def either_is_nan(x, y):
    return math.isnan(x) or math.isnan(y)


@pytest.mark.parametrize("type_name", ["f32", "f64"])
@pytest.mark.parametrize("name", [*ORDERED, *(f"{n}u" for n in ORDERED), "num", "nan"])
def test_setp_of_numbers(name, type_name):
    if name == "num":
        expected = [not either_is_nan(x, y) for x, y in PAIRS]
    elif name == "nan":
        expected = [either_is_nan(x, y) for x, y in PAIRS]
    elif name.endswith("u"):
        expected = [either_is_nan(x, y) or ORDERED[name[:-1]](x, y) for x, y in PAIRS]
    else:
        expected = [not either_is_nan(x, y) and ORDERED[name](x, y) for x, y in PAIRS]
    a, b = np.array(PAIRS).T
    inputs = {"a": (type_name, a), "b": (type_name, b)}
    got = execute(f"setp.{name}.{type_name} %out, %a, %b;", inputs, {"out": "pred"})["out"]
    assert got.tolist() == expected


INTEGERS = {"eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge",
            "lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}  # fmt: skip


@pytest.mark.parametrize("type_name", ["s16", "u16", "s32", "u32", "s64", "u64"])
def test_setp_of_integers(type_name):
    dtype = DTYPES[type_name]
    numbers = [0, 1, np.iinfo(dtype).max, np.iinfo(dtype).min, np.iinfo(dtype).max - 1]
    a, b = np.array([(x, y) for x in numbers for y in numbers], dtype).T
    for name, meaning in INTEGERS.items():
        if name in ("lo", "ls", "hi", "hs") and type_name[0] == "s":
            continue
        inputs = {"a": (type_name, a), "b": (type_name, b)}
        got = execute(f"setp.{name}.{type_name} %out, %a, %b;", inputs, {"out": "pred"})["out"]
        assert got.tolist() == [bool(ORDERED[meaning](int(x), int(y))) for x, y in zip(a, b, strict=True)], name


@pytest.mark.parametrize("name", ["and", "or", "xor"])
@pytest.mark.parametrize("negated", ["", "!"])
def test_setp_combined(name, negated):
    """Both results: the comparison and its opposite, each combined with a third predicate."""
    combine = {"and": lambda x, y: x and y, "or": lambda x, y: x or y, "xor": lambda x, y: x != y}[name]
    a, c = np.array([(x, y) for x in (1, 5) for y in (0, 1)]).T
    inputs = {"a": ("s32", a), "c": ("pred", c)}
    got = execute(f"setp.lt.{name}.s32 %out|%other, %a, 3, {negated}%c;", inputs, {"out": "pred", "other": "pred"})
    third = [bool(v) != bool(negated) for v in c]
    assert got["out"].tolist() == [combine(x < 3, y) for x, y in zip(a, third, strict=True)]
    assert got["other"].tolist() == [combine(not x < 3, y) for x, y in zip(a, third, strict=True)]


def test_set_gives_numbers():
    a = np.array([1.0, 5.0, np.nan], np.float32)
    assert run("set.lt.u32.f32 %out, %a, 0f40400000;", a, types=["f32"], out="u32").tolist() == [2**32 - 1, 0, 0]
    assert run("set.gtu.f32.f32 %out, %a, 0f40400000;", a).tolist() == [0, 1, 1]


def test_selection():
    a, b, c = np.arange(4), np.arange(4) + 10, np.array([0, 1, 1, 0])
    inputs = {"a": ("s32", a), "b": ("s32", b), "c": ("pred", c)}
    assert execute("selp.s32 %out, %a, %b, %c;", inputs, {"out": "s32"})["out"].tolist() == [10, 1, 2, 13]
    signs = np.array([-1.0, 0.0, np.nan, 2.0])
    inputs["c"] = ("f32", signs)
    assert execute("slct.s32.f32 %out, %a, %b, %c;", inputs, {"out": "s32"})["out"].tolist() == [10, 1, 12, 3]


def test_predicates_are_operands():
    a, b = np.array([(x, y) for x in (0, 1) for y in (0, 1)]).T
    inputs = {"a": ("pred", a), "b": ("pred", b)}
    for name, wanted in {"and": a & b, "or": a | b, "xor": a ^ b}.items():
        got = execute(f"{name}.pred %out, %a, %b;", inputs, {"out": "pred"})["out"]
        assert got.tolist() == wanted.tolist()
    assert execute("not.pred %out, %a;", inputs, {"out": "pred"})["out"].tolist() == [1, 1, 0, 0]
    assert execute("mov.pred %out, %a;", inputs, {"out": "pred"})["out"].tolist() == a.tolist()


def test_testp():
    x = np.array([1.0, np.inf, np.nan, 1e-40, 0.0, -np.inf])
    inputs = {"a": ("f32", x)}
    for name, wanted in {
        "finite": [1, 0, 0, 1, 1, 0],
        "infinite": [0, 1, 0, 0, 0, 1],
        "number": [1, 1, 0, 1, 1, 1],
        "notanumber": [0, 0, 1, 0, 0, 0],
        "normal": [1, 0, 0, 0, 0, 0],
        "subnormal": [0, 0, 0, 1, 0, 0],
    }.items():
        assert execute(f"testp.{name}.f32 %out, %a;", inputs, {"out": "pred"})["out"].tolist() == wanted, name


@pytest.mark.parametrize("some", [False, True])
def test_runs_of_fma(some):
    """Many in a row, as in an inner product, whose results go into the next: each is rounded, in order."""
    a, b = operands("f32", 1)[:64], operands("f32", 2)[:64]
    a, b = (np.where((np.abs(x) > 1e6) | (np.abs(x) < 1e-6), np.float32(1.1), x) for x in (a, b))
    rows = [tuple(row) for row in ("xabx", "yxba", "xyax", "yyxb", "xaxy", "xxxx")]
    text = "\n".join(f"fma.rn.f32 {', '.join('%' + name for name in row)};" for row in rows)
    skip = "setp.lt.u32 %p, %i, 20;\n@%p bra SKIP;\n" if some else ""
    body = f"mov.f32 %x, %b;\nmov.f32 %y, %a;\n{skip}{text}\nSKIP:\n"
    got = execute(body, {"a": ("f32", a), "b": ("f32", b)}, {"x": "f32", "y": "f32"}, ".reg .pred %p;")
    for t in range(64):
        value = {"a": float(a[t]), "b": float(b[t]), "x": float(b[t]), "y": float(a[t])}
        for out, x, y, z in rows if t >= 20 or not some else ():
            value[out] = round_fraction(Fraction(value[x]) * Fraction(value[y]) + Fraction(value[z]), "f32")
        assert [got["x"][t], got["y"][t]] == [value["x"], value["y"]]
