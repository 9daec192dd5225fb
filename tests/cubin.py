"""What a kernel's machine code takes of a GPU, measured: registers, shared memory, spills, wide accesses, loops.

``python tests/cubin.py elementwise.relu ...`` prints rows of `numbaconv.cuda.budgets` for these kernels, or for all.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import sass

ARCHITECTURES = ((7, 5), (8, 0), (9, 0), (10, 0), (12, 0))
WIDE = ("LDG", "STG", "LDS", "STS", "LDGSTS")
SYSTEM_SHARED = {(9, 0): 1024}  # bytes of every block that the linker counts in; on others it does not


def kernels() -> dict[str, Any]:
    """Every kernel of the package, by name."""
    from numbaconv import cuda
    from numbaconv.cuda import launch

    folder = Path(cuda.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        if path.stem not in ("__init__", "simulator", "simulated_block", "driver"):
            importlib.import_module(".".join(["numbaconv.cuda", *path.relative_to(folder).with_suffix("").parts]))
    return dict(sorted(launch.KERNELS.items()))


class Code(NamedTuple):
    """What one cubin takes. Where nvdisasm is not installed, the fields from `wide` on are None.

    Attributes:
        registers: of a thread.
        shared: bytes of static shared memory.
        local: bytes of spills, stack and local memory of a thread.
        wide: the kinds of access of which some are of 16 bytes.
        local_accesses: loads and stores of local memory.
        doubles: instructions in float64.
        divisions: subroutines for 64-bit divisions.
        function: the kernel's instructions.
    """

    registers: int
    shared: int
    local: int
    wide: tuple[str, ...] | None = None
    local_accesses: int | None = None
    doubles: tuple[str, ...] | None = None
    divisions: tuple[str, ...] | None = None
    function: sass.Function | None = None


def measure(kernel: Any, dtype: Any, cc: tuple[int, int]) -> Code:
    """Compiles a kernel, and reads what came out."""
    specialised = kernel.specialise(dtype)
    code, log = specialised.cubin(cc)
    facts = read_log(log, specialised.name)
    facts["shared"] -= SYSTEM_SHARED.get(cc, 0) if facts["shared"] else 0
    if not sass.nvdisasm():
        return Code(**facts)
    functions = sass.functions(code)
    every = [i for function in functions.values() for i in function.instructions]
    return Code(
        **facts,
        wide=tuple(name for name in WIDE if sass.count(every, name, "128")),
        local_accesses=sass.count(every, "LDL") + sass.count(every, "STL"),
        doubles=tuple(sorted({i.opcode for i in every if _DOUBLE.match(i.opcode)})),
        divisions=tuple(name for name in functions if _DIVISION.search(name)),
        function=functions[specialised.name],
    )


_DOUBLE = re.compile(r"D(ADD|MUL|FMA|SETP|MNMX|MMA)\b|.*\.F64\b|MUFU\.\w+64H")
_DIVISION = re.compile(r"(div|rem)_[su]64")
_LINKED = re.compile(r"used (\d+) registers.*?, (\d+) stack, (?:(\d+) bytes smem)?.*?(?:(\d+) bytes lmem)?$")
_SPILLS = re.compile(r"(\d+) bytes spill (?:stores|loads)")


def read_log(log: str, name: str) -> dict[str, int]:
    """Registers, shared and local bytes from what nvJitLink writes."""
    _, _, properties = log.partition(f"info    : Function properties for '{name}':")
    found = _LINKED.search(properties.strip().splitlines()[0])
    assert found, log
    registers, stack, shared, local = (int(number or 0) for number in found.groups())
    return {"registers": registers, "shared": shared, "local": stack + local + sum(map(int, _SPILLS.findall(log)))}


def opcode_for(opcode: str, dtype: Any) -> str:
    """The multiply-add in float64 where a budget says FFMA."""
    return "DFMA" if opcode == "FFMA" and dtype == "float64" else opcode


def share(code: Code, opcode: str) -> float:
    """The part of the main loop that is of a kind; 0 if there is no such loop."""
    loop = code.function and sass.main_loop(code.function, opcode)
    return loop.share(opcode) if loop else 0.0


def measured_row(name: str, kernel: Any, architectures: tuple[tuple[int, int], ...] = ARCHITECTURES) -> str:
    """The row of `budgets.BUDGETS` that the kernel's machine code just keeps."""
    text = kernel.specialise(kernel.dtypes[0]).ptx((8, 0))
    since = (8, 0) if "cp.async" in text or "tf32" in text.partition("{")[2] else architectures[0]
    codes = {d: [measure(kernel, d, cc) for cc in architectures if cc >= since] for d in kernel.dtypes}
    registers = _per_type([-(-max(c.registers for c in of) // 8) * 8 for of in codes.values()])  # given out by eight
    parts = [registers]
    shared = _per_type([max(c.shared for c in of) for of in codes.values()])
    parts += [f"shared={shared}"] if shared != "0" else []
    wide = [w for w in WIDE if all(w in (c.wide or ()) for of in codes.values() for c in of)]
    parts += [f'wide="{" ".join(wide)}"'] if wide else []
    for opcode, least in (("HMMA", 0.05), ("FFMA", 0.5)):
        shares = [min(share(c, opcode_for(opcode, d)) for c in of) for d, of in codes.items()]
        if max(shares) >= least:
            parts += [f'main_loop="{opcode}"', f"share={_per_type([int(s * 100) / 100 for s in shares])}"]
    doubles = any(c.doubles for d, of in codes.items() if d == "float32" for c in of)
    parts += ["float64=True"] if doubles else []
    parts += [f"since={since}"] if since != architectures[0] else []
    return f'    "{name}": Budget({", ".join(parts)}),'


def _per_type(values: list[Any]) -> str:
    return str(values[0]) if len(set(values)) == 1 else str(tuple(values))


def main() -> None:
    every = kernels()
    for name in sys.argv[1:] or every:
        print(measured_row(name, every[name]))


if __name__ == "__main__":
    main()
