"""The PTX interpreter's shuffles, votes and matrix instructions, against loops over lanes and NumPy's products."""

from __future__ import annotations

import numpy as np
import pytest
from ptx.snippet import entry, execute

LANES = np.arange(64)


def shuffle(mode, lane, by, clamp, segment):
    """Source lane and predicate: the pseudocode of the ISA, shfl.sync."""
    highest = (lane & segment) | (clamp & ~segment & 31)
    lowest = lane & segment
    if mode == "up":
        source = lane - by
        inside = source >= highest
    elif mode == "down":
        source = lane + by
        inside = source <= highest
    elif mode == "bfly":
        source = lane ^ by
        inside = source <= highest
    else:
        source = lowest | (by & ~segment & 31)
        inside = source <= highest
    return (source if inside else lane), inside


@pytest.mark.parametrize("width", [32, 16, 8, 4])
@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffle(mode, width):
    """All distances, in segments of a width as CUDA's shfl functions set them."""
    segment = (~(width - 1)) & 31
    clamp = 0 if mode == "up" else 31
    value = np.random.default_rng(0).integers(0, 2**32, 64)
    for by in range(0, 32, 3):
        body = f"shfl.sync.{mode}.b32 %out|%inside, %a, {by}, {segment << 8 | clamp}, 0xffffffff;"
        got = execute(body, {"a": ("b32", value)}, {"out": "b32", "inside": "pred"})
        for t in LANES:
            source, inside = shuffle(mode, t % 32, by, clamp, segment)
            assert got["out"][t] == value[t - t % 32 + source], (t, by)
            assert got["inside"][t] == inside


def test_shuffle_by_each_lanes_own_distance():
    value, by = LANES + 100, np.random.default_rng(0).integers(0, 32, 64)
    inputs = {"a": ("b32", value), "b": ("b32", by)}
    got = execute("shfl.sync.idx.b32 %out, %a, %b, 31, -1;", inputs, {"out": "b32"})["out"]
    assert got.tolist() == [value[t // 32 * 32 + by[t]] for t in LANES]


def test_shuffle_among_some_lanes():
    """The lanes of a mask, while others are elsewhere; and a warp that has only 20 threads."""
    body = """
    .reg .pred %p;
    mov.b32 %out, 7;
    setp.lt.u32 %p, %i, 16;
    @!%p bra DONE;
    shfl.sync.bfly.b32 %out, %a, 1, 31, 0xffff;
DONE:
    """
    got = execute(body, {"a": ("b32", LANES[:20])}, {"out": "b32"})["out"]
    assert got.tolist() == [t ^ 1 for t in range(16)] + [7] * 4
    got = execute("shfl.sync.down.b32 %out, %a, 0, 31, -1;", {"a": ("b32", LANES[:20])}, {"out": "b32"})["out"]
    assert got.tolist() == list(range(20))


def test_threads_that_come_later_are_waited_for():
    """The code of one half lies behind the shuffle: lanes 0 to 15 are at it long before the others."""
    body = """
    .reg .pred %p;
    mov.b32 %x, %a;
    setp.lt.u32 %p, %i, 16;
    @!%p bra FAR;
MEET:
    shfl.sync.bfly.b32 %out, %x, 16, 31, -1;
    bra.uni END;
FAR:
    add.u32 %x, %x, 1000;
    bra.uni MEET;
END:
    """
    got = execute(body, {"a": ("b32", LANES[:32])}, {"out": "b32"}, declarations=".reg .b32 %x;")["out"]
    assert got.tolist() == [t + 16 + 1000 for t in range(16)] + list(range(16))


def test_votes():
    rng = np.random.default_rng(0)
    flags = np.concatenate([rng.random(32) < 0.5, np.ones(32, bool), np.zeros(32, bool), rng.random(20) < 0.5])
    names = {"all": "pred", "any": "pred", "uni": "pred", "ballot": "b32"}
    body = "\n".join(f"vote.sync.{n}.{t} %{n}, %a, 0xffffffff;" for n, t in names.items())
    body += "\nvote.sync.ballot.b32 %not, !%a, 0xffffffff;\nactivemask.b32 %active;"
    got = execute(body, {"a": ("pred", flags)}, {**names, "not": "b32", "active": "b32"})
    for t in range(flags.size):
        warp = flags[t // 32 * 32 : t // 32 * 32 + 32]
        assert got["all"][t] == all(warp)
        assert got["any"][t] == any(warp)
        assert got["uni"][t] == (all(warp) or not any(warp))
        assert got["ballot"][t] == sum(1 << k for k, flag in enumerate(warp) if flag)
        assert got["not"][t] == sum(1 << k for k, flag in enumerate(warp) if not flag)
        assert got["active"][t] == (1 << warp.size) - 1


def test_two_groups_vote_apart():
    """Each half names itself in its mask; one instruction serves both."""
    mask = np.where(LANES % 32 < 16, 0xFFFF, 0xFFFF0000)
    flags = LANES % 3 == 0
    inputs = {"a": ("pred", flags), "m": ("b32", mask)}
    got = execute("vote.sync.ballot.b32 %out, %a, %m;", inputs, {"out": "b32"})["out"]
    for t in LANES:
        start = t // 16 * 16
        assert got[t] == sum(1 << (s % 32) for s in range(start, start + 16) if flags[s])


@pytest.mark.parametrize("type_name", ["b32", "b64"])
def test_match(type_name):
    value = np.random.default_rng(0).integers(0, 4, 64) << (20 if type_name == "b32" else 40)
    value[32:] = 9
    body = f"match.any.sync.{type_name} %some, %a, -1;\nmatch.all.sync.{type_name} %every|%p, %a, -1;"
    got = execute(body, {"a": (type_name, value)}, {"some": "b32", "every": "b32", "p": "pred"})
    for t in LANES:
        warp = value[t // 32 * 32 : t // 32 * 32 + 32]
        assert got["some"][t] == sum(1 << k for k, v in enumerate(warp) if v == value[t])
        assert got["every"][t] == (2**32 - 1 if t >= 32 else 0)
        assert got["p"][t] == (t >= 32)


@pytest.mark.parametrize("name", ["add", "min", "max", "and", "or", "xor"])
def test_reduction_of_a_warp(name):
    type_name = "b32" if name in ("and", "or", "xor") else "s32"
    value = np.random.default_rng(0).integers(-(2**20), 2**20, 64).astype(np.int32)
    mask = np.where(LANES % 32 < 8, 0xFF, 0xFFFFFF00)
    inputs = {"a": (type_name, value), "m": ("b32", mask)}
    got = execute(f"redux.sync.{name}.{type_name} %out, %a, %m;", inputs, {"out": "s32"})["out"]
    function = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
                "xor": np.bitwise_xor}[name]  # fmt: skip
    for t in LANES:
        first = t // 32 * 32
        group = value[first : first + 8] if t % 32 < 8 else value[first + 8 : first + 32]
        assert got[t] == function.reduce(group), t


def test_barrier_with_a_result():
    body = """
    bar.red.popc.u32 %count, 0, %a;
    bar.red.and.pred %all, 0, %a;
    bar.red.or.pred %any, 0, %a;
    """
    for flags in (LANES % 5 == 0, LANES >= 0, LANES < 0):
        got = execute(body, {"a": ("pred", flags)}, {"count": "u32", "all": "pred", "any": "pred"})
        assert got["count"].tolist() == [flags.sum()] * 64
        assert got["all"].tolist() == [flags.all()] * 64
        assert got["any"].tolist() == [flags.any()] * 64


# --- matrices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(count, transposed):
    """Lane 4r + c of a warp gets elements 2c and 2c + 1 of row r of each matrix (of column r, transposed)."""
    matrices = np.random.default_rng(0).integers(0, 2**16, (2, count, 8, 8)).astype(np.uint16)  # two warps
    rows = np.zeros((2, 32, 8), np.uint16)
    rows[:, : 8 * count] = matrices.reshape(2, 8 * count, 8)
    y = np.zeros((64, count), np.uint32)
    registers = ", ".join(f"%r{k + 2}" for k in range(count))
    stores = "\n".join(f"st.global.b32 [%a1+{4 * k}], %r{k + 2};" for k in range(count))
    entry(
        f"""
    mov.u32 %r0, tile;
    mad.lo.u32 %r0, %t, 16, %r0;
    mad.wide.u32 %a0, %t, 16, %x;
    ld.global.v4.b32 {{%r6, %r7, %r8, %r9}}, [%a0];
    st.shared.v4.b32 [%r0], {{%r6, %r7, %r8, %r9}};
    bar.sync 0;
    ldmatrix.sync.aligned.m8n8.x{count}{".trans" if transposed else ""}.shared.b16 {{{registers}}}, [%r0];
    mad.wide.u32 %a1, %t, {4 * count}, %y;
    {stores}
    """,
        module=".shared .align 16 .b8 tile[1024];",
    ).run(1, 64, rows, y)
    for t in range(64):
        for q in range(count):
            matrix = matrices[t // 32, q].T if transposed else matrices[t // 32, q]
            r, c = t % 32 // 4, t % 4
            assert y[t, q] == int(matrix[r, 2 * c]) | int(matrix[r, 2 * c + 1]) << 16, (t, q)


def half_bits(x, kind):
    if kind == "f16":
        return x.astype(np.float16).view(np.uint16)
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [("m16n8k8", "tf32"), ("m16n8k4", "tf32"), ("m16n8k16", "bf16"), ("m16n8k8", "bf16"), ("m16n8k16", "f16"),
     ("m16n8k8", "f16")],
)  # fmt: skip
def test_mma(shape, kind):
    """Fragments as the ISA draws them (groupID = lane / 4, threadID_in_group = lane % 4); two warps at once."""
    k = int(shape.removeprefix("m16n8k"))
    rng = np.random.default_rng(0)
    a, b = rng.integers(-60, 60, (2, 16, k)) / 8.0, rng.integers(-60, 60, (2, k, 8)) / 8.0  # exact in every kind
    c = rng.integers(-60, 60, (2, 16, 8)) / 4.0
    per = 1 if kind == "tf32" else 2  # numbers in a register
    a_registers, b_registers = 16 * k // 32 // per, 8 * k // 32 // per
    fragments = np.zeros((64, a_registers + b_registers + 4), np.uint32)
    for t in range(64):
        w, group, member = t // 32, t % 32 // 4, t % 4
        for r in range(a_registers):
            row, column = group + 8 * (r % 2), per * member + 4 * per * (r // 2)
            fragments[t, r] = packed(a[w, row, column : column + per], kind)
        for r in range(b_registers):
            row = per * member + 4 * per * r
            fragments[t, a_registers + r] = packed(b[w, row : row + per, group], kind)
        for r in range(4):
            value = c[w, group + 8 * (r // 2), 2 * member + r % 2]
            fragments[t, a_registers + b_registers + r] = np.float32(value).view(np.uint32)
    y = np.zeros((64, 4), np.float32)
    count = fragments.shape[1]
    loads = "\n".join(f"ld.global.b32 %m{r}, [%a0+{4 * r}];" for r in range(count))
    groups = [range(a_registers), range(a_registers, a_registers + b_registers), range(count - 4, count)]
    operands = ", ".join("{" + ", ".join(f"%m{r}" for r in group) + "}" for group in groups)
    entry(
        f"""
    mad.wide.u32 %a0, %t, {4 * count}, %x;
    {loads}
    mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {{%f0, %f1, %f2, %f3}}, {operands};
    mad.wide.u32 %a1, %t, 16, %y;
    st.global.v4.f32 [%a1], {{%f0, %f1, %f2, %f3}};
    """,
        declarations=f".reg .b32 %m<{count}>;",
    ).run(1, 64, fragments, y)
    d = a @ b + c
    for t in range(64):
        w, group, member = t // 32, t % 32 // 4, t % 4
        wanted = [d[w, group + 8 * (r // 2), 2 * member + r % 2] for r in range(4)]
        assert y[t].tolist() == wanted, t


def test_mma_cuts_off():
    """1 + 2^-24 + 2^-25 is nearer to 1 + 2^-23 than to 1; a tensor core's sum is 1."""
    body = """
    mov.b32 %one, 0f3F800000;
    mov.b32 %small, %a;
    mov.f32 %c, 0f33C00000;
    mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%out, %f1, %f2, %f3}, {%one, %one}, {%small}, {%c, %c, %c, %c};
    """
    first = np.where(LANES % 4 == 0, np.float32(1).view(np.uint32), 0)  # of the four terms only the first is not 0
    registers = ".reg .b32 %one, %small;\n.reg .f32 %c, %f1, %f2, %f3;"
    for sign in (0, 1 << 31):
        inputs = {"a": ("b32", first | sign)}
        got = execute(body.replace("0f33C00000", f"0f{0x33C00000 | sign:08X}"), inputs, {"out": "f32"}, registers)
        assert set(np.abs(got["out"]).tolist()) == {1.0}


def packed(numbers, kind):
    """One or two numbers in a register, the first low."""
    if kind == "tf32":
        # What is below tf32's fraction must not be looked at.
        return np.float32(numbers[0]).view(np.uint32) | np.uint32(0x1ABC)
    low, high = half_bits(numbers, kind).tolist()
    return low | high << 16
