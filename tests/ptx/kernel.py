"""A kernel ready to be launched: parsed, decoded, cut into segments."""

from __future__ import annotations

import copy
import weakref
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import checks, control, convert, floating, integer, logic, matrix, memory_ops, warp
from .checks import Accesses, Violation
from .decode import Decoder, Slot, Step
from .execution import Batch
from .fusion import fuse
from .logic import Outcomes
from .memory import DeviceMemory
from .parser import parse
from .program import link, round_up
from .registers import Registers
from .statistics import Statistics
from .syntax import Instruction, PtxSyntaxError
from .types import DTYPES, POISON, is_float, size_of

# Where both families have an opcode, its type decides.
TABLE = {**integer.TABLE, **logic.TABLE, **memory_ops.TABLE, **warp.TABLE, **matrix.TABLE, **convert.TABLE}

# Threads of a batch: so many that a NumPy call costs little more than its loop, so few that registers stay in the
# cache.
BATCH_THREADS = 2048
MAX_SEGMENTS = 50_000_000


class Segment(NamedTuple):
    """Instructions that control enters at the top and leaves at the bottom."""

    start: int
    end: int
    steps: tuple[Step, ...]
    leave: control.Leave
    participants: Callable | None


def decode(decoder: Decoder, instruction: Instruction, outcomes: Outcomes | None = None) -> Step:
    """The closure of an instruction that does not end its segment; what comparisons find goes to `outcomes`."""
    head, type_name = instruction.parts[0], instruction.parts[-1]
    if head in floating.TABLE and (is_float(type_name) or type_name == "f32x2" or head not in TABLE):
        build = floating.TABLE[head]
    elif head in TABLE:
        build = TABLE[head]
    else:
        raise PtxSyntaxError(f"line {instruction.line}: {instruction.text}: not interpreted")
    step = build(decoder, instruction)
    if outcomes is not None and head == "setp":
        step = logic.noting(decoder, instruction, step, outcomes)
    return decoder.guarded(instruction, step)


class Kernel:
    """One entry of a module.

    Args:
        outcomes: where to note, by line of the text, how many threads each comparison was true and false for.
        spares: for how many sizes of batches registers are kept from launch to launch.

    Attributes:
        granule: bytes that races are told apart by: the smallest access of the kernel.
    """

    def __init__(self, text: str, name: str = "", outcomes: Outcomes | None = None, spares: int = 1):
        self.module = parse(text)
        self.program = link(self.module, name)
        self.name = self.program.name
        self.parameter_offsets: dict[str, int] = {}
        end = 0
        for parameter in self.program.parameters:
            end = round_up(end, parameter.align)
            self.parameter_offsets[parameter.name] = end
            end += parameter.size
        self.parameter_bytes = end
        self.decoder = Decoder(self.program)
        self.segments = self._segments(self.program.code, outcomes)
        accesses = [i for i in self.program.code if i.parts[0] in ("ld", "st", "atom", "red", "cp") and "." in i.opcode]
        sizes = [size_of(i.parts[-1]) for i in accesses if i.parts[0] != "cp" and not i.has("param", "local")]
        self.granule = min([*sizes, 4 if any(i.parts[0] == "cp" for i in accesses) else 8])
        self.spares = spares
        self._registers: dict[int, Registers] = {}
        self._variables: weakref.WeakKeyDictionary[DeviceMemory, dict[str, int]] = weakref.WeakKeyDictionary()

    @property
    def slots(self) -> list[Slot]:
        """What the arrays are that steps index."""
        return list(self.decoder.slots)

    def _segments(self, code: list[Instruction], outcomes: Outcomes | None) -> dict[int, Segment]:
        starts = {0, *self.program.labels.values()}
        for place, instruction in enumerate(code):
            if control.ends_segment(instruction):
                starts.add(place + 1)
            elif warp.participants(self.decoder, instruction) is not None:
                starts.add(place)
        order = sorted(start for start in starts if start < len(code))
        ends = [*order[1:], len(code)]
        return {start: self._segment(code, start, end, outcomes) for start, end in zip(order, ends, strict=True)}

    def _segment(self, code: list[Instruction], start: int, end: int, outcomes: Outcomes | None) -> Segment:
        decoder, last = self.decoder, code[end - 1]
        ends = control.ends_segment(last)
        leave = control.TABLE[last.parts[0]](decoder, last, end) if ends else control.fall_through(end)
        straight = code[start : end - ends]
        steps = fuse(decoder, straight, [decode(decoder, instruction, outcomes) for instruction in straight])
        if start and code[start - 1].parts[0] in ("bar", "barrier") and code[start - 1].has("red"):
            steps.insert(0, warp.barrier_result(decoder, code[start - 1]))
        return Segment(start, end, tuple(steps), leave, warp.participants(decoder, code[start]))

    def with_forced(self, span: tuple[int, int], change: Callable[[Instruction], Instruction]) -> Kernel:
        """The same with another comparison in the place of one; shares all else, and takes a fraction of the time.

        Args:
            span: of the comparison in the text. It may be several in the program, of a function that was inlined.
            change: the other one for it.
        """
        other, code = copy.copy(self), list(self.program.code)
        places = [place for place, instruction in enumerate(code) if instruction.span == span]
        assert places, f"no instruction at {span}"
        for place in places:
            code[place] = change(code[place])
        other.segments = dict(self.segments)
        for segment in self.segments.values():
            if any(segment.start <= place < segment.end for place in places):
                other.segments[segment.start] = self._segment(code, segment.start, segment.end, None)
        return other

    def take_registers(self, threads: int) -> Registers:
        """Registers for a batch; those of an earlier launch, if it had as many threads and is over."""
        spare = self._registers.pop(threads, None)
        if spare is None:
            return Registers(self, threads)
        spare.grow(self.slots)
        return spare

    def give_back(self, registers: Registers) -> None:
        """Those of a batch that is over."""
        self._registers[registers.threads] = registers
        while len(self._registers) > self.spares:
            del self._registers[next(iter(self._registers))]

    def variables(self, memory: DeviceMemory) -> dict[str, int]:
        """Addresses of the module's .global and .const variables in a memory, written there at the first call."""
        found = self._variables.get(memory)
        if found is None:
            found = self._variables[memory] = {}
            for variable in self.module.variables.values():
                if variable.space in ("global", "const"):
                    address = found[variable.name] = memory.allocate(variable.size)
                    memory.write(address, np.frombuffer(variable.initial or bytes(variable.size), np.uint8))
        return found

    def launch(
        self,
        memory: DeviceMemory,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args,
        dynamic_shared: int = 0,
        check: bool = True,
        statistics: Statistics | None = None,
        max_segments: int = MAX_SEGMENTS,
        executed: Counter[int] | None = None,
    ) -> int:
        """Executes all blocks. `args`: a number for each parameter, addresses included.

        To `executed` is added how many threads entered each segment, by its start.

        Returns:
            How many segments were executed, by however many threads.
        """
        launch = Launch(self, memory, grid, block, args, dynamic_shared, check, statistics, max_segments)
        segments = launch.run()
        if executed is not None:
            executed.update(launch.executed)
        return segments

    def run(self, grid, block, *args, **options) -> None:
        """Executes on arrays: each is an allocation of its own, and gets what is there at the end.

        Elements that hold the poison (`types.poisoned`) count as not yet written.
        """
        memory = DeviceMemory()
        values = []
        for arg in args:
            if isinstance(arg, np.ndarray):
                values.append(memory.allocate(arg.nbytes))
                memory.write(values[-1], arg)
                _forget_poison(memory, values[-1], arg.nbytes)
            else:
                values.append(arg)
        try:
            self.launch(memory, _tuple(grid), _tuple(block), values, **options)
        finally:
            for arg, address in zip(args, values, strict=True):
                if isinstance(arg, np.ndarray):
                    memory.read(address, arg)


def _tuple(size) -> tuple[int, ...]:
    return tuple(size) if isinstance(size, tuple | list) else (size,)


def _forget_poison(memory: DeviceMemory, address: int, nbytes: int) -> None:
    place = memory.place(address, nbytes)
    words = memory.data[place : place + nbytes // 4 * 4].view(np.uint32)
    memory.written[place : place + words.size * 4] = np.repeat(words != POISON, 4)


class Launch:
    """One execution of a kernel over a grid."""

    def __init__(self, kernel, memory, grid, block, args, dynamic_shared, check, statistics, max_segments):
        self.kernel, self.memory, self.check, self.statistics = kernel, memory, check, statistics
        self.grid, self.block = (*grid, 1, 1)[:3], (*block, 1, 1)[:3]
        self.blocks = int(np.prod(self.grid, dtype=np.int64))
        self.threads_per_block = int(np.prod(self.block, dtype=np.int64))
        if not 1 <= self.threads_per_block <= 1024:
            raise ValueError(f"{self.threads_per_block} threads in a block; at most 1024")
        self.dynamic_shared = dynamic_shared
        self.variables = kernel.variables(memory)
        self.record = Accesses(memory.used, kernel.granule) if check else None
        self.remaining = max_segments
        self.executed: Counter = Counter()
        self.parameters = np.zeros(kernel.parameter_bytes, np.uint8)
        parameters = kernel.program.parameters
        if len(args) != len(parameters):
            raise ValueError(f"{len(args)} arguments for {len(parameters)} parameters")
        for parameter, value in zip(parameters, args, strict=True):
            offset = kernel.parameter_offsets[parameter.name]
            raw = np.array([value]).astype(DTYPES[parameter.type]).view(np.uint8)
            self.parameters[offset : offset + raw.size] = raw

    def run(self) -> int:
        """All blocks, a batch at a time; how many segments were executed."""
        most = self.remaining
        size = min(self.blocks, max(1, BATCH_THREADS // self.threads_per_block))
        with np.errstate(all="ignore"):
            batch = Batch(self, size)
            try:
                for first in range(0, self.blocks, size):
                    batch.run(first, min(size, self.blocks - first))
            finally:
                batch.end()
                self.kernel.give_back(batch.registers)
        if self.statistics:
            self.statistics.count(self.kernel, self.executed)
        return most - self.remaining

    def count(self, segment: Segment, lanes) -> None:
        """Notes that a group executes a segment."""
        self.executed[segment.start] += lanes.index.size
        self.remaining -= 1
        if self.remaining < 0:
            raise Violation(checks.ENDLESS, f"{self.kernel.name} does not end")

    def address_of(self, name: str) -> int:
        """A variable's address: in its own space for shared and local memory."""
        program = self.kernel.program
        for table in (program.local, program.shared, self.variables):
            if name in table:
                return table[name]
        raise PtxSyntaxError(f"{name} is no variable")

    def parameter(self, name: str, offset: int, dtype) -> np.ndarray:
        """A parameter, or a part of it."""
        start = self.kernel.parameter_offsets[name] + offset
        return self.parameters[start : start + dtype.itemsize].view(dtype)

    def thread_position(self, number: int) -> tuple[int, ...]:
        """(x, y, z) of a thread in its block."""
        return tuple(int(k) for k in np.unravel_index(number, self.block[::-1])[::-1])

    def block_position(self, number: int) -> tuple[int, ...]:
        """(x, y, z) of a block in the grid."""
        return tuple(int(k) for k in np.unravel_index(number, self.grid[::-1])[::-1])
