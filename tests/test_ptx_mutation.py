"""Mutation of PTX: what is found to take away, what becomes of it, and that a good test notices."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ptx import checks
from ptx.checks import Violation
from ptx.kernel import Kernel
from ptx.mutation import examine, force, mutants, on_runtime, table
from ptx.snippet import entry_text
from ptx.types import poisoned

TILE = ".shared .align 16 .b8 tile[512];"
# Reverses 64 numbers of every block through shared memory; %x and %y have 100 each.
REVERSE = """
    mov.u32 %r0, tile;
    mad.lo.u32 %r1, %t, 4, %r0;
    mad.lo.u32 %r2, %b, 64, %t;
    mov.f32 %f0, 0f00000000;
    setp.ge.u32 %p0, %r2, 100;
    @%p0 bra FILLED;
    mad.wide.u32 %a0, %r2, 4, %x;
    cp.async.ca.shared.global [%r1], [%a0], 4;
FILLED:
    @%p0 st.shared.f32 [%r1], %f0;
    cp.async.commit_group;
    cp.async.wait_group 0;
    bar.sync 0;
    sub.u32 %r3, 63, %t;
    mad.lo.u32 %r3, %r3, 4, %r0;
    ld.shared.f32 %f1, [%r3];
    mad.wide.u32 %a1, %r2, 4, %y;
    setp.lt.u32 %p1, %r2, 100;
    @%p1 st.global.f32 [%a1], %f1;
    bar.sync 0;
"""


def text_of(body):
    return entry_text(body, module=TILE)


def reverse(text):
    x = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    y = poisoned(100, np.float32)
    Kernel(text).run(2, 64, x, y)
    padded = np.zeros(128, np.float32)
    padded[:100] = x
    np.testing.assert_array_equal(y, padded.reshape(2, 64)[:, ::-1].ravel()[:100])


def test_every_removal_is_listed_and_noticed_or_explained():
    text = text_of(REVERSE)
    start = "mad(%ctaid.x,64,%tid.x)"
    score = examine("reverse", text, reverse, {"reverse:barrier 2 of 2": "nothing follows it", "other:*": "elsewhere"})
    assert {r.mutant.key: (r.verdict, r.by) for r in score.results} == {
        f"{start} ge.u32 100 = true": ("caught", "AssertionError"),
        f"{start} ge.u32 100 = false": ("caught", checks.OUT_OF_BOUNDS),
        "wait 1 of 1": ("caught", checks.IN_FLIGHT),
        "barrier 1 of 2": ("caught", checks.RACE),
        f"{start} lt.u32 100 = true": ("caught", checks.OUT_OF_BOUNDS),
        f"{start} lt.u32 100 = false": ("caught", "AssertionError"),
        "barrier 2 of 2": ("harmless", "nothing follows it"),
    }
    assert not score.survived
    assert not score.unused


def test_a_block_must_not_end_before_its_copies():
    """Its shared memory may be another block's by then."""
    body = "mov.u32 %r0, tile; mad.lo.u32 %r0, %t, 4, %r0; mad.wide.u32 %a0, %t, 4, %x;\n"
    body += "cp.async.ca.shared.global [%r0], [%a0], 4; cp.async.commit_group;"
    x = np.zeros(64, np.float32)
    with pytest.raises(Violation, match=r"copy in flight: its block ends, and thread .* of block .* has not waited"):
        Kernel(text_of(body)).run(1, 64, x, x)
    Kernel(text_of(body + " cp.async.wait_group 0;")).run(1, 64, x, x)


def test_a_weak_test_lets_mutants_survive():
    def weak(text):
        x, y = np.zeros(128, np.float32), poisoned(128, np.float32)
        Kernel(text).run(2, 64, x, y, check=False)

    score = examine("reverse", text_of(REVERSE), weak)
    assert {r.mutant.kind for r in score.survived} == {"barrier", "wait", "bounds"}


def test_a_list_of_harmless_mutants_that_is_out_of_date():
    score = examine("reverse", text_of(REVERSE), reverse, {"reverse:barrier 1 of 2": "wrong: it is caught"})
    assert score.unused == ["reverse:barrier 1 of 2"]
    assert [r.mutant.key for r in score.survived] == ["barrier 2 of 2"]


# y = x for the threads up to 63: the first comparison decides on nothing but the way, the second is always true, the
# third is not reached.
WAYS = """
    mad.wide.u32 %a0, %t, 4, %x;
    mad.wide.u32 %a1, %t, 4, %y;
    setp.lt.u32 %p0, %t, 8;
    setp.lt.u32 %p1, %t, 1000;
    @!%p1 bra END;
    @%p0 bra SMALL;
    ld.global.f32 %f0, [%a0];
    st.global.f32 [%a1], %f0;
    bra END;
SMALL:
    ld.global.f32 %f1, [%a0];
    st.global.f32 [%a1], %f1;
    bra END;
    setp.ge.u32 %p2, %t, 50;
    @%p2 bra END;
    st.global.f32 [%a1], %f1;
END:
"""


def test_what_was_decided_otherwise_is_told_from_what_was_not():
    text, outcomes = text_of(WAYS), {}
    x = np.arange(64, dtype=np.float32)

    def check(kernel):
        y = poisoned(64, np.float32)
        kernel.run(1, 64, x, y)
        np.testing.assert_array_equal(y, x)

    check(Kernel(text, outcomes=outcomes))
    assert sorted(sorted(count.items()) for count in outcomes.values()) == [
        [(False, 0), (True, 64)],
        [(False, 56), (True, 8)],
    ]
    any_kernel = {re.compile(r"\w+:%tid\.x .* = (?:true|false)"): "they are all alike"}
    for harmless, verdict in (({}, "survived"), (any_kernel, "harmless")):
        score = examine("ways", text, lambda mutant: check(Kernel(mutant)), harmless, outcomes=outcomes)
        assert {r.mutant.key: r.verdict for r in score.results} == {
            "%tid.x lt.u32 8 = true": "same",
            "%tid.x lt.u32 8 = false": "same",
            "%tid.x lt.u32 1000 = true": verdict,
            "%tid.x lt.u32 1000 = false": "caught",
            "%tid.x ge.u32 50 = true": "survived",  # whatever is so of any kernel: nothing was seen of this one
            "%tid.x ge.u32 50 = false": "survived",
        }


# The second comparison is masked by the first wherever it is false: forcing it changes nothing.
MASKED = """
    setp.lt.u32 %p0, %t, 40;
    setp.lt.and.u32 %p1, %t, 50, %p0;
    mad.wide.u32 %a1, %t, 4, %y;
    mov.f32 %f0, 0f3F800000;
    @%p1 st.global.f32 [%a1], %f0;
"""


def test_a_masked_comparison_decides_nothing():
    outcomes = {}

    def check(kernel):
        y = poisoned(64, np.float32)
        kernel.run(1, 64, np.zeros(1, np.float32), y)
        np.testing.assert_array_equal(y[:40], np.ones(40, np.float32))
        np.testing.assert_array_equal(y.view(np.uint32)[40:], poisoned(24, np.float32).view(np.uint32))

    check(Kernel(text_of(MASKED), outcomes=outcomes))
    assert sorted(sorted(count.items()) for count in outcomes.values()) == [
        [(False, 0), (True, 40)],
        [(False, 24), (True, 40)],
    ]


LOOPS = {
    "mov.u32 %r0, %t; LOOP: add.s32 %r0, %r0, -1;": "counting",
    "mov.u32 %r0, %t; LOOP: selp.b32 %r1, -1, 0, %p1; add.s32 %r2, %r0, %r1; mov.u32 %r0, %r2;": "counting",
    "mov.u32 %r0, %t; LOOP: add.s32 %r0, %r0, 1;": "changing",
    "mov.u32 %r0, %t; LOOP: add.s32 %r0, %r0, %t;": "changing",
    "mov.u32 %r0, %t; LOOP: mul.lo.s32 %r0, %r0, 2;": "changing",
    "mov.u32 %r0, %t; @%p1 mov.u32 %r0, 5; LOOP:": "changing",
}


@pytest.mark.parametrize(("loop", "name"), LOOPS.items())
def test_a_register_that_counts_down(loop, name):
    body = f"""
        mad.wide.u32 %a1, %t, 4, %y;
        setp.lt.u32 %p1, %t, 8;
        {loop}
        setp.gt.s32 %p0, %r0, 0;
        @!%p0 bra END;
        st.global.f32 [%a1], %f0;
        bra LOOP;
    END:
    """
    keys = {mutant.key for mutant in mutants(text_of(body))}
    assert f"{name} gt.s32 0 = true" in keys


def test_the_test_must_pass_without_mutation():
    text = text_of(REVERSE)
    broken = text.replace("bar.sync 0;", "", 1)
    with pytest.raises(Violation):
        examine("reverse", broken, reverse)


def test_a_mutant_differs_in_one_instruction():
    text = text_of(REVERSE)
    for mutant in mutants(text):
        pairs = zip(text.splitlines(), mutant.text.splitlines(), strict=True)
        changed = [number for number, (before, after) in enumerate(pairs, 1) if before != after]
        assert changed == [mutant.line]
        assert mutant.instruction.split()[-1] in text.splitlines()[mutant.line - 1]


def test_keys_do_not_depend_on_the_numbers_of_registers():
    text = text_of(REVERSE)
    renamed = re.sub(r"%r(\d)", lambda m: f"%r{9 - int(m[1])}", text.replace("%r<10>", "%r<11>"))
    assert renamed != text
    assert [m.key for m in mutants(renamed)] == [m.key for m in mutants(text)]


def keys(body):
    return [m.key for m in mutants(text_of(body)) if m.key.endswith("true")]


SMALL = "setp.lt.u32 %p0, %t, 5;\n"
LOAD = "ld.global.f32 %f0, [%x];\n"


@pytest.mark.parametrize(
    "body",
    [
        f"{SMALL}@%p0 {LOAD}",
        f"{SMALL}@!%p0 bra END;\n{LOAD}END:\n",
        f"{SMALL}@%p0 bra LOAD;\nbra END;\nLOAD:\n{LOAD}END:\n",
        f"{SMALL}@%p0 exit;\n{LOAD}",
        f"{SMALL}selp.u32 %r0, %t, 0, %p0;\nmad.wide.u32 %a0, %r0, 4, %x;\nld.global.f32 %f0, [%a0];",
        f"{SMALL}selp.u32 %r0, 16, 0, %p0;\nmov.u32 %r1, tile;\ncp.async.cg.shared.global [%r1], [%x], 16, %r0;",
    ],
    ids=["predicated", "around", "where the branch goes", "exit", "address", "size"],
)
def test_comparisons_that_guard_an_access(body):
    assert keys(body) == ["%tid.x lt.u32 5 = true"]


@pytest.mark.parametrize(
    "body",
    [
        f"{SMALL}@%p0 bra END;\nmov.u32 %r0, 1;\nEND:\n{LOAD}",
        f"mov.u32 %r0, 0;\nLOOP:\n{LOAD}add.u32 %r0, %r0, 1;\nsetp.lt.u32 %p0, %r0, 3;\n@%p0 bra LOOP;",
        f"{SMALL}selp.u32 %r0, %t, 0, %p0;\nst.global.u32 [%x], %r0;",
    ],
    ids=["where both ways meet again", "the end of a loop", "value"],
)
def test_comparisons_that_do_not(body):
    assert keys(body) == []


def test_comparisons_behind_logic():
    both = ["%tid.x lt.u32 5 = true", "%ctaid.x gt.u32 2 = true"]
    start = "setp.lt.u32 %p0, %t, 5;\nsetp.gt.u32 %p1, %b, 2;\n"
    access = "@%p2 ld.global.f32 %f0, [%x];"
    assert keys(start + "and.pred %p2, %p0, %p1;\n" + access) == both
    assert keys("setp.lt.u32 %p0, %t, 5;\nsetp.gt.and.u32 %p2, %b, 2, %p0;\n" + access) == both
    numbers = "selp.u32 %r0, 1, 0, %p0;\nselp.u32 %r1, 1, 0, %p1;\nand.b32 %r2, %r0, %r1;\nsetp.eq.u32 %p2, %r2, 1;\n"
    assert keys(start + numbers + access) == both


def test_a_combined_comparison_keeps_what_it_is_combined_with():
    """Of ``t < 50 and b < 1`` only the first half is forced to true: block 1 still stores nothing."""
    text = text_of("""
    mad.wide.u32 %a0, %t, 4, %y;
    setp.lt.u32 %p0, %b, 1;
    setp.lt.and.u32 %p1, %t, 50, %p0;
    @%p1 st.global.u32 [%a0], %t;
    """)
    mutant = next(m for m in mutants(text) if m.key == "%tid.x lt.u32 50 = true")
    for number, stored in ((text, 50), (mutant.text, 64)):
        out = np.full(64, 1000, np.uint32)
        Kernel(number).run(2, 64, np.zeros(1), out)
        assert np.count_nonzero(out != 1000) == stored


GUARDED = """
    mad.wide.u32 %a0, %t, 4, %x;
    mad.wide.u32 %a1, %t, 4, %y;
    ld.global.f32 %f0, [%a0];
    setp.lt.u32 %p0, %t, 40;
    mov.pred %p1, %p0;
    @%p0 setp.gt.ftz.f32 %p1, %f0, 0f41200000;
    @%p1 st.global.f32 [%a1], %f0;
"""


@pytest.mark.parametrize("body", [WAYS, MASKED, GUARDED])
def test_a_comparison_is_forced_without_reading_the_text_again(body):
    """As the mutant's text does, on registers of an earlier launch; the original is as before."""
    text = text_of(body)
    original = Kernel(text, spares=2)

    def outcome(kernel):
        y = poisoned(64, np.float32)
        try:
            kernel.run(1, 64, np.arange(64, dtype=np.float32), y)
        except Violation as violation:
            return violation.kind
        return y.view(np.uint32).tolist()

    outcomes = []
    before = outcome(original)
    for mutant in mutants(text):
        forced = original.with_forced(mutant.span, lambda comparison, value=mutant.forced: force(comparison, value))
        outcomes.append(outcome(forced))
        assert outcomes[-1] == outcome(Kernel(mutant.text)), mutant.key
    assert any(one != before for one in outcomes)
    assert outcome(original) == before


def test_on_the_runtime():
    """A kernel of the library: whichever test of its bounds is dropped, the interpreter or the result tells."""
    pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernels")
    from ptx.runtime import InterpreterRuntime

    from numbaconv import functional, to_device, to_host
    from numbaconv.cuda import launch

    x = np.random.default_rng(0).standard_normal(1003).astype(np.float32)

    def relu(runtime):
        with launch.use(runtime):
            np.testing.assert_array_equal(to_host(functional.relu(to_device(x, "cuda"))), np.maximum(x, 0))

    first = InterpreterRuntime((8, 0))
    relu(first)
    (name,) = first.launches
    score = examine(name, *on_runtime(name, (8, 0), relu))
    assert checks.OUT_OF_BOUNDS in {result.by for result in score.results}, str(score)
    assert {result.mutant.kind for result in score.results} == {"bounds"}


def test_table():
    scores = [
        examine("reverse", text_of(REVERSE), reverse, {"reverse:barrier 2*": "nothing follows it"}),
        examine("again", text_of(REVERSE), reverse),
    ]
    assert [line.split() for line in table(scores).splitlines()] == [
        ["barrier", "wait", "bounds", "survived"],
        ["reverse", "1", "(+1)", "/", "2", "1", "/", "1", "4", "/", "4", "0"],
        ["again", "1", "/", "2", "1", "/", "1", "4", "/", "4", "1"],
        ["all", "2", "(+1)", "/", "4", "2", "/", "2", "8", "/", "8", "1"],
    ]
