"""The runtime of a real GPU, over CUDA's driver interface (`cuda.bindings`).

Nothing here decides anything: each method is a few calls, in the device's primary context, which PyTorch, CuPy and
numba use too. Streams are handles as ints. Kernels are loaded as machine code for exactly this GPU, so no compiler of
the driver's is needed, and any driver of the toolkit's major version will do.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from cuda.bindings import driver as api

from ..errors import DeviceError, message
from . import compiler, devices, managed

_SUCCESS = api.CUresult.CUDA_SUCCESS
_OUT_OF_MEMORY = api.CUresult.CUDA_ERROR_OUT_OF_MEMORY
_NOT_READY = api.CUresult.CUDA_ERROR_NOT_READY

_SHARED_UNASKED = 48 << 10  # bytes of shared memory, static and dynamic, that every kernel may have

# How struct packs a kernel's parameters, each in 8 bytes of its own.
_FORMATS = {
    "int32": "i4x",
    "int64": "q",
    "uint32": "I4x",
    "uint64": "Q",
    "float32": "f4x",
    "float64": "d",
    "uint8": "B7x",
}


def checked(result: tuple[Any, ...]) -> Any:
    """What a call returned beside its status.

    Raises:
        MemoryError: the device has not enough memory.
        DeviceError: the call failed.
    """
    status, *values = result
    if status != _SUCCESS:
        if status == _OUT_OF_MEMORY:
            raise MemoryError(status.name)
        raise DeviceError(
            message(
                "cuda",
                "the GPU or its driver reported an error, perhaps of an earlier call",
                "After an error in a kernel the process must be started anew.",
                status=status.name,
            )
        )
    return values[0] if len(values) == 1 else values


class Event:
    """A CUDA event, which another object has when this one is gone: what waits for it goes on waiting."""

    __slots__ = ("_unused", "handle")

    def __init__(self, unused: deque[Any]) -> None:
        self._unused = unused
        try:
            self.handle = unused.pop()
        except IndexError:
            self.handle = checked(api.cuEventCreate(api.CUevent_flags.CU_EVENT_DISABLE_TIMING.value))

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            self._unused.append(self.handle)


class Graph:
    """A captured graph that can be launched, destroyed with this object."""

    __slots__ = ("handle",)

    def __init__(self, captured: Any) -> None:
        try:
            self.handle = checked(api.cuGraphInstantiate(captured, 0))
        finally:
            api.cuGraphDestroy(captured)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            api.cuGraphExecDestroy(self.handle)


class _Loaded:
    """A kernel on one device: its function, and room for the arguments of one launch."""

    def __init__(self, kernel: Any, cc: tuple[int, int]) -> None:
        code = ctypes.create_string_buffer(kernel.cubin(compiler.architecture(cc)).code)
        module = checked(api.cuModuleLoadData(ctypes.addressof(code)))
        self.function = checked(api.cuModuleGetFunction(module, kernel.name.encode()))
        attribute = api.CUfunction_attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
        self.most_shared = _SHARED_UNASKED - checked(api.cuFuncGetAttribute(attribute, self.function))
        names = ["uint64" if p.pointer else p.type.name for p in kernel.parameters]
        self.pack = struct.Struct("=" + "".join(_FORMATS[name] for name in names)).pack_into
        count = max(len(names), 1)
        self.values = (ctypes.c_uint64 * count)()
        first = ctypes.addressof(self.values)
        self.pointers = (ctypes.c_void_p * count)(*(first + 8 * i for i in range(count)))
        self.parameters = ctypes.addressof(self.pointers)
        self.lock = threading.Lock()

    def allow_shared(self, nbytes: int) -> None:
        """More dynamic shared memory than a kernel has without asking."""
        attribute = api.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        checked(api.cuFuncSetAttribute(self.function, attribute, nbytes))
        self.most_shared = nbytes


class _Current:
    """``with``: the device's context is this thread's; afterwards the one that was before is again."""

    __slots__ = ("before", "context")

    def __init__(self, context: Any) -> None:
        self.context = context

    def __enter__(self) -> _Current:
        self.before = checked(api.cuCtxGetCurrent())
        if int(self.before) != int(self.context):
            checked(api.cuCtxSetCurrent(self.context))
        return self

    def __exit__(self, *error: Any) -> None:
        if int(self.before) and int(self.before) != int(self.context):
            checked(api.cuCtxSetCurrent(self.before))


class Driver:
    """The runtime of NVIDIA GPUs."""

    caches = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contexts: dict[int, Any] = {}
        self._loaded: dict[tuple[int, Any], _Loaded] = {}
        self._managed: dict[int, Any] = {}
        self._unused_events: dict[int, deque[Any]] = defaultdict(deque)

    # --- devices --------------------------------------------------------------------------------------------

    def device_count(self) -> int:
        return devices.count()

    def compute_capability(self, device: int) -> tuple[int, int]:
        return devices.compute_capability(device)

    def multiprocessors(self, device: int) -> int:
        return devices.attribute(device, "MULTIPROCESSOR_COUNT")

    def memory_info(self, device: int) -> tuple[int, int]:
        with self._on(device):
            free, total = checked(api.cuMemGetInfo())
            return free, total

    def _on(self, device: int) -> _Current:
        context = self._contexts.get(device)
        if context is None:
            with self._lock:
                devices.require_usable(device)
                context = checked(api.cuDevicePrimaryCtxRetain(checked(api.cuDeviceGet(device))))
                self._contexts[device] = context
        return _Current(context)

    # --- memory ---------------------------------------------------------------------------------------------

    def allocate(self, device: int, nbytes: int) -> int:
        with self._on(device):
            if managed.active():
                pointer = managed.allocate(device, nbytes)
                self._managed[pointer.address] = pointer
                return pointer.address
            return int(checked(api.cuMemAlloc(nbytes)))

    def free(self, device: int, address: int) -> None:
        with self._on(device):
            if self._managed.pop(address, None) is None:
                checked(api.cuMemFree(address))

    def adopt(self, address: int, nbytes: int) -> int:
        attribute = api.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        devices.count()  # starts the driver
        return int(checked(api.cuPointerGetAttribute(attribute, address)))

    def disown(self, address: int) -> None:
        pass

    def copy_to_device(self, device: int, address: int, source: np.ndarray, stream: int) -> None:
        with self._on(device):
            checked(api.cuMemcpyHtoDAsync(address, source.ctypes.data, source.nbytes, stream))

    def copy_to_host(self, device: int, target: np.ndarray, address: int, stream: int) -> None:
        with self._on(device):
            checked(api.cuMemcpyDtoHAsync(target.ctypes.data, address, target.nbytes, stream))

    def copy(self, device: int, to: int, source: int, nbytes: int, stream: int) -> None:
        with self._on(device):
            checked(api.cuMemcpyAsync(to, source, nbytes, stream))

    def clear(self, device: int, address: int, nbytes: int, stream: int) -> None:
        with self._on(device):
            checked(api.cuMemsetD8Async(address, 0, nbytes, stream))

    def pinned_empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        with self._on(0) as current:
            address = int(checked(api.cuMemHostAlloc(max(size, 1), api.CU_MEMHOSTALLOC_PORTABLE)))
        return np.ndarray(shape, dtype, managed.PinnedBuffer(address, size, current).array())

    # --- order ----------------------------------------------------------------------------------------------

    def create_stream(self, device: int) -> int:
        with self._on(device):
            return int(checked(api.cuStreamCreate(api.CUstream_flags.CU_STREAM_NON_BLOCKING.value)))

    def create_event(self, device: int) -> Event:
        with self._on(device):
            return Event(self._unused_events[device])

    def record(self, device: int, event: Event, stream: int) -> None:
        with self._on(device):
            checked(api.cuEventRecord(event.handle, stream))

    def wait(self, device: int, stream: int, event: Event) -> None:
        with self._on(device):
            checked(api.cuStreamWaitEvent(stream, event.handle, 0))

    def finished(self, device: int, event: Event) -> bool:
        with self._on(device):
            (status,) = api.cuEventQuery(event.handle)
            if status != _NOT_READY:
                checked((status,))
            return status == _SUCCESS

    def wait_on_host(self, device: int, event: Event) -> None:
        with self._on(device):
            checked(api.cuEventSynchronize(event.handle))

    def synchronize(self, device: int, stream: int | None = None) -> None:
        with self._on(device):
            checked(api.cuCtxSynchronize() if stream is None else api.cuStreamSynchronize(stream))

    # --- graphs ---------------------------------------------------------------------------------------------

    def begin_capture(self, device: int, stream: int) -> None:
        mode = api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with self._on(device):
            checked(api.cuStreamBeginCapture(stream, mode))

    def end_capture(self, device: int, stream: int) -> Graph:
        with self._on(device):
            return Graph(checked(api.cuStreamEndCapture(stream)))

    def replay(self, device: int, graph: Graph, stream: int) -> None:
        with self._on(device):
            checked(api.cuGraphLaunch(graph.handle, stream))

    # --- kernels --------------------------------------------------------------------------------------------

    def launch(
        self,
        device: int,
        kernel: Any,
        grid: tuple[int, int, int],
        shared: int,
        stream: int,
        args: Sequence[int | float],
    ) -> None:
        with self._on(device):
            loaded = self._loaded.get((device, kernel)) or self._load(device, kernel)
            with loaded.lock:
                if shared > loaded.most_shared:
                    loaded.allow_shared(shared)
                loaded.pack(loaded.values, 0, *args)
                checked(
                    api.cuLaunchKernel(
                        loaded.function, *grid, kernel.threads, 1, 1, shared, stream, loaded.parameters, 0
                    )
                )

    def _load(self, device: int, kernel: Any) -> _Loaded:
        with self._lock:
            if (device, kernel) not in self._loaded:
                self._loaded[device, kernel] = _Loaded(kernel, self.compute_capability(device))
            return self._loaded[device, kernel]
