"""An instruction -> a Python closure, once per kernel.

Operands become *slots*: numbers of arrays with one element per thread. A slot is a register seen as a type, a part of
a register, a constant, a special register or a parameter; `execution.Registers` makes the arrays, so that a decoded
kernel serves batches of any size. A closure is called as ``step(slots, lanes)``: `slots` is the list of arrays,
`lanes` says which threads are active.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from .program import Program
from .syntax import Instruction, Literal, Negated, PtxSyntaxError, Register, Symbol, literal_bits
from .types import DTYPES, SIGNED, UNSIGNED, is_signed, size_of

Step = Callable[[list, "object"], None]
CARRY = "%carry"  # the condition code register of add.cc and its like


class Slot(NamedTuple):
    """What one array of operands is; see the module's docstring."""

    kind: str  # register, constant, special, symbol, parameter; file: all registers of a size
    name: object  # of the register or symbol; the value of a constant; the size
    dtype: np.dtype
    part: int = 0  # of a register that is wider than the type: which piece of it
    parts: int = 1
    filled: bool = False  # a constant as a full array, for compiled loops


class Decoder:
    """Numbers the operands of one program."""

    def __init__(self, program: Program):
        self.program = program
        self.slots: dict[Slot, int] = {}
        program.registers[CARRY] = "pred"
        # The row of each register among those of its size.
        sizes = Counter[int]()
        self.rows: dict[str, int] = {}
        for name, type_name in program.registers.items():
            self.rows[name] = sizes[size_of(type_name)]
            sizes[size_of(type_name)] += 1
        self.parameter_names = {parameter.name for parameter in program.parameters}

    def number(self, slot: Slot) -> int:
        """The number of a slot."""
        return self.slots.setdefault(slot, len(self.slots))

    def source(self, operand, type_name: str, filled: bool = False) -> int:
        """The slot an operand is read from as a type. `filled`: never a broadcast constant."""
        dtype = DTYPES[type_name]
        match operand:
            case Register(name) if name in self.program.registers:
                width = size_of(self.program.registers[name])
                if width < dtype.itemsize:
                    raise PtxSyntaxError(f"{name} of {width} bytes read as {type_name}")
                return self.number(Slot("register", name, dtype, 0, width // dtype.itemsize))
            case Register(name):
                return self.number(Slot("special", name, dtype))
            case Symbol(name):
                return self.number(Slot("symbol", name, dtype, filled=filled))
            case Literal(text):
                return self.number(Slot("constant", literal_bits(text, type_name).tobytes(), dtype, filled=filled))
        raise PtxSyntaxError(f"{operand} as a source")

    def parameter(self, name: str, offset: int, type_name: str) -> int:
        """The slot of a kernel's parameter, or of a part of it."""
        return self.number(Slot("parameter", (name, offset), DTYPES[type_name]))

    def parts(self, operand: Register, part_type: str, parts: int) -> list[int]:
        """The slots of the pieces of a register, lowest first."""
        return [self.number(Slot("register", operand.name, DTYPES[part_type], k, parts)) for k in range(parts)]

    def target(self, operand, type_name: str) -> int | None:
        """The slot a result of a type is written to; None for the operand _.

        A register that is wider than the type takes the value extended by the type's sign.
        """
        if operand == Symbol("_"):
            return None
        if not isinstance(operand, Register) or operand.name not in self.program.registers:
            raise PtxSyntaxError(f"{operand} as a target")
        dtype = DTYPES[type_name]
        width = size_of(self.program.registers[operand.name])
        if width != dtype.itemsize:
            dtype = (SIGNED if is_signed(type_name) else UNSIGNED)[width]
        return self.number(Slot("register", operand.name, dtype))

    def predicate(self, operand, negated: bool = False) -> tuple[int, bool]:
        """The slot of a predicate, and whether it is meant negated."""
        if isinstance(operand, Negated):
            return self.predicate(operand.operand, not negated)
        return self.source(operand, "pred"), negated

    def guarded(self, instruction: Instruction, step: Step) -> Step:
        """The step for those threads whose guard is true."""
        if instruction.guard is None:
            return step
        slot, negated = self.predicate(instruction.guard, instruction.guard_negated)

        def guarded_step(slots, lanes):
            chosen = lanes.where(slots[slot], negated)
            if chosen.index.size:
                step(slots, chosen)

        return guarded_step


def elementwise(function: Callable, target: int | None, sources: Sequence[int], in_place: bool = False) -> Step:
    """target = function(*sources), thread by thread.

    Args:
        function: of arrays.
        in_place: it is a ufunc whose result has the target's dtype: no array in between.
    """
    if target is None:
        return lambda slots, lanes: None
    if len(sources) == 1:
        (a,) = sources

        def step(slots, lanes):
            if not lanes.whole:
                index = lanes.index
                slots[target][index] = function(slots[a][index])
            elif in_place:
                function(slots[a], out=slots[target])
            else:
                slots[target][...] = function(slots[a])

    elif len(sources) == 2:
        a, b = sources

        def step(slots, lanes):
            if not lanes.whole:
                index = lanes.index
                slots[target][index] = function(slots[a][index], slots[b][index])
            elif in_place:
                function(slots[a], slots[b], out=slots[target])
            else:
                slots[target][...] = function(slots[a], slots[b])

    elif len(sources) == 3:
        a, b, c = sources

        def step(slots, lanes):
            if not lanes.whole:
                index = lanes.index
                slots[target][index] = function(slots[a][index], slots[b][index], slots[c][index])
            elif in_place:
                function(slots[a], slots[b], slots[c], out=slots[target])
            else:
                slots[target][...] = function(slots[a], slots[b], slots[c])

    else:

        def step(slots, lanes):
            index = slice(None) if lanes.whole else lanes.index
            slots[target][index] = function(*[slots[s][index] for s in sources])

    return step


def elementwise_several(function: Callable, targets: Sequence[int | None], sources: Sequence[int]) -> Step:
    """The same for a function that returns one array per target."""

    def step(slots, lanes):
        index = slice(None) if lanes.whole else lanes.index
        results = function(*[slots[s][index] for s in sources])
        for target, result in zip(targets, results, strict=True):
            if target is not None:
                slots[target][index] = result

    return step


def simple(decoder: Decoder, instruction: Instruction, function: Callable, type_name: str) -> Step:
    """An instruction whose operands all have one type: target, then sources."""
    target = decoder.target(instruction.operands[0], type_name)
    slots = [decoder.source(operand, type_name) for operand in instruction.operands[1:]]
    in_place = isinstance(function, np.ufunc) and target is not None
    return elementwise(function, target, slots, in_place)
