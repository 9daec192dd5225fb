"""The interpreter as a device: numbaconv.cuda on it runs the compiled kernels, checked, without a GPU.

    with launch.use(InterpreterRuntime((8, 0))):
        y = to_host(functional.relu(to_device(x, "cuda")))

Everything is executed when it is queued, so streams and events order nothing here.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .checks import UNWRITTEN, Violation
from .kernel import MAX_SEGMENTS, Kernel
from .memory import DeviceMemory
from .statistics import Statistics


@functools.lru_cache(maxsize=500)
def decoded(text: str) -> Kernel:
    """The kernel of a text; decoded once, unless very many others came between."""
    return Kernel(text)


class InterpreterRuntime:
    """A device of some compute capability.

    Attributes:
        memory: what is allocated on it.
        launches: kernel name -> how often it was launched.
        texts: kernel name -> its PTX.
        segments: kernel name -> the most straight pieces of code one of its launches executed.
    """

    caches = False

    def __init__(
        self,
        compute_capability: tuple[int, int],
        *,
        check: bool = True,
        statistics: Statistics | None = None,
        instead: Mapping[str, str] | None = None,
        max_segments: int = MAX_SEGMENTS,
        devices: int = 1,
    ) -> None:
        """Args:
        compute_capability: the kernels' PTX is compiled for it.
        check: races, barriers, uninitialised memory; bounds and alignment are checked in any case.
        statistics: adds up what the launches cost.
        instead: kernel name -> PTX to run in its place.
        max_segments: how many straight pieces of code a launch may execute before it counts as endless.
        devices: how many there are. They share one memory.
        """
        self.capability, self.devices = compute_capability, devices
        self.check, self.statistics, self.max_segments = check, statistics, max_segments
        self.instead = dict(instead or {})
        self.memory = DeviceMemory()
        self.launches: Counter[str] = Counter()
        self.texts: dict[str, str] = {}
        self.segments: Counter[str] = Counter()
        self._numbers = itertools.count(16)
        self._captured: dict[int, list[Callable[[], None]]] = {}

    def device_count(self) -> int:
        return self.devices

    def compute_capability(self, device: int) -> tuple[int, int]:
        return self.capability

    def multiprocessors(self, device: int) -> int:
        return 4

    def memory_info(self, device: int) -> tuple[int, int]:
        return 1 << 32, 1 << 33

    # --- memory -----------------------------------------------------------------------------------------------------

    def allocate(self, device: int, nbytes: int) -> int:
        return self.memory.allocate(nbytes)

    def free(self, device: int, address: int) -> None:
        self.memory.free(address)

    def adopt(self, address: int, nbytes: int) -> int:
        self.memory.place(address, nbytes)  # nobody else has memory here
        return 0

    def disown(self, address: int) -> None:
        pass

    def copy_to_device(self, device: int, address: int, source: np.ndarray, stream: int) -> None:
        self._queue(stream, lambda: self.memory.write(address, source))

    def copy_to_host(self, device: int, target: np.ndarray, address: int, stream: int) -> None:
        def copy():
            self.memory.read(address, target)
            missing = self.memory.unwritten(address, target.nbytes) if self.check else 0
            if missing:
                text = f"the host copies {target.nbytes} bytes, {missing} of which no kernel wrote"
                raise Violation(UNWRITTEN, text)

        self._queue(stream, copy)

    def copy(self, device: int, to: int, source: int, nbytes: int, stream: int) -> None:
        self._queue(stream, lambda: self.memory.copy(to, source, nbytes))

    def clear(self, device: int, address: int, nbytes: int, stream: int) -> None:
        self._queue(stream, lambda: self.memory.clear(address, nbytes))

    def pinned_empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return np.empty(shape, dtype)

    # --- kernels ----------------------------------------------------------------------------------------------------

    def launch(
        self,
        device: int,
        kernel: Any,
        grid: tuple[int, int, int],
        shared: int,
        stream: int,
        args: Sequence[int | float],
    ) -> None:
        text = self.texts[kernel.name] = self.instead.get(kernel.name) or kernel.ptx(self.capability)
        self.launches[kernel.name] += 1

        def run():
            segments = self.kernel_of(text).launch(
                self.memory, grid, (kernel.threads,), args, shared, self.check, self.statistics, self.max_segments
            )
            self.segments[kernel.name] = max(segments, self.segments[kernel.name])

        self._queue(stream, run)

    def kernel_of(self, text: str) -> Kernel:
        """What runs a text."""
        return decoded(text)

    # --- streams, events, graphs ------------------------------------------------------------------------------------

    def create_stream(self, device: int) -> int:
        return next(self._numbers)

    def create_event(self, device: int) -> int:
        return next(self._numbers)

    def record(self, device: int, event: Any, stream: int) -> None:
        pass

    def wait(self, device: int, stream: int, event: Any) -> None:
        pass

    def finished(self, device: int, event: Any) -> bool:
        return True

    def wait_on_host(self, device: int, event: Any) -> None:
        pass

    def synchronize(self, device: int, stream: int | None = None) -> None:
        pass

    def begin_capture(self, device: int, stream: int) -> None:
        self._captured[stream] = []

    def end_capture(self, device: int, stream: int) -> list[Callable[[], None]]:
        return self._captured.pop(stream)

    def replay(self, device: int, graph: list[Callable[[], None]], stream: int) -> None:
        for work in graph:
            self._queue(stream, work)

    def _queue(self, stream: int, work: Callable[[], None]) -> None:
        if stream in self._captured:
            self._captured[stream].append(work)
        else:
            work()
