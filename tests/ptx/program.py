"""A kernel ready to be decoded: device functions inlined, memory laid out, labels resolved.

A call is inlined with its own copy of the callee's registers, labels and local memory, so that no call stack exists
and threads that diverge in a callee meet again like anywhere else. What is passed (.param space) lives in local
memory, and a callee's formal parameter is the caller's actual one under another name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .syntax import (
    Address,
    Function,
    Instruction,
    Negated,
    Pair,
    Parameter,
    ParsedModule,
    PtxSyntaxError,
    Register,
    Symbol,
    Vector,
)


@dataclass
class Program:
    """One kernel as a flat list of instructions."""

    name: str
    parameters: list[Parameter]
    registers: dict[str, str] = field(default_factory=dict)
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    branch_targets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    local: dict[str, int] = field(default_factory=dict)
    local_bytes: int = 0
    shared: dict[str, int] = field(default_factory=dict)
    shared_bytes: int = 0
    dynamic_shared: list[str] = field(default_factory=list)

    def place_local(self, name: str, size: int, align: int) -> None:
        """Gives a variable its place in a thread's local memory."""
        self.local_bytes = round_up(self.local_bytes, align)
        self.local[name] = self.local_bytes
        self.local_bytes += size

    def place_shared(self, name: str, size: int, align: int) -> None:
        """Gives a variable its place in a block's shared memory."""
        self.shared_bytes = round_up(self.shared_bytes, align)
        self.shared[name] = self.shared_bytes
        self.shared_bytes += size


def round_up(number: int, multiple: int) -> int:
    """The next multiple."""
    return -(-number // multiple) * multiple


def link(module: ParsedModule, name: str = "") -> Program:
    """The program of a kernel; without a name, of the only one."""
    entries = [function for function in module.functions.values() if function.entry]
    chosen = [function for function in entries if name in ("", function.name)]
    if len(chosen) != 1:
        raise PtxSyntaxError(f"kernel {name!r} among {[function.name for function in entries]}")
    kernel = chosen[0]
    program = Program(kernel.name, kernel.parameters)
    external = []
    for variable in module.variables.values():
        if variable.space == "shared":
            if variable.external:
                external.append(variable)
            else:
                program.place_shared(variable.name, variable.size, variable.align)
    _inline(program, module, kernel, "", {}, ())
    # Dynamic shared memory begins where the static ends, at the largest alignment anyone asks of it.
    program.shared_bytes = round_up(program.shared_bytes, max([16, *(v.align for v in external)]))
    for variable in external:
        program.shared[variable.name] = program.shared_bytes
        program.dynamic_shared.append(variable.name)
    if not program.code or program.code[-1].guard or program.code[-1].parts[0] not in ("ret", "exit"):
        program.code.append(Instruction("ret", (), text="ret"))
    return program


def _inline(
    program: Program, module: ParsedModule, function: Function, prefix: str, actual: dict[str, str], stack: tuple
) -> None:
    if function.name in stack:
        raise PtxSyntaxError(f"{function.name} calls itself; recursion is not interpreted")
    renamed = dict(actual)  # formal parameters -> the caller's variables
    for name, type_name in function.registers.items():
        renamed[name] = prefix + name
        program.registers[prefix + name] = type_name
    for variable in function.variables.values():
        renamed[variable.name] = prefix + variable.name
        if variable.space in ("local", "param"):
            program.place_local(prefix + variable.name, variable.size, variable.align)
        elif variable.space == "shared":
            program.place_shared(prefix + variable.name, variable.size, variable.align)
        else:
            raise PtxSyntaxError(f".{variable.space} variable inside of a function: {variable.name}")
    for label in [item for item in function.body if isinstance(item, str)]:
        renamed[label] = prefix + label
    for name, targets in function.branch_targets.items():
        renamed[name] = prefix + name
        program.branch_targets[prefix + name] = tuple(prefix + target for target in targets)
    end = f"{prefix}end"
    for item in function.body:
        if isinstance(item, str):
            program.labels[prefix + item] = len(program.code)
            continue
        head = item.parts[0]
        if head == "call":
            if item.guard:
                raise PtxSyntaxError(f"line {item.line}: a predicated call is not interpreted")
            callee, names = _called(module, item, renamed)
            _inline(
                program, module, callee, f"{prefix}{callee.name}@{len(program.code)}:", names, (*stack, function.name)
            )
        elif head == "ret" and prefix:
            guard = Register(renamed[item.guard.name]) if item.guard else None
            program.code.append(
                Instruction("bra", (Symbol(end),), guard, item.guard_negated, item.line, item.text, item.span)
            )
        else:
            program.code.append(
                Instruction(
                    item.opcode,
                    tuple(_rename(operand, renamed) for operand in item.operands),
                    _rename(item.guard, renamed),
                    item.guard_negated,
                    item.line,
                    item.text,
                    item.span,
                )
            )
    if prefix:
        program.labels[end] = len(program.code)


def _called(module: ParsedModule, call: Instruction, renamed: dict[str, str]) -> tuple[Function, dict[str, str]]:
    """The callee, and its formal parameters' names in the caller."""
    operands = list(call.operands)
    returns = operands.pop(0).items if isinstance(operands[0], Vector) else ()
    target = operands.pop(0)
    arguments = operands.pop(0).items if operands else ()
    if target.name not in module.functions:
        raise PtxSyntaxError(f"line {call.line}: no function {target.name} in this module")
    callee = module.functions[target.name]
    formal = [*callee.returns, *callee.parameters]
    given = [*returns, *arguments]
    if len(formal) != len(given):
        raise PtxSyntaxError(f"line {call.line}: {len(given)} arguments for {len(formal)} parameters")
    return callee, {f.name: renamed[a.name] for f, a in zip(formal, given, strict=True)}


def _rename(operand, renamed: dict[str, str]):
    match operand:
        case Register(name):
            return Register(renamed.get(name, name))
        case Symbol(name):
            return Symbol(renamed.get(name, name))
        case Address(base, offset):
            return Address(_rename(base, renamed), offset)
        case Vector(items):
            return Vector(tuple(_rename(item, renamed) for item in items))
        case Pair(first, second):
            return Pair(_rename(first, renamed), _rename(second, renamed))
        case Negated(inner):
            return Negated(_rename(inner, renamed))
    return operand
