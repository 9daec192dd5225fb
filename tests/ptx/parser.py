"""Text of a PTX module -> its functions, variables and instructions.

The grammar is that of the PTX ISA as far as numba-cuda and inline assembly use it. A name that a ``{ }`` scope declares
gets the number of its scope appended, so that after parsing names are unique within a function.
"""

from __future__ import annotations

import bisect
import re

from .syntax import (
    Address,
    Function,
    Instruction,
    Literal,
    Negated,
    Pair,
    Parameter,
    ParsedModule,
    PtxSyntaxError,
    Register,
    Symbol,
    Variable,
    Vector,
    integer,
    literal_bits,
)
from .types import DTYPES, size_of

TOKEN = re.compile(
    r"0[fF][0-9a-fA-F]{8}\b|0[dD][0-9a-fA-F]{16}\b"  # a float by its bits
    r"|\d+\.\d*(?:[eE][-+]?\d+)?|\d\w*"  # a number
    r"|[%$._A-Za-z][\w$]*(?:(?:\.|::)[\w$]+)*"  # a name, an opcode, a directive
    r'|"[^"]*"|[^\s]'
)
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
SKIPPED_DIRECTIVES = {".version", ".target", ".address_size", ".file", ".section", ".loc", ".pragma"}
LINKAGE = {".visible", ".extern", ".weak", ".common"}
STATE_SPACES = {".global", ".const", ".shared", ".local", ".param"}
LAUNCH_BOUNDS = {".maxntid", ".minnctapersm", ".reqntid", ".maxnreg", ".maxnctapersm", ".noreturn"}


class _Parser:
    def __init__(self, text: str):
        # Comments become spaces of the same length, so that line numbers stay.
        blank = COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)
        matches = list(TOKEN.finditer(blank))
        self.text = blank
        self.tokens = [m[0] for m in matches] + [""]
        self.starts = [m.start() for m in matches] + [len(blank)]
        self.newlines = [m.start() for m in re.finditer("\n", blank)]
        self.at = 0
        self.functions: dict[str, Function] = {}
        self.variables: dict[str, Variable] = {}
        self.target = ""

    # --- tokens -----------------------------------------------------------------------------------------------------

    @property
    def token(self) -> str:
        return self.tokens[self.at]

    def line(self) -> int:
        return bisect.bisect(self.newlines, self.starts[self.at]) + 1

    def fail(self, expected: str):
        raise PtxSyntaxError(f"line {self.line()}: expected {expected}, found {self.token!r}")

    def take(self) -> str:
        token = self.tokens[self.at]
        self.at += 1
        return token

    def accept(self, token: str) -> bool:
        if self.tokens[self.at] != token:
            return False
        self.at += 1
        return True

    def expect(self, token: str) -> None:
        if not self.accept(token):
            self.fail(repr(token))

    def skip_line(self) -> None:
        line = self.line()
        while self.token and self.line() == line:
            self.at += 1

    # --- the module -------------------------------------------------------------------------------------------------

    def module(self) -> ParsedModule:
        while self.token:
            if self.token in SKIPPED_DIRECTIVES:
                if self.token == ".target":
                    self.target = self.tokens[self.at + 1]
                self.skip_line()
                continue
            external = False
            while self.token in LINKAGE:
                external |= self.take() == ".extern"
            if self.token in (".entry", ".func"):
                self.function()
            elif self.token in STATE_SPACES:
                self.variable(self.variables, external)
            else:
                self.fail("a directive")
        return ParsedModule(self.functions, self.variables, self.target)

    def variable(self, variables: dict[str, Variable], external: bool = False, rename=lambda name: name) -> None:
        space = self.take()[1:]
        align, type_name, lanes = 0, "", 1
        while self.token.startswith("."):
            word = self.take()[1:]
            if word == "align":
                align = int(self.take())
            elif word in ("v2", "v4"):
                lanes = int(word[1])
            elif word in DTYPES:
                type_name = word
            elif word != "attribute":
                self.fail("a variable's type")
        while True:
            name = self.take()
            count = lanes
            while self.accept("["):
                count = 0 if self.token == "]" else count * integer(self.take())
                self.expect("]")
            initial = self.initial(type_name) if self.accept("=") else None
            size = count * size_of(type_name)
            if initial is not None:
                initial = initial.ljust(size, b"\0")
            unique = rename(name)
            variables[unique] = Variable(unique, space, size, align or size_of(type_name), initial, external)
            if not self.accept(","):
                break
        self.expect(";")

    def initial(self, type_name: str) -> bytes:
        if self.accept("{"):
            values = b""
            while not self.accept("}"):
                values += self.initial(type_name)
                self.accept(",")
            return values
        return literal_bits(self.number(), type_name).tobytes()

    def number(self) -> str:
        sign = "-" if self.accept("-") else ""
        if not self.token[:1].isdigit():
            self.fail("a number")
        return sign + self.take()

    def parameter_list(self) -> list[Parameter]:
        parameters = []
        self.expect("(")
        while not self.accept(")"):
            self.take()  # .param or .reg
            align, type_name = 0, ""
            while self.token.startswith("."):
                word = self.take()[1:]
                if word == "align":
                    align = int(self.take())
                elif word in DTYPES:
                    type_name = word
            name = self.take()
            count = 1
            if self.accept("["):
                count = integer(self.take())
                self.expect("]")
            parameters.append(Parameter(name, type_name, count * size_of(type_name), align or size_of(type_name)))
            self.accept(",")
        return parameters

    def function(self) -> None:
        entry = self.take() == ".entry"
        returns = self.parameter_list() if self.token == "(" else []
        name = self.take()
        parameters = self.parameter_list() if self.token == "(" else []
        while self.token in LAUNCH_BOUNDS:
            self.take()
            while self.token[:1].isdigit() or self.token == ",":
                self.take()
        if self.accept(";"):
            return  # a declaration
        function = Function(name, entry, parameters, returns)
        self.functions[name] = function
        self.expect("{")
        self.statements(function, [{p.name: Symbol(p.name) for p in parameters + returns}])

    # --- a function's body ------------------------------------------------------------------------------------------

    def statements(self, function: Function, scopes: list[dict[str, Register | Symbol]]) -> None:
        """Up to the closing brace; `scopes` say what a name means, innermost last."""
        scope = scopes[-1]
        while not self.accept("}"):
            token = self.token
            if token == "{":
                self.at += 1
                self.statements(function, [*scopes, {}])
            elif token in (".pragma", ".loc", ".file"):
                self.skip_line()
            elif token == ".reg":
                self.registers(function, scope)
            elif token in STATE_SPACES:
                self.variable(function.variables, rename=lambda name: self.declare(function, scope, name, Symbol))
            elif self.tokens[self.at + 1] == ":":
                self.label(function, scopes)
            elif token:
                function.body.append(self.instruction(scopes))
            else:
                self.fail("'}'")

    def declare(self, function: Function, scope: dict[str, Register | Symbol], name: str, kind=Register) -> str:
        unique = name
        while unique in function.registers or unique in function.variables:
            unique = f"{name}~{len(function.registers) + len(function.variables)}"
        scope[name] = kind(unique)
        return unique

    def registers(self, function: Function, scope: dict[str, str]) -> None:
        self.expect(".reg")
        type_name = self.take()[1:]
        if type_name not in DTYPES:
            self.fail("a register's type")
        while True:
            name = self.take()
            if self.accept("<"):
                for number in range(int(self.take())):
                    function.registers[self.declare(function, scope, f"{name}{number}")] = type_name
                self.expect(">")
            else:
                function.registers[self.declare(function, scope, name)] = type_name
            if not self.accept(","):
                break
        self.expect(";")

    def label(self, function: Function, scopes) -> None:
        name = self.take()
        self.expect(":")
        if not self.accept(".branchtargets"):
            function.body.append(name)
            return
        targets = []
        while not self.accept(";"):
            targets.append(self.take())
            self.accept(",")
        function.branch_targets[name] = tuple(targets)

    def instruction(self, scopes) -> Instruction:
        first, line = self.at, self.line()
        guard, negated = None, False
        if self.accept("@"):
            negated = self.accept("!")
            guard = self.name(scopes)
        opcode = self.take()
        operands = []
        while not self.accept(";"):
            operands.append(self.operand(scopes))
            self.accept(",")
        text = " ".join(self.text[self.starts[first] : self.starts[self.at - 1]].split())
        span = self.starts[first], self.starts[self.at - 1] + 1
        return Instruction(opcode, tuple(operands), guard, negated, line, text, span)

    def name(self, scopes) -> Register | Symbol:
        name = self.take()
        for scope in reversed(scopes):
            if name in scope:
                return scope[name]
        return Register(name) if name.startswith("%") or name == "WARP_SZ" else Symbol(name)

    def operand(self, scopes):
        if self.accept("{"):
            return Vector(self.group("}", scopes))
        if self.accept("("):
            return Vector(self.group(")", scopes))
        if self.accept("["):
            base = self.operand(scopes)
            offset = 0
            if self.accept("+") or self.token == "-":
                offset = integer(self.number())
            self.expect("]")
            return Address(base, offset)
        if self.accept("!"):
            return Negated(self.name(scopes))
        if self.token[:1].isdigit() or self.token == "-":
            return Literal(self.number())
        if not re.match(r"[%$_A-Za-z]", self.token):
            self.fail("an operand")
        name = self.name(scopes)
        return Pair(name, self.name(scopes)) if self.accept("|") else name

    def group(self, end: str, scopes) -> tuple:
        items = []
        while not self.accept(end):
            items.append(self.operand(scopes))
            self.accept(",")
        return tuple(items)


def parse(text: str) -> ParsedModule:
    """Parses the text of a module."""
    return _Parser(text).module()
