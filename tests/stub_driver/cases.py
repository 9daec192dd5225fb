"""Run in a process whose libcuda.so.1 is the stub: the driver's runtime through the real cuda.bindings.

``python cases.py`` runs each case with a driver of its own, and prints a line of JSON: case -> "" or what went wrong.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import traceback

import numpy as np
from numba import cuda

import numbaconv
from numbaconv import functional, nn
from numbaconv.cuda import devices, driver, launch, memory, streams, transfer
from numbaconv.cuda.launch import T
from numbaconv.cuda.runtime import runtime
from numbaconv.errors import DeviceError, DeviceMemoryError

stub = ctypes.CDLL("libcuda.so.1")
stub.stub_log.restype = ctypes.c_char_p

LAUNCHER = ctypes.CFUNCTYPE(
    None,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_uint32),
    ctypes.c_uint32,
    ctypes.c_uint32,
    ctypes.c_uint64,
    ctypes.POINTER(ctypes.c_void_p),
)
launched = []


def parameters(kernel, pointers):
    """The values a kernel would read from where it is told to."""
    for place, parameter in enumerate(kernel.parameters):
        dtype = np.dtype("u8" if parameter.pointer else str(parameter.type))
        yield np.frombuffer((ctypes.c_char * dtype.itemsize).from_address(pointers[place]), dtype)[0]


@LAUNCHER
def execute(name, grid, threads, shared, stream, pointers):
    """Notes a launch; relu is done too."""
    kernel = next(k for k in KERNELS.values() if k.name == name.decode())
    values = list(parameters(kernel, pointers))
    launched.append((kernel.name, tuple(grid[:3]), threads, shared, stream, values))
    if "relu" in kernel.name:
        x, out = (ctypes.cast(int(address), ctypes.POINTER(ctypes.c_float)) for address in values[:2])
        size = (int(values[2]),)
        np.maximum(np.ctypeslib.as_array(x, size), 0, out=np.ctypeslib.as_array(out, size))


stub.stub_set_launcher(execute)


@launch.kernel()
def every_kind(
    a: "T*",
    b: "i32*",
    c: "i32",
    d: "i64",
    e: "u32",
    f: "f32",
    g: "f64",
    h: "T",
    i: "u64",
):
    a[0] = h


KERNELS = {k: kernel.specialise("float32") for k, kernel in launch.KERNELS.items()}


def log():
    """Lines written since the last call."""
    lines = stub.stub_log().decode().splitlines()
    stub.stub_clear_log()
    return lines


@contextlib.contextmanager
def raises(error, text):
    said = ""
    try:
        yield
    except error as raised:
        said = str(raised)
    assert text in said, said


def from_the_user_s_side():
    """An op on a GPU, as people call it: what the driver was asked, in order."""
    x = np.linspace(-1, 1, 1000, dtype="f4")
    there = numbaconv.to_device(x, "cuda")
    result = functional.relu(there)
    np.testing.assert_array_equal(numbaconv.to_host(result), np.maximum(x, 0))
    numbaconv.cuda.synchronize()
    lines = log()
    assert lines[:4] == ["retain 0", "context 1000", "allocate 4096", "pin 4194304 flags 1"], lines
    assert lines[4:7] == ["pin 4194304 flags 1", "upload 4000 stream 0", "event flags 2"], lines
    assert lines[8:12] == [
        "allocate 4096",
        "load",
        "function elementwise_relu_float32",
        "launch elementwise_relu_float32 grid 1 1 1 threads 256 shared 0 stream 0",
    ], lines
    assert lines[12] == "download 4000 stream 0", lines
    assert lines[-1] == "synchronize", lines
    del result
    functional.relu(there)
    assert log() == ["launch elementwise_relu_float32 grid 1 1 1 threads 256 shared 0 stream 0"]


def arguments():
    """Each kind of parameter arrives as it was given."""
    x = transfer.to_device(np.zeros(4, "f4"), 0)
    kernel = launch.KERNELS["__main__.every_kind"]
    given = (x, x, -7, -(2**40), 2**32 - 1, 1.5, 1e300, 0.25, np.uint64(2**64 - 1))
    launch.launch(kernel, "float32", (5, 6, 7), *given, shared=1000)
    _, grid, threads, shared, stream, values = launched[-1]
    assert (grid, threads, shared, stream) == ((5, 6, 7), 256, 1000, 0)
    assert [int(v) for v in values[:2]] == [x.address, x.address]
    assert [v.item() for v in values[2:]] == list(given[2:])
    log()
    launch.launch(kernel, "float32", 1, *given, shared=40 << 10)  # 8 are the kernel's own
    assert not [line for line in log() if "attribute" in line]
    for _ in range(2):
        launch.launch(kernel, "float32", 1, *given, shared=96 << 10)
    assert [line for line in log() if "attribute" in line] == [f"attribute 8 = {96 << 10}"]


def order():
    """Streams, events, graphs."""
    rt = runtime()
    side = rt.create_stream(0)
    x = memory.zeros((1000,), np.dtype("f4"), 0)
    log()
    with streams.stream(side):
        functional.relu(x)
    lines = log()
    assert lines[0] == "event flags 2"
    event = lines[1].split()[1]
    assert lines[1:3] == [f"record {event} on 0", f"wait {side:x} for {event}"], lines
    assert f"stream {side:x}" in next(line for line in lines if line.startswith("launch")), lines
    assert lines[-2:] == [f"record {event} on {side:x}", f"wait 0 for {event}"], lines
    assert lines.count("event flags 2") == 1  # events are used again
    event = rt.create_event(0)
    rt.record(0, event, side)
    assert rt.finished(0, event)
    rt.wait_on_host(0, event)
    rt.synchronize(0, side)
    rt.synchronize(0)
    number = f"{int(event.handle):x}"
    assert log() == [
        f"record {number} on {side:x}",
        f"synchronize event {number}",
        f"synchronize {side:x}",
        "synchronize",
    ]
    rt.begin_capture(0, side)
    graph = rt.end_capture(0, side)
    rt.replay(0, graph, side)
    del graph
    assert log() == [
        f"capture {side:x} mode 1",
        "captured",
        "instantiate flags 0",
        "no graph",
        f"replay on {side:x}",
        "no executable",
    ]


def not_yet():
    event = runtime().create_event(0)
    assert not runtime().finished(0, event)


def memory_of_it():
    rt = runtime()
    x = memory.empty((1 << 20,), np.dtype("u1"), 0)
    y = memory.zeros((1 << 20,), np.dtype("u1"), 0)
    rt.copy(0, x.address, y.address, x.nbytes, 0)
    assert transfer.to_host(x).max() == 0
    assert rt.memory_info(0) == ((4 << 20) - (2 << 20), 4 << 20)
    del x
    with raises(DeviceMemoryError, "wanted='3.5 MiB', in_arrays='1.0 MiB', free='3.0 MiB', total='4.0 MiB'"):
        memory.empty((7 << 19,), np.dtype("u1"), 0)
    assert [line for line in log() if line.startswith("free")] == ["free 1048576"]
    pinned = rt.pinned_empty((3, 5), np.dtype("f8"))
    pinned[:] = 7
    view = pinned[1]
    del pinned
    gc.collect()
    assert view.tolist() == [7] * 5
    assert "unpin" not in log()
    del view
    gc.collect()
    assert "unpin" in log()
    assert memory.memory_stats()["reserved"] == 1 << 20


def two_gpus():
    """Each in its own context; whoever had another one has it again afterwards."""
    api = driver.api
    assert runtime().device_count() == 2
    one = numbaconv.to_device(np.ones(4, "f4"), "cuda:1")
    assert int(api.cuCtxGetCurrent()[1]) == 0x1001
    zero = numbaconv.to_device(np.ones(4, "f4"), "cuda:0")
    assert int(api.cuCtxGetCurrent()[1]) == 0x1001
    for x in (zero, one):
        functional.relu(x)
    assert [line for line in log() if line.startswith(("retain", "load"))] == ["retain 1", "retain 0", "load", "load"]
    with raises(DeviceError, "all arrays must be on one device"):
        functional.relu_backward(one, zero)
    with raises(DeviceError, "there is no such GPU; got device='cuda:2', gpus=2"):
        numbaconv.to_device(np.ones(4, "f4"), "cuda:2")


def foreign():
    """Where another library's array is, the driver says."""

    class Array:
        def __init__(self, array):
            self.array = array
            self.__cuda_array_interface__ = {**array.__array_interface__, "version": 3}

    x = np.array([-1, 2], "f4")
    result = functional.relu(Array(x))
    assert result.device == 1
    assert numbaconv.to_host(result).tolist() == [0, 2]


def a_broken_kernel():
    x = numbaconv.to_device(np.ones(4, "f4"), "cuda")
    with raises(DeviceError, "status='CUDA_ERROR_ILLEGAL_ADDRESS'. After an error in a kernel the process must"):
        functional.relu(x)


def a_model_stays(text):
    """to("cuda") fails: nothing has moved."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = [p.data for p in model.parameters()]
    for _ in range(2):
        with raises(DeviceError, text):
            model.to("cuda")
    assert all(p.data is data for p, data in zip(model.parameters(), before, strict=True))
    assert not [line for line in log() if line.startswith("allocate")]


def no_gpu():
    a_model_stays("cuda: no GPU can be used here; got reason='the driver sees no GPU'. It needs an NVIDIA GPU")


def no_device():
    a_model_stays("cuda: no GPU can be used here; got reason='CUDA_ERROR_NO_DEVICE'. It needs an NVIDIA GPU")


def old_driver():
    major = devices.toolkit_version()[0]
    a_model_stays(f"cuda: the NVIDIA driver must support CUDA {major}; got driver='12.4', toolkit='{major}.")


def old_gpu():
    a_model_stays("or later; got device='cuda:0', compute_capability='7.0'. It can compute on the CPU")


def another_memory_manager():
    """Memory is that of the plugin numba was told to use, such as RMM's."""
    asked = []

    class Manager(cuda.HostOnlyCUDAMemoryManager):
        interface_version = 1

        def memalloc(self, size):
            if size > 1 << 20:
                raise MemoryError
            asked.append(size)
            address = driver.checked(driver.api.cuMemAlloc(size))
            return cuda.MemoryPointer(self.context, address, size, finalizer=lambda: asked.append(-size))

        def initialize(self):
            pass

        def get_ipc_handle(self, memory):
            raise NotImplementedError

        def get_memory_info(self):
            return cuda.MemoryInfo(0, 0)

    cuda.set_memory_manager(Manager)
    x = memory.empty((1000,), np.dtype("f4"), 0)
    assert asked == [4096]
    del x
    memory.empty_cache()
    assert asked == [4096, -4096]
    with raises(DeviceMemoryError, "wanted='2.0 MiB'"):
        memory.empty((2 << 20,), np.dtype("u1"), 0)


# With what each is run; for the rest it is one GPU of compute capability 8.0, and a driver of CUDA 13.
CASES = {
    from_the_user_s_side: {},
    arguments: {},
    order: {},
    not_yet: {"STUB_QUERY": 600},
    memory_of_it: {"STUB_MEMORY": 4 << 20},
    two_gpus: {"STUB_DEVICES": 2},
    foreign: {"STUB_DEVICES": 2, "STUB_POINTER_DEVICE": 1},
    a_broken_kernel: {"STUB_BREAK": 1},
    no_gpu: {"STUB_DEVICES": 0},
    no_device: {"STUB_INIT": 100},
    old_driver: {"STUB_VERSION": 12040},
    old_gpu: {"STUB_CAPABILITY": 70},
    another_memory_manager: {},
}


def run(case, settings):
    os.environ.update({name: str(value) for name, value in settings.items()})
    driver.api.cuCtxSetCurrent(0)
    devices.count.cache_clear()
    devices.compute_capability.cache_clear()
    stub.stub_clear_log()
    stub.stub_forget_memory()
    try:
        with launch.use(driver.Driver()):
            case()
    except Exception:
        return traceback.format_exc()
    finally:
        gc.collect()
        for name in settings:
            del os.environ[name]
    return ""


if __name__ == "__main__":
    print(json.dumps({case.__name__: run(case, settings) for case, settings in CASES.items()}))
