"""The PTX interpreter's loads, stores, atomics and asynchronous copies."""

from __future__ import annotations

import numpy as np
import pytest
from ptx.kernel import Kernel
from ptx.snippet import HEADER, assemble, entry, execute
from ptx.types import DTYPES, POISON, is_poison, poisoned


@pytest.mark.parametrize("type_name", ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64"])
def test_load_and_store(type_name):
    """Each type there and back; a small one is extended to a wide register by its sign."""
    dtype = DTYPES[type_name]
    size = dtype.itemsize
    x = np.random.default_rng(0).integers(0, 2**63, 32).astype(np.uint64).view(np.uint8)[: 32 * size].view(dtype)
    register = {"f32": "%f0", "f64": "%d0"}.get(type_name, {1: "%r0", 2: "%r0", 4: "%r0", 8: "%a3"}[size])
    y = np.zeros(32, dtype)
    body = f"""
    mad.wide.u32 %a0, %t, {size}, %x;
    mad.wide.u32 %a1, %t, {size}, %y;
    ld.global.{type_name} {register}, [%a0];
    st.global.{type_name} [%a1], {register};
    """
    entry(body).run(1, 32, x, y)
    assert y.tobytes() == x.tobytes()
    if size < 4:
        wide = np.zeros(32, np.int32)
        body = body.replace(f", {size}, %y", ", 4, %y").replace(f"st.global.{type_name}", "st.global.u32")
        entry(body).run(1, 32, x, wide)
        assert wide.tolist() == x.tolist()


@pytest.mark.parametrize(
    ("vector", "type_name"), [("v2", "f32"), ("v4", "f32"), ("v2", "f64"), ("v4", "b8"), ("v2", "b64")]
)
def test_vectors(vector, type_name):
    count, size = int(vector[1]), DTYPES[type_name].itemsize
    letter = {"f32": "f", "f64": "d", "b8": "h", "b64": "a"}[type_name]
    registers = ", ".join(f"%{letter}{k + 4}" for k in range(count))
    backwards = ", ".join(f"%{letter}{k + 4}" for k in reversed(range(count)))
    x = np.arange(32 * count).astype(DTYPES[type_name])
    y = np.zeros_like(x)
    entry(f"""
    mad.wide.u32 %a0, %t, {size * count}, %x;
    mad.wide.u32 %a1, %t, {size * count}, %y;
    ld.global.{vector}.{type_name} {{{registers}}}, [%a0];
    st.global.{vector}.{type_name} [%a1], {{{backwards}}};
    """).run(1, 32, x, y)
    np.testing.assert_array_equal(y.reshape(32, count), x.reshape(32, count)[:, ::-1])


def test_offsets_and_constants():
    x, y = np.arange(8, dtype=np.float32), poisoned(8, np.float32)
    entry("""
    mad.wide.u32 %a0, %t, 4, %x;
    mad.wide.u32 %a1, %t, 8, %y;
    ld.global.nc.f32 %f0, [%a0+16];
    st.global.f32 [%a1], %f0;
    st.global.f32 [%a1+4], 0f40400000;
    add.s64 %a2, %a1, 8;
    ld.global.f32 %f1, [%a2+-8];
    add.f32 %f1, %f1, %f1;
    st.global.f32 [%a2+-8], %f1;
    """).run(1, 4, x, y)
    assert y.tolist() == [8, 3, 10, 3, 12, 3, 14, 3]


def test_only_threads_whose_guard_is_true_store():
    x, y = np.arange(8, dtype=np.float32), poisoned(8, np.float32)
    entry("""
    mad.wide.u32 %a0, %t, 4, %x;
    mad.wide.u32 %a1, %t, 4, %y;
    mov.f32 %f0, 0fBF800000;
    setp.lt.u32 %p0, %t, 3;
    @%p0 ld.global.f32 %f0, [%a0];
    setp.ne.u32 %p1, %t, 5;
    @!%p1 bra SKIP;
    st.global.f32 [%a1], %f0;
SKIP:
    """).run(1, 8, x, y)
    assert is_poison(y).tolist() == [False] * 5 + [True] + [False] * 2
    assert y[[0, 1, 2, 3, 4, 6, 7]].tolist() == [0, 1, 2, -1, -1, -1, -1]


def test_parameters():
    """Numbers of every size, laid out as the ISA says; a load may widen one."""
    text = f"""{HEADER.format(target="sm_80")}
    .visible .entry snippet(.param .u8 a, .param .f64 b, .param .s32 c, .param .u64 out, .param .f32 d)
    {{
    .reg .b64 %out, %w;
    .reg .f64 %b;
    .reg .f32 %d;
    .reg .b16 %a;
    ld.param.u64 %out, [out];
    ld.param.u8 %a, [a];
    cvt.u64.u16 %w, %a;
    st.global.u64 [%out], %w;
    ld.param.f64 %b, [b];
    st.global.f64 [%out+8], %b;
    ld.param.s32 %w, [c];
    st.global.s64 [%out+16], %w;
    ld.param.f32 %d, [d];
    cvt.f64.f32 %b, %d;
    st.global.f64 [%out+24], %b;
    ret;
    }}"""
    assemble(text, "sm_80")
    out = poisoned(4, np.float64)
    Kernel(text).run(1, 1, 200, 2.5, -7, out, 0.75)
    assert out.view(np.int64)[[0, 2]].tolist() == [200, -7]
    assert out[[1, 3]].tolist() == [2.5, 0.75]


SWAP = """
    mov.u32 %r0, tile;
    mad.lo.u32 %r1, %t, 4, %r0;
    mad.wide.u32 %a0, %b, 128, %x;
    mad.wide.u32 %a0, %t, 4, %a0;
    ld.global.f32 %f0, [%a0];
    st.shared.f32 [%r1], %f0;
    bar.sync 0;
    sub.u32 %r2, 31, %t;
    mad.lo.u32 %r2, %r2, 4, %r0;
    ld.shared.f32 %f1, [%r2];
    mad.wide.u32 %a1, %b, 128, %y;
    mad.wide.u32 %a1, %t, 4, %a1;
    st.global.f32 [%a1], %f1;
"""


def test_every_block_has_its_own_shared_memory():
    x, y = np.arange(96, dtype=np.float32), poisoned(96, np.float32)
    entry(SWAP, module=".shared .align 16 .b8 other[32];\n.shared .align 16 .b8 tile[128];").run(3, 32, x, y)
    np.testing.assert_array_equal(y.reshape(3, 32), x.reshape(3, 32)[:, ::-1])


def test_dynamic_shared_memory():
    x, y = np.arange(96, dtype=np.float32), poisoned(96, np.float32)
    module = ".shared .align 4 .b8 other[36];\n.extern .shared .align 16 .b8 tile[];"
    entry(SWAP, module=module).run(3, 32, x, y, dynamic_shared=128)
    np.testing.assert_array_equal(y.reshape(3, 32), x.reshape(3, 32)[:, ::-1])


def test_generic_addresses():
    """One instruction, threads with addresses in global, shared and local memory."""
    x, y = np.full(6, 10, np.uint32), poisoned(6, np.uint32)
    entry(
        """
    mov.u64 %a0, tile;
    cvta.shared.u64 %a0, %a0;
    mov.u64 %a1, stack;
    cvta.local.u64 %a1, %a1;
    rem.u32 %r0, %t, 3;
    mad.wide.u32 %a2, %t, 4, %x;
    mad.wide.u32 %a3, %t, 4, %a0;
    setp.eq.u32 %p0, %r0, 0;
    setp.eq.u32 %p1, %r0, 1;
    selp.b64 %a4, %a3, %a1, %p1;
    selp.b64 %a4, %a2, %a4, %p0;
    st.u32 [%a4], %t;
    ld.u32 %r1, [%a4];
    cvta.to.shared.u64 %a5, %a3;
    @%p1 ld.shared.u32 %r2, [%a5];
    @%p1 add.u32 %r1, %r1, %r2;
    mad.wide.u32 %a6, %t, 4, %y;
    st.global.u32 [%a6], %r1;
    """,
        declarations=".local .align 8 .b8 stack[16];",
        module=".shared .align 16 .b8 tile[64];",
    ).run(1, 6, x, y)
    assert y.tolist() == [0, 2, 2, 3, 8, 5]
    assert x.tolist() == [0, 10, 10, 3, 10, 10]


def test_local_memory_is_a_threads_own():
    y = poisoned(8, np.uint32)
    x = np.zeros(1, np.uint32)
    entry(
        """
    mov.u64 %a0, stack;
    st.local.u32 [%a0+4], %t;
    mov.u32 %r0, 100;
    st.local.v2.u32 [%a0+8], {%r0, %t};
    ld.local.u32 %r1, [%a0+4];
    ld.local.v2.u32 {%r2, %r3}, [%a0+8];
    add.u32 %r1, %r1, %r2;
    add.u32 %r1, %r1, %r3;
    mad.wide.u32 %a6, %t, 4, %y;
    st.global.u32 [%a6], %r1;
    """,
        declarations=".local .align 8 .b8 stack[16];",
    ).run(1, 8, x, y)
    assert y.tolist() == [100 + 2 * t for t in range(8)]


def test_tables_of_a_module():
    y = poisoned(4, np.float32)
    module = """
    .const .align 4 .f32 table[4] = {0f3F800000, 0f40000000, 3.0, 0f40800000};
    .global .align 8 .b8 raw[8] = {1, 0, 0, 0, 2};
    .global .align 4 .u32 counter;
    """
    x = np.zeros(1, np.uint32)
    entry(
        """
    mov.u64 %a0, table;
    mad.wide.u32 %a0, %t, 4, %a0;
    ld.const.f32 %f0, [%a0];
    ld.global.u32 %r0, [raw+4];
    cvt.rn.f32.u32 %f1, %r0;
    ld.global.u32 %r1, [counter];
    cvt.rn.f32.u32 %f2, %r1;
    fma.rn.f32 %f0, %f0, %f1, %f2;
    mad.wide.u32 %a1, %t, 4, %y;
    st.global.f32 [%a1], %f0;
    """,
        module=module,
    ).run(1, 4, x, y)
    assert y.tolist() == [2, 4, 6, 8]


# --- atomics ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["global", "shared"])
def test_atomics(space):
    values = np.array([5, 3, 9, 3, 200, 1, 7, 2], np.uint32)
    initial = {"add": 10, "min": 10, "max": 10, "and": 255, "or": 16, "xor": 6, "exch": 4, "inc": 1, "dec": 1}
    function = {
        "add": lambda old, v: old + v,
        "min": min,
        "max": max,
        "and": lambda old, v: old & v,
        "or": lambda old, v: old | v,
        "xor": lambda old, v: old ^ v,
        "exch": lambda old, v: v,
        "inc": lambda old, v: 0 if old >= v else old + 1,
        "dec": lambda old, v: v if old == 0 or old > v else old - 1,
    }
    for name, start in initial.items():
        type_name = "b32" if name in ("and", "or", "xor", "exch") else "u32"
        x, y = np.array([*values, start], np.uint32), poisoned(9, np.uint32)
        cell = "%x+32" if space == "global" else "cell"
        fill = "" if space == "global" else "ld.global.u32 %r3, [%x+32];\n@%p0 st.shared.u32 [cell], %r3;\nbar.sync 0;"
        entry(
            f"""
        setp.eq.u32 %p0, %t, 0;
        {fill}
        mad.wide.u32 %a0, %t, 4, %x;
        mad.wide.u32 %a1, %t, 4, %y;
        ld.global.u32 %r0, [%a0];
        atom.{space}.{name}.{type_name} %r1, [{cell}], %r0;
        st.global.u32 [%a1], %r1;
        bar.sync 0;
        @%p0 ld.{space}.u32 %r2, [{cell}];
        @%p0 st.global.u32 [%y+32], %r2;
        """,
            module=".shared .align 4 .b8 cell[4];",
        ).run(1, 8, x, y)
        old, seen = start, []
        for value in values.tolist():
            seen.append(old)
            old = function[name](old, value)
        assert y.tolist() == [*seen, old], name


def test_compare_and_swap_and_red():
    x, y = np.array([0, 5], np.uint64), poisoned(8, np.uint32)
    entry("""
    cvt.u64.u32 %a0, %t;
    add.u64 %a1, %a0, 1;
    atom.global.cas.b64 %a2, [%x], %a0, %a1;
    red.global.max.u64 [%x+8], %a0;
    red.global.add.u64 [%x+8], 1;
    cvt.u32.u64 %r0, %a2;
    mad.wide.u32 %a3, %t, 4, %y;
    st.global.u32 [%a3], %r0;
    """).run(1, 8, x, y)
    assert y.tolist() == list(range(8))
    assert x.tolist() == [8, 7 + 8]


# --- cp.async -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "kind"), [(4, "ca"), (8, "ca"), (16, "ca"), (16, "cg")])
@pytest.mark.parametrize("filled", [None, 0, "all", "part"])
def test_asynchronous_copy(size, kind, filled):
    """Bytes beyond the source's size are zeros."""
    given = {None: size, 0: 0, "all": size, "part": size // 2}[filled]
    x, y = np.arange(32 * size, dtype=np.uint8), np.full(32 * size, 255, np.uint8)
    words = {4: "b32", 8: "b64", 16: "v2.b64"}[size]
    registers = "{%a3, %a4}" if size == 16 else "%a3" if size == 8 else "%r3"
    source_size = "" if filled is None else f", {given}"
    entry(
        f"""
    mov.u32 %r0, tile;
    mad.lo.u32 %r1, %t, {size}, %r0;
    mad.wide.u32 %a0, %t, {size}, %x;
    cp.async.{kind}.shared.global [%r1], [%a0], {size}{source_size};
    cp.async.commit_group;
    cp.async.wait_group 0;
    ld.shared.{words} {registers}, [%r1];
    mad.wide.u32 %a1, %t, {size}, %y;
    st.global.{words} [%a1], {registers};
    """,
        module=".shared .align 16 .b8 tile[512];",
    ).run(1, 32, x, y)
    wanted = x.reshape(32, size).copy()
    wanted[:, given:] = 0
    np.testing.assert_array_equal(y.reshape(32, size), wanted)


def test_nothing_is_read_for_bytes_that_are_not_wanted():
    """A source of 0 bytes may be any address, even the end of its array."""
    x, y = np.arange(4, dtype=np.uint32), poisoned(4, np.uint32)
    entry(
        """
    mov.u32 %r0, tile;
    cp.async.cg.shared.global [%r0], [%x+4096], 16, 0;
    cp.async.wait_all;
    ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [%r0];
    st.global.v4.u32 [%y], {%r1, %r2, %r3, %r4};
    """,
        module=".shared .align 16 .b8 tile[16];",
    ).run(1, 1, x, y)
    assert y.tolist() == [0] * 4


def test_wait_group_leaves_the_newest_in_flight():
    x, y = np.arange(8, dtype=np.uint32), poisoned(8, np.uint32)
    body = """
    mov.u32 %r0, tile;
    cp.async.ca.shared.global [%r0], [%x], 16;
    cp.async.commit_group;
    cp.async.ca.shared.global [%r0+16], [%x+16], 16;
    cp.async.commit_group;
    cp.async.wait_group {newest};
    ld.shared.u32 %r1, [%r0+{offset}];
    st.global.u32 [%y], %r1;
    cp.async.wait_group 0;
    """
    module = ".shared .align 16 .b8 tile[32];"
    for newest, offset, wanted in ((1, 0, 0), (0, 0, 0), (0, 16, 4)):
        entry(body.format(newest=newest, offset=offset), module=module).run(1, 1, x, y)
        assert y[0] == wanted
    # Unchecked, what has not arrived is seen to be missing.
    entry(body.format(newest=1, offset=16), module=module).run(1, 1, x, y, check=False)
    assert y[0] == POISON


def test_execute_counts_as_a_test_only_if_outputs_are_written():
    with pytest.raises(AssertionError, match="never written"):
        execute("", {"a": ("u32", [POISON])}, {"out": "u32"}, declarations="", check=False)
