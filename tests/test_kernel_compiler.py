"""What kernels are compiled by, and what they get and make: sizes in an array, arrays of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import NamedTuple

import numba
import numpy as np
import pytest
from numba.core.runtime import _nrt_python, rtsys

from numbaconv.cpu.local_array import local_array, zeroed_local_array
from numbaconv.cpu.sizes import sizes_of, unpack
from numbaconv.jit import helper, kernel
from numbaconv.parallel import launch, on_threads


class Window(NamedTuple):
    start: int
    step: int
    flipped: int


@helper
def weighted(values, window):
    total = 0.0
    for i in range(values.size):
        total += values[i] * (window.start + i * window.step)
    return -total if window.flipped else total


@kernel
def moments(first, end, x, out, sizes):
    if on_threads():
        return
    window = unpack(sizes, Window)
    for task in range(first, end):
        own = local_array(x.shape[1], x.dtype)
        for i in range(x.shape[1]):
            own[i] = x[task, i] + 1
        out[task] = weighted(own, window)


@pytest.mark.reduced
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("window", [Window(3, 2, 0), Window(-5, 7, 1), Window(0, 0, 1)])
def test_a_kernel_its_helper_and_its_sizes(dtype, window):
    x = np.arange(12).reshape(3, 4).astype(dtype)
    out = np.empty(3)
    launch(moments, 3, 0.0, x, out, sizes_of(window))
    expected = (x + 1) @ (window.start + window.step * np.arange(4.0))
    np.testing.assert_array_equal(out, -expected if window.flipped else expected)


def test_sizes_of_the_same_numbers_are_one_array():
    assert sizes_of(Window(1, 2, 3)) is sizes_of(Window(1, 2, 3))
    assert sizes_of(Window(1, 2, 3)).dtype == np.int64
    np.testing.assert_array_equal(sizes_of(Window(1, 2, 3)), [1, 2, 3])


def test_a_helper_has_no_machine_code_of_its_own():
    types = numba.float64[::1], numba.types.NamedUniTuple(numba.int64, 3, Window)
    weighted.compile(types)
    compiled = weighted.overloads[types]
    assert compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name) == 0
    assert compiled.entry_point is not None


@kernel
def local_addresses(first, end, addresses, zeros):
    if on_threads():
        return
    for task in range(first, end):
        single, double, whole = local_array(3, np.float32), local_array(5), local_array(7, np.int64)
        zeroed = zeroed_local_array(1000, np.float32)
        addresses[task, 0], addresses[task, 1] = single.ctypes.data, double.ctypes.data
        addresses[task, 2], addresses[task, 3] = whole.ctypes.data, zeroed.ctypes.data
        for i in range(zeroed.size):
            zeros[task] += zeroed[i] != 0
            zeroed[i] = 1  # for the next one, if it gets the same memory


@pytest.mark.reduced
def test_local_arrays_begin_at_cache_lines_and_are_given_back():
    addresses, zeros = np.zeros((50, 4), np.int64), np.zeros(50, np.int64)
    _nrt_python.memsys_enable_stats()
    try:
        before = rtsys.get_allocation_stats()
        launch(local_addresses, 50, 0.0, addresses, zeros)
        after = rtsys.get_allocation_stats()
    finally:
        _nrt_python.memsys_disable_stats()
    assert after.mi_alloc - before.mi_alloc == after.mi_free - before.mi_free >= 200
    assert addresses.all()
    assert not (addresses % 64).any()
    assert not zeros.any()


def test_local_arrays_that_find_no_memory():
    @kernel
    def greedy(first, end, size):
        if on_threads():
            return
        for _ in range(first, end):
            local_array(size)[0] = 0

    for size in (1 << 58, (1 << 61) + 1, -1, -20, -(1 << 63)):  # times 8 bytes: some of them wrap around
        with pytest.raises(MemoryError):
            launch(greedy, 1, 0.0, size)


def test_sizes_are_integers():
    with pytest.raises(TypeError):
        sizes_of((1.5, 2))


PRINTS = """
import numpy as np
from numbaconv.jit import helper, kernel
from numbaconv.parallel import launch, on_threads

@helper
def inner(n):
    print("inner", n)

@helper
def outer(n):
    print("outer", n)
    inner(n + 1)

@kernel
def speaking(first, end, x):
    if on_threads():
        return
    for task in range(first, end):
        outer(task)

for _ in range(2):
    launch(speaking, 2, 0.0, np.zeros(1))
"""


def test_helpers_may_print(tmp_path):
    """As one does while looking for a mistake. It needs what numba keeps for code that calls Python."""
    (tmp_path / "program.py").write_text(PRINTS)
    for _ in ("compiled", "from the cache"):
        done = subprocess.run(
            [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60,
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        )  # fmt: skip
        assert done.stdout.split("\n")[:-1] == ["outer 0", "inner 1", "outer 1", "inner 2"] * 2, done.stderr
