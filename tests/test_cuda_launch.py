"""Kernels from their Python function to machine code: types, constants, the cache on disk, launches.

What they compute is computed by the PTX interpreter, from the PTX that a GPU would get.
"""

from __future__ import annotations

import math
import textwrap

import numpy as np
import pytest

from numbaconv.errors import DeviceError

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numba import cuda, float32, int32
from ptx.runtime import InterpreterRuntime

from numbaconv import cache_files
from numbaconv.cuda import cache, compiler, launch, memory, runtime, transfer
from numbaconv.cuda.launch import VECTOR, PerType, T, inline

TURNS = PerType(float32=3, float64=5)
OFFSET = 7


def kernel(**options):
    """The decorator, but the kernel is not listed among the library's."""

    def make(function):
        made = launch.kernel(**options)(function)
        del launch.KERNELS[made.name]
        return made

    return make


@pytest.fixture
def device():
    with launch.use(InterpreterRuntime((8, 0))) as interpreter:
        yield interpreter


# --- types and constants -----------------------------------------------------------------------------------


@inline
def increased(value, times):
    return value + T(times)


@inline
def halved(value):
    return increased(value * T(0.5), TURNS)


@kernel()
def constants(out: "T*", places: "i32*", factor: "T", number: "f64", shift: "u32"):
    i = cuda.grid(1)
    out[places[i]] = halved(T(VECTOR)) * factor + T(number) + T(shift) + T(OFFSET)


def test_constants_are_those_of_the_element_type(device):
    for dtype, vector, turns in (("float32", 4, 3), ("float64", 2, 5)):
        out = memory.zeros((256,), np.dtype(dtype), 0)
        places = transfer.to_device(np.arange(255, -1, -1, dtype="i4"), 0)
        launch.launch(constants, dtype, 1, out, places, 10, 0.25, 1000)
        np.testing.assert_array_equal(transfer.to_host(out), np.full(256, (vector / 2 + turns) * 10 + 0.25 + 1000 + 7))
    assert device.launches == {"test_cuda_launch_constants_float32": 1, "test_cuda_launch_constants_float64": 1}


def test_parameters_are_the_annotations():
    parameters = constants.specialise("float64").parameters
    assert [(p.name, str(p.type), p.pointer) for p in parameters] == [
        ("out", "float64", True),
        ("places", "int32", True),
        ("factor", "float64", False),
        ("number", "float64", False),
        ("shift", "uint32", False),
    ]


def made_by_a_factory(size, function):
    @kernel(name=f"factory_{size}")
    def filled(out: "T*"):
        for i in range(size):
            out[cuda.threadIdx.x * size + i] = function(T(i))

    return filled


def test_kernels_of_a_factory(device):
    """What a kernel takes from around it is specialised as its globals are."""
    for size in (2, 3):
        out = memory.zeros((256 * size,), np.dtype("f8"), 0)
        launch.launch(made_by_a_factory(size, halved), "float64", 1, out)
        np.testing.assert_array_equal(transfer.to_host(out), np.tile(np.arange(size) / 2 + 5, 256))


@inline
def factorial(n):
    product = int32(1)
    for i in range(int32(2), int32(n + 1)):
        product *= i
    return product


@kernel(threads=32)
def factorials(out: "T*"):
    out[cuda.threadIdx.x] = T(factorial(int32(cuda.threadIdx.x)))


def test_threads_are_the_kernel_s(device):
    out = memory.zeros((32,), np.dtype("f8"), 0)
    launch.launch(factorials, "float64", 1, out)
    assert transfer.to_host(out)[:10].tolist() == [math.factorial(i) for i in range(10)]
    assert ".maxntid 32" in factorials.specialise("float64").ptx((8, 0))


def test_device_code_is_not_called_by_the_host():
    with pytest.raises(TypeError, match="halved is a device function"):
        halved(1.0)
    with pytest.raises(TypeError, match="known only inside"):
        T(1.0)


def test_names_are_unique():
    first = launch.kernel(name="twice")(lambda: None)
    try:
        with pytest.raises(ValueError, match=r"two kernels are called test_cuda_launch\.twice"):
            launch.kernel(name="twice")(lambda: None)
    finally:
        del launch.KERNELS[first.name]


# --- launches ----------------------------------------------------------------------------------------------


@kernel(threads=32)
def blocks(counts: "i32*", columns: "i32", rows: "i32"):
    block = cuda.blockIdx.x + columns * (cuda.blockIdx.y + rows * cuda.blockIdx.z)
    if cuda.threadIdx.x == 0:
        counts[block] = block + 1


@pytest.mark.parametrize("grid", [6, (6,), (3, 2), (1, 2, 3)])
def test_grids(device, grid):
    counts = memory.zeros((8,), np.dtype("i4"), 0)
    columns, rows, _ = (grid, 1, 1) if isinstance(grid, int) else (*grid, 1, 1)[:3]
    launch.launch(blocks, "float32", grid, counts, columns, rows)
    assert transfer.to_host(counts).tolist() == [1, 2, 3, 4, 5, 6, 0, 0]


@pytest.mark.parametrize("grid", [0, (3, 0), (0, 0, 0)])
def test_no_blocks_is_nothing_to_do(device, grid):
    launch.launch(blocks, "float32", grid, memory.zeros((8,), np.dtype("i4"), 0), 1, 1)
    assert not device.launches


@pytest.mark.parametrize("grid", [2**31, (1, 65536), (1, 1, 65536)])
def test_grids_that_are_too_large(device, grid):
    with pytest.raises(ValueError, match=r"blocks: a grid of .* blocks; at most \(2147483647, 65535, 65535\)"):
        launch.launch(blocks, "float32", grid, memory.zeros((8,), np.dtype("i4"), 0), 1, 1)


def test_the_last_runtime_counts(device):
    other = InterpreterRuntime((9, 0))
    with launch.use(other):
        assert runtime.runtime() is other
        assert runtime.runtime().compute_capability(0) == (9, 0)
    assert runtime.runtime() is device


# --- compiling ---------------------------------------------------------------------------------------------

CODE = """
import sys
from numbaconv.cuda import activation, compiler
from numbaconv.cuda.launch import KERNELS

if len(sys.argv) > 1:
    def refuse(*args, **kwargs):
        raise SystemExit("compiled")
    compiler._compile = compiler.link = refuse
kernel = KERNELS["elementwise.relu"].specialise("float32")
print(kernel.ptx((8, 0)))
print(len(kernel.cubin((8, 0)).code))
"""


def test_the_code_is_the_same_in_every_process_and_compiled_once(run_python, tmp_path):
    text = run_python(CODE, NUMBA_CACHE_DIR=str(tmp_path))
    assert run_python(CODE, "refuse", NUMBA_CACHE_DIR=str(tmp_path)) == text
    here = launch.KERNELS["elementwise.relu"].specialise("float32")
    assert text == f"{here.ptx((8, 0))}\n{len(here.cubin((8, 0)).code)}\n"
    names = sorted(path.name for path in tmp_path.rglob("*.*") if path.is_file())
    assert names == ["elementwise_relu_float32-sm_80.cubin", "elementwise_relu_float32-sm_80.ptx"]
    assert ".visible .entry elementwise_relu_float32(" in text
    assert "NumbaEnv" not in text


def test_machine_code_and_its_report():
    cubin = factorials.specialise("float32").cubin((7, 5))
    assert cubin.code[:4] == b"\x7fELF"
    assert "Compiling entry function 'test_cuda_launch_factorials_float32' for 'sm_75'" in cubin.log


def test_which_architecture_a_gpu_gets():
    assert compiler.architecture((7, 5)) == (7, 5)
    assert compiler.architecture((8, 9)) == (8, 9)
    assert compiler.architecture((9, 7)) == (9, 0)
    for unknown in ((7, 0), (99, 0)):
        with pytest.raises(DeviceError, match=r"^cuda: the CUDA toolkit must know this GPU; got compute_capability="):
            compiler.architecture(unknown)


# --- the cache on disk -------------------------------------------------------------------------------------


def with_body(body, prelude="", module="numbaconv.cuda.of_a_test"):
    """The digest of a kernel of this source, in a module of this package, or of another."""
    space = {"__name__": module, "PerType": PerType, "T": T, "cuda": cuda, "inline": inline}
    space |= {"math": math, "float32": float32, "cache": cache}
    head = "def source(x: 'T*', n: 'i32'):\n"
    exec(textwrap.dedent(prelude) + head + textwrap.indent(textwrap.dedent(body), "    "), space)
    made = launch.Kernel(space["source"], 256, 1, launch.DTYPES, "of_a_test.source")
    return {dtype: cache.kernel_digest(made.specialise(dtype)) for dtype in ("float32", "float64")}


HELPER = "@inline\ndef helper(v):\n    return v + T(SIZE)\n"


def test_equal_kernels_have_equal_digests():
    once = with_body("x[n] = helper(x[n])", HELPER + "SIZE = 3\n")
    again = with_body("# a comment\nx[n] = helper(x[n])", HELPER + "OTHER = 4\nSIZE = 3\n")
    assert once == again
    assert once["float32"] != once["float64"]


def test_whatever_changes_the_code_changes_the_digest():
    digests = [
        with_body("x[n] = helper(x[n])", HELPER + "SIZE = 3\n"),
        with_body("x[n] = helper(x[n])", HELPER + "SIZE = 3.0\n"),
        with_body("x[n] = helper(x[n])", HELPER + "SIZE = 4\n"),
        with_body("x[n] = helper(x[n])", HELPER.replace("+", "-") + "SIZE = 3\n"),
        with_body("x[n + 1] = helper(x[n])", HELPER + "SIZE = 3\n"),
        with_body("x[n] = T(n)"),
        with_body("x[n] = float32(n)"),
        with_body("x[n] = math.exp(x[n])"),
        with_body("x[n] = math.log(x[n])"),
        with_body("x[n] = T(SIZE)", "SIZE = PerType(float32=3, float64=4)\n"),
        with_body("x[n] = T(SIZE)", "SIZE = PerType(float32=4, float64=3)\n"),
        with_body("x[n] = T(SIZE[1])", "SIZE = (3, 4)\n"),
        with_body("x[n] = T(SIZE[1])", "SIZE = (3, 5)\n"),
    ]
    for dtype in ("float32", "float64"):
        assert len({digest[dtype] for digest in digests}) == len(digests)


def test_it_does_so_for_kernels_of_others():
    digests = [
        with_body("x[n] = helper(x[n])", HELPER + "SIZE = 3\n", module="elsewhere"),
        with_body("x[n] = helper(x[n])", HELPER + "SIZE = 4\n", module="elsewhere"),
        with_body("x[n] = helper(x[n])", HELPER.replace("+", "-") + "SIZE = 3\n", module="elsewhere"),
        with_body("x[n + 1] = helper(x[n])", HELPER + "SIZE = 3\n", module="elsewhere"),
    ]
    assert len({digest["float32"] for digest in digests}) == len(digests)


def test_launch_bounds_and_types_count_too():
    def source(x: "T*"):
        x[0] = T(0)

    def other(x: "T*", n: "i64"):
        x[0] = T(0)

    kernels = [launch.Kernel(source, 256, 1, (), "k"), launch.Kernel(source, 128, 1, (), "k"),
               launch.Kernel(source, 256, 2, (), "k"), launch.Kernel(other, 256, 1, (), "k")]  # fmt: skip
    assert len({cache.kernel_digest(k.specialise("float32")) for k in kernels}) == 4


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(TypeError, match=r"a kernel reads numbaconv\.cuda\.cache through its module: import the name"):
        with_body("x[n] = T(cache.SIZE)")
    with pytest.raises(TypeError, match=r"a kernel uses a list, \[3\]"):
        with_body("x[n] = T(SIZE[0])", "SIZE = [3]\n")


def test_code_on_disk_that_is_no_good_is_compiled_anew_and_repaired(monkeypatch, tmp_path):
    """It lies where the CPU's does, on the same terms: test_cache.py."""
    monkeypatch.setattr(cache_files, "chosen_folder", lambda: str(tmp_path))
    monkeypatch.setattr(cache_files, "places", cache_files.places.__wrapped__)
    made = factorials.specialise("float32")
    text = compiler.ptx(made, (7, 5))
    (path,) = tmp_path.rglob("*.ptx")
    whole = path.read_bytes()
    assert whole.endswith(text.encode())
    assert cache.file_of(made, (8, 0), "ptx").read() is None
    assert path.name != cache.file_of(made, (8, 0), "ptx").name
    for broken in (b"", whole[:10], whole[:-1], whole + b"x", whole[:-1] + b"x"):
        path.write_bytes(broken)
        assert cache.file_of(made, (7, 5), "ptx").read() is None
        assert compiler.ptx(made, (7, 5)) == text
        assert path.read_bytes() == whole
    path.chmod(0o666)
    assert cache.file_of(made, (7, 5), "ptx").read() is None, "others could have written it"
