"""Launches as a test made them, to be run again with another text in the kernel's place.

A `Keeper` is a runtime that keeps, of each kernel, some launches: memory as it was before, and as it was after. A
mutant is caught by the first of them that it fails, or that leaves any byte of memory otherwise: the same instructions
on the same numbers give the same bits. That is stricter than the test's own check, and takes only the launch's time.
"""

from __future__ import annotations

import copy
import time
from typing import Any, NamedTuple

import numpy as np

from .kernel import Kernel
from .memory import FREED, DeviceMemory
from .runtime import InterpreterRuntime

MOST_LAUNCHES = 12  # kept of a kernel: the quickest of those that differ in size


class Kept(NamedTuple):
    """A launch. `after`: (bytes, flags) of each allocation; `segments`: the pieces of code it executed."""

    kernel: Any
    grid: tuple[int, int, int]
    shared: int
    args: tuple[Any, ...]
    before: DeviceMemory
    after: list[tuple[np.ndarray, np.ndarray]]
    segments: int
    seconds: float

    @property
    def shape(self) -> tuple[Any, ...]:
        """What tells it from others: the grid, and the numbers that are no addresses."""
        return self.grid, tuple(a for a in self.args if not (isinstance(a, int) and a >= 1 << 40))

    def run(self, kernel: Kernel) -> None:
        """Runs another kernel, or this one, on the same memory.

        Raises:
            Violation: the checks found something.
            AssertionError: memory is not as it was after the original.
        """
        memory = copy.deepcopy(self.before)
        limit = 1000 + 10 * self.segments
        kernel.launch(memory, self.grid, (self.kernel.threads,), self.args, self.shared, True, None, limit)
        for (data, written), (right, flags) in zip(contents(memory), self.after, strict=True):
            np.testing.assert_array_equal(written, flags)
            np.testing.assert_array_equal(data, right)


def contents(memory: DeviceMemory) -> list[tuple[np.ndarray, np.ndarray]]:
    """Copies of the bytes of what is allocated, and of their flags; of bytes that nobody wrote, 0."""
    found = []
    for start, size in zip(memory.start[: memory.windows], memory.size[: memory.windows], strict=True):
        if size != FREED:
            written = memory.written[start : start + size].copy()
            found.append((np.where(written, memory.data[start : start + size], 0), written))
    return found


class Keeper(InterpreterRuntime):
    """An `InterpreterRuntime` that keeps launches of the kernels in `wanted` (None: of all).

    Attributes:
        kept: kernel name -> launches, the quickest first.
    """

    def __init__(self, compute_capability: tuple[int, int], wanted: set[str] | None = None, **options: Any) -> None:
        super().__init__(compute_capability, **options)
        self.wanted, self.kept = wanted, dict[str, list[Kept]]()

    def launch(self, device: int, kernel: Any, grid: tuple[int, int, int], shared: int, stream: int, args: Any) -> None:
        """Keeps it if it differs from those there are, and if it is not slower than all of a full list."""
        if stream in self._captured or (self.wanted is not None and kernel.name not in self.wanted):
            super().launch(device, kernel, grid, shared, stream, args)
            return
        before = copy.deepcopy(self.memory)
        start = time.perf_counter()
        super().launch(device, kernel, grid, shared, stream, args)
        seconds = time.perf_counter() - start
        after, segments = contents(self.memory), self.segments[kernel.name]
        keep(self.kept, Kept(kernel, grid, shared, tuple(args), before, after, segments, seconds))


def keep(kept: dict[str, list[Kept]], launch: Kept) -> None:
    """Adds a launch to those of its kernel, in order of their time."""
    launches = kept.setdefault(launch.kernel.name, [])
    if all(launch.shape != other.shape for other in launches):
        launches.append(launch)
        launches.sort(key=lambda one: one.seconds)
        del launches[MOST_LAUNCHES:]
