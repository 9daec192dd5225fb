"""Which comparisons decide whether, where and how much a kernel loads and stores."""

from __future__ import annotations

from collections import defaultdict

from .control import ends_segment
from .syntax import Address, Function, Instruction, Literal, Negated, Pair, Register, Symbol, Vector, integer

ACCESSES = ("ld", "ldu", "st", "atom", "red", "cp", "ldmatrix")
LOGIC = ("and", "or", "xor", "not", "mov", "selp")


def is_access(instruction: Instruction) -> bool:
    """A load or store of memory that threads share."""
    head = instruction.parts[0]
    if head not in ACCESSES or instruction.has("param", "local"):
        return False
    return head != "cp" or not instruction.has("commit_group", "wait_group", "wait_all")


def registers_in(operand) -> list[str]:
    """Names of the registers of an operand."""
    match operand:
        case Register(name):
            return [name]
        case Address(base, _):
            return registers_in(base)
        case Vector(items):
            return [name for item in items for name in registers_in(item)]
        case Pair(first, second):
            return [*registers_in(first), *registers_in(second)]
        case Negated(inner):
            return registers_in(inner)
    return []


class Dataflow:
    """Of one function: who defines a register, and what depends on a branch."""

    def __init__(self, function: Function):
        self.parameters = [parameter.name for parameter in function.parameters]
        self.code: list[Instruction] = []
        self.labels: dict[str, int] = {}
        for item in function.body:
            if isinstance(item, str):
                self.labels[item] = len(self.code)
            else:
                self.code.append(item)
        self.targets = function.branch_targets
        self.definitions: dict[str, list[Instruction]] = defaultdict(list)
        for instruction in self.code:
            if instruction.parts[0] not in ("st", "red", "bra", "cp") and instruction.operands:
                for name in registers_in(instruction.operands[0]):
                    self.definitions[name].append(instruction)

    # --- who guards what --------------------------------------------------------------------------------------------

    def guarding_comparisons(self) -> list[Instruction]:
        """Every setp that decides whether an access happens, its address, or how many bytes it copies; in order.

        Branches backwards, which decide whether a loop goes on, do not count.
        """
        predicates: set[str] = set()
        for place, instruction in enumerate(self.code):
            if is_access(instruction):
                predicates.update(registers_in(instruction.guard))
                predicates.update(self.selections_of(instruction))
            elif instruction.parts[0] in ("bra", "exit", "ret") and instruction.guard and self.guards(place):
                predicates.update(registers_in(instruction.guard))
        found = self.comparisons_of(predicates)
        return [instruction for instruction in self.code if any(instruction is other for other in found)]

    def selections_of(self, access: Instruction) -> set[str]:
        """Predicates of selp instructions that an access's address or size comes from."""
        head = access.parts[0]
        operands = access.operands[:1] if head in ("st", "red") else access.operands[:2] if head == "cp" else ()
        if head in ("ld", "ldu", "atom", "ldmatrix"):
            operands = access.operands[1:2]
        seen: set[str] = set()
        todo = [name for operand in operands for name in registers_in(operand)]
        if head == "cp":
            todo += [name for operand in access.operands[3:] for name in registers_in(operand)]
        found = set()
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            for definition in self.definitions[name]:
                if definition.parts[0].startswith("ld"):
                    continue
                if definition.parts[0] == "selp":
                    found.update(registers_in(definition.operands[3]))
                # Predicated definitions select as well.
                found.update(registers_in(definition.guard))
                todo += [name for operand in definition.operands[1:] for name in registers_in(operand)]
        return found

    def comparisons_of(self, predicates: set[str]) -> list[Instruction]:
        """The setp instructions behind some predicates, through logic of predicates and of 0 and 1."""
        seen: set[str] = set()
        found, todo = [], sorted(predicates)
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            for definition in self.definitions[name]:
                head = definition.parts[0]
                sources = [n for operand in definition.operands[1:] for n in registers_in(operand)]
                if head in ("setp", "set"):
                    logical = [n for n in sources if self.is_boolean(n)]
                    if logical and len(logical) == len(sources):
                        todo += logical
                        continue
                    found.append(definition)
                    todo += [n for operand in definition.operands[3:] for n in registers_in(operand)]
                elif head in LOGIC:
                    todo += sources
        return found

    def is_boolean(self, name: str, depth: int = 6) -> bool:
        """A number register that only ever holds 0 or 1 out of predicates."""
        definitions = self.definitions[name]
        if not definitions or depth == 0:
            return False
        for definition in definitions:
            head, sources = definition.parts[0], definition.operands[1:]
            if head == "selp" and all(isinstance(s, Literal) and s.text in ("0", "1", "-1") for s in sources[:2]):
                continue
            numbers = [s for s in sources if isinstance(s, Register)]
            if (
                head in ("and", "or", "xor", "not", "mov", "cvt")
                and numbers
                and all(self.is_boolean(s.name, depth - 1) for s in numbers)
            ):
                continue
            return False
        return True

    # --- control dependence -----------------------------------------------------------------------------------------

    def guards(self, place: int) -> bool:
        """Whether an access depends on which way the branch (or exit) at `place` goes, and it is no loop's end."""
        instruction = self.code[place]
        if instruction.parts[0] == "bra" and self.labels[instruction.operands[0].name] <= place:
            return False
        after = self._after_everyone()
        both = [self._reach(successor, after.get(place)) for successor in self._successors(place)]
        return any(any(is_access(self.code[k]) for k in path) for path in both)

    def _reach(self, start: int, end: int | None) -> set[int]:
        """Places that can be reached from `start` before `end`."""
        seen, todo = set(), [start]
        while todo:
            place = todo.pop()
            if place == end or place in seen or place >= len(self.code):
                continue
            seen.add(place)
            todo += self._successors(place)
        return seen

    def _successors(self, place: int) -> list[int]:
        instruction = self.code[place]
        head = instruction.parts[0]
        following = [place + 1] if instruction.guard or head not in ("bra", "ret", "exit", "brx", "trap") else []
        if head == "bra":
            following.append(self.labels[instruction.operands[0].name])
        elif head == "brx":
            following += [self.labels[label] for label in self.targets[instruction.operands[1].name]]
        elif head in ("ret", "exit"):
            following.append(len(self.code))
        return following

    def _after_everyone(self) -> dict[int, int]:
        """Of every branch: the first place that all ways from it pass (its immediate post-dominator)."""
        if hasattr(self, "_meeting"):
            return self._meeting
        end = len(self.code)
        # Places where control comes together or parts; in between it is a straight line.
        order = sorted({0, end, *self.labels.values(), *(
            k + d for k, i in enumerate(self.code) if ends_segment(i) for d in (0, 1)
        )})  # fmt: skip
        following = {}
        for place, until in zip(order, [*order[1:], end], strict=True):
            branches = place < end and ends_segment(self.code[place])
            following[place] = self._successors(place) if branches else [until]
        everything = (1 << len(order)) - 1
        number = {place: k for k, place in enumerate(order)}
        passes = dict.fromkeys(order, everything)
        passes[end] = 1 << number[end]
        changed = True
        while changed:
            changed = False
            for place in reversed(order[:-1]):
                common = everything
                for successor in following[place]:
                    common &= passes[successor]
                common |= 1 << number[place]
                changed |= common != passes[place]
                passes[place] = common
        self._meeting = {}
        for place in order[:-1]:
            later = [p for p in order if p != place and passes[place] >> number[p] & 1]
            # The nearest has all the others behind it.
            if later:
                self._meeting[place] = max(later, key=lambda p: bin(passes[p]).count("1"))
        return self._meeting

    # --- names that stay --------------------------------------------------------------------------------------------

    def describe(self, operand, depth: int = 4) -> str:
        """An operand by what it is computed from: the same for other register numbers, and mostly for other targets."""
        match operand:
            case Literal(text) | Symbol(text):
                return text
            case Negated(inner):
                return f"!{self.describe(inner, depth)}"
            case Address(base, offset):
                return f"{self.describe(base, depth)}+{offset}"
            case Vector(items):
                return "{" + ",".join(self.describe(item, depth) for item in items) + "}"
            case Register(name):
                definitions = self.definitions.get(name, [])
                if not definitions:
                    return name
                if len(definitions) > 1:
                    return "counting" if self.counts_down(name) else "changing"
                return self.describe_definition(definitions[0], depth)
        return str(operand)

    def counts_down(self, name: str) -> bool:
        """Whether a register comes from itself by additions of negative numbers, as the count of a range does."""
        down = False
        for definition in self._cycle(name):
            head, sources = definition.parts[0], definition.operands[1:]
            if head == "selp":
                continue
            steps = [step for source in sources if (step := self._step(source)) is not None]
            if head != "add" or not steps or max(steps) > 0:
                return False
            down = True
        return down

    def _step(self, operand) -> int | None:
        """A literal, or the greater of two that a selp chooses from."""
        if isinstance(operand, Literal):
            return integer(operand.text)
        definitions = self.definitions.get(operand.name, []) if isinstance(operand, Register) else []
        if len(definitions) == 1 and definitions[0].parts[0] == "selp":
            chosen = definitions[0].operands[1:3]
            if all(isinstance(source, Literal) for source in chosen):
                return max(integer(source.text) for source in chosen)
        return None

    def _cycle(self, name: str) -> list[Instruction]:
        """The definitions, other than copies, by which a register comes from itself."""
        from_itself: list[Instruction] = []
        reaches: dict[str, bool] = {}

        def leads_back(register: str) -> bool:
            if register == name:
                return True
            if register not in reaches:
                reaches[register] = False
                through_any = [through(definition) for definition in self.definitions.get(register, [])]  # all of them
                reaches[register] = any(through_any)
            return reaches[register]

        def through(definition: Instruction) -> bool:
            if definition.parts[0].startswith("ld"):
                return False
            operands = definition.operands[1:3] if definition.parts[0] == "selp" else definition.operands[1:]
            ways = [leads_back(source) for operand in operands for source in registers_in(operand)]
            back = any(ways)
            if back and definition.parts[0] not in ("mov", "cvt"):
                from_itself.append(definition)
            return back

        for definition in self.definitions[name]:
            through(definition)
        return from_itself

    def describe_definition(self, definition: Instruction, depth: int) -> str:
        """The value an instruction computes."""
        head, sources = definition.parts[0], definition.operands[1:]
        if head == "ld" and definition.has("param"):
            name = sources[0].base.name
            return f"param{self.parameters.index(name)}" if name in self.parameters else name
        if head.startswith("ld"):
            return "loaded"
        if head in ("mov", "cvt", "cvta") and len(sources) == 1 and not isinstance(sources[0], Vector):
            return self.describe(sources[0], depth)
        if depth == 0:
            return "..."
        return f"{head}({','.join(self.describe(source, depth - 1) for source in sources)})"
