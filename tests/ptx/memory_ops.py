"""Loads, stores, atomics and asynchronous copies."""

from __future__ import annotations

import numpy as np

from . import access
from .decode import Decoder, Step
from .memory import LOCAL_WINDOW, SHARED_WINDOW, WINDOW_BITS
from .spaces import ATOMIC_UPDATE, READ, READ_ONLY, STRONG_READ, STRONG_WRITE, WRITE
from .syntax import Address, Instruction, Literal, PtxSyntaxError, Register, Symbol, Vector, integer
from .types import DTYPES, size_of

SPACES = ("global", "const", "shared", "local", "param")
STRONG = ("volatile", "relaxed", "acquire", "release", "mmio")


class Target:
    """An address operand: [register + offset] or [variable + offset]."""

    def __init__(self, decoder: Decoder, operand: Address, space: str):
        base, self.offset = operand.base, operand.offset
        if isinstance(base, Register):
            width = size_of(decoder.program.registers[base.name])
            # 64-bit addresses are signed to the compiled loops: none is above 2**63.
            self.slot = decoder.source(base, "s64" if width == 8 else "u32")
        elif isinstance(base, Symbol):
            self.slot = decoder.source(base, "s64", filled=True)
        else:
            self.slot = decoder.source(base, "s64", filled=True)
        self.space = space


def space_of(instruction: Instruction) -> str:
    """The state space an opcode names, or "" for a generic address."""
    for part in instruction.parts:
        name = part.partition("::")[0]
        if name in SPACES:
            return "global" if name == "const" else name
    return ""


def by_window(target: Target, make) -> Step:
    """A step for a generic address, from one per space: threads are told apart by their address's window."""
    spaces = {SHARED_WINDOW: make("shared"), LOCAL_WINDOW: make("local")}
    device = make("global")

    def step(slots, lanes):
        windows = slots[target.slot][lanes.index] >> WINDOW_BITS
        for window, private in spaces.items():
            chosen = windows == window
            if chosen.any():
                private(slots, lanes.only(chosen), window << WINDOW_BITS)
        rest = (windows != SHARED_WINDOW) & (windows != LOCAL_WINDOW)
        if rest.any():
            device(slots, lanes.only(rest), 0)

    return step


def with_space(decoder: Decoder, operand: Address, space: str, make) -> Step:
    """The step of an access; `make(space name)` gives ``step(slots, lanes, window base)``."""
    if space:
        inner = make(space)
        return lambda slots, lanes: inner(slots, lanes, 0)
    return by_window(Target(decoder, operand, space), make)


def element(instruction: Instruction) -> tuple[str, int, int]:
    """Type, size and number of the elements of an access."""
    type_name = instruction.parts[-1]
    count = next((int(part[1]) for part in instruction.parts if part in ("v2", "v4", "v8")), 1)
    return type_name, size_of(type_name), count


def items_of(operand) -> tuple:
    """The registers of a vector operand, or the one there is."""
    return operand.items if isinstance(operand, Vector) else (operand,)


# --- ld and st --------------------------------------------------------------------------------------------------------


def load(decoder: Decoder, instruction: Instruction) -> Step:
    """ld, ldu."""
    type_name, size, count = element(instruction)
    destination, source = instruction.operands
    space = space_of(instruction)
    if space == "param":
        if source.base.name in decoder.parameter_names:
            return load_parameter(decoder, instruction)
        space = "local"
    mode = READ_ONLY if instruction.has("nc") else STRONG_READ if instruction.has(*STRONG) else READ
    where = Target(decoder, source, space)
    deliver = delivery(decoder, items_of(destination), type_name)

    def make(space_name: str):
        def step(slots, lanes, base):
            memory = lanes.batch.spaces[space_name]
            at = memory.access(lanes, instruction, slots[where.slot], where.offset - base, size, count, mode)
            deliver(slots, lanes.index, at, memory.elements[size])

        return step

    return with_space(decoder, source, space, make)


def delivery(decoder: Decoder, items: tuple, type_name: str):
    """Puts the elements at a position into registers: ``deliver(slots, index, positions, data)``."""
    dtype = DTYPES[type_name]
    shift = dtype.itemsize.bit_length() - 1
    wanted = [(q, item) for q, item in enumerate(items) if item != Symbol("_")]
    if any(size_of(decoder.program.registers[item.name]) != dtype.itemsize for _, item in wanted):
        extended = [(q, decoder.target(item, type_name)) for q, item in wanted]

        def extend(slots, index, at, data):
            for q, target in extended:
                slots[target][index] = data[(at >> shift) + q].view(dtype)

        return extend
    raw = [(q, decoder.target(item, f"b{8 * dtype.itemsize}")) for q, item in wanted]
    gather = {2: access.gather2, 4: access.gather4}.get(len(items))
    if gather and len(raw) == len(items):
        targets = [target for _, target in raw]
        return lambda slots, index, at, data: gather(index, at, shift, data, *[slots[t] for t in targets])

    def one_by_one(slots, index, at, data):
        for q, target in raw:
            access.gather(index, at, q, shift, data, slots[target])

    return one_by_one


def load_parameter(decoder: Decoder, instruction: Instruction) -> Step:
    """ld.param of a kernel's parameter: the same for all threads."""
    type_name, size, _ = element(instruction)
    destination, source = instruction.operands
    items = items_of(destination)
    targets = [decoder.target(item, type_name) for item in items]
    sources = [decoder.parameter(source.base.name, source.offset + q * size, type_name) for q in range(len(items))]

    def step(slots, lanes):
        index = slice(None) if lanes.whole else lanes.index
        for target, value in zip(targets, sources, strict=True):
            slots[target][index] = slots[value][index]

    return step


def store(decoder: Decoder, instruction: Instruction) -> Step:
    """st."""
    _, size, count = element(instruction)
    destination, source = instruction.operands
    space = space_of(instruction)
    if space == "param":
        space = "local"
    mode = STRONG_WRITE if instruction.has(*STRONG) else WRITE
    where = Target(decoder, destination, space)
    shift = size.bit_length() - 1
    values = [decoder.source(item, raw_type(instruction), filled=True) for item in items_of(source)]

    def make(space_name: str):
        def step(slots, lanes, base):
            memory = lanes.batch.spaces[space_name]
            at = memory.access(lanes, instruction, slots[where.slot], where.offset - base, size, count, mode)
            for q, value in enumerate(values):
                access.scatter(lanes.index, at, q, shift, memory.elements[size], slots[value])

        return step

    return with_space(decoder, destination, space, make)


def raw_type(instruction: Instruction) -> str:
    """The untyped bits of an access's elements; a float literal keeps its type's bits either way."""
    return f"b{8 * size_of(instruction.parts[-1])}"


# --- atom and red -----------------------------------------------------------------------------------------------------

UPDATES = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
           "xor": np.bitwise_xor}  # fmt: skip


def atomic(decoder: Decoder, instruction: Instruction) -> Step:
    """atom, red: one thread after the other, in the order of their numbers."""
    type_name = instruction.parts[-1]
    dtype, size = DTYPES[type_name], size_of(type_name)
    operands = list(instruction.operands)
    target = decoder.target(operands.pop(0), type_name) if instruction.parts[0] == "atom" else None
    destination = operands.pop(0)
    values = [decoder.source(operand, type_name) for operand in operands]
    update = update_of(instruction, dtype)
    where = Target(decoder, destination, space_of(instruction))

    def make(space_name: str):
        def step(slots, lanes, base):
            memory = lanes.batch.spaces[space_name]
            at = memory.access(lanes, instruction, slots[where.slot], where.offset - base, size, 1, ATOMIC_UPDATE)
            data = memory.data.view(dtype)
            given = [slots[value][lanes.index] for value in values]
            before = np.empty(lanes.index.size, dtype)
            for k, place in enumerate(at // size):
                before[k] = data[place]
                data[place] = update(data[place], *(v[k] for v in given))
            if target is not None:
                slots[target][lanes.index] = before

        return step

    return with_space(decoder, destination, where.space, make)


def update_of(instruction: Instruction, dtype):
    """What an atomic does with the old value and its operands."""
    name = next(p for p in instruction.parts[1:] if p in UPDATES or p in ("exch", "cas", "inc", "dec"))
    if dtype.kind == "f":
        raise PtxSyntaxError(f"line {instruction.line}: atomics of floats depend on the order of threads")
    if name == "exch":
        return lambda old, new: new
    if name == "cas":
        return lambda old, compare, new: new if old == compare else old
    if name == "inc":
        return lambda old, limit: dtype.type(0) if old >= limit else old + dtype.type(1)
    if name == "dec":
        return lambda old, limit: limit if old == 0 or old > limit else old - dtype.type(1)
    return UPDATES[name]


# --- cp.async ---------------------------------------------------------------------------------------------------------


def copy_async(decoder: Decoder, instruction: Instruction) -> Step:
    """cp.async of 4, 8 or 16 bytes, commit_group, wait_group, wait_all."""
    if instruction.has("commit_group"):
        return lambda slots, lanes: lanes.batch.copies.commit(lanes)
    if instruction.has("wait_group"):
        newest = integer(instruction.operands[0].text)
        return lambda slots, lanes: lanes.batch.copies.wait(lanes, newest, instruction)
    if instruction.has("wait_all"):

        def wait_all(slots, lanes):
            lanes.batch.copies.commit(lanes)
            lanes.batch.copies.wait(lanes, 0, instruction)

        return wait_all
    if instruction.has("bulk", "mbarrier"):
        raise PtxSyntaxError(f"line {instruction.line}: {instruction.opcode} is not interpreted")
    to, source, size, *rest = instruction.operands
    size = integer(size.text)
    if size not in (4, 8, 16):
        raise PtxSyntaxError(f"line {instruction.line}: cp.async of {size} bytes")
    shared, device = Target(decoder, to, "shared"), Target(decoder, source, "global")
    ignores = bool(rest) and decoder.program.registers.get(getattr(rest[0], "name", "")) == "pred"
    given = decoder.source(rest[0] if rest else Literal(str(size)), "pred" if ignores else "u32")

    def step(slots, lanes):
        wanted = slots[given][lanes.index]
        if ignores:  # a predicate: true copies nothing
            wanted = np.where(wanted, 0, size)
        lanes.batch.copies.start(
            lanes, instruction, (slots[shared.slot], shared.offset), (slots[device.slot], device.offset), size, wanted
        )

    return step


TABLE = {
    "ld": load,
    "ldu": load,
    "st": store,
    "atom": atomic,
    "red": atomic,
    "cp": copy_async,
}
