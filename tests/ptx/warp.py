"""Instructions that concern a warp: shuffles, votes, matrices.

`participants` says who has to be there before one is executed. Until then the threads that came first are parked.
"""

from __future__ import annotations

import numpy as np

from . import checks
from .checks import Violation
from .decode import Decoder, Step
from .syntax import Instruction, Literal, Pair


def participants(decoder: Decoder, instruction: Instruction):
    """None for an ordinary instruction; else a function: slots -> every thread's mask of those that take part."""
    parts = instruction.parts
    if parts[0] in ("ldmatrix", "mma", "stmatrix") or (parts[0] in ("shfl", "vote") and "sync" not in parts):
        full = decoder.source(Literal("0xffffffff"), "u32")
        return lambda slots: slots[full]
    if parts[0] in ("shfl", "vote", "match", "redux") or (parts[0] in ("bar", "barrier") and "warp" in parts):
        slot = decoder.source(instruction.operands[-1], "u32")
        return lambda slots: slots[slot]
    return None


def members(batch, instruction, lanes, mask) -> np.ndarray:
    """Each active thread's mask of those that take part and exist; itself must be among them."""
    index = lanes.index
    outside = (mask >> batch.lane_of[index].astype(np.uint32) & np.uint32(1)) == 0
    if outside.any():
        where = batch.where(instruction, index[np.argmax(outside)])
        raise Violation(checks.WARP_DIVERGED, f"the thread is not in its own mask; {where}")
    return mask & ballot(batch, lanes, True)


def ballot(batch, lanes, flags) -> np.ndarray:
    """For each active thread: the mask of its warp's active threads whose flag (one per active thread) is true."""
    everyone = np.zeros(batch.threads, bool)
    everyone[lanes.index] = flags
    return batch.warp_masks(everyone)[batch.warp_of[lanes.index]]


# --- shuffles and votes -----------------------------------------------------------------------------------------------


def shuffle(decoder: Decoder, instruction: Instruction) -> Step:
    """shfl.sync .up .down .bfly .idx, as the ISA's pseudocode has it."""
    destination, a, b, c = instruction.operands[:4]
    pair = isinstance(destination, Pair)
    target = decoder.target(destination.first if pair else destination, "b32")
    flag = decoder.target(destination.second, "pred") if pair else None
    value, distance, clamp = decoder.source(a, "b32"), decoder.source(b, "s32"), decoder.source(c, "s32")
    membership = participants(decoder, instruction)
    mode = next(part for part in instruction.parts if part in ("up", "down", "bfly", "idx"))

    def step(slots, lanes):
        batch, index = lanes.batch, lanes.index
        lane = batch.lane_of[index]
        by, limits = slots[distance][index] & 31, slots[clamp][index]
        segment = limits >> 8 & 31
        highest = (lane & segment) | (limits & 31 & ~segment)
        source = {
            "up": lambda: lane - by,
            "down": lambda: lane + by,
            "bfly": lambda: lane ^ by,
            "idx": lambda: (lane & segment) | (by & ~segment),
        }[mode]()
        inside = source >= highest if mode == "up" else source <= highest
        source = np.where(inside, source, lane)
        taking_part = members(batch, instruction, lanes, slots_of(membership, slots, index))
        absent = (taking_part >> source.astype(np.uint32) & np.uint32(1)) == 0
        if absent.any():
            k = np.argmax(absent)
            text = f"lane {source[k]}, which does not take part, is read; {batch.where(instruction, index[k])}"
            raise Violation(checks.WARP_DIVERGED, text)
        if target is not None:
            slots[target][index] = slots[value][index - lane + source]
        if flag is not None:
            slots[flag][index] = inside

    return step


def slots_of(membership, slots, index) -> np.ndarray:
    """The masks of the active threads."""
    return membership(slots)[index]


def vote(decoder: Decoder, instruction: Instruction) -> Step:
    """vote.sync .all .any .uni .ballot."""
    kind = instruction.parts[2] if instruction.has("sync") else instruction.parts[1]
    target = decoder.target(instruction.operands[0], "b32" if kind == "ballot" else "pred")
    slot, negated = decoder.predicate(instruction.operands[1])
    membership = participants(decoder, instruction)

    def step(slots, lanes):
        index = lanes.index
        mask = members(lanes.batch, instruction, lanes, slots_of(membership, slots, index))
        votes = ballot(lanes.batch, lanes, slots[slot][index] ^ negated) & mask
        slots[target][index] = {
            "ballot": lambda: votes,
            "all": lambda: votes == mask,
            "any": lambda: votes != 0,
            "uni": lambda: (votes == mask) | (votes == 0),
        }[kind]()

    return step


def active_mask(decoder: Decoder, instruction: Instruction) -> Step:
    """activemask: those that happen to be here."""
    target = decoder.target(instruction.operands[0], "b32")

    def step(slots, lanes):
        slots[target][lanes.index] = ballot(lanes.batch, lanes, True)

    return step


def match(decoder: Decoder, instruction: Instruction) -> Step:
    """match.any.sync, match.all.sync."""
    destination = instruction.operands[0]
    pair = isinstance(destination, Pair)
    target = decoder.target(destination.first if pair else destination, "b32")
    flag = decoder.target(destination.second, "pred") if pair else None
    value = decoder.source(instruction.operands[1], instruction.parts[-1])
    membership = participants(decoder, instruction)

    def step(slots, lanes):
        batch, index = lanes.batch, lanes.index
        mask = members(batch, instruction, lanes, slots_of(membership, slots, index))
        values = slots[value][index]
        same = np.zeros(index.size, np.uint32)
        for lane in range(32):
            row = np.zeros(batch.warps, values.dtype)
            here = batch.lane_of[index] == lane
            row[batch.warp_of[index][here]] = values[here]
            equal = (row[batch.warp_of[index]] == values) & (mask >> np.uint32(lane) & np.uint32(1) != 0)
            same |= np.where(equal, np.uint32(1 << lane), np.uint32(0))
        if instruction.has("all"):
            same = np.where(same == mask, mask, np.uint32(0))
            if flag is not None:
                slots[flag][index] = same != 0
        slots[target][index] = same

    return step


REDUCTIONS = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
              "xor": np.bitwise_xor}  # fmt: skip


def reduce_warp(decoder: Decoder, instruction: Instruction) -> Step:
    """redux.sync."""
    type_name = instruction.parts[-1]
    target, value = (
        decoder.target(instruction.operands[0], type_name),
        decoder.source(instruction.operands[1], type_name),
    )
    combine = next(REDUCTIONS[part] for part in instruction.parts if part in REDUCTIONS)
    membership = participants(decoder, instruction)

    def step(slots, lanes):
        batch, index = lanes.batch, lanes.index
        mask = members(batch, instruction, lanes, slots_of(membership, slots, index))
        group = np.unique(np.stack([batch.warp_of[index], mask.astype(np.int64)]), axis=1, return_inverse=True)[
            1
        ].ravel()
        values = slots[value][index]
        order = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.diff(group[order], prepend=-1))
        slots[target][index] = combine.reduceat(values[order], starts)[group]

    return step


def sync_warp(decoder: Decoder, instruction: Instruction) -> Step:
    """bar.warp.sync: orders the accesses of a warp, if all of it takes part."""
    membership = participants(decoder, instruction)

    def step(slots, lanes):
        batch, index = lanes.batch, lanes.index
        mask = members(batch, instruction, lanes, slots_of(membership, slots, index))
        whole = mask == batch.warp_masks(batch.alive)[batch.warp_of[index]]
        counted = index[whole & (batch.stamps[index] & checks.WARP_SYNC != checks.WARP_SYNC)]
        batch.stamps[counted] += 1 << checks.WARP_SYNC_SHIFT

    return step


def barrier_result(decoder: Decoder, instruction: Instruction) -> Step:
    """The result of a bar.red: over the threads of a block that were at it."""
    kind = next(part for part in instruction.parts if part in ("popc", "and", "or"))
    target = decoder.target(instruction.operands[0], "u32" if kind == "popc" else "pred")

    def step(slots, lanes):
        batch, index = lanes.batch, lanes.index
        block = batch.block_of[index]
        true = np.bincount(block, batch.barriers.predicate[index], batch.blocks).astype(np.uint32)
        count = np.bincount(block, minlength=batch.blocks)
        result = {"popc": true, "and": true == count, "or": true != 0}[kind]
        slots[target][index] = result[block]

    return step


def nothing(decoder: Decoder, instruction: Instruction) -> Step:
    """Fences and hints: all threads see all of memory at once here."""
    return lambda slots, lanes: None


TABLE = {
    "shfl": shuffle,
    "vote": vote,
    "activemask": active_mask,
    "match": match,
    "redux": reduce_warp,
    "bar": sync_warp,
    "barrier": sync_warp,
    **dict.fromkeys(
        ["membar", "fence", "nanosleep", "prefetch", "prefetchu", "griddepcontrol", "discard", "applypriority"], nothing
    ),
}
