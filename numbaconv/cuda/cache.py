"""Compiled kernels on disk: where, and when they are stale.

They lie where the CPU's machine code does (see `cache_files`), one file for each kernel, element type and architecture.
Each is stamped with a digest of all that made it: the bytecode of the kernel and of every function it calls, the values
of the constants they use, its launch bounds, this package's compiler, and the versions of the toolchain. So an edited
file makes no more kernels stale than it changes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import numba

from .. import cache_files

_PACKAGE = __name__.partition(".")[0]


class CacheFile(NamedTuple):
    """The file of one kernel's code, wherever it may be kept."""

    source: str
    name: str
    stamp: bytes

    def read(self) -> bytes | None:
        """What was written with the same stamp; None if there is nothing, or not all of it."""
        return cache_files.read(self.source, self.name, self.stamp)

    def write(self, content: bytes) -> None:
        """At once or not at all: another process may read or write the same file."""
        cache_files.write(self.source, self.name, self.stamp, content)


def file_of(kernel: Any, cc: tuple[int, int], kind: str) -> CacheFile:
    """The file of a `launch.Specialised` for a compute capability; `kind` is "ptx" or "cubin"."""
    stamp = hashlib.sha256(f"{kernel_digest(kernel)} {_toolchain()} {cc} {kind}".encode()).digest()
    source = inspect.getfile(kernel.kernel.function)
    return CacheFile(source, f"{kernel.name}-sm_{cc[0]}{cc[1]}.{kind}", stamp)


@functools.cache
def _toolchain() -> str:
    """Versions of all that turns a kernel into code, and the files here that drive it."""
    parts = [sys.version]
    for name in ("numba", "numba-cuda", "llvmlite", "numpy", "nvidia-nvvm", "nvidia-cuda-nvcc", "nvidia-cuda-nvcc-cu12",
                 "nvidia-nvjitlink", "nvidia-nvjitlink-cu12"):  # fmt: skip
        with contextlib.suppress(PackageNotFoundError):
            parts.append(f"{name}={version(name)}")
    for name in ("compiler.py", "launch.py"):
        parts.append(hashlib.sha256((Path(__file__).parent / name).read_bytes()).hexdigest())
    return " ".join(parts)


def kernel_digest(kernel: Any) -> str:
    """A digest of what a `launch.Specialised` is made of.

    Raises:
        TypeError: a kernel that uses what cannot be told apart, such as an attribute of one of this package's modules.
    """
    digest = hashlib.sha256()
    facts = kernel.name, kernel.threads, kernel.kernel.blocks_per_sm, [str(p) for p in kernel.parameters]
    digest.update(repr(facts).encode())
    for text in _described_function(kernel.kernel.function, kernel.dtype, set()):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def _described(value: Any, dtype: Any, seen: set[int]) -> Iterator[str]:
    """Text that differs wherever two values would compile to different code."""
    if isinstance(value, (int, float, complex, str, bytes, type(None), type(...))):
        yield repr(value)
    elif isinstance(value, tuple):
        yield f"{len(value)}("
        for item in value:
            yield from _described(item, dtype, seen)
    elif hasattr(value, "values_by_type"):
        yield from _described(value.values_by_type[dtype], dtype, seen)
    elif isinstance(value, ModuleType):
        if value.__name__.partition(".")[0] == _PACKAGE:
            raise TypeError(f"a kernel reads {value.__name__} through its module: import the name itself")
        yield value.__name__
    elif isinstance(value, CodeType):
        yield from (value.co_code.hex(), repr(value.co_names), repr(value.co_varnames), repr(value.co_freevars))
        yield from _described(value.co_consts, dtype, seen)
    elif _of_package(value):
        yield from _described_function(value, dtype, seen)
    elif isinstance(value, (numba.types.Type, type, FunctionType, BuiltinFunctionType)) or _of_llvm(value):
        yield f"{type(value).__name__} {getattr(value, '__qualname__', value)}"
    else:
        raise TypeError(f"a kernel uses a {type(value).__name__}, {value!r}: neither constant, type nor function")


def _of_package(value: Any) -> bool:
    """Whether a value is a function to look into: one for kernels, wherever it is written, or one of this package."""
    function = _python_function(value)
    ours = function is not value or getattr(value, "__module__", "").partition(".")[0] == _PACKAGE
    return ours and isinstance(function, FunctionType)


def _of_llvm(value: Any) -> bool:
    return type(value).__module__.startswith("llvmlite")


def _python_function(value: Any) -> Any:
    """The function in an `inline`, or in one of numba's intrinsics; else the value."""
    return getattr(value, "function", None) or getattr(value, "_defn", None) or value


def _described_function(value: Any, dtype: Any, seen: set[int]) -> Iterator[str]:
    function = _python_function(value)
    yield function.__qualname__
    if id(function) in seen:
        return
    seen.add(id(function))
    yield from _described(function.__code__, dtype, seen)
    yield from _described(function.__defaults__, dtype, seen)
    for cell in function.__closure__ or ():
        yield from _described(cell.cell_contents, dtype, seen)
    for name in sorted(_names(function.__code__) & function.__globals__.keys()):
        yield name
        yield from _described(function.__globals__[name], dtype, seen)


def _names(code: CodeType) -> set[str]:
    """Names a function and those inside of it use."""
    return set(code.co_names).union(*(_names(c) for c in code.co_consts if isinstance(c, CodeType)))
