"""What the tests of mutants have in common: launches to run them in, and the verdicts on them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import cubin
import numpy as np
from harmless_mutants import HARMLESS
from ptx.kernel import Kernel
from ptx.mutation import Mutant, Score, examine, force, table
from ptx.replay import Keeper, Kept, keep

from numbaconv.cuda import launch

CC = (8, 0)
MOST_SPARES = 8  # sizes of batches: 256 threads to 2048
Source = Callable[[Keeper], None]


def modules() -> list[str]:
    """Of all kernels."""
    return sorted({name.rpartition(".")[0] for name in cubin.kernels()})


@functools.cache
def launches(sources: tuple[Source, ...]) -> dict[str, list[Kept]]:
    """All kept launches, by the name of the compiled kernel."""
    kept: dict[str, list[Kept]] = {}
    for source in sources:
        keeper = Keeper(CC)
        with launch.use(keeper):
            source(keeper)
        for of_kernel in keeper.finish().values():
            for one in of_kernel:
                keep(kept, one)
    return kept


def mutated(name: str, sources: tuple[Source, ...]) -> Score:
    """All mutants of a kernel, run in the launches that the sources make."""
    kernel = cubin.kernels()[name]
    dtype = "float32" if np.dtype("float32") in kernel.dtypes else "float64"
    kept = launches(sources).get(kernel.specialise(np.dtype(dtype)).name, [])
    assert kept, f"nothing launches {name}"

    text, outcomes = kept[0].kernel.ptx(CC), {}
    noting = Kernel(text, outcomes=outcomes)
    for one in kept:
        one.run(noting)

    original = Kernel(text, spares=MOST_SPARES)

    def run(kernel: Kernel) -> Any:
        return [one.run(kernel) for one in kept]

    def check(text: str) -> Any:
        return run(Kernel(text))

    def check_forced(mutant: Mutant) -> Any:
        return run(original.with_forced(mutant.span, lambda comparison: force(comparison, mutant.forced)))

    return examine(name, text, check, HARMLESS, outcomes, check_forced)


def require_explained(module: str, sources: tuple[Source, ...], scores: list[Score]) -> None:
    """Examines a module's kernels, prints their scores and adds these; no mutant may survive."""
    names = [name for name in cubin.kernels() if name.rpartition(".")[0] == module]
    mine = [mutated(name, sources) for name in names]
    scores.extend(mine)
    print(f"\n{table(mine)}")
    survivors = [f"{s.name}:{r.mutant.key}  ({r.mutant.instruction})" for s in mine for r in s.survived]
    assert not survivors, "\n".join(["", *survivors])


def require_reasons_needed(scores: list[Score]) -> None:
    """Prints the score of all kernels together; a reason that no kernel's mutant needed must go."""
    verdicts = Counter(result.verdict for score in scores for result in score.results)
    print(f"\nkernels {len(scores)}, mutants {verdicts.total()}, {dict(verdicts)}")
    named = Counter(pattern for score in scores for pattern in score.named)
    unused = Counter(pattern for score in scores for pattern in score.unused)
    assert not (idle := [pattern for pattern in named if unused[pattern] == named[pattern]]), idle
