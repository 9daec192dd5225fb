"""The PTX interpreter on what numba-cuda compiles, for all architectures: libdevice's functions, shared memory."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest
from numba import float32, int32, types
from ptx.kernel import Kernel
from ptx.statistics import Statistics
from ptx.types import poisoned

pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernels")
from numba import cuda

# Compiling takes 3 s each, so that only --full does all of them.
ALL = [(7, 5), (8, 0), (9, 0), (10, 0), (12, 0)]


def cases(*quick):
    """dtype and compute capability; those not in `quick` are long tests."""
    every = [(dtype, cc) for dtype in ("float32", "float64") for cc in ALL]
    return [case if case in quick else pytest.param(*case, marks=pytest.mark.full) for case in every]


def compiled(function, signature, cc):
    text = cuda.compile(function, signature, device=False, abi="numba", cc=cc, output="ptx")[0]
    return Kernel(text)


def elementary(x, out, size):
    """Functions of libdevice: tables in constant memory, Payne-Hanek reduction, slow paths in device functions."""
    i = cuda.grid(1)
    if i < size:
        v = x[i]
        k = 12 * i
        out[k] = math.exp(v)
        out[k + 1] = math.log(abs(v))
        out[k + 2] = math.tanh(v)
        out[k + 3] = math.sqrt(abs(v))
        out[k + 4] = math.sin(v)
        out[k + 5] = math.cos(v)
        out[k + 6] = math.pow(abs(v), v)
        out[k + 7] = math.erf(v)
        out[k + 8] = math.log1p(abs(v))
        out[k + 9] = math.expm1(v)
        out[k + 10] = v / (v + 1)
        out[k + 11] = math.floor(v)


@pytest.mark.parametrize(("dtype", "cc"), cases(("float32", (12, 0)), ("float64", (8, 0))))
def test_elementary_functions(dtype, cc):
    pointer = types.CPointer(numba.from_dtype(np.dtype(dtype)))
    kernel = compiled(elementary, types.void(pointer, pointer, types.int32), cc)
    large = [1e5, 1e10] if dtype == "float64" else [1e5, 3e6]
    x = np.concatenate([np.random.default_rng(0).uniform(-4, 4, 91), [0.25, 1.0, -20.0, 30.0, 0.7], large]).astype(
        dtype
    )
    out = poisoned((x.size, 12), dtype)
    kernel.run(2, 64, x, out.reshape(-1), x.size)
    functions = [math.exp, lambda v: math.log(abs(v)), math.tanh, lambda v: math.sqrt(abs(v)), math.sin, math.cos,
                 lambda v: math.pow(abs(v), v), math.erf, lambda v: math.log1p(abs(v)), math.expm1,
                 lambda v: v / (v + 1), math.floor]  # fmt: skip
    for v, row in zip(x.tolist(), out, strict=True):
        for k, function in enumerate(functions):
            try:
                wanted = function(v)
            except OverflowError:
                wanted = math.inf
            if abs(wanted) > float(np.finfo(dtype).max):
                wanted = math.inf
            assert row[k] == pytest.approx(wanted, rel=8 * float(np.finfo(dtype).eps), abs=1e-37), (k, v)


def transpose(x, out, rows, columns):
    tile = cuda.shared.array((32, 33), float32)
    column, row = cuda.blockIdx.x * 32 + cuda.threadIdx.x, cuda.blockIdx.y * 32 + cuda.threadIdx.y
    for k in range(0, 32, 8):
        if row + k < rows and column < columns:
            tile[cuda.threadIdx.y + k, cuda.threadIdx.x] = x[(row + k) * columns + column]
    cuda.syncthreads()
    column, row = cuda.blockIdx.y * 32 + cuda.threadIdx.x, cuda.blockIdx.x * 32 + cuda.threadIdx.y
    for k in range(0, 32, 8):
        if row + k < columns and column < rows:
            out[(row + k) * rows + column] = tile[cuda.threadIdx.x, cuda.threadIdx.y + k]


@pytest.mark.parametrize("cc", [(9, 0), *(pytest.param(cc, marks=pytest.mark.full) for cc in ALL if cc != (9, 0))])
def test_transpose_through_shared_memory(cc):
    """A compiled kernel with shared memory; its accesses have no bank conflicts and ask for no sector in vain."""
    pointer = types.CPointer(float32)
    kernel = compiled(transpose, types.void(pointer, pointer, int32, int32), cc)
    for rows, columns in ((64, 96), (45, 70)):
        x = np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)
        out = poisoned((columns, rows), np.float32)
        statistics = Statistics()
        grid = -(-columns // 32), -(-rows // 32)
        kernel.run(grid, (32, 8), x.reshape(-1), out.reshape(-1), rows, columns, statistics=statistics)
        np.testing.assert_array_equal(out, x.T)
        assert statistics.bank_cycles == statistics.least_bank_cycles
        if rows % 32 == columns % 32 == 0:
            assert statistics.sectors == statistics.least_sectors
