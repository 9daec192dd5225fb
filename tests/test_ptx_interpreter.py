"""The PTX interpreter on whole programs: control flow, device functions, and as a runtime."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ptx import checks
from ptx.checks import Violation
from ptx.kernel import Kernel
from ptx.parser import parse
from ptx.snippet import HEADER, entry, execute
from ptx.syntax import PtxSyntaxError
from ptx.types import poisoned

# --- control flow -------------------------------------------------------------------------------------------

COLLATZ = """
    mov.u32 %out, 0;
LOOP:
    setp.le.u32 %p, %n, 1;
    @%p bra DONE;
    and.b32 %odd, %n, 1;
    setp.eq.u32 %q, %odd, 1;
    @%q bra ODD;
    shr.u32 %n, %n, 1;
    bra NEXT;
ODD:
    mad.lo.u32 %n, %n, 3, 1;
NEXT:
    add.u32 %out, %out, 1;
    bra LOOP;
DONE:
"""


def test_threads_leave_a_loop_one_by_one():
    def steps(n):
        count = 0
        while n > 1:
            n, count = (3 * n + 1 if n % 2 else n // 2), count + 1
        return count

    n = np.arange(1, 301)
    got = execute(COLLATZ, {"n": ("u32", n)}, {"out": "u32"}, ".reg .pred %p, %q;\n.reg .b32 %odd;")["out"]
    assert got.tolist() == [steps(k) for k in n.tolist()]


def test_many_batches_and_a_last_one_that_is_not_full():
    """7001 blocks of 3 threads: registers and special registers are those of the block, in every batch."""
    y = poisoned(21003, np.uint32)
    entry("""
    mad.lo.u32 %r0, %b, 3, %t;
    mad.wide.u32 %a0, %r0, 4, %y;
    setp.eq.u32 %p0, %t, 1;
    mov.u32 %r1, %r0;
    @%p0 mul.lo.u32 %r1, %r1, 10;
    st.global.u32 [%a0], %r1;
    """).run(7001, 3, np.zeros(1), y)
    number = np.arange(21003)
    np.testing.assert_array_equal(y, np.where(number % 3 == 1, number * 10, number))


def test_grid_and_block_of_three_axes():
    y = poisoned(5 * 4 * 3 * 2 * 6, np.uint32)
    names = ["%tid.x", "%tid.y", "%tid.z", "%ctaid.x", "%ctaid.y", "%ctaid.z"]
    shape = (2, 3, 2, 5, 4, 3)  # of the same
    body = "mov.u32 %r0, 0;\n"
    for name, size in zip(reversed(names), reversed(shape), strict=True):
        body += f"mov.u32 %r1, {name};\nmad.lo.u32 %r0, %r0, {size}, %r1;\n"
    y = poisoned(math.prod(shape), np.uint32)
    entry(body + "mad.wide.u32 %a0, %r0, 4, %y;\nst.global.u32 [%a0], %r0;").run((5, 4, 3), (2, 3, 2), np.zeros(1), y)
    assert y.tolist() == list(range(y.size))


def test_branch_by_a_table():
    body = """
    rem.u32 %k, %i, 3;
targets: .branchtargets ZERO, ONE, TWO;
    brx.idx %k, targets;
ZERO:
    mov.u32 %out, 100;
    bra END;
ONE:
    mov.u32 %out, 200;
    bra END;
TWO:
    mov.u32 %out, 300;
END:
    """
    got = execute(body, {}, {"out": "u32"}, ".reg .b32 %k;", block=7)["out"]
    assert got.tolist() == [100, 200, 300, 100, 200, 300, 100]


def test_exit_of_some_threads():
    y = np.zeros(40, np.uint32)
    entry("""
    mad.wide.u32 %a0, %t, 4, %y;
    setp.lt.u32 %p0, %t, 10;
    @%p0 st.global.u32 [%a0], 1;
    @%p0 exit;
    setp.lt.u32 %p1, %t, 30;
    @!%p1 ret;
    st.global.u32 [%a0], %t;
    """).run(1, 40, np.zeros(1), y)
    assert y.tolist() == [1] * 10 + list(range(10, 30)) + [0] * 10


# --- device functions -----------------------------------------------------------------------------------------

FUNCTIONS = """
.func (.param .b32 out) twice(.param .b32 x)
{
    .reg .b32 %r<3>;
    ld.param.u32 %r1, [x];
    add.u32 %r2, %r1, %r1;
    st.param.b32 [out+0], %r2;
    ret;
}
.func (.param .align 8 .b8 out[16]) split(.param .b64 x, .param .b32 limit)
{
    .local .align 8 .b8 stack[16];
    .reg .b64 %x, %s;
    .reg .b32 %r<4>;
    .reg .pred %p;
    ld.param.u64 %x, [x];
    ld.param.u32 %r1, [limit];
    mov.u64 %s, stack;
    st.local.u64 [%s+8], %x;
    cvt.u32.u64 %r2, %x;
    setp.lt.u32 %p, %r2, %r1;
    @%p bra SMALL;
    mov.b32 %r3, 0;
    st.param.b32 [out+8], %r3;
    st.param.b64 [out], %x;
    ret;
SMALL:
    {
    .param .b32 a;
    .param .b32 b;
    st.param.b32 [a], %r2;
    call.uni (b), twice, (a);
    ld.param.b32 %r3, [b];
    }
    ld.local.u64 %x, [%s+8];
    st.param.b32 [out+8], %r3;
    st.param.b64 [out], %x;
    ret;
}
.func nothing()
{
    ret;
}
"""


def test_calls():
    """Parameters, structures, a function that calls another, local memory, a call in a loop and returns apart."""
    body = """
    mov.u32 %out, 0;
    mov.u32 %k, 0;
LOOP:
    {
    .param .b64 first;
    .param .b32 second;
    .param .align 8 .b8 result[16];
    cvt.u64.u32 %x, %i;
    st.param.b64 [first], %x;
    st.param.b32 [second], 5;
    call.uni (result), split, (first, second);
    ld.param.b64 %x, [result];
    ld.param.b32 %y, [result+8];
    }
    call.uni nothing, ();
    cvt.u32.u64 %z, %x;
    add.u32 %out, %out, %y;
    mad.lo.u32 %out, %z, 1000, %out;
    add.u32 %k, %k, 1;
    setp.lt.u32 %p, %k, 2;
    @%p bra LOOP;
    """
    declarations = ".reg .b64 %x;\n.reg .b32 %y, %z, %k;\n.reg .pred %p;"
    got = execute(body, {}, {"out": "u32"}, declarations, block=10, module=FUNCTIONS)["out"]
    assert got.tolist() == [2 * (1000 * t + (2 * t if t < 5 else 0)) for t in range(10)]


def test_what_is_not_interpreted_is_named():
    for body, match in {
        "atom.global.add.f32 %f0, [%y], 0f3F800000;": "atomics of floats",
        "mov.u32 %r0, %pm0;": "special register %pm0",
        "fma.rn.f16x2 %r0, %r1, %r2, %r3;": "f16x2",
    }.items():
        with pytest.raises(PtxSyntaxError, match=match):
            entry(body).run(1, 1, np.zeros(1), np.zeros(1))
    with pytest.raises(PtxSyntaxError, match="calls itself"):
        Kernel(
            HEADER.format(target="sm_80") + ".func f() { call.uni f, (); ret; }\n.entry k() { call.uni f, (); ret; }"
        )
    with pytest.raises(PtxSyntaxError, match="line 4"):
        parse(HEADER.format(target="sm_80") + "nonsense")
    with pytest.raises(PtxSyntaxError, match="not interpreted"):
        Kernel(HEADER.format(target="sm_80") + ".entry k() { tcgen05.alloc; ret; }")


# --- the runtime ----------------------------------------------------------------------------------------------


@pytest.fixture
def device():
    pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernels")
    from ptx.runtime import InterpreterRuntime

    from numbaconv.cuda import launch

    with launch.use(InterpreterRuntime((8, 0))) as runtime:
        yield runtime


def test_an_operation_on_the_interpreter(device):
    from numbaconv import functional, to_device, to_host

    x = np.random.default_rng(0).standard_normal((3, 5, 7, 9)).astype(np.float32)
    x[0, 0, 0, 0] = np.nan
    y = to_host(functional.relu(to_device(x, "cuda")))
    np.testing.assert_array_equal(y, np.where(x <= 0, 0, x))
    assert list(device.launches.values()) == [1]


def test_the_host_reads_nothing_that_is_unwritten(device):
    address = device.allocate(0, 64)
    device.clear(0, address, 32, 0)
    out = np.empty(8, np.float32)
    device.copy_to_host(0, out, address, 0)
    assert not out.any()
    with pytest.raises(Violation) as caught:
        device.copy_to_host(0, out, address + 16, 0)
    assert caught.value.kind == checks.UNWRITTEN
    assert "16 of which" in str(caught.value)


def test_other_ptx_instead(device):
    """What mutation does: the kernel of a name is replaced."""
    from numbaconv import functional, to_device

    x = to_device(np.ones(8, np.float32), "cuda")
    functional.relu(x)
    (name,) = device.launches
    device.instead[name] = device.texts[name].replace("\tret;", "\ttrap;\n\tret;", 1)
    with pytest.raises(Violation, match="trap"):
        functional.relu(x)


def test_captured_work_is_done_when_it_is_replayed(device):
    address = device.allocate(0, 16)
    source = np.arange(4, dtype=np.float32)
    stream = device.create_stream(0)
    device.begin_capture(0, stream)
    device.copy_to_device(0, address, source, stream)
    graph = device.end_capture(0, stream)
    assert device.memory.unwritten(address, 16) == 16
    out = np.empty(4, np.float32)
    for _ in range(2):
        source += 1
        device.replay(0, graph, stream)
        device.copy_to_host(0, out, address, 0)
        np.testing.assert_array_equal(out, source)
