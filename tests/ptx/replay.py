"""Launches as a test made them, to be run again with another text in the kernel's place.

A `Keeper` is a runtime that keeps, of each kernel, some launches: memory as it was before, and as it was after. A
mutant is caught by the first of them that it fails, or that leaves any byte of memory otherwise: the same instructions
on the same numbers give the same bits. That is stricter than the test's own check, and takes only the launch's time.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from .kernel import Kernel
from .logic import Outcomes
from .memory import DeviceMemory
from .runtime import InterpreterRuntime

# Of a kernel so many launches are kept, more if they are short, and any that takes a branch that none of these does.
MOST_LAUNCHES = 40
MOST_SEGMENTS = 8_000  # that they execute together


class Kept(NamedTuple):
    """A launch.

    Attributes:
        after: (bytes, flags) of all allocations.
        segments: how many pieces of code it executed.
        outcomes: (line, True or False) of all that its comparisons found.
        wanted: always kept.
    """

    kernel: Any
    grid: tuple[int, int, int]
    shared: int
    args: tuple[Any, ...]
    before: DeviceMemory
    after: tuple[np.ndarray, np.ndarray]
    segments: int
    outcomes: frozenset[tuple[int, bool]]
    wanted: bool = False

    @property
    def shape(self) -> tuple[Any, ...]:
        """What tells it from others: the grid, and the numbers that are no addresses."""
        return self.grid, tuple(a for a in self.args if not (isinstance(a, int) and a >= 1 << 40))

    def run(self, kernel: Kernel) -> Counter[int]:
        """Runs another kernel, or this one, on the same memory; how many threads entered each of its segments.

        Raises:
            Violation: the checks found something.
            AssertionError: memory is not as it was after the original.
        """
        memory = self.before.clone()
        limit = 1000 + 10 * self.segments
        executed = Counter[int]()
        kernel.launch(memory, self.grid, (self.kernel.threads,), self.args, self.shared, True, None, limit, executed)
        for found, right in zip(contents(memory), self.after, strict=True):
            assert np.array_equal(found, right)
        return executed


def contents(memory: DeviceMemory) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of a copied memory, and their flags; of bytes that nobody wrote, 0."""
    return memory.data * memory.written, memory.written


class Keeper(InterpreterRuntime):
    """An `InterpreterRuntime` that keeps launches.

    Attributes:
        kept: kernel name -> launches, the shortest first.
        wanted: what is launched now is always kept: for launches whose outcomes are in no comparison alone.
    """

    def __init__(self, compute_capability: tuple[int, int], **options: Any) -> None:
        super().__init__(compute_capability, **options)
        self.kept = dict[str, list[Kept]]()
        self.wanted = False
        self._noting: dict[str, tuple[Kernel, Outcomes]] = {}

    def kernel_of(self, text: str) -> Kernel:
        """One that notes what its comparisons find."""
        if text not in self._noting:
            outcomes: Outcomes = {}
            self._noting[text] = Kernel(text, outcomes=outcomes), outcomes
        return self._noting[text][0]

    def finish(self) -> dict[str, list[Kept]]:
        """What it kept; lets go of what only more launches need, which is much."""
        self._noting.clear()
        return self.kept

    def launch(self, device: int, kernel: Any, grid: tuple[int, int, int], shared: int, stream: int, args: Any) -> None:
        """Keeps it if it differs from those there are."""
        if stream in self._captured:
            super().launch(device, kernel, grid, shared, stream, args)
            return
        self.kernel_of(kernel.ptx(self.capability))
        outcomes = self._noting[kernel.ptx(self.capability)][1]
        outcomes.clear()
        before = self.memory.copied()
        self.segments[kernel.name] = 0  # it keeps the most of all launches
        super().launch(device, kernel, grid, shared, stream, args)
        found = frozenset((line, value) for line, count in outcomes.items() for value in count if count[value])
        after, segments = contents(self.memory.copied()), self.segments[kernel.name]
        keep(self.kept, Kept(kernel, grid, shared, tuple(args), before, after, segments, found, self.wanted))


def keep(kept: dict[str, list[Kept]], launch: Kept) -> None:
    """Adds a launch to those of its kernel, the shortest first; the longest that shows nothing new goes."""
    launches = kept.setdefault(launch.kernel.name, [])
    if any(
        launch.shape == other.shape and launch.outcomes <= other.outcomes for other in launches if not launch.wanted
    ):
        return
    launches.append(launch)
    launches.sort(key=lambda one: one.segments)
    if len(launches) > MOST_LAUNCHES and sum(one.segments for one in launches) > MOST_SEGMENTS:
        shown = Counter(outcome for one in launches for outcome in one.outcomes)
        spare = [one for one in launches if not one.wanted and all(shown[outcome] > 1 for outcome in one.outcomes)]
        if spare:
            del launches[next(k for k, one in enumerate(launches) if one is spare[-1])]
