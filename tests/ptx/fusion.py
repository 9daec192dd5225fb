"""Runs of fused multiply-adds as one compiled loop.

The inner product of a tile is 64 of them in a row; one NumPy call each costs more than its work.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from .arithmetic import llvm_fma
from .decode import Decoder, Slot, Step
from .syntax import Instruction, Register
from .types import DTYPES, size_of

SHORTEST = 4  # instructions that are worth it
LANES_AT_A_TIME = 256  # so that the rows of a tile stay in the cache from one instruction to the next


@njit(cache=True, nogil=True)
def accumulate(out, x, y):
    """out = x * y + out."""
    for t in range(out.size):
        out[t] = llvm_fma(x[t], y[t], out[t])


@njit(cache=True, nogil=True)
def multiply_add(out, x, y, z):
    """out = x * y + z."""
    for t in range(out.size):
        out[t] = llvm_fma(x[t], y[t], z[t])


@njit(cache=True, nogil=True)
def multiply_add_rows(file, rows):
    """In turn for all of `rows`: file[out] = file[x] * file[y] + file[z]."""
    threads = file.shape[1]
    for start in range(0, threads, LANES_AT_A_TIME):
        part = slice(start, min(start + LANES_AT_A_TIME, threads))
        for k in range(rows.shape[0]):
            out, x, y, z = rows[k, 0], rows[k, 1], rows[k, 2], rows[k, 3]
            if out == z:  # told apart, because only then the compiler sees that nothing else overlaps
                accumulate(file[out, part], file[x, part], file[y, part])
            else:
                multiply_add(file[out, part], file[x, part], file[y, part], file[z, part])


def is_plain(decoder: Decoder, instruction: Instruction) -> bool:
    """A fused multiply-add of registers, to nearest, without modifier or guard."""
    registers = decoder.program.registers
    return (
        instruction.opcode in ("fma.rn.f32", "fma.rn.f64")
        and instruction.guard is None
        and all(isinstance(o, Register) and o.name in registers for o in instruction.operands)
    )


def fuse(decoder: Decoder, instructions: Sequence[Instruction], steps: Sequence[Step]) -> list[Step]:
    """The steps of straight code, with every long enough run of one type made one step."""
    out: list[Step] = []
    start = 0
    while start < len(instructions):
        end = start
        while (
            end < len(instructions)
            and is_plain(decoder, instructions[end])
            and instructions[end].opcode == instructions[start].opcode
        ):
            end += 1
        if end - start >= SHORTEST:
            out.append(run_of(decoder, instructions[start:end], steps[start:end]))
            start = end
        else:
            out.extend(steps[start : max(end, start + 1)])
            start = max(end, start + 1)
    return out


def run_of(decoder: Decoder, instructions: Sequence[Instruction], steps: Sequence[Step]) -> Step:
    """One step for several multiply-adds."""
    type_name = instructions[0].parts[-1]
    rows = np.array([[decoder.rows[o.name] for o in i.operands] for i in instructions])
    file = decoder.number(Slot("file", size_of(type_name), DTYPES[type_name]))

    def step(slots, lanes):
        if lanes.whole:
            multiply_add_rows(slots[file], rows)
        else:
            for each in steps:
                each(slots, lanes)

    return step
