"""Memory orders and the copies between them; buffers that are lent again."""

from __future__ import annotations

import gc
import platform

import numpy as np
import pytest

import numbaconv
from numbaconv.cpu import convert, layout, memory

DTYPES = ["float32", "float64"]


@pytest.fixture(params=["kernels", "numpy"])
def way(request, monkeypatch):
    """Both ways to copy, whatever the size."""
    monkeypatch.setattr(convert, "SMALL", -1 if request.param == "kernels" else 1 << 60)
    return request.param


def image(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


@pytest.mark.reduced
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 17, 4, 1), (3, 2, 1, 9), (2, 5, 1, 1)])
def test_there_and_back(rng, shape, dtype, way, any_twin):
    x = image(rng, shape, dtype)
    there = layout.channels_last(x)
    assert there.transpose(0, 2, 3, 1).flags.c_contiguous
    back = layout.contiguous(there)
    assert back.flags.c_contiguous
    for result in (there, back):
        assert result.shape == shape
        np.testing.assert_array_equal(result, x)


@pytest.mark.reduced
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 2, 3, 4), (0, 3, 0, 0), (2, 0, 0, 1)])
@pytest.mark.parametrize("order", ["channels_first", "channels_last"])
def test_padded_copies(rng, padding, order, dtype, way, any_twin):
    x = image(rng, (2, 3, 4, 5), dtype)
    top, bottom, left, right = padding
    expected = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right))).transpose(0, 2, 3, 1)
    memory.scratch("test", expected.size, x.dtype)[:] = np.nan  # what is not written shows
    given = layout.in_layout(x, order)
    padded = layout.padded_channels_last(given, padding, "test")
    np.testing.assert_array_equal(padded.reshape(expected.shape), expected)


@pytest.fixture(params=["serial", "parallel"])
def any_twin(request, monkeypatch):
    monkeypatch.setattr(numbaconv.parallel, "PARALLEL_WORK_NS", 0 if request.param == "parallel" else float("inf"))


def test_layout_of():
    x = np.zeros((2, 3, 4, 5), "f4")
    assert numbaconv.layout_of(x) == "channels_first"
    assert numbaconv.layout_of(numbaconv.channels_last(x)) == "channels_last"
    assert numbaconv.layout_of(numbaconv.channels_last(x)[:, :, ::2, 1:]) == "channels_last"
    assert numbaconv.layout_of(x[:, ::2]) == "channels_first"
    assert numbaconv.layout_of(np.zeros((2, 3), "f4")) == "channels_first"
    assert numbaconv.layout_of(np.zeros((2, 3, 1, 1), "f4")) == "channels_first"


def test_one_channel_is_what_it_was_made_to_be():
    """Its two orders are one in memory; the stride that addresses nothing tells them apart."""
    x = np.arange(40, dtype="f4").reshape(2, 1, 4, 5)
    last = numbaconv.channels_last(x)
    assert np.shares_memory(x, last)
    assert numbaconv.layout_of(x) == "channels_first"
    assert numbaconv.layout_of(last) == "channels_last"
    assert layout.contiguous(last).strides == x.strides
    weight = np.ones((3, 1, 1, 1), "f4")
    for given in (x, last):
        out = numbaconv.functional.conv2d(given, weight)
        assert numbaconv.layout_of(out) == numbaconv.layout_of(given)
        assert numbaconv.layout_of(numbaconv.functional.relu(given)) == numbaconv.layout_of(given)


def test_flat_of_a_read_only_array_is_the_same_memory_and_typed_writable():
    x = np.arange(24.0).reshape(2, 3, 4)
    x.flags.writeable = False
    flat = layout.flat(x)
    assert flat.flags.writeable
    assert np.shares_memory(flat, x)
    np.testing.assert_array_equal(flat, np.arange(24.0))
    assert layout.flat(np.broadcast_to(np.zeros(0), (0,))).size == 0


def test_results_start_at_a_cache_line():
    """But for those below 16 KB, which would take longer to align than that saves."""
    for size in (4096, 5000, 100_000):
        assert memory.empty((size,), np.dtype("f4")).__array_interface__["data"][0] % 64 == 0
    for size in (0, 1, 3, 1000):
        assert memory.empty((size,), np.dtype("f4")).shape == (size,)
        assert memory.scratch("line", size, np.dtype("f4")).__array_interface__["data"][0] % 64 == 0


def test_pooled_buffers_are_reused_only_when_nobody_holds_them():
    dtype, shape = np.dtype("f4"), (64, 1024)
    with memory.reuse_buffers() as pool:
        first = memory.empty(shape, dtype)
        first[:] = 1
        second = memory.empty(shape, dtype)
        second[:] = 2
        assert not np.shares_memory(first, second)
        view = first[3:5].T  # a view of a view keeps the buffer
        del first
        third = memory.empty(shape, dtype)
        assert not np.shares_memory(view, third)
        assert (view == 1).all()
        address = view.base.__array_interface__["data"][0]
        held = pool.nbytes
        del view
        gc.collect()
        fourth = memory.empty(shape, dtype)
        assert abs(fourth.__array_interface__["data"][0] - address) <= 64
        assert pool.nbytes == held
        with memory.reuse_buffers() as inner:
            assert inner is pool
    assert (second == 2).all()  # outlives the pool


def test_pool_is_left_after_an_exception():
    with pytest.raises(ZeroDivisionError), memory.reuse_buffers():
        raise ZeroDivisionError
    one, two = (memory.empty((1 << 16,), np.dtype("f8")) for _ in range(2))
    assert not np.shares_memory(one, two)


def test_large_scratch_is_not_kept(monkeypatch):
    monkeypatch.setattr(memory, "_LARGEST_KEPT", 1024)
    assert not np.shares_memory(*(memory.scratch("large", 4096, np.dtype("f4")) for _ in range(2)))
    assert np.shares_memory(*(memory.scratch("small", 64, np.dtype("f4")) for _ in range(2)))


@pytest.mark.reduced
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 7, 8, 10, 15, 16, 17, 40])
@pytest.mark.parametrize("size", [(1, 3), (2, 16), (5, 67), (1, 127), (1, 130)], ids=str)
def test_copies_between_the_orders(channels, size, dtype, rng, monkeypatch):
    """By the kernel, which small arrays do not use: each remainder of its runs and blocks."""
    monkeypatch.setattr(convert, "SMALL", 0)
    x = rng.standard_normal((3, channels, *size)).astype(dtype)
    there = layout.channels_last(x)
    back = layout.contiguous(there)
    assert there.strides[1] == x.itemsize
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(there, x)
    np.testing.assert_array_equal(back, x)
    padded = layout.padded_channels_last(x, (1, 0, 2, 3), "padded").reshape(3, size[0] + 1, size[1] + 5, channels)
    np.testing.assert_array_equal(padded, np.pad(x.transpose(0, 2, 3, 1), ((0, 0), (1, 0), (2, 3), (0, 0))))


def test_large_results_use_memory_again_when_nobody_holds_it():
    """What malloc gives back to the system, and gets again, is zeros."""
    shape, float32 = (9 << 20,), np.dtype(np.float32)  # 36 MB
    first = memory.empty(shape, float32)
    first[:] = 7
    view = first[5:]
    del first
    assert not np.shares_memory(memory.empty(shape, float32), view)
    del view
    assert (memory.empty(shape, float32) == 7).all()


FAULTS = """
import resource
import numpy as np
from numbaconv.cpu import memory
for turn in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [memory.aligned_empty((1 << 20,), np.dtype(np.uint8)) for _ in range(6)]
    for array in arrays:
        array[:] = 1
    del array, arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap is not glibc's")
def test_freed_memory_is_kept(run_python):
    """Six arrays of 1 MB are 1,536 pages, which were new ones in every turn."""
    assert int(run_python(FAULTS)) < 100


def test_a_capped_pool_lets_go_of_what_nobody_uses():
    pool, float32 = memory.BufferPool(1 << 20), np.dtype(np.float32)
    held = pool.empty((1 << 17,), float32)
    place = held.ctypes.data
    pool.empty((100_000,), float32)
    assert pool.nbytes > 900_000
    pool.empty((120_000,), float32)  # in place of the second
    assert (1 << 19) + 480_000 <= pool.nbytes <= 1 << 20
    pool.empty((1 << 20,), float32)  # more than it may hold: not kept, and nothing goes for it
    assert (1 << 19) + 480_000 <= pool.nbytes <= 1 << 20
    held[:] = 1
    assert pool.empty((1 << 17,), float32).ctypes.data != place
    assert (held == 1).all()
