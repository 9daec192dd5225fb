"""Kernels that use the intrinsics of tensor cores, and what they must give: for compiled code and for the simulator.

Run as a program (by test_cuda_matrix_intrinsics.py, with NUMBA_ENABLE_CUDASIM=1) it checks the simulator's.
"""

from __future__ import annotations

import numpy as np
from numba import cuda, float32, int32

from numbaconv import to_device, to_host
from numbaconv.cuda import launch, memory
from numbaconv.cuda.intrinsics import map_vector
from numbaconv.cuda.launch import inline, kernel
from numbaconv.cuda.matrix_intrinsics import (
    advance,
    bits_of,
    copy_async_4,
    copy_async_8,
    copy_async_16,
    copy_async_commit,
    copy_async_wait_0,
    float_of,
    four_of,
    load_matrices,
    multiply_tile_3xtf32,
    multiply_tile_tf32,
    to_tf32,
)
from numbaconv.shapes import conv2d_problem

F32 = ("float32",)


@kernel(threads=32, dtypes=F32)
def _copies(x: "T*", out: "T*", wanted: "i32"):
    """Rows of 16, 8 and 4 bytes of each thread, of which `wanted` are copied."""
    shared = cuda.shared.array(7 * 32, float32, alignment=16)
    thread = int32(cuda.threadIdx.x)
    x = advance(x, -28)  # outside; back by the index
    copy_async_16(shared, int32(4 * thread), x, int32(4 * thread + 28), wanted)
    copy_async_8(shared, int32(128 + 2 * thread), x, int32(128 + 2 * thread + 28), min(wanted, int32(8)))
    copy_async_4(shared, int32(192 + thread), x, int32(192 + thread + 28), min(wanted, int32(4)))
    copy_async_commit()
    copy_async_wait_0()
    cuda.syncthreads()
    for k in range(7):
        out[int32(thread + 32 * k)] = shared[int32((thread * 7 + 32 * k + 5) % 224)]


@inline
def _rest(bits):
    return bits_of(float_of(bits) - float_of(to_tf32(float_of(bits))))


@inline
def _near(bits):
    return to_tf32(float_of(bits))


@kernel(threads=32, dtypes=F32)
def _product(a: "T*", b: "T*", out: "T*", exact: "i32"):
    """Out (16, 16) = a (16, 8) times b (16, 8) transposed."""
    shared = cuda.shared.array(256, float32, alignment=16)
    thread = int32(cuda.threadIdx.x)
    for k in range(4):
        shared[int32(thread + 32 * k)] = a[int32(thread + 32 * k)]
        shared[int32(128 + thread + 32 * k)] = b[int32(thread + 32 * k)]
    cuda.syncthreads()
    rows = load_matrices(shared, int32((thread & 15) * 8 + (thread >> 4) * 4))
    line = int32((thread & 7) + (thread >> 4) * 8)
    columns = load_matrices(shared, int32(128 + line * 8 + (thread >> 3 & 1) * 4))
    zero = float32(0)
    sums = (zero, zero, zero, zero, zero, zero, zero, zero)
    if exact:
        rows_near, columns_near = map_vector(_near, (rows,)), map_vector(_near, (columns,))
        rests = map_vector(_rest, (rows,)), map_vector(_rest, (columns,))
        sums = multiply_tile_3xtf32(sums, rows_near, rests[0], columns_near, rests[1])
    else:
        sums = multiply_tile_tf32(sums, rows, columns)
    row, column = int32(thread >> 2), int32((thread & 3) * 2)
    for j in range(2):
        four = four_of(sums, 4 * j, 1)
        start = int32(row * 16 + column + 8 * j)
        out[start] = four[0]
        out[int32(start + 1)] = four[1]
        out[int32(start + 128)] = four[2]
        out[int32(start + 129)] = four[3]


KERNELS = [_copies, _product]
for made in KERNELS:
    launch.KERNELS.pop(made.name)  # they are none of the package's


def run(made, *args):
    """Launches one block; the last array is the result."""
    devices = [to_device(a, "cuda") if isinstance(a, np.ndarray) else a for a in args]
    launch.launch(made, np.dtype(np.float32), 1, *devices)
    out = [d for d in devices if not isinstance(d, int)][-1]
    return to_host(out)


def check_copies():
    x = np.arange(1, 225, dtype=np.float32)
    for wanted in (0, 4, 8, 12, 16):
        landed = x.copy()
        landed[:128].reshape(32, 4)[:, wanted // 4 :] = 0
        landed[128:192].reshape(32, 2)[:, min(wanted, 8) // 4 :] = 0
        landed[192:].reshape(32, 1)[:, min(wanted, 4) // 4 :] = 0
        thread, k = np.meshgrid(np.arange(32), np.arange(7))
        expected = landed[(thread * 7 + 32 * k + 5) % 224].ravel()
        assert np.array_equal(run(_copies, x, np.zeros(224, np.float32), wanted), expected), wanted


def check_products():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-1000, 1000, (16, 8)).astype(np.float32) for _ in range(2))
    out = np.zeros((16, 16), np.float32)
    assert np.array_equal(run(_product, a, b, out, 0), a @ b.T)
    assert np.array_equal(run(_product, a, b, out, 1), a @ b.T)
    # What is below TF32's mantissa is not read, and with three products counts.
    tail = np.float32(1 + 2**-12)
    assert np.array_equal(run(_product, a * tail, b, out, 0), a @ b.T)
    a, b = (rng.standard_normal((16, 8), np.float32) for _ in range(2))
    wanted = a.astype(np.float64) @ b.T
    error = np.abs(run(_product, a, b, out, 1) - wanted).max()
    assert error < 1e-6
    error = np.abs(run(_product, a, b, out, 0) - wanted).max()
    assert 1e-5 < error < 1e-2


def check_convolution():
    """The kernels of convolution in the simulator: a tile of each."""
    from numbaconv.cuda.conv2d.tensor_core import TensorCores

    rng = np.random.default_rng(0)
    problem = conv2d_problem((1, 4, 3, 2), (4, 4, 2, 1), None, 1, 0, 1, 1)
    shapes = problem.input_shape, problem.weight_shape, problem.output_shape
    x, weight, grad_output = (rng.integers(-8, 9, shape).astype(np.float32) for shape in shapes)
    bias = np.arange(4, dtype=np.float32)
    windows = np.stack([x[:, :, :2], x[:, :, 1:]], 4)  # n, c, p, q, r
    out = np.einsum("ncpqr,kcr->nkpq", windows, weight[..., 0]) + bias[:, None, None]
    grad_weight = np.einsum("ncpqr,nkpq->kcr", windows, grad_output)[..., None]
    for exact in (False, True):
        cores = TensorCores(exact)
        x_there, grad_there = to_device(x, "cuda"), to_device(grad_output, "cuda")
        packed = cores.pack_weight(problem, to_device(weight, "cuda"), to_device(bias, "cuda"), False)
        assert np.array_equal(to_host(cores.forward(problem, x_there, packed, True)), np.maximum(out, 0))
        assert np.array_equal(to_host(cores.backward_weight(problem, grad_there, x_there)), grad_weight)
    memory.collect()


if __name__ == "__main__":
    for check in (check_copies, check_products, check_convolution):
        check()
        print(check.__name__)
