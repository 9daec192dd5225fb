"""What an execution cost: instructions, bank conflicts of shared memory, sectors of global memory."""

from __future__ import annotations

from collections import Counter

import numpy as np

SECTOR = 32  # bytes: what global memory is read and written in
BANKS, BANK_BYTES = 32, 4


class Statistics:
    """Counts over any number of launches.

    Attributes:
        instructions: opcode -> how many threads executed it (a guard that is false included).
        sectors: line of PTX -> sectors that warps asked for.
        least_sectors: line -> as many as their bytes would fill.
        bank_cycles: line -> cycles that shared memory needed.
        least_bank_cycles: line -> without conflicts.
    """

    def __init__(self) -> None:
        self.instructions: Counter[str] = Counter()
        self.sectors: Counter[int] = Counter()
        self.least_sectors: Counter[int] = Counter()
        self.bank_cycles: Counter[int] = Counter()
        self.least_bank_cycles: Counter[int] = Counter()

    def count(self, kernel, executed: Counter[int]) -> None:
        """Adds the instructions of a launch, given how many threads entered each segment."""
        for start, threads in executed.items():
            for instruction in kernel.program.code[start : kernel.segments[start].end]:
                self.instructions[instruction.opcode] += threads

    def access(self, space, instruction, lanes, position: np.ndarray, width: int) -> None:
        """Adds an access of `width` bytes per active thread."""
        warp = space.batch.warp_of[lanes.index]
        if space.name == "global":
            first, last = position // SECTOR, (position + width - 1) // SECTOR
            touched = np.concatenate([np.stack([warp, first]), np.stack([warp, last])], axis=1)
            self.sectors[instruction.line] += np.unique(touched, axis=1).shape[1]
            lanes_of_warp = np.bincount(warp)
            self.least_sectors[instruction.line] += int((-(-lanes_of_warp * width // SECTOR)).sum())
        elif space.name == "shared":
            lane = space.batch.lane_of[lanes.index]
            # 128 bytes a cycle: a warp's wider accesses go in halves (8 bytes) or quarters (16 bytes).
            phases = max(1, width // BANK_BYTES)
            phase = warp * phases + lane * phases // 32
            self.bank_cycles[instruction.line] += conflict_cycles(phase, position, width)
            self.least_bank_cycles[instruction.line] += np.unique(phase).size


def conflict_cycles(phase: np.ndarray, position: np.ndarray, width: int) -> int:
    """Cycles: in each phase the most different words that lie in one bank."""
    words = (position // BANK_BYTES)[:, None] + np.arange(max(1, width // BANK_BYTES))
    phases = np.broadcast_to(phase[:, None], words.shape)
    different = np.unique(np.stack([phases.ravel(), words.ravel()]), axis=1)
    key, count = np.unique(different[0] * BANKS + different[1] % BANKS, return_counts=True)
    worst: dict[int, int] = {}
    for one, number in zip(key // BANKS, count, strict=True):
        worst[one] = max(worst.get(one, 0), int(number))
    return sum(worst.values())
