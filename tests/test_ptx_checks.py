"""Every check of the PTX interpreter, proven by a kernel that breaks one rule and its neighbour that does not."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import checks
from ptx.checks import Violation
from ptx.kernel import Kernel
from ptx.memory import DeviceMemory
from ptx.snippet import entry
from ptx.types import poisoned

TILE = ".shared .align 16 .b8 tile[{}];"


def run(body, grid=1, block=64, x=None, y=None, shared=256, **options):
    x = np.arange(1024, dtype=np.float32) if x is None else x
    y = poisoned(1024, np.float32) if y is None else y
    entry(body, module=TILE.format(shared)).run(grid, block, x, y, **options)
    return y


def violation(kind, body, match=None, **options):
    with pytest.raises(Violation, match=match) as caught:
        run(body, **options)
    assert caught.value.kind == kind, caught.value
    return str(caught.value)


SHARED = "mov.u32 %r0, tile;\nmad.lo.u32 %r1, %t, 4, %r0;\nxor.b32 %r2, %t, 32;\nmad.lo.u32 %r2, %r2, 4, %r0;\n"
GLOBAL = "mad.wide.u32 %a0, %t, 4, %x;\nmad.wide.u32 %a1, %t, 4, %y;\n"
WRITE = "st.shared.u32 [%r1], %t;\n"
READ = "ld.shared.u32 %r3, [%r2];\nst.global.u32 [%a1], %r3;\n"


# --- races within a block -----------------------------------------------------------------------------------


def test_missing_barrier_between_write_and_read():
    run(SHARED + GLOBAL + WRITE + "bar.sync 0;\n" + READ)
    text = violation(checks.RACE, SHARED + GLOBAL + WRITE + READ)
    assert "ld.shared.u32 %r3" in text, "the instruction is named"
    assert "thread (0, 0, 0) of block (0, 0, 0)" in text
    assert "with thread (32, 0, 0)" in text
    run(SHARED + GLOBAL + WRITE + READ, check=False)


def test_missing_barrier_between_read_and_write():
    again = "ld.shared.u32 %r3, [%r2];\n{}st.shared.u32 [%r1], %r3;\n"
    start = SHARED + WRITE + "bar.sync 0;\n"
    run(start + again.format("bar.sync 0;\n"))
    violation(checks.RACE, start + again.format(""), match="st.shared")


def test_two_threads_write_one_word():
    violation(checks.RACE, SHARED + "st.shared.u32 [%r0], %t;", match="st.shared")
    violation(checks.RACE, "st.global.u32 [%y], %t;", match="st.global")
    run("setp.eq.u32 %p0, %t, 7;\n@%p0 st.global.u32 [%y], %t;")


def test_race_in_global_memory_within_a_block():
    there = "xor.b32 %r2, %t, 32;\nmad.wide.u32 %a2, %r2, 4, %y;\n"
    body = GLOBAL + there + "st.global.u32 [%a1], %t;\n{}ld.global.u32 %r3, [%a2];"
    run(body.format("bar.sync 0;\n"))
    violation(checks.RACE, body.format(""), match="ld.global")


def test_reads_do_not_race():
    run(SHARED + WRITE + "bar.sync 0;\nld.shared.u32 %r3, [%r0];\nld.shared.u32 %r4, [%r2];")


def test_a_reader_is_not_forgotten_for_those_that_follow():
    """Thread 40 (another warp), then many others read a word that thread 0 then writes."""
    body = SHARED + WRITE + "bar.sync 0;\n"
    for reader in ("eq.u32 %p0, %t, 40", "lt.u32 %p0, %t, 32", "eq.u32 %p0, %t, 0"):
        body += f"setp.{reader};\n@%p0 ld.shared.u32 %r3, [%r0];\n"
    violation(checks.RACE, body + "@%p0 st.shared.u32 [%r0], %t;", match=r"with thread \(40, 0, 0\)")


def test_neighbouring_bytes_do_not_race():
    """Where a kernel stores bytes, races are told apart by bytes."""
    body = "mov.u32 %r0, tile;\nadd.u32 %r1, %t, %r0;\ncvt.u16.u32 %h0, %t;\n{}st.shared.u8 [%r1], %h0;\n"
    run(body.format(""))
    violation(checks.RACE, body.format("and.b32 %r1, %r1, -2;\n"))


def test_warp_barrier_orders_a_warp_only():
    partner = SHARED.replace("%t, 32;", "%t, {};")
    body = GLOBAL + WRITE + "bar.warp.sync 0xffffffff;\n" + READ
    run(partner.format(1) + body)
    violation(checks.RACE, partner.format(32) + body)
    violation(checks.RACE, partner.format(1) + body.replace("bar.warp.sync 0xffffffff;\n", ""))


def test_atomics_do_not_race_with_each_other_but_with_stores():
    atomic = (
        SHARED + "setp.eq.u32 %p0, %t, 0;\n@%p0 st.shared.u32 [%r0], 0;\nbar.sync 0;\nred.shared.add.u32 [%r0], 1;\n"
    )
    run(atomic)
    violation(checks.RACE, atomic + "@%p0 ld.shared.u32 %r3, [%r0];")
    run(atomic + "bar.sync 0;\n@%p0 ld.shared.u32 %r3, [%r0];")
    run(atomic + "@%p0 ld.volatile.shared.u32 %r3, [%r0];")


# --- blocks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [2, 100])
def test_two_blocks_write_one_address(grid):
    """Whether they are in one batch or not: 100 blocks of 64 threads are several."""
    own = "mad.lo.u32 %r0, %b, 64, %t;\nmad.wide.u32 %a0, %r0, 4, %y;\nst.global.u32 [%a0], %t;\n"
    y = poisoned(6400, np.float32)
    run(own, grid=grid, y=y)
    last = f"setp.eq.u32 %p0, %b, {grid - 1};\nsetp.eq.and.u32 %p0, %t, 5, %p0;\n@%p0 st.global.u32 [%y], %t;"
    violation(checks.BLOCK_CONFLICT, own + last, match=r"with thread \(0, 0, 0\) of block \(0, 0, 0\)", grid=grid, y=y)


def test_a_block_reads_what_another_writes():
    body = "setp.eq.u32 %p0, %t, 0;\nsetp.eq.and.u32 %p1, %b, 0, %p0;\n{}\n{}"
    store, load = "@%p1 st.global.u32 [%y], %t;", "@%p0 ld.global.u32 %r0, [%y];"
    for first, second in ((store, load), (load, store)):
        violation(checks.BLOCK_CONFLICT, body.format(first, second), grid=2, y=np.zeros(4, np.float32))
    run(body.format(store, load).replace("%p0 ld", "%p1 ld"), grid=2)
    run(body.format(load, load), grid=2, y=np.zeros(4, np.float32))


def test_atomics_of_blocks():
    counts = np.zeros(1, np.uint32)
    run("red.global.add.u32 [%y], 1;", grid=40, y=counts)
    assert counts.tolist() == [40 * 64]
    violation(checks.BLOCK_CONFLICT, "st.global.u32 [%y], %b;", grid=2, block=1)
    run("st.volatile.global.u32 [%y], 1;", grid=2, block=1)


def test_two_launches_are_ordered():
    kernel = entry(GLOBAL + "ld.global.f32 %f0, [%a0];\nst.global.f32 [%a1], %f0;")
    memory = DeviceMemory()
    x, y, z = (memory.allocate(256) for _ in range(3))
    memory.write(x, np.arange(64, dtype=np.float32))
    kernel.launch(memory, (1,), (64,), (x, y))
    kernel.launch(memory, (1,), (64,), (y, z))
    out = np.zeros(64, np.float32)
    memory.read(z, out)
    assert out.tolist() == list(range(64))


def test_the_read_only_path_reads_nothing_that_is_written():
    body = GLOBAL + "st.global.f32 [%a1], 0f00000000;\nld.global{}.f32 %f0, [%a1];"
    run(body.format(""))
    violation(checks.RACE, body.format(".nc"), match="ld.global.nc")


# --- bounds and alignment: also without the other checks ------------------------------------------------------


@pytest.mark.parametrize("check", [True, False])
def test_bounds(check):
    x = np.arange(64, dtype=np.float32)
    run(GLOBAL + "ld.global.f32 %f0, [%a0];", x=x, check=check)
    text = violation(checks.OUT_OF_BOUNDS, GLOBAL + "ld.global.f32 %f0, [%a0+4];", x=x, check=check)
    assert "byte 256 of an allocation of 256 bytes" in text
    assert "thread (63, 0, 0)" in text
    violation(checks.OUT_OF_BOUNDS, GLOBAL + "ld.global.f32 %f0, [%a0+-4];", x=x, check=check)
    violation(checks.OUT_OF_BOUNDS, GLOBAL + "ld.global.v2.f32 {%f0, %f1}, [%x+256];", x=x, check=check)
    violation(checks.OUT_OF_BOUNDS, "st.global.f32 [%y+1048576], 0f00000000;", check=check)
    violation(checks.OUT_OF_BOUNDS, "mov.u64 %a0, 0;\nld.global.f32 %f0, [%a0];", match="no allocation", check=check)


@pytest.mark.parametrize("check", [True, False])
def test_bounds_of_shared_memory(check):
    body = SHARED + "st.shared.u32 [%r1+{}], %t;"
    run(body.format(0), check=check)
    violation(checks.OUT_OF_BOUNDS, body.format(4), match="byte 256 of 256 of shared memory", check=check)
    violation(checks.OUT_OF_BOUNDS, body.format(-4), check=check)


@pytest.mark.parametrize("check", [True, False])
def test_alignment(check):
    run(GLOBAL + "ld.global.v4.f32 {%f0, %f1, %f2, %f3}, [%x+16];", check=check)
    for access in (
        "ld.global.f32 %f0, [%x+2];",
        "ld.global.v4.f32 {%f0, %f1, %f2, %f3}, [%x+8];",
        "st.global.f64 [%y+4], 0d0000000000000000;",
        SHARED + "st.shared.v2.u32 [%r0+4], {%t, %t};",
        SHARED + "cp.async.ca.shared.global [%r0], [%x+4], 8;",
        SHARED + "cp.async.ca.shared.global [%r0+4], [%x], 8;",
    ):
        violation(checks.MISALIGNED, access, block=1, check=check)


@pytest.mark.parametrize("check", [True, False])
def test_freed_memory(check):
    kernel = entry("ld.global.f32 %f0, [%x];")
    memory = DeviceMemory()
    x, y = memory.allocate(16), memory.allocate(16)
    memory.clear(x, 16)
    kernel.launch(memory, (1,), (1,), (x, y), check=check)
    memory.free(x)
    memory.allocate(16)
    with pytest.raises(Violation) as caught:
        kernel.launch(memory, (1,), (1,), (x, y), check=check)
    assert caught.value.kind == checks.FREED


# --- bytes that nobody wrote ----------------------------------------------------------------------------------


def test_uninitialised_shared_memory():
    body = SHARED + "setp.lt.u32 %p0, %t, {};\n@%p0 st.shared.u32 [%r1], %t;\nbar.sync 0;\nld.shared.u32 %r3, [%r2];"
    run(body.format(64))
    text = violation(checks.UNWRITTEN, body.format(63))
    assert "thread (31, 0, 0)" in text
    assert "byte 252 of 256 of shared memory" in text


def test_every_block_begins_with_uninitialised_shared_memory():
    """Block 40, in a later batch, must not find what block 0 wrote."""
    body = SHARED + "setp.lt.u32 %p0, %b, 40;\n@%p0 st.shared.u32 [%r1], %t;\nbar.sync 0;\nld.shared.u32 %r3, [%r2];"
    run(body, grid=40)
    violation(checks.UNWRITTEN, body, grid=41, match=r"of block \(40, 0, 0\)")


def test_uninitialised_global_memory():
    load = GLOBAL + "ld.global.f32 %f0, [%a1];"
    y = poisoned(64, np.float32)
    violation(checks.UNWRITTEN, load, y=y, match="byte 0 of an allocation of 256 bytes")
    y[:40] = 1
    assert "thread (40, 0, 0)" in violation(checks.UNWRITTEN, load, y=y)
    run(GLOBAL + "st.global.f32 [%a1], 0f00000000;\nld.global.f32 %f0, [%a1];", y=y)
    # A vector is read as a whole.
    y = np.ones(64, np.float32)
    y[3] = poisoned(1, np.float32)[0]
    violation(checks.UNWRITTEN, "ld.global.v4.f32 {%f0, %f1, %f2, %f3}, [%y];", y=y, block=1)


def test_uninitialised_local_memory():
    text = "mov.u64 %a2, stack;\nst.local.u32 [%a2], %t;\nld.local.u32 %r0, [%a2{}];"
    local = ".local .align 4 .b8 stack[8];"
    x = np.zeros(4, np.float32)
    entry(text.format(""), declarations=local).run(1, 4, x, x)
    with pytest.raises(Violation) as caught:
        entry(text.format("+4"), declarations=local).run(1, 4, x, x)
    assert caught.value.kind == checks.UNWRITTEN


# --- asynchronous copies --------------------------------------------------------------------------------------

COPY = SHARED + "mad.wide.u32 %a0, %t, 4, %x;\ncp.async.ca.shared.global [%r1], [%a0], 4;\ncp.async.commit_group;\n"


def test_missing_wait_group():
    read = "bar.sync 0;\nld.shared.u32 %r3, [%r2];"
    run(COPY + "cp.async.wait_group 0;\n" + read)
    violation(checks.IN_FLIGHT, COPY + read, match="ld.shared")
    violation(checks.IN_FLIGHT, COPY + "cp.async.wait_group 1;\n" + read)
    violation(checks.IN_FLIGHT, COPY + "ld.shared.u32 %r3, [%r1];", match="ld.shared")  # not even its own
    violation(checks.IN_FLIGHT, COPY + "st.shared.u32 [%r1], %t;", match="st.shared")


def test_missing_commit_group():
    uncommitted = COPY.replace("cp.async.commit_group;\n", "")
    read = "bar.sync 0;\nld.shared.u32 %r3, [%r2];"
    violation(checks.IN_FLIGHT, uncommitted + "cp.async.wait_group 0;\n" + read)
    run(uncommitted + "cp.async.wait_all;\n" + read)


def test_a_wait_is_no_barrier():
    wait = COPY + "cp.async.wait_group 0;\n"
    run(wait + "ld.shared.u32 %r3, [%r1];")  # its own
    violation(checks.RACE, wait + "ld.shared.u32 %r3, [%r2];")


def test_a_copy_into_what_others_still_read():
    start = SHARED + WRITE + "bar.sync 0;\nld.shared.u32 %r3, [%r2];\n"
    again = COPY.removeprefix(SHARED)
    run(start + "bar.sync 0;\n" + again + "cp.async.wait_group 0;\n")
    violation(checks.RACE, start + again, match="cp.async")


def test_copies_check_their_source():
    violation(checks.OUT_OF_BOUNDS, COPY, x=np.zeros(63, np.float32), match="cp.async")
    violation(checks.UNWRITTEN, COPY, x=poisoned(64, np.float32), match="cp.async")
    body = COPY.replace("], 4;", "], 4, %r4;").replace(
        "cp.async.ca", "set.lt.u32.u32 %r4, %t, 63;\nand.b32 %r4, %r4, 4;\ncp.async.ca", 1
    )
    run(body + "cp.async.wait_group 0;\n", x=np.zeros(63, np.float32))


# --- barriers and warps ---------------------------------------------------------------------------------------


def test_divergent_barrier():
    body = "setp.lt.u32 %p0, %t, {};\n@!%p0 bra SKIP;\nbar.sync 0;\nSKIP:\n"
    run(body.format(64))
    run(body.format(0))
    for count in (1, 32, 63):
        violation(checks.BARRIER_DIVERGED, body.format(count) + "add.u32 %r0, %t, 1;", match="exited|never come")


def test_barrier_after_some_threads_have_left():
    violation(
        checks.BARRIER_DIVERGED, "setp.lt.u32 %p0, %t, 40;\n@%p0 exit;\nbar.sync 0;", match="40 threads .* exited"
    )


def test_threads_at_two_barriers():
    body = "setp.lt.u32 %p0, %t, 32;\n@%p0 bra OTHER;\nbar.sync 0;\nbra END;\nOTHER:\nbar.sync {};\nEND:\n"
    violation(checks.BARRIER_DIVERGED, body.format(0), match="at another barrier")
    violation(checks.BARRIER_DIVERGED, body.format(1), match="never come")
    # The same by the block is no divergence.
    run(body.format(0).replace("lt.u32 %p0, %t, 32", "eq.u32 %p0, %b, 1"), grid=2)


def test_barriers_have_numbers():
    """A producer's half arrives at barrier 3 and goes on; the other half waits there."""
    body = """
    setp.lt.u32 %p0, %t, 32;
    @%p0 bra PRODUCER;
    bar.sync 3, 64;
    bra END;
PRODUCER:
    bar.arrive 3, 64;
END:
    bar.sync 0;
    """
    run(body)
    with pytest.raises(Violation):
        run(body.replace("bar.arrive 3", "bar.arrive 2"))


def test_barriers_order_blocks_of_any_number_apart():
    run(SHARED + GLOBAL + WRITE + "bar.sync 5;\n" + READ)
    violation(checks.RACE, SHARED + GLOBAL + WRITE + "bar.sync 5;\n" + READ + WRITE)


SHUFFLE = "shfl.sync.bfly.b32 %r0, %t, 1, 31, {};\n"


def test_shuffle_of_a_warp_that_is_not_converged():
    apart = "setp.lt.u32 %p0, %t, 16;\n@!%p0 bra SKIP;\n{}SKIP:\n"
    run(SHUFFLE.format(-1))
    run(apart.format(SHUFFLE.format("0xffff")))
    violation(checks.WARP_DIVERGED, apart.format(SHUFFLE.format(-1)), match="never come here.*shfl.sync")
    violation(checks.WARP_DIVERGED, apart.format("bar.warp.sync -1;\n"))
    violation(checks.WARP_DIVERGED, apart.format("vote.sync.all.pred %p1, %p0, -1;\n"))


def test_shuffle_masks():
    violation(checks.WARP_DIVERGED, SHUFFLE.format("0xfffffffe"), match="not in its own mask")
    reads = "setp.lt.u32 %p0, %t, 16;\n@!%p0 bra SKIP;\nshfl.sync.down.b32 %r0, %t, 1, 31, 0xffff;\nSKIP:\n"
    violation(checks.WARP_DIVERGED, reads, match="lane 16, which does not take part")
    violation(checks.WARP_DIVERGED, SHUFFLE.format(-1), block=41, match="lane 9, which does not take part")


def test_matrix_instructions_need_whole_warps():
    zero = "mov.f32 %f0, 0f00000000;\n"
    mma = (
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f4, %f5, %f6, %f7}, {%r0, %r0, %r0, %r0}, {%r0, %r0}, "
        "{%f0, %f0, %f0, %f0};\n"
    )
    run("mov.b32 %r0, 0;\n" + zero + mma)
    apart = "mov.b32 %r0, 0;\n" + zero + "setp.lt.u32 %p0, %t, 16;\n@!%p0 bra SKIP;\n" + mma + "SKIP:\n"
    violation(checks.WARP_DIVERGED, apart)
    violation(checks.WARP_DIVERGED, "mov.b32 %r0, 0;\n" + zero + mma, block=48, match="not complete")


def test_kernels_that_do_not_end():
    violation(checks.ENDLESS, "LOOP:\nadd.u32 %r0, %t, 1;\nbra LOOP;", max_segments=1000)


def test_trap():
    run("setp.gt.u32 %p0, %t, 100;\n@%p0 trap;")
    violation(checks.TRAP, "setp.eq.u32 %p0, %t, 9;\n@%p0 trap;", match=r"thread \(9, 0, 0\)")


def test_positions_of_threads_and_blocks():
    """Messages name threads and blocks by their coordinates."""
    body = "mov.u32 %r0, %tid.y;\nsetp.eq.u32 %p0, %r0, 2;\nmov.u32 %r0, %ctaid.z;\n"
    body += "setp.eq.and.u32 %p0, %r0, 1, %p0;\n@%p0 trap;"
    text = violation(checks.TRAP, body, grid=(2, 1, 3), block=(4, 3, 2))
    assert "thread (0, 2, 0) of block (0, 0, 1)" in text


def test_more_threads_than_a_block_can_have():
    with pytest.raises(ValueError, match="1025 threads"):
        run("", block=1025)
    assert isinstance(entry(""), Kernel)
