"""How a kernel is written, specialised and launched. The only file that names numba's compiler of device code.

A kernel is a Python function over pointers and scalars, with its types as annotations::

    @kernel(threads=256)
    def relu(x: "T*", out: "T*", size: "i32"):
        ...

    launch(relu, x.dtype, grid, x, out, x.size)

``T`` is the element type. Pointers, unlike numba's arrays (7 parameters each), cost one parameter, and no layout or
flag of an array compiles a kernel again. For each element type a kernel is a copy of the function whose globals hold
``T = float32`` and ``VECTOR = 4``, or ``float64`` and 2; the same for the `inline` functions it calls. Other constants
that differ are written ``TILE = PerType(float32=16, float64=8)``. Kernels never validate: shapes are checked above.
"""

from __future__ import annotations

import types as python_types
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import cuda

from . import compiler
from .array import DeviceArray
from .runtime import runtime, use
from .streams import current_stream

__all__ = ["KERNELS", "VECTOR", "Kernel", "PerType", "Specialised", "T", "inline", "kernel", "launch", "use"]

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
_MOST_BLOCKS = (2**31 - 1, 65535, 65535)


class PerType:
    """A constant of kernels with one value for each element type."""

    def __init__(self, float32: Any, float64: Any) -> None:
        self.values_by_type = {DTYPES[0]: float32, DTYPES[1]: float64}

    def __call__(self, *args: Any) -> Any:
        raise TypeError("a constant of kernels: its value is known only inside of one")


T: Any = PerType(numba.float32, numba.float64)
VECTOR: Any = PerType(4, 2)  # elements of 16 bytes, the widest access of one thread

_SCALARS = {"i32": numba.int32, "i64": numba.int64, "u32": numba.uint32, "u64": numba.uint64, "f32": numba.float32,
            "f64": numba.float64, "u8": numba.uint8}  # fmt: skip


class Parameter(NamedTuple):
    """One parameter of a specialised kernel."""

    name: str
    type: Any  # a numba type: of the scalar, or of what the pointer points to
    pointer: bool


class Inline:
    """A device function, pasted into the kernels that call it. In host code it is nothing to call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__name__ = function.__name__

    def __call__(self, *args: Any) -> Any:
        raise TypeError(f"{self.__name__} is a device function: call it in a kernel")


def inline(function: Callable[..., Any]) -> Any:
    """Decorator of a device function; ``T`` and the other constants in it are those of the kernel that calls it."""
    return Inline(function)


class Kernel:
    """A kernel before its element type is known. `specialise` gives the one for a dtype."""

    def __init__(
        self, function: Callable[..., Any], threads: int, blocks_per_sm: int, dtypes: tuple[np.dtype, ...], name: str
    ) -> None:
        self.function = function
        self.threads = threads
        self.blocks_per_sm = blocks_per_sm
        self.dtypes = dtypes
        self.name = name
        self._specialised: dict[Any, Specialised] = {}

    def __repr__(self) -> str:
        return f"<kernel {self.name}>"

    def specialise(self, dtype: Any) -> Specialised:
        """The kernel for an element type."""
        found = self._specialised.get(dtype)
        if found is None:
            found = self._specialised[dtype] = Specialised(self, np.dtype(dtype))
        return found


# Every kernel by name, "<module>.<function>": what tests compile, execute and measure.
KERNELS: dict[str, Kernel] = {}


def kernel(
    threads: int = 256,
    blocks_per_sm: int = 1,
    dtypes: tuple[str, ...] = ("float32", "float64"),
    name: str = "",
) -> Callable[[Callable[..., Any]], Kernel]:
    """Decorator of a kernel.

    Args:
        threads: of a block. The compiler is told, and every launch has as many.
        blocks_per_sm: that should fit on a multiprocessor at once: bounds the registers of a thread.
        dtypes: element types it is for.
        name: instead of the function's, where a factory makes several kernels of one function.
    """

    def register(function: Callable[..., Any]) -> Kernel:
        module = function.__module__.partition(".cuda.")[2] or function.__module__
        made = Kernel(
            function, threads, blocks_per_sm, tuple(map(np.dtype, dtypes)), f"{module}.{name or function.__name__}"
        )
        if made.name in KERNELS:
            raise ValueError(f"two kernels are called {made.name}")
        KERNELS[made.name] = made
        return made

    return register


class Specialised:
    """A kernel for one element type: what a runtime launches.

    Attributes:
        name: of the entry point in PTX, e.g. "elementwise_relu_float32".
        parameters: in order.
        threads: of a block.
    """

    def __init__(self, kernel: Kernel, dtype: np.dtype) -> None:
        self.kernel, self.dtype, self.threads = kernel, dtype, kernel.threads
        self.name = f"{kernel.name}_{dtype}".replace(".", "_").replace("__", "_")
        annotations = kernel.function.__annotations__
        names = kernel.function.__code__.co_varnames[: kernel.function.__code__.co_argcount]
        self.parameters = tuple(_parameter(name, annotations[name], dtype) for name in names)
        self._images: dict[tuple[str, tuple[int, int]], Any] = {}
        self._python: Callable[..., Any] | None = None

    def __repr__(self) -> str:
        return f"<kernel {self.name}>"

    def python_function(self, module: Any) -> Callable[..., Any]:
        """The function with this type's constants in its globals, and `module` where it says `cuda`."""
        if self._python is None:
            self._python = _Copies(self.dtype, lambda function: function, {cuda: module}).copy(self.kernel.function)
        return self._python

    def ptx(self, cc: tuple[int, int]) -> str:
        """PTX for a compute capability such as (8, 0)."""
        return self._image("ptx", cc, compiler.ptx)

    def cubin(self, cc: tuple[int, int]) -> compiler.Cubin:
        """Machine code for a compute capability, with what it takes of a multiprocessor."""
        return self._image("cubin", cc, compiler.cubin)

    def _image(self, kind: str, cc: tuple[int, int], make: Callable[..., Any]) -> Any:
        if (kind, cc) not in self._images:
            self._images[kind, cc] = make(self, cc)
        return self._images[kind, cc]

    def signature(self) -> Any:
        """The kernel's type, for numba's compiler."""
        pointers = (numba.types.CPointer(p.type) if p.pointer else p.type for p in self.parameters)
        return numba.types.void(*pointers)

    def device_function(self, cc: tuple[int, int]) -> Callable[..., Any]:
        """The function with this type's constants and compiled device functions in its globals."""
        return _device_copies(self.dtype, cc).copy(self.kernel.function)


def _parameter(name: str, annotation: str, dtype: np.dtype) -> Parameter:
    word = annotation.strip("'\"")
    base = word.removesuffix("*")
    kind = T.values_by_type[dtype] if base == "T" else _SCALARS[base]
    return Parameter(name, kind, word.endswith("*"))


class _Copies:
    """Copies of functions whose globals hold the constants of one element type."""

    def __init__(self, dtype: np.dtype, finish: Callable[[Any], Any], instead: dict[Any, Any] | None = None) -> None:
        self._dtype, self._finish, self._instead = dtype, finish, instead or {}
        self._inlines: dict[Inline, Any] = {}

    def copy(self, function: Any) -> Any:
        copy = self._unfilled(function)
        self._fill(copy, function)
        return copy

    def _unfilled(self, function: Any) -> Any:
        closure = tuple(python_types.CellType() for _ in function.__closure__ or ())
        copy = python_types.FunctionType(
            function.__code__, {"__name__": function.__module__}, function.__name__, function.__defaults__, closure
        )
        copy.__qualname__ = function.__qualname__
        return copy

    def _fill(self, copy: Any, function: Any) -> None:
        copy.__globals__.update({name: self._value(value) for name, value in function.__globals__.items()})
        for new, old in zip(copy.__closure__ or (), function.__closure__ or (), strict=True):
            new.cell_contents = self._value(old.cell_contents)

    def _value(self, value: Any) -> Any:
        if isinstance(value, PerType):
            return value.values_by_type[self._dtype]
        if isinstance(value, python_types.ModuleType):
            return self._instead.get(value, value)
        if not isinstance(value, Inline):
            return value
        if value not in self._inlines:
            copy = self._unfilled(value.function)
            self._inlines[value] = self._finish(copy)  # before it is filled: it may be among its own globals
            self._fill(copy, value.function)
        return self._inlines[value]


_device: dict[tuple[np.dtype, tuple[int, int]], _Copies] = {}


def _device_copies(dtype: np.dtype, cc: tuple[int, int]) -> _Copies:
    if (dtype, cc) not in _device:
        # numba keeps a device function's code by its signature alone; code for another architecture is another copy.
        _device[dtype, cc] = _Copies(dtype, cuda.jit(device=True, forceinline=True))
    return _device[dtype, cc]


def launch(
    kernel: Kernel,
    dtype: Any,
    grid: int | tuple[int, ...],
    *args: Any,
    shared: int = 0,
    also: Iterable[DeviceArray] = (),
) -> None:
    """Queues a kernel on the current stream of its arrays' device.

    Args:
        kernel: what to run.
        dtype: the element type T.
        grid: number of blocks, one to three axes. With a 0 in it nothing is done.
        args: device arrays (their addresses are passed) and numbers, as the kernel's parameters.
        shared: bytes of dynamic shared memory.
        also: arrays that the kernel reaches by addresses in another one.
    """
    x, y, z = (grid, 1, 1) if isinstance(grid, int) else (*grid, 1, 1)[:3]
    if x == 0 or y == 0 or z == 0:
        return
    if x > _MOST_BLOCKS[0] or y > _MOST_BLOCKS[1] or z > _MOST_BLOCKS[2]:
        raise ValueError(f"{kernel.name}: a grid of {(x, y, z)} blocks; at most {_MOST_BLOCKS}")
    device = next(arg.device for arg in args if type(arg) is DeviceArray)
    stream = current_stream(device)
    values = []
    for arg in args:
        if type(arg) is DeviceArray:
            arg.owner.used_on(stream)
            values.append(arg.address)
        else:
            values.append(arg)
    for array in also:
        array.owner.used_on(stream)
    runtime().launch(device, kernel.specialise(dtype), (x, y, z), shared, stream, values)
