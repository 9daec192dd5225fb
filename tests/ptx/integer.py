"""Integer and bit instructions."""

from __future__ import annotations

import numpy as np

from .decode import CARRY, Decoder, Step, elementwise, elementwise_several, simple
from .syntax import Instruction, Literal, PtxSyntaxError, Register, integer
from .types import DTYPES, SIGNED, UNSIGNED, is_signed, size_of


def wide(type_name: str) -> str:
    """The type of twice the size."""
    return f"{type_name[0]}{16 * size_of(type_name)}"


# --- multiplication ---------------------------------------------------------------------------------------------------


def high_product(x, y):
    """The upper half of x * y."""
    bits = 8 * x.dtype.itemsize
    if bits < 64:
        double = (SIGNED if x.dtype.kind == "i" else UNSIGNED)[x.dtype.itemsize * 2]
        return ((x.astype(double) * y.astype(double)) >> double.type(bits)).astype(x.dtype)
    # Schoolbook in halves of 32 bits. A negative factor, read as unsigned, is 2**64 too large.
    a, b = x.view(np.uint64) if x.strides[0] else x.astype(np.uint64), y.astype(np.uint64)
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    a0, a1, b0, b1 = a & mask, a >> half, b & mask, b >> half
    middle = a1 * b0 + ((a0 * b0) >> half)
    other = a0 * b1 + (middle & mask)
    high = a1 * b1 + (middle >> half) + (other >> half)
    if x.dtype.kind == "i":
        high = high - np.where(x < 0, b, np.uint64(0)) - np.where(y < 0, a, np.uint64(0))
        return high.view(np.int64)
    return high


def wide_product(x, y):
    """x * y in twice the bits."""
    double = (SIGNED if x.dtype.kind == "i" else UNSIGNED)[x.dtype.itemsize * 2]
    return x.astype(double) * y.astype(double)


def product24(x, y):
    """The lower 24 bits of both, multiplied."""
    if x.dtype.kind == "i":
        return ((x << 8) >> 8).astype(np.int64) * ((y << 8) >> 8)
    return (x & 0xFFFFFF).astype(np.uint64) * (y & 0xFFFFFF)


def multiply(decoder: Decoder, instruction: Instruction) -> Step:
    """mul, mad: .lo .hi .wide."""
    type_name = instruction.parts[-1]
    accumulate = instruction.parts[0].startswith("mad")
    result = wide(type_name) if instruction.has("wide") else type_name
    target = decoder.target(instruction.operands[0], result)
    sources = [decoder.source(operand, type_name) for operand in instruction.operands[1:3]]
    if accumulate:
        sources.append(decoder.source(instruction.operands[3], result))
    if instruction.parts[0].endswith("24"):
        shift = 16 if instruction.has("hi") else 0
        product = lambda x, y: (product24(x, y) >> shift).astype(x.dtype)  # noqa: E731
    elif instruction.has("wide"):
        product = wide_product
    elif instruction.has("hi"):
        product = high_product
    else:
        product = np.multiply
    if accumulate:
        return elementwise(lambda x, y, z: product(x, y) + z, target, sources)
    return elementwise(product, target, sources, in_place=product is np.multiply)


# --- carries ----------------------------------------------------------------------------------------------------------


def with_carry(decoder: Decoder, instruction: Instruction) -> Step:
    """add sub mad with .cc (carry out), addc subc madc (carry in). A borrow is kept as carry = 1."""
    head, type_name = instruction.parts[0], instruction.parts[-1]
    unsigned = DTYPES[f"u{8 * size_of(type_name)}"]
    operands = [decoder.source(o, type_name) for o in instruction.operands[1:]]
    target = decoder.target(instruction.operands[0], type_name)
    carry = decoder.source(Register(CARRY), "pred")
    takes, gives = head.endswith("c"), instruction.has("cc")
    subtracts = head.startswith("sub")
    product = high_product if instruction.has("hi") else np.multiply

    def compute(*values):
        values, carry_in = values[:-1], values[-1]
        if head.startswith("mad"):
            values = (product(values[0], values[1]), values[2])
        x, y = (np.asarray(v).astype(unsigned) for v in values)
        extra = carry_in.astype(unsigned) if takes else unsigned.type(0)
        if subtracts:
            out = x - y - extra
            carry_out = (x < y) | ((x == y) & (extra != 0))
        else:
            partial = x + y
            out = partial + extra
            carry_out = (partial < x) | (out < partial)
        return out.astype(DTYPES[type_name]), carry_out

    return elementwise_several(compute, [target, carry if gives else None], [*operands, carry])


# --- division, shifts, bits -------------------------------------------------------------------------------------------


def quotient(x, y):
    """Towards zero. By zero: all bits set, as the hardware does."""
    safe = np.where(y == 0, y.dtype.type(1), y)
    return np.where(y == 0, ~x.dtype.type(0), (x - np.fmod(x, safe)) // safe)


def remainder(x, y):
    """Of the dividend's sign. By zero: the dividend."""
    return np.where(y == 0, x, np.fmod(x, np.where(y == 0, y.dtype.type(1), y)))


def shift_left(x, count):
    """Counts beyond the width give 0."""
    bits = 8 * x.dtype.itemsize
    return np.where(count >= bits, x.dtype.type(0), x << np.minimum(count, bits - 1).astype(x.dtype))


def shift_right(x, count):
    """Counts beyond the width give 0, or the sign."""
    bits = 8 * x.dtype.itemsize
    shifted = x >> np.minimum(count, bits - 1).astype(x.dtype)
    return shifted if x.dtype.kind == "i" else np.where(count >= bits, x.dtype.type(0), shifted)


def shift(function):
    """shl, shr: the count is u32 whatever the type."""

    def build(decoder: Decoder, instruction: Instruction) -> Step:
        type_name = instruction.parts[-1]
        target = decoder.target(instruction.operands[0], type_name)
        value, count = instruction.operands[1:]
        bits, ufunc = 8 * size_of(type_name), np.left_shift if function is shift_left else np.right_shift
        if isinstance(count, Literal) and 0 <= integer(count.text) < bits:
            # The common case: a constant that fits needs no clamping.
            return elementwise(
                ufunc, target, [decoder.source(value, type_name), decoder.source(count, type_name)], True
            )
        return elementwise(function, target, [decoder.source(value, type_name), decoder.source(count, "u32")])

    return build


def funnel_shift(decoder: Decoder, instruction: Instruction) -> Step:
    """shf: 32 bits of a 64-bit value {high, low}."""
    left, wrap = instruction.has("l"), instruction.has("wrap")

    def compute(low, high, count):
        count = (count & 31 if wrap else np.minimum(count, 32)).astype(np.uint64)
        value = high.astype(np.uint64) << np.uint64(32) | low
        moved = value << count >> np.uint64(32) if left else value >> count
        return moved.astype(np.uint32)

    return simple(decoder, instruction, compute, "b32")


def count_leading_zeros(x):
    """By the position of the highest bit of each 32-bit half, which float64 holds exactly."""
    if x.dtype.itemsize == 8:
        high, low = (x >> np.uint64(32)).astype(np.uint32), x.astype(np.uint32)
        return np.where(high != 0, count_leading_zeros(high), 32 + count_leading_zeros(low)).astype(np.uint32)
    return (32 - np.frexp(x.astype(np.float64))[1]).astype(np.uint32)


def reverse_bits(x):
    """Bit 0 becomes the highest."""
    out = np.zeros_like(x)
    bits = 8 * x.dtype.itemsize
    for bit in range(bits):
        out |= ((x >> x.dtype.type(bit)) & x.dtype.type(1)) << x.dtype.type(bits - 1 - bit)
    return out


def counting(function):
    """popc, clz, bfind: a u32 of a value of the type."""

    def build(decoder: Decoder, instruction: Instruction) -> Step:
        type_name = instruction.parts[-1]
        target = decoder.target(instruction.operands[0], "u32")
        return elementwise(function, target, [decoder.source(instruction.operands[1], type_name)])

    return build


def find_bit(decoder: Decoder, instruction: Instruction) -> Step:
    """bfind: the highest bit that is not the sign's, 0xFFFFFFFF where there is none."""
    type_name = instruction.parts[-1]
    bits = 8 * size_of(type_name)

    def compute(x):
        magnitude = (np.where(x < 0, ~x, x) if is_signed(type_name) else x).astype(UNSIGNED[size_of(type_name)])
        zeros = count_leading_zeros(magnitude)
        found = zeros if instruction.has("shiftamt") else np.uint32(bits - 1) - zeros
        return np.where(magnitude == 0, np.uint32(0xFFFFFFFF), found)

    return counting(compute)(decoder, instruction)


def extract_bits(decoder: Decoder, instruction: Instruction) -> Step:
    """bfe: `length` bits from `start` on, extended by the highest of them if signed."""
    type_name = instruction.parts[-1]
    bits = 8 * size_of(type_name)
    unsigned = UNSIGNED[size_of(type_name)]

    def compute(x, start, length):
        start, length = start & 255, length & 255
        out = shift_right(x, start).astype(unsigned)
        kept = shift_left(np.ones_like(out), length) - unsigned.type(1)
        out = out & kept
        if is_signed(type_name):
            last = np.minimum(start + length - 1, bits - 1)
            sign = (shift_right(x.astype(unsigned), last) & unsigned.type(1)) != 0
            out = np.where((length != 0) & sign, out | ~kept, out)
        return np.where(length == 0, unsigned.type(0), out).astype(x.dtype)

    operands = instruction.operands
    sources = [decoder.source(operands[1], type_name), *(decoder.source(o, "u32") for o in operands[2:])]
    return elementwise(compute, decoder.target(operands[0], type_name), sources)


def insert_bits(decoder: Decoder, instruction: Instruction) -> Step:
    """bfi: the low `length` bits of a placed at `start` of b."""
    type_name = instruction.parts[-1]

    def compute(value, into, start, length):
        start, length = start & 255, length & 255
        kept = shift_left(np.ones_like(value), length) - value.dtype.type(1)
        mask = shift_left(kept, start)
        return (shift_left(value, start) & mask) | (into & ~mask)

    operands = instruction.operands
    sources = [
        *(decoder.source(o, type_name) for o in operands[1:3]),
        *(decoder.source(o, "u32") for o in operands[3:]),
    ]
    return elementwise(compute, decoder.target(operands[0], type_name), sources)


def permute_bytes(decoder: Decoder, instruction: Instruction) -> Step:
    """prmt, default mode: each nibble of c picks one of the 8 bytes of {b, a}, or its sign."""
    if instruction.parts[-1] != "b32":
        raise PtxSyntaxError(f"line {instruction.line}: {instruction.opcode} is not interpreted")

    def compute(a, b, selection):
        value = b.astype(np.uint64) << np.uint64(32) | a
        out = np.zeros(a.shape, np.uint32)
        for byte in range(4):
            nibble = (selection >> np.uint32(4 * byte)) & 15
            chosen = (value >> ((nibble & 7) * 8).astype(np.uint64)).astype(np.uint8)
            sign = np.where(chosen & 128, np.uint8(255), np.uint8(0))
            out |= np.where(nibble & 8, sign, chosen).astype(np.uint32) << np.uint32(8 * byte)
        return out

    return simple(decoder, instruction, compute, "b32")


def logic3(decoder: Decoder, instruction: Instruction) -> Step:
    """lop3: any function of three bits, by its truth table."""
    table = integer(instruction.operands[4].text)

    def compute(a, b, c):
        out = np.zeros_like(a)
        for row in range(8):
            if table >> row & 1:
                out |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        return out

    operands = instruction.operands
    return elementwise(compute, decoder.target(operands[0], "b32"), [decoder.source(o, "b32") for o in operands[1:4]])


def typed(function):
    """An instruction of one type: the last part of its opcode."""
    return lambda decoder, instruction: simple(decoder, instruction, function, instruction.parts[-1])


TABLE = {
    "add": lambda d, i: with_carry(d, i) if i.has("cc") else typed(np.add)(d, i),
    "sub": lambda d, i: with_carry(d, i) if i.has("cc") else typed(np.subtract)(d, i),
    "mad": lambda d, i: with_carry(d, i) if i.has("cc") else multiply(d, i),
    "addc": with_carry,
    "subc": with_carry,
    "madc": with_carry,
    "mul": multiply,
    "mul24": multiply,
    "mad24": multiply,
    "sad": typed(lambda x, y, z: np.where(x > y, x - y, y - x) + z),
    "div": typed(quotient),
    "rem": typed(remainder),
    "abs": typed(np.abs),
    "neg": typed(np.negative),
    "min": typed(np.minimum),
    "max": typed(np.maximum),
    "and": typed(np.bitwise_and),
    "or": typed(np.bitwise_or),
    "xor": typed(np.bitwise_xor),
    "not": typed(np.invert),
    "cnot": typed(lambda x: (x == 0).astype(x.dtype)),
    "shl": shift(shift_left),
    "shr": shift(shift_right),
    "shf": funnel_shift,
    "popc": counting(np.bitwise_count),
    "clz": counting(count_leading_zeros),
    "bfind": find_bit,
    "brev": typed(reverse_bits),
    "bfe": extract_bits,
    "bfi": insert_bits,
    "prmt": permute_bytes,
    "lop3": logic3,
}
