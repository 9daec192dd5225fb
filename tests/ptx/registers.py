"""The arrays behind the slots of a decoded kernel, for a batch of blocks."""

from __future__ import annotations

import numpy as np

from .decode import Slot
from .syntax import PtxSyntaxError
from .types import POISON_BYTES, UNSIGNED, size_of


class Registers:
    """One row per register, and the list of arrays that steps index by slot.

    A kernel keeps one of these from launch to launch: making a thousand views takes longer than a small launch.

    Attributes:
        slots: the arrays. They are views: of rows of the register files, of broadcast constants, of special registers.
    """

    def __init__(self, kernel, threads: int):
        self.threads = threads
        by_size: dict[int, list[str]] = {}
        for name, type_name in kernel.program.registers.items():
            by_size.setdefault(size_of(type_name), []).append(name)
        self.files, self.rows = {}, {}
        for size, names in by_size.items():
            file = self.files[size] = np.empty((len(names), threads), UNSIGNED[size])
            # In order of declaration, as the decoder counts them.
            self.rows.update({name: file[row] for row, name in enumerate(names)})
        self.special: dict[str, np.ndarray] = {}
        self.views: list[tuple[np.ndarray, np.ndarray]] = []  # a special register as another type, and the original
        self.given: list[tuple[np.ndarray, Slot]] = []  # what every launch sets: parameters and addresses of variables
        self.slots = [self.array(slot) for slot in kernel.slots]

    def grow(self, slots: list[Slot]) -> None:
        """Arrays for slots that were numbered since."""
        self.slots += [self.array(slot) for slot in slots[len(self.slots) :]]

    def array(self, slot: Slot) -> np.ndarray:
        """The array a slot stands for."""
        if slot.kind == "register":
            row = self.rows[slot.name]
            if slot.parts == 1:
                return row.view(slot.dtype)
            return row.view(slot.dtype).reshape(self.threads, slot.parts)[:, slot.part]
        if slot.kind == "file":
            return self.files[slot.name].view(slot.dtype)
        if slot.kind == "special":
            original = self.special_register(slot.name)
            view = original.astype(slot.dtype)
            self.views.append((view, original))
            return view
        value = np.empty(self.threads if slot.filled else 1, slot.dtype)
        if slot.kind == "constant":
            value[:] = np.frombuffer(slot.name, slot.dtype)
        else:
            self.given.append((value, slot))
        return np.broadcast_to(value, (self.threads,)) if value.size == 1 else value

    def attach(self, batch) -> None:
        """From now on they are those of a batch."""
        self.batch = batch
        for value, slot in self.given:
            if slot.kind == "symbol":
                value[:] = batch.launch.address_of(slot.name)
            else:
                value[:] = batch.launch.parameter(*slot.name, slot.dtype)

    def special_register(self, name: str) -> np.ndarray:
        """A special register's array, made at its first use."""
        if name not in self.special:
            self.special[name] = np.zeros(self.threads, np.uint64)
        return self.special[name]

    def reset(self) -> None:
        """Poison in all registers; special registers for the batch's blocks."""
        for size, file in self.files.items():
            if size < 4:
                file[:] = 0
            else:
                file.view(np.uint32)[:] = int.from_bytes(POISON_BYTES, "little")
        for name, array in self.special.items():
            array[:] = self.value_of(name)
        for view, original in self.views:
            view[:] = original

    def value_of(self, name: str):
        """A special register of all threads."""
        batch, launch = self.batch, self.batch.launch
        base, _, axis = name.partition(".")
        if axis:
            k = "xyz".index(axis)
            if base == "%tid":
                return _coordinate(batch.thread_in_block, launch.block, k)
            if base == "%ctaid":
                return _coordinate(batch.first_block + batch.block_of, launch.grid, k)
            if base in ("%ntid", "%nctaid"):
                return (launch.block if base == "%ntid" else launch.grid)[k]
        lane = batch.lane_of.astype(np.uint64)
        one = np.uint64(1)
        values = {
            "%laneid": lambda: lane,
            "%warpid": lambda: batch.thread_in_block // 32,
            "%nwarpid": lambda: -(-batch.threads_per_block // 32),
            "WARP_SZ": lambda: 32,
            "%lanemask_eq": lambda: one << lane,
            "%lanemask_lt": lambda: (one << lane) - one,
            "%lanemask_le": lambda: (one << lane + one) - one,
            "%lanemask_gt": lambda: (one << np.uint64(32)) - (one << lane + one),
            "%lanemask_ge": lambda: (one << np.uint64(32)) - (one << lane),
            "%dynamic_smem_size": lambda: launch.dynamic_shared,
            "%total_smem_size": lambda: batch.program.shared_bytes + launch.dynamic_shared,
            "%clock": lambda: 0,
            "%clock64": lambda: 0,
            "%clock_hi": lambda: 0,
            "%globaltimer": lambda: 0,
            "%smid": lambda: 0,
            "%nsmid": lambda: 1,
            "%gridid": lambda: 0,
        }
        if name not in values:
            raise PtxSyntaxError(f"special register {name} is not interpreted")
        return values[name]()


def _coordinate(number, shape, axis: int):
    """x, y or z of a number that counts x first."""
    return number // int(np.prod(shape[:axis], dtype=np.int64)) % shape[axis]
