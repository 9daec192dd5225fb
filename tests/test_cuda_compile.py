"""Every kernel of the CUDA backend, compiled for five architectures without a GPU, keeps its row in `cuda.budgets`."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba.cuda", reason="numba-cuda is not installed")
pytest.importorskip("cuda.bindings", reason="numba-cuda[cu13] is not installed: nothing links PTX")

import cubin
import sass

from numbaconv.cuda import launch
from numbaconv.cuda.budgets import BUDGETS, Budget
from numbaconv.cuda.runtime import simulated

if simulated():
    pytest.skip("numba's simulator compiles nothing", allow_module_level=True)

KERNELS = cubin.kernels()


def _of(value, kernel, dtype):
    """A budget's value for one element type."""
    return value[kernel.dtypes.index(np.dtype(dtype))] if isinstance(value, tuple) else value


def over_budget(budget, kernel, dtype, cc, code):
    """What is wrong with a kernel's machine code, in words."""
    dtype = np.dtype(dtype)
    registers, shared = _of(budget.registers, kernel, dtype), _of(budget.shared, kernel, dtype)
    if code.registers > registers:
        yield f"{code.registers} registers, of at most {registers}"
    if code.shared != shared:
        yield f"{code.shared} bytes of shared memory, not {shared}"
    if code.local:
        yield f"{code.local} bytes of spills, stack or local memory"
    if code.function is None:
        return
    if code.local_accesses:
        yield f"{code.local_accesses} loads and stores of local memory"
    if code.divisions:
        yield f"64-bit divisions: {', '.join(code.divisions)}"
    missing = set(budget.wide.split()) - set(code.wide)
    if missing:
        yield f"no access of 16 bytes among {', '.join(sorted(missing))}"
    if code.doubles and dtype == np.float32 and not budget.float64:
        yield f"arithmetic in float64: {', '.join(code.doubles)}"
    if budget.main_loop:
        opcode = cubin.opcode_for(budget.main_loop, dtype)
        share, least = cubin.share(code, opcode), _of(budget.share, kernel, dtype)
        if share < least:
            yield f"{share:.1%} {opcode} in the main loop, of at least {least:.1%}"


def combinations():
    """Kernel x element type x architecture. Without --full: of each module one kernel, with a main loop if any has."""
    chosen: dict[str, str] = {}
    for name in sorted(KERNELS, key=lambda name: not BUDGETS.get(name, Budget(0)).main_loop):
        chosen.setdefault(name.rpartition(".")[0], name)
    turns = {name: turn for turn, name in enumerate(sorted(chosen.values()))}
    for name, kernel in KERNELS.items():
        budget = BUDGETS.get(name, Budget(0))
        turn = 0 if budget.main_loop else turns.get(name, 0)
        cc = (8, 0) if budget.main_loop else cubin.ARCHITECTURES[turn % 5]
        quick = {(str(kernel.dtypes[turn % len(kernel.dtypes)]), max(cc, budget.since))} if name in turns else set()
        for dtype in map(str, kernel.dtypes):
            for cc in cubin.ARCHITECTURES:
                if cc >= budget.since:
                    marks = () if (dtype, cc) in quick else pytest.mark.full
                    yield pytest.param(name, dtype, cc, id=f"{name}-{dtype}-sm_{cc[0]}{cc[1]}", marks=marks)


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_has_a_budget(name):
    if name not in BUDGETS:
        row = cubin.measured_row(name, KERNELS[name])
        pytest.fail(f"numbaconv/cuda/budgets.py has no row for it; measured:\n{row}")


def test_every_budget_has_a_kernel():
    assert set(BUDGETS) <= set(KERNELS)


@pytest.mark.parametrize(("name", "dtype", "cc"), list(combinations()))
def test_budget(name, dtype, cc):
    kernel = KERNELS[name]
    code = cubin.measure(kernel, dtype, cc)
    wrong = list(over_budget(BUDGETS[name], kernel, dtype, cc, code)) if name in BUDGETS else []
    assert not wrong, f"{name}, {dtype}, sm_{cc[0]}{cc[1]}: " + "; ".join(wrong)


def test_nvdisasm_is_there():
    """Without it the tests above see registers, shared memory and spills, and no instruction."""
    if not sass.nvdisasm():
        pytest.skip("nvdisasm is not installed: pip install nvidia-cuda-nvdisasm")


# --- the reader of machine code -----------------------------------------------------------------------------

LISTING = """
\t.target\tsm_80
//--------------------- .text.div_u64              --------------------------
div_u64:
        /*0000*/                   RET.ABS.NODEC R20 `(div_u64);

//--------------------- .text.kernel               --------------------------
.text.kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA `(.L_x_3) ;
.L_x_1:
        /*0020*/                   LDG.E.128 R4, [R2.64] ;
        /*0030*/                   FFMA R0, R4, R5, R0 ;
.L_x_2:
        /*0040*/                   FFMA.FTZ R0, R6, R7, R0 ;
        /*0050*/                   FFMA R8, R6.reuse, R7, R8 ;
        /*0060*/              @P1  BRA `(.L_x_2) ;
        /*0070*/              @!P0 BRA `(.L_x_1) ;
.L_x_3:
        /*0080*/                   EXIT ;
.L_x_4:
        /*0090*/                   BRA `(.L_x_4);
"""


def test_reader_of_machine_code():
    """Instructions, and of two nested loops the one with all FFMAs: 3 of 6, against 2 of 3 in the inner one."""
    functions = sass.parse(LISTING)
    kernel = functions["kernel"]
    assert list(functions) == ["div_u64", "kernel"]
    assert kernel.instructions[1] == ("!P0", "BRA", "`(.L_x_3)")
    assert [len(loop.instructions) for loop in sass.loops(kernel)] == [3, 6, 1]
    assert sass.main_loop(kernel, "FFMA").share("FFMA") == 3 / 6
    assert sass.main_loop(kernel, "HMMA") is None
    assert sass.count(kernel.instructions, "LDG", "128") == 1
    assert sass.count(kernel.instructions, "LDG", "64") == 0


def test_reader_of_the_linkers_log():
    log = (
        "ptxas         .     0 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n"
        "info    : Function properties for 'other':\n"
        "info    : used 99 registers, used 1 barriers, 0 stack, 99 bytes smem, 0 bytes lmem\n"
        "info    : Function properties for 'kernel':\n"
        "info    : used 124 registers, used 1 barriers, 16 stack, 41984 bytes smem, 756 bytes cmem[0], 4 bytes lmem\n"
    )
    assert cubin.read_log(log, "kernel") == {"registers": 124, "shared": 41984, "local": 8 + 12 + 16 + 4}


@launch.kernel(threads=64, name="_untidy")
def _untidy(x: "T*", out: "T*", size: "i32"):
    """A sum of products in float64 over 64-bit divisions, element by element."""
    total = 0.0
    for i in range(size):
        total += x[i // (size - 7)] * 0.1
    out[0] = total


launch.KERNELS.pop(f"{__name__}._untidy")  # it is no kernel of the package


@pytest.mark.skipif(not sass.nvdisasm(), reason="nvdisasm is not installed")
def test_what_breaks_a_budget_is_seen():
    code = cubin.measure(_untidy, "float32", (8, 0))
    assert code.shared == 0
    tight = Budget(code.registers - 1, shared=512, wide="LDG", main_loop="FFMA", share=0.8)
    words = "; ".join(over_budget(tight, _untidy, "float32", (8, 0), code))
    for expected in (
        f"{code.registers} registers, of at most {code.registers - 1}",
        "0 bytes of shared memory, not 512",
        "64-bit divisions",
        "no access of 16 bytes among LDG",
        "arithmetic in float64: DFMA",
        "0.0% FFMA in the main loop, of at least 80.0%",
    ):
        assert expected in words
    kept = Budget(code.registers, float64=True)
    assert list(over_budget(kept, _untidy, "float32", (8, 0), code._replace(divisions=()))) == []
    local = code._replace(local=16, local_accesses=3, divisions=())
    words = "; ".join(over_budget(kept, _untidy, "float32", (8, 0), local))
    assert words == "16 bytes of spills, stack or local memory; 3 loads and stores of local memory"


def test_measured_row_is_a_row():
    text = cubin.measured_row("elementwise.relu", KERNELS["elementwise.relu"], architectures=((8, 0),))
    row = eval(text.strip().join("{}"), {"Budget": Budget})["elementwise.relu"]
    assert row == BUDGETS["elementwise.relu"]._replace(registers=row.registers)
    assert 8 <= row.registers <= 24
