"""Run by test_cuda_simulator.py in a process with NUMBA_ENABLE_CUDASIM=1: what the simulator does, and what it sees."""

from __future__ import annotations

import numpy as np
import pytest
from numba import cuda, float64, int32

from numbaconv import functional, to_device, to_host
from numbaconv.cuda import launch, memory, transfer
from numbaconv.cuda.intrinsics import ALL_LANES, load_vector, load_vector_shared, store_vector, store_vector_shared
from numbaconv.cuda.launch import VECTOR, T, inline, kernel


def zeros(*shape, dtype="f8"):
    return memory.zeros(shape, np.dtype(dtype), 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 3, 8, 1027])
def test_an_op(dtype, size):
    x = np.random.default_rng(size).standard_normal(size).astype(dtype)
    x[0] = np.nan
    result = to_host(functional.relu(to_device(x, "cuda")))
    np.testing.assert_array_equal(result, np.where(x <= 0, 0, x), strict=True)


@inline
def of_warp(value):
    for lanes in (16, 8, 4, 2, 1):
        value += cuda.shfl_xor_sync(ALL_LANES, value, lanes)
    return value


@kernel(threads=64)
def block_sum(x: "T*", out: "f64*", size: "i32"):
    part = cuda.shared.array(2, float64)
    i = cuda.grid(1)
    value = float64(x[i]) if i < size else float64(0)
    value = of_warp(value)
    if cuda.threadIdx.x % 32 == 0:
        part[cuda.threadIdx.x // 32] = value
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        out[cuda.blockIdx.x] = part[0] + part[1]


def test_warps_and_barriers():
    x = np.arange(150, dtype="f4")
    out = zeros(3)
    launch.launch(block_sum, "float32", 3, transfer.to_device(x, 0), out, 150)
    assert to_host(out).tolist() == [x[:64].sum(), x[64:128].sum(), x[128:].sum()]


@kernel(threads=64)
def shuffles(out: "i32*"):
    t = int32(cuda.threadIdx.x)
    out[t] = cuda.shfl_down_sync(ALL_LANES, t, 3)
    out[64 + t] = cuda.shfl_up_sync(ALL_LANES, t, 3)
    out[128 + t] = cuda.shfl_sync(ALL_LANES, t, 5)
    out[192 + t] = cuda.laneid


def test_shuffles():
    out = zeros(4, 64, dtype="i4")
    launch.launch(shuffles, "float32", 1, out)
    t = np.arange(64)
    lane = t % 32
    down, up = np.where(lane < 29, t + 3, t), np.where(lane > 2, t - 3, t)
    np.testing.assert_array_equal(to_host(out), [down, up, t - lane + 5, lane])


@kernel(threads=32)
def two_arrays(out: "f64*"):
    a, b = cuda.shared.array(32, float64, alignment=16), cuda.shared.array(32, float64)
    dynamic = cuda.shared.array(0, float64)
    t = cuda.threadIdx.x
    a[t], b[t], dynamic[t] = t, 100 + t, 1000 + t
    cuda.syncthreads()
    other = 31 - t
    out[t] = a[other] + b[other] + dynamic[other]


def test_shared_arrays_of_one_line_are_two():
    out = zeros(32)
    launch.launch(two_arrays, "float32", 1, out, shared=32 * 8)
    assert to_host(out).tolist() == [1100 + 3 * (31 - t) for t in range(32)]


@kernel(threads=32)
def vectors(x: "T*", out: "T*"):
    part = cuda.shared.array(128, T, alignment=16)
    i = cuda.threadIdx.x * VECTOR
    store_vector_shared(part, i, load_vector(x, i))
    cuda.syncthreads()
    store_vector(out, i, load_vector_shared(part, (31 - cuda.threadIdx.x) * VECTOR))


@pytest.mark.parametrize(("dtype", "vector"), [("float32", 4), ("float64", 2)])
def test_vectors(dtype, vector):
    x = np.arange(32 * vector, dtype=dtype)
    out = zeros(32 * vector, dtype=dtype)
    launch.launch(vectors, dtype, 1, transfer.to_device(x, 0), out)
    np.testing.assert_array_equal(to_host(out), x.reshape(32, vector)[::-1].ravel())


# --- what it sees ------------------------------------------------------------------------------------------


@kernel(threads=32)
def at(out: "f64*", first: "i32"):
    out[first + cuda.threadIdx.x] = 1


@pytest.mark.parametrize(("first", "thread", "element"), [(1, 31, 32), (-1, 0, -1)])
def test_indices_outside(first, thread, element):
    rule = rf"at_float32, block \(0, 0, 0\), thread {thread}: element {element} of 32"
    with pytest.raises(IndexError, match=rule):
        launch.launch(at, "float32", 1, zeros(32), first)


def test_addresses_outside():
    stray = zeros(32)
    stray.address = 8
    with pytest.raises(IndexError, match=r"address 0x8 is in no allocation"):
        launch.launch(at, "float32", 1, stray, 0)


@kernel(threads=32)
def misaligned(x: "T*"):
    store_vector(x, 1, load_vector(x, 0))


def test_accesses_that_are_not_aligned():
    with pytest.raises(IndexError, match="an access of 16 bytes at element 1 is not aligned"):
        launch.launch(misaligned, "float32", 1, zeros(32, dtype="f4"))
    with pytest.raises(IndexError, match="an access of 16 bytes at element 0 is not aligned"):
        launch.launch(misaligned, "float32", 1, zeros(32, dtype="f4")[1:])


@kernel(threads=64)
def half_wait(x: "T*"):
    if cuda.threadIdx.x < 40:
        cuda.syncthreads()
    cuda.syncthreads()


def test_a_barrier_that_not_all_reach():
    with pytest.raises(RuntimeError, match="threads wait for each other at different barriers"):
        launch.launch(half_wait, "float32", 1, zeros(1))


@kernel(threads=32)
def unset(out: "f64*"):
    part = cuda.shared.array(32, float64)
    own = cuda.local.array(2, float64)
    t = cuda.threadIdx.x
    out[t] = part[t] if t < 16 else own[1]


def test_fresh_memory_is_no_number():
    out = zeros(32)
    launch.launch(unset, "float32", 1, out)
    assert np.isnan(to_host(out)).all()
    assert np.isnan(to_host(memory.empty((5,), np.dtype("f4"), 0))).all()
