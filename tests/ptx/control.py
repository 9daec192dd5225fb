"""Where control goes: branches, exits, barriers. Each ends a segment.

``leave(batch, slots, lanes)`` returns the place at which the whole group goes on, or None after it has given the
threads to the batch some other way.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import checks
from .barriers import EVERYONE
from .checks import Violation
from .decode import Decoder
from .syntax import Instruction, Literal

Leave = Callable[[object, list, object], int | None]


def fall_through(place: int) -> Leave:
    """On to the next segment."""
    return lambda batch, slots, lanes: place


def branch(decoder: Decoder, instruction: Instruction, following: int) -> Leave:
    """bra."""
    target = decoder.program.labels[instruction.operands[0].name]
    if instruction.guard is None:
        return fall_through(target)
    slot, negated = decoder.predicate(instruction.guard, instruction.guard_negated)

    def leave(batch, slots, lanes):
        taken = slots[slot][lanes.index]
        count = np.count_nonzero(taken)
        if negated:
            count = taken.size - count
        if count == 0:
            return following
        if count == taken.size:
            return target
        batch.add(target, lanes.index[~taken if negated else taken])
        batch.add(following, lanes.index[taken if negated else ~taken])
        return None

    return leave


def branch_by_table(decoder: Decoder, instruction: Instruction, following: int) -> Leave:
    """brx.idx: to a label of a list."""
    table = decoder.program.branch_targets[instruction.operands[1].name]
    targets = np.array([decoder.program.labels[label] for label in table])
    slot = decoder.source(instruction.operands[0], "u32")

    def leave(batch, slots, lanes):
        chosen = slots[slot][lanes.index]
        if (chosen >= targets.size).any():
            thread = lanes.index[np.argmax(chosen >= targets.size)]
            text = f"brx.idx to entry {slots[slot][thread]} of {targets.size}; {batch.where(instruction, thread)}"
            raise Violation(checks.OUT_OF_BOUNDS, text)
        places = targets[chosen]
        for place in np.unique(places):
            batch.add(int(place), lanes.index[places == place])

    return guarded(decoder, instruction, following, leave)


def guarded(decoder: Decoder, instruction: Instruction, following: int, leave: Leave) -> Leave:
    """Only for threads whose guard is true; the others go on."""
    if instruction.guard is None:
        return leave
    slot, negated = decoder.predicate(instruction.guard, instruction.guard_negated)

    def guarded_leave(batch, slots, lanes):
        chosen = lanes.where(slots[slot], negated)
        others = np.setdiff1d(lanes.index, chosen.index, assume_unique=True)
        if chosen.index.size:
            place = leave(batch, slots, chosen)
            if place is not None:
                batch.add(place, chosen.index)
        batch.add(following, others)

    return guarded_leave


def leave_kernel(decoder: Decoder, instruction: Instruction, following: int) -> Leave:
    """ret, exit."""
    return guarded(decoder, instruction, following, lambda batch, slots, lanes: batch.exit(lanes.index))


def trap(decoder: Decoder, instruction: Instruction, following: int) -> Leave:
    """trap, brkpt: never meant to be reached."""

    def leave(batch, slots, lanes):
        raise Violation(checks.TRAP, batch.where(instruction, lanes.index[0]))

    return guarded(decoder, instruction, following, leave)


def barrier(decoder: Decoder, instruction: Instruction, following: int) -> Leave:
    """bar.sync, barrier.sync, bar.arrive, bar.red (whose result is computed at `following`, see warp.py)."""
    operands = list(instruction.operands)
    predicate = None
    if instruction.has("red"):
        operands.pop(0)
        predicate = decoder.predicate(operands.pop())
    number = decoder.source(operands[0] if operands else Literal("0"), "u32")
    wanted = decoder.source(operands[1], "u32") if len(operands) > 1 else None

    def leave(batch, slots, lanes):
        index = lanes.index
        if predicate:
            batch.barriers.predicate[index] = slots[predicate[0]][index] ^ predicate[1]
        numbers = slots[number][index]
        if instruction.has("arrive"):
            batch.barriers.arrive(index, numbers)
            return following
        return batch.barriers.wait(index, numbers, following, EVERYONE if wanted is None else slots[wanted][index])

    return guarded(decoder, instruction, following, leave)


TABLE = {
    "bra": branch,
    "brx": branch_by_table,
    "ret": leave_kernel,
    "exit": leave_kernel,
    "trap": trap,
    "brkpt": trap,
    "bar": barrier,
    "barrier": barrier,
}


def ends_segment(instruction: Instruction) -> bool:
    """True for everything of this file; bar.warp.sync is no barrier of a block."""
    return instruction.parts[0] in TABLE and not instruction.has("warp")
