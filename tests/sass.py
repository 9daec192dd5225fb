"""Reads machine code: a cubin's instructions and loops, as nvdisasm prints them.

`functions(cubin)` gives the instructions of each function; `main_loop` the loop that does the work. What a GPU spends
on the rest (addresses, tests, copies) is seen as the share of the loop's instructions that are multiply-adds. It is an
estimate: instructions are counted, not clocks. ``python tests/sass.py FFMA kernel.cubin`` prints that loop, counted.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import NamedTuple


class Instruction(NamedTuple):
    """One machine instruction, such as ``@!P0 LDG.E.128 R4, [R2.64]``."""

    predicate: str  # "!P0", or "" where it always runs
    opcode: str  # with its modifiers: "LDG.E.128"
    operands: str


class Function(NamedTuple):
    """A kernel or a subroutine. `labels` are the positions that branches go to."""

    instructions: list[Instruction]
    labels: dict[str, int]


class Loop(NamedTuple):
    """The instructions from a label to the branch back to it, inner loops among them."""

    instructions: list[Instruction]

    def share(self, opcode: str) -> float:
        """The part of its instructions that is of a kind: "FFMA", "HMMA" (whatever follows the first dot)."""
        return count(self.instructions, opcode) / len(self.instructions)


def count(instructions: list[Instruction], opcode: str, *modifiers: str) -> int:
    """How many instructions have this name and all of these modifiers: ``count(i, "LDG", "128")``."""
    found = (i.opcode.split(".") for i in instructions)
    return sum(name == opcode and set(modifiers) <= set(rest) for name, *rest in found)


@functools.cache
def nvdisasm() -> str:
    """The disassembler's path, or "": of `pip install nvidia-cuda-nvdisasm`, or of a CUDA toolkit."""
    try:
        installed = files("nvidia-cuda-nvdisasm") or []
    except PackageNotFoundError:
        installed = []
    found = next((f.locate() for f in installed if f.stem == "nvdisasm"), None)
    return str(found or shutil.which("nvdisasm") or "")


def functions(cubin: bytes) -> dict[str, Function]:
    """The functions of a cubin by name: a kernel, and subroutines such as a 64-bit division."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [nvdisasm(), "--print-code", str(path)]
        return parse(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


_SECTION = re.compile(r"^//-+ \.text\.(\S+) +-+$", re.MULTILINE)
_LABEL = re.compile(r"^(\.L\w+):")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@(\S+)\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*?)\s*;")
_TARGET = re.compile(r"`\((\.L\w+)\)")


def parse(text: str) -> dict[str, Function]:
    """What nvdisasm prints, read."""
    pieces = _SECTION.split(text)
    return {name: _function(body) for name, body in zip(pieces[1::2], pieces[2::2], strict=True)}


def _function(text: str) -> Function:
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := _INSTRUCTION.match(line):
            instructions.append(Instruction(found[1] or "", found[2], found[3]))
    return Function(instructions, labels)


def loops(function: Function) -> list[Loop]:
    """Every loop: from where a branch goes back to, to that branch."""
    result = []
    for end, instruction in enumerate(function.instructions):
        target = _TARGET.search(instruction.operands) if instruction.opcode.startswith("BRA") else None
        start = function.labels.get(target[1]) if target else None
        if start is not None and start <= end:
            result.append(Loop(function.instructions[start : end + 1]))
    return result


def main_loop(function: Function, opcode: str) -> Loop | None:
    """The loop with the most instructions of this name; of nested ones, the innermost that has them all."""
    candidates = [loop for loop in loops(function) if count(loop.instructions, opcode)]
    return max(candidates, key=lambda loop: (count(loop.instructions, opcode), -len(loop.instructions)), default=None)


def main() -> None:
    opcode, *paths = sys.argv[1:]
    for path in paths:
        for name, function in functions(Path(path).read_bytes()).items():
            loop = main_loop(function, opcode)
            if loop is None:
                print(f"{path} {name}: {len(function.instructions)} instructions, no loop with {opcode}")
                continue
            size, share = len(loop.instructions), loop.share(opcode)
            print(f"{path} {name}: a loop of {size} instructions, {share:.1%} {opcode}")
            for other, times in Counter(i.opcode for i in loop.instructions).most_common():
                print(f"    {times:5} {other}")


if __name__ == "__main__":
    main()
