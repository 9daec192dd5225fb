"""Comparisons, selections and moves."""

from __future__ import annotations

from collections import Counter

import numpy as np

from .arithmetic import flush
from .decode import Decoder, Step, elementwise, elementwise_several
from .syntax import Instruction, Pair, Vector
from .types import DTYPES, is_float, size_of

Outcomes = dict[int, Counter[bool]]  # line -> how many threads a comparison was true and false for

# --- comparison and selection -----------------------------------------------------------------------------------------

COMPARISONS = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
COMBINATIONS = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def comparison(name: str, type_name: str):
    """A comparison as a function of arrays. Without u, NaN makes it false (ne included); with u, true."""
    if not is_float(type_name):
        return COMPARISONS[name]
    if name == "num":
        return lambda x, y: ~(np.isnan(x) | np.isnan(y))
    if name == "nan":
        return lambda x, y: np.isnan(x) | np.isnan(y)
    if name == "ne":
        return lambda x, y: (x < y) | (x > y)
    unordered = {"equ": (np.less, np.greater), "neu": (np.equal,), "ltu": (np.greater_equal,), "leu": (np.greater,),
                 "gtu": (np.less_equal,), "geu": (np.less,)}.get(name)  # fmt: skip
    if unordered is None:
        return COMPARISONS[name]
    # Neither less nor greater, etc.: NaN makes the opposite false.
    if len(unordered) == 2:
        return lambda x, y: ~((x < y) | (x > y))
    return lambda x, y: ~unordered[0](x, y)


def set_predicate(decoder: Decoder, instruction: Instruction) -> Step:
    """setp: one or two predicates, perhaps combined with a third operand; set: a number."""
    parts, operands = instruction.parts, instruction.operands
    type_name = parts[-1]
    compare = comparison(parts[1], type_name)
    if instruction.has("ftz") and type_name == "f32":
        exact = compare
        compare = lambda x, y: exact(flush(x), flush(y))  # noqa: E731
    combine = next((COMBINATIONS[part] for part in parts[2:] if part in COMBINATIONS), None)
    sources = [decoder.source(operand, type_name) for operand in operands[1:3]]
    negated = False
    if combine:
        slot, negated = decoder.predicate(operands[3])
        sources.append(slot)
    if parts[0] == "set":
        result = parts[-2]
        true = DTYPES[result].type(1.0) if result == "f32" else np.uint32(0xFFFFFFFF).astype(DTYPES[result])

        def number(x, y, *third):
            out = compare(x, y)
            out = combine(out, third[0] ^ negated) if combine else out
            return np.where(out, true, DTYPES[result].type(0))

        return elementwise(number, decoder.target(operands[0], result), sources)
    if isinstance(operands[0], Pair):
        targets = [decoder.target(operand, "pred") for operand in (operands[0].first, operands[0].second)]

        def both(x, y, *third):
            out = compare(x, y)
            return (combine(out, third[0] ^ negated), combine(~out, third[0] ^ negated)) if combine else (out, ~out)

        return elementwise_several(both, targets, sources)
    target = decoder.target(operands[0], "pred")
    if combine:
        return elementwise(lambda x, y, third: combine(compare(x, y), third ^ negated), target, sources)
    return elementwise(compare, target, sources, in_place=isinstance(compare, np.ufunc))


def noting(decoder: Decoder, instruction: Instruction, step: Step, outcomes: Outcomes) -> Step:
    """A setp that also counts how often its comparison was true and false, where its combination lets that matter."""
    type_name = instruction.parts[-1]
    compare = comparison(instruction.parts[1], type_name)
    a, b = (decoder.source(operand, type_name) for operand in instruction.operands[1:3])
    masked = next((part for part in ("and", "or") if part in instruction.parts[2:]), None)
    mask, negated = decoder.predicate(instruction.operands[3]) if masked else (0, False)

    def counted(slots, lanes):
        index = lanes.index
        found = compare(slots[a][index], slots[b][index])
        if masked:
            found = found[(slots[mask][index] ^ negated) == (masked == "and")]
        true = int(np.sum(found))
        count = outcomes.setdefault(instruction.line, Counter())
        count.update({True: true, False: found.size - true})
        step(slots, lanes)

    return counted


def select(decoder: Decoder, instruction: Instruction) -> Step:
    """selp: by a predicate."""
    type_name = instruction.parts[-1]
    target, *sources, chooser = instruction.operands
    slot, negated = decoder.predicate(chooser)
    a, b = (decoder.source(operand, type_name) for operand in sources)
    if negated:
        a, b = b, a
    return elementwise(lambda p, x, y: np.where(p, x, y), decoder.target(target, type_name), [slot, a, b])


def select_by_sign(decoder: Decoder, instruction: Instruction) -> Step:
    """slct: a where c >= 0, else b (NaN: b)."""
    type_name, sign_type = instruction.parts[-2:]
    target, a, b, c = instruction.operands
    sources = [decoder.source(c, sign_type), decoder.source(a, type_name), decoder.source(b, type_name)]
    return elementwise(lambda s, x, y: np.where(s >= 0, x, y), decoder.target(target, type_name), sources)


# --- moves ------------------------------------------------------------------------------------------------------------


def move(decoder: Decoder, instruction: Instruction) -> Step:
    """mov: a copy, or several registers packed into a wider one, or the other way round."""
    type_name = instruction.parts[-1]
    target, source = instruction.operands
    if isinstance(target, Vector):
        pieces = [f"b{8 * size_of(type_name) // len(target.items)}"] * len(target.items)
        steps = [
            copy(decoder.target(item, pieces[k]), decoder.parts(source, pieces[k], len(pieces))[k])
            for k, item in enumerate(target.items)
        ]
        # A target may be the source of none: registers of different width never overlap.
        return in_turn(steps)
    if isinstance(source, Vector):
        piece = f"b{8 * size_of(type_name) // len(source.items)}"
        places = decoder.parts(target, piece, len(source.items))
        return in_turn(
            [copy(place, decoder.source(item, piece)) for place, item in zip(places, source.items, strict=True)]
        )
    return copy(decoder.target(target, type_name), decoder.source(source, type_name))


def copy(target: int | None, source: int) -> Step:
    """One array to another."""
    if target is None:
        return lambda slots, lanes: None

    def step(slots, lanes):
        if lanes.whole:
            slots[target][...] = slots[source]
        else:
            slots[target][lanes.index] = slots[source][lanes.index]

    return step


def in_turn(steps: list[Step]) -> Step:
    """One after the other."""

    def step(slots, lanes):
        for each in steps:
            each(slots, lanes)

    return step


TABLE = {
    "mov": move,
    "setp": set_predicate,
    "set": set_predicate,
    "selp": select,
    "slct": select_by_sign,
}
