"""The PTX interpreter's device memory, and the statistics of accesses to it and to shared memory."""

from __future__ import annotations

import numpy as np
import pytest
from ptx.memory import DeviceMemory, HostAccessError
from ptx.snippet import entry
from ptx.statistics import Statistics
from ptx.types import is_poison, poisoned


def test_memory_of_the_device():
    memory = DeviceMemory()
    first, second = memory.allocate(1000), memory.allocate(8)
    assert first % 256 == second % 256 == 0
    out = np.zeros(250, np.float32)
    memory.read(first, out)
    assert is_poison(out).all()
    assert memory.unwritten(first, 1000) == 1000
    memory.write(first + 4, np.arange(3, dtype=np.float32))
    memory.clear(first + 16, 8)
    assert memory.unwritten(first, 1000) == 1000 - 20
    memory.copy(second, first + 4, 8)
    two = np.zeros(2, np.float32)
    memory.read(second, two)
    assert two.tolist() == [0, 1]
    memory.poison(first + 4, 4)
    assert memory.unwritten(first + 4, 8) == 4


def test_what_the_host_must_not_do():
    memory = DeviceMemory()
    address = memory.allocate(16)
    with pytest.raises(HostAccessError, match="not inside of byte 12 of an allocation of 16 bytes"):
        memory.clear(address + 12, 8)
    with pytest.raises(HostAccessError, match="not its beginning"):
        memory.free(address + 4)
    memory.free(address)
    with pytest.raises(HostAccessError, match="freed"):
        memory.free(address)
    with pytest.raises(HostAccessError, match="freed"):
        memory.write(address, np.zeros(1))
    with pytest.raises(HostAccessError, match="no allocation"):
        memory.write(123, np.zeros(1))


def test_freed_memory_comes_back_under_another_address():
    memory = DeviceMemory()
    addresses = [memory.allocate(100) for _ in range(40)]
    size = memory.data.size
    memory.clear(addresses[3], 100)
    memory.free(addresses[3])
    again = memory.allocate(80)
    assert again not in addresses
    assert memory.data.size == size
    assert memory.unwritten(again, 80) == 80


# --- statistics ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "sectors"), [(1, 4), (2, 8), (8, 32), (0, 1)])
def test_sectors(stride, sectors):
    """32 threads read 4 bytes each: 4 sectors of 32 bytes if they are neighbours."""
    x, y = np.zeros(256, np.float32), poisoned(32, np.float32)
    statistics = Statistics()
    kernel = entry(f"""
    mad.wide.u32 %a0, %t, {4 * stride}, %x;
    mad.wide.u32 %a1, %t, 4, %y;
    ld.global.f32 %f0, [%a0];
    st.global.f32 [%a1], %f0;
    """)
    kernel.run(1, 32, x, y, statistics=statistics)
    lines = {i.opcode: i.line for i in kernel.program.code}
    load, store = lines["ld.global.f32"], lines["st.global.f32"]
    assert statistics.sectors == {load: sectors, store: 4}
    assert statistics.least_sectors == {load: 4, store: 4}
    assert statistics.instructions["ld.global.f32"] == 32


@pytest.mark.parametrize(
    ("width", "stride", "cycles"),
    [(4, 4, 1), (4, 8, 2), (4, 128, 32), (4, 0, 1), (4, 132, 1), (8, 8, 2), (8, 16, 4), (16, 16, 4), (16, 32, 8)],
)
def test_bank_conflicts(width, stride, cycles):
    """Cycles of a warp's load of `width` bytes per thread, `stride` bytes apart: 128 bytes a cycle at best."""
    y = poisoned(32, np.float32)
    statistics = Statistics()
    register = {4: "b32 %r1", 8: "v2.b32 {%r1, %r2}", 16: "v4.b32 {%r1, %r2, %r3, %r4}"}[width]
    kernel = entry(
        f"""
    mov.u32 %r0, tile;
    mad.lo.u32 %r0, %t, {stride}, %r0;
    ld.shared.{register}, [%r0];
    """,
        module=".shared .align 16 .b8 tile[4224];",
    )
    kernel.run(1, 32, y, y, statistics=statistics, check=False)
    assert list(statistics.bank_cycles.values()) == [cycles]
    assert list(statistics.least_bank_cycles.values()) == [width // 4]
