"""Does a test notice a kernel's missing barrier, bounds test or wait?

`mutants` lists a kernel's PTX with one of them taken away: each barrier removed, each wait for asynchronous copies
removed, each comparison that guards an access forced to true and to false. `examine` runs a test on all of them::

    def check(text):                      # raises if anything is wrong
        y = poisoned(1000, np.float32)
        Kernel(text).run(4, 256, x, y, 1000)
        np.testing.assert_array_equal(y, expected)

    score = examine("relu", text, check, harmless={"relu:barrier 2 of 2": "the loop's last iteration needs none"})
    print(table([score]))
    assert not score.survived

A comparison that decides only how something is done, as in the loops that a compiler unrolls, may be forced either way:
the mutant takes another way to the same results. With `outcomes`, what the original's comparisons found in the test, a
mutant that nothing noticed though it decided otherwise than the original is told from one that was never put to the
test. The first has the verdict "same"; the second must be listed, or survives.

A mutant's key names what a comparison is computed from, not registers or lines, so that a list of harmless ones stays
valid when the compiler numbers them otherwise. The list's keys are patterns of ``kernel:key``.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from .checks import Violation
from .dataflow import Dataflow
from .logic import Outcomes
from .parser import parse
from .runtime import InterpreterRuntime
from .syntax import Instruction, Literal

KINDS = ("barrier", "wait", "bounds")


class Mutant(NamedTuple):
    """A kernel with one thing taken away; `forced` is what a comparison always finds in it.

    `span` is what was taken away, of the original's text.
    """

    key: str
    kind: str
    line: int
    instruction: str
    text: str
    span: tuple[int, int]
    forced: bool = False


class Result(NamedTuple):
    """What became of a mutant; `by` is the violation or error that caught it, or why it is harmless."""

    mutant: Mutant
    verdict: str  # caught, same, harmless, survived
    by: str


class Score(NamedTuple):
    """All mutants of one kernel.

    Attributes:
        named: patterns of the harmless list that name this kernel.
        unused: those of them that no survivor needed.
    """

    name: str
    results: list[Result]
    named: list[str]
    unused: list[str]

    @property
    def survived(self) -> list[Result]:
        """Mutants that nothing noticed, and that are not listed as harmless."""
        return [result for result in self.results if result.verdict == "survived"]

    def __str__(self) -> str:
        return "\n".join(
            f"{self.name}:{r.mutant.key}: {r.verdict}{f' ({r.by})' if r.by else ''}; line {r.mutant.line}: "
            f"{r.mutant.instruction}"
            for r in self.results
        )


def mutants(text: str) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    found: list[Mutant] = []
    for function in parse(text).functions.values():
        flow = Dataflow(function)
        barriers = [i for i in flow.code if i.parts[0] in ("bar", "barrier") and i.has("sync")]
        waits = [i for i in flow.code if i.parts[0] == "cp" and i.has("wait_group", "wait_all")]
        for kind, instructions in (("barrier", barriers), ("wait", waits)):
            for number, instruction in enumerate(instructions, 1):
                key = f"{kind} {number} of {len(instructions)}"
                found.append(_mutant(text, key, kind, instruction, ""))
        for comparison in flow.guarding_comparisons():
            for value, opcode in (("true", "eq"), ("false", "ne")):
                mutant = _mutant(text, f"{_name(flow, comparison)} = {value}", "bounds", comparison, opcode)
                found.append(mutant._replace(forced=value == "true"))
    return sorted(_numbered(found), key=lambda mutant: mutant.line)


def _mutant(text: str, key: str, kind: str, instruction: Instruction, compare: str) -> Mutant:
    start, end = instruction.span
    replacement = ""
    if compare:
        opcode = force(instruction, compare == "eq").opcode
        operands = text[start:end].split(None, 2 if instruction.guard else 1)[-1].rstrip("; \t").split(",")
        guard = text[start:end].split()[0] + " " if instruction.guard else ""
        replacement = f"{guard}{opcode} {', '.join([operands[0], '0', '0', *operands[3:]])};"
    span = instruction.span
    return Mutant(key, kind, instruction.line, instruction.text, text[:start] + replacement + text[end:], span)


def force(comparison: Instruction, value: bool) -> Instruction:
    """One of 0 with 0 that finds `value`; what it is combined with stays."""
    head, _, *rest = comparison.parts
    opcode = ".".join([head, "eq" if value else "ne", *(part for part in rest[:-1] if part != "ftz"), "u32"])
    target, _, _, *others = comparison.operands
    return dataclasses.replace(comparison, opcode=opcode, operands=(target, Literal("0"), Literal("0"), *others))


def _name(flow: Dataflow, comparison: Instruction) -> str:
    left, right = (flow.describe(operand) for operand in comparison.operands[1:3])
    return f"{left} {comparison.parts[1]}.{comparison.parts[-1]} {right}"


def _numbered(found: list[Mutant]) -> list[Mutant]:
    """Mutants of one key get a number behind it."""
    total, seen = Counter(mutant.key for mutant in found), Counter[str]()
    out = []
    for mutant in found:
        seen[mutant.key] += 1
        unique = mutant.key if total[mutant.key] == 1 else f"{mutant.key} #{seen[mutant.key]}"
        out.append(mutant._replace(key=unique))
    return out


def examine(
    name: str,
    text: str,
    check: Callable[[str], Any],
    harmless: Mapping[str | re.Pattern[str], str] | None = None,
    outcomes: Outcomes | None = None,
    check_forced: Callable[[Mutant], Any] | None = None,
) -> Score:
    """Runs a test on every mutant.

    Args:
        name: of the kernel.
        text: its PTX.
        check: runs the test on a text; raises if it notices anything. It must pass on `text` itself. It may return
            the way that the execution took: then a mutant is "same" only if it took another.
        harmless: pattern of ``kernel:key`` -> why nothing can notice. A string (fnmatch) says it of one mutant or some;
            a regular expression says what is so of any kernel, and counts for comparisons that the test reached.
        outcomes: line of `text` -> how often its comparison was true and false in the test.
        check_forced: runs the test on a mutant whose comparison is forced, if that takes less time than from its text.
    """
    way = check(text)
    patterns = {p: why for p, why in (harmless or {}).items() if _may_concern(p, name)}
    used, results = set(), []
    for mutant in mutants(text):
        try:
            taken = check_forced(mutant) if check_forced and mutant.kind == "bounds" else check(mutant.text)
        except Violation as violation:
            results.append(Result(mutant, "caught", violation.kind))
        except Exception as error:  # an assertion of the test, or what the library raises on wrong results
            results.append(Result(mutant, "caught", type(error).__name__))
        else:
            against = (outcomes or {}).get(mutant.line, Counter())[not mutant.forced] if mutant.kind == "bounds" else 0
            if against and (way is None or taken != way):
                results.append(Result(mutant, "same", f"the same results, decided otherwise {against} times"))
                continue
            reached = mutant.kind != "bounds" or outcomes is None or mutant.line in outcomes
            pattern = next((p for p in patterns if _matches(p, f"{name}:{mutant.key}", reached)), None)
            used.add(pattern)
            results.append(Result(mutant, "harmless" if pattern else "survived", patterns.get(pattern, "")))
    named = [pattern for pattern in patterns if isinstance(pattern, str)]
    return Score(name, results, named, [pattern for pattern in named if pattern not in used])


def _may_concern(pattern: str | re.Pattern[str], name: str) -> bool:
    return not isinstance(pattern, str) or fnmatchcase(name, pattern.partition(":")[0])


def _matches(pattern: str | re.Pattern[str], key: str, reached: bool) -> bool:
    if isinstance(pattern, str):
        return fnmatchcase(key, pattern)
    return reached and pattern.fullmatch(key) is not None


def on_runtime(
    name: str, compute_capability: tuple[int, int], body: Callable[[InterpreterRuntime], None]
) -> tuple[str, Callable[[str], None]]:
    """The text of a kernel that `body` launches on a runtime, and a check that runs `body` with another in its place.

    Mutants may take ten times the original's steps before they count as endless.
    """
    first = InterpreterRuntime(compute_capability)
    body(first)
    limit = 1000 + 10 * first.segments[name]

    def check(text: str) -> None:
        body(InterpreterRuntime(compute_capability, instead={name: text}, max_segments=limit))

    return first.texts[name], check


def table(scores: Iterable[Score]) -> str:
    """One line per kernel, and all together: caught (+ same or harmless) of how many, by kind."""
    scores = list(scores)
    width = max([len("all"), *(len(score.name) for score in scores)])
    lines = ["  ".join([" " * width, *(f"{kind:>15}" for kind in KINDS), f"{'survived':>10}"])]
    for name, results in [
        *((score.name, score.results) for score in scores),
        ("all", [result for score in scores for result in score.results]),
    ]:
        cells = []
        for kind in KINDS:
            verdicts = Counter(r.verdict for r in results if r.mutant.kind == kind)
            explained = verdicts["harmless"] + verdicts["same"]
            cells.append(
                f"{verdicts['caught']}{f' (+{explained})' if explained else ''} / {verdicts.total()}"
                if verdicts
                else "-"
            )
        survived = sum(r.verdict == "survived" for r in results)
        lines.append("  ".join([f"{name:{width}}", *(f"{cell:>15}" for cell in cells), f"{survived:>10}"]))
    return "\n".join(lines)
