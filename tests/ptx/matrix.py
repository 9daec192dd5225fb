"""ldmatrix and mma.sync: matrices spread over the registers of a warp."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import checks
from .arithmetic import step as step_towards
from .checks import Violation
from .decode import Decoder, Step
from .memory_ops import Target, items_of
from .spaces import READ
from .syntax import Instruction, PtxSyntaxError

LANE = np.arange(32)
ROW, COLUMN = LANE // 4, LANE % 4  # groupID and threadID_in_group of the ISA


def warps(batch, instruction, lanes) -> np.ndarray:
    """The active threads as (warps, 32)."""
    index = lanes.index
    if index.size % 32 == 0:
        rows = index.reshape(-1, 32)
        if (batch.lane_of[rows] == LANE).all() and (batch.warp_of[rows] == batch.warp_of[rows[:, :1]]).all():
            return rows
    raise Violation(checks.WARP_DIVERGED, f"a warp is not complete; {batch.where(instruction, index[0])}")


def load_matrix(decoder: Decoder, instruction: Instruction) -> Step:
    """ldmatrix of 8x8 matrices of 16 bits, x1 x2 x4, .trans. Lanes 8q to 8q+7 give the addresses of matrix q's rows."""
    if not instruction.has("m8n8") or instruction.parts[-1] != "b16":
        raise PtxSyntaxError(f"line {instruction.line}: {instruction.opcode} is not interpreted")
    targets = [decoder.target(item, "b32") for item in items_of(instruction.operands[0])]
    where = Target(decoder, instruction.operands[1], "shared")
    transposed = instruction.has("trans")

    def step(slots, lanes):
        batch, memory = lanes.batch, lanes.batch.spaces["shared"]
        rows = warps(batch, instruction, lanes)
        giving = lanes.only(np.tile(8 * len(targets) > LANE, len(rows)))
        at = memory.access(giving, instruction, slots[where.slot], where.offset, 4, 4, READ, align=16)
        at = at.reshape(len(rows), len(targets), 8)
        halves = memory.data.view(np.uint16)
        matrices = halves[at[..., None] // 2 + np.arange(8)]  # warp, matrix, row, column
        if transposed:
            matrices = matrices.swapaxes(2, 3)
        low, high = matrices[:, :, ROW, 2 * COLUMN].astype(np.uint32), matrices[:, :, ROW, 2 * COLUMN + 1]
        both = low | high.astype(np.uint32) << np.uint32(16)
        for q, target in enumerate(targets):
            if target is not None:
                slots[target][lanes.index] = both[:, q].ravel()

    return step


class Shape(NamedTuple):
    """Where the registers of a lane are in A (16 rows, k columns) and B (k rows, 8 columns)."""

    depth: int
    packed: int  # numbers per register
    a: tuple[tuple[int, int], ...]  # row and column of each register, from (ROW, packed * COLUMN)
    b: tuple[int, ...]  # row of each register, from packed * COLUMN


SHAPES = {
    ("m16n8k4", "tf32"): Shape(4, 1, ((0, 0), (8, 0)), (0,)),
    ("m16n8k8", "tf32"): Shape(8, 1, ((0, 0), (8, 0), (0, 4), (8, 4)), (0, 4)),
    ("m16n8k8", "half"): Shape(8, 2, ((0, 0), (8, 0)), (0,)),
    ("m16n8k16", "half"): Shape(16, 2, ((0, 0), (8, 0), (0, 8), (8, 8)), (0, 8)),
}


def unpack(register, type_name: str) -> list[np.ndarray]:
    """The numbers in a register, lowest first. Hardware does not read the lower 13 bits of a tf32."""
    if type_name == "tf32":
        return [(register & np.uint32(0xFFFFE000)).view(np.float32)]
    if type_name == "bf16":
        return [(register << np.uint32(16)).view(np.float32), (register & np.uint32(0xFFFF0000)).view(np.float32)]
    halves = register.view(np.uint16).reshape(*register.shape, 2).view(np.float16)
    return [halves[..., 0], halves[..., 1]]


def multiply_matrices(decoder: Decoder, instruction: Instruction) -> Step:
    """mma.sync m16n8: D = A B + C.

    The sum is made in float64 and cut off once: the ISA leaves order and precision open, and NVIDIA's tensor cores do
    not round (Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021).
    """
    parts = instruction.parts
    shape_name = next(part for part in parts if part.startswith("m16n8"))
    result_type, a_type, b_type, c_type = parts[-4:]
    shape = SHAPES.get((shape_name, "tf32" if a_type == "tf32" else "half"))
    if (
        shape is None
        or a_type not in ("tf32", "bf16", "f16")
        or (a_type, result_type, c_type) != (b_type, "f32", "f32")
    ):
        raise PtxSyntaxError(f"line {instruction.line}: {instruction.opcode} is not interpreted")
    d, a, b, c = instruction.operands
    targets = [decoder.target(item, "f32") for item in items_of(d)]
    a_slots, b_slots = ([decoder.source(item, "b32") for item in items_of(operand)] for operand in (a, b))
    c_slots = [decoder.source(item, "f32") for item in items_of(c)]

    def step(slots, lanes):
        rows = warps(lanes.batch, instruction, lanes)
        left, right = np.zeros((len(rows), 16, shape.depth)), np.zeros((len(rows), shape.depth, 8))
        for slot, (row, column) in zip(a_slots, shape.a, strict=True):
            for k, numbers in enumerate(unpack(slots[slot][rows], a_type)):
                left[:, ROW + row, shape.packed * COLUMN + column + k] = numbers
        for slot, row in zip(b_slots, shape.b, strict=True):
            for k, numbers in enumerate(unpack(slots[slot][rows], b_type)):
                right[:, shape.packed * COLUMN + row + k, ROW] = numbers
        product = left @ right
        sums = [
            product[:, ROW + 8 * (q // 2), 2 * COLUMN + q % 2] + slots[slot][rows] for q, slot in enumerate(c_slots)
        ]
        for target, total in zip(targets, sums, strict=True):
            nearest = total.astype(np.float32)
            slots[target][lanes.index] = step_towards(nearest, total - nearest, "rz", False).ravel()

    return step


TABLE = {"ldmatrix": load_matrix, "mma": multiply_matrices}
