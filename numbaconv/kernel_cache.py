"""The CPU kernels' machine code on disk: what makes a file of it stale, and numba's side of reading and writing it.

One file for each kernel, list of argument types and CPU (see `cache_files` for where, and whom it trusts). numba's own
files, an index and one of data for each entry, are neither checked for damage nor safe from two processes that write
the index at once; and numba stamps them with the kernel's own source file alone.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import pickle
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core import config
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from . import cache_files

__all__ = ["CPU_SOURCES", "KernelCache"]

_PACKAGE = Path(__file__).parent
# Files that kernels come from, and whatever decides how they are compiled and kept.
CPU_SOURCES = ("jit.py", "kernel_cache.py", "kernel_compiler.py", "parallel.py", "cpu")
# numba's settings that change the machine code, and that it does not put into the name of a CPU.
_SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "DEBUGINFO_DEFAULT", "BOUNDSCHECK", "DISABLE_INTEL_SVML")


@functools.cache
def _source_digest() -> bytes:
    """SHA-256 of every file kernels come from, and of what compiles them.

    Raises:
        OSError: there are no source files here.
    """
    settings = [str(vars(config).get(name)) for name in _SETTINGS]
    try:
        llvmlite = version("llvmlite")
    except PackageNotFoundError:  # as in a frozen program
        llvmlite = ""
    versions = sys.version, numba.__version__, llvmlite, np.__version__
    digest = hashlib.sha256(repr((versions, settings)).encode())
    for name in CPU_SOURCES:
        path = _PACKAGE / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            content = file.read_bytes()
            digest.update(f"{file.relative_to(_PACKAGE).as_posix()} {len(content)} ".encode() + content)
    return digest.digest()


class KernelCache:
    """What numba's dispatcher asks for compiled code: stands in for `numba.core.caching.FunctionCache`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._enabled = True

    @functools.cached_property
    def _source(self) -> str:
        return inspect.getfile(self._function)

    @functools.cached_property
    def _stamp(self) -> bytes:
        """Of all that makes the kernel but the types and the CPU. A kernel may be written outside this package.

        Raises:
            OSError: its source is not in a file.
        """
        own = Path(self._source).read_bytes()
        closure = [cell.cell_contents for cell in self._function.__closure__ or ()]
        parts = [_source_digest(), own, self._function.__code__.co_code, dumps(closure) if closure else b""]
        return b"".join(hashlib.sha256(part).digest() for part in parts)

    def _entry(self, signature: Any, codegen: Any) -> tuple[str, bytes]:
        """(file name, stamp) of the code for these argument types and this CPU."""
        key = hashlib.sha256(f"{signature} {codegen.magic_tuple()} {sys.implementation.cache_tag}".encode())
        function = self._function
        name = f"{function.__module__}.{function.__qualname__}".replace("<", "").replace(">", "")[-150:]
        stamp = hashlib.sha256(key.digest() + self._stamp + name.encode()).digest()
        return f"{name}-{function.__code__.co_firstlineno}-{key.hexdigest()[:16]}.nbc", stamp

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The compiled code for a list of argument types; None if no file holds it."""
        target_context.refresh()
        if not self._enabled:
            return None
        try:
            content = cache_files.read(self._source, *self._entry(signature, target_context.codegen()))
        except OSError:
            return None
        if content is None:
            return None
        try:
            return CompileResult._rebuild(target_context, *pickle.loads(content))
        except Exception:  # whatever ails it, compiling mends it; pickle alone raises a dozen kinds
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keeps compiled code for later processes, where that can be done."""
        if not self._enabled or compiled.library.has_dynamic_globals or compiled.lifted:
            return
        try:
            entry = self._entry(signature, compiled.codegen)
        except OSError:
            return
        cache_files.write(self._source, *entry, dumps(compiled._reduce()))

    @property
    def cache_path(self) -> str:
        """The directory a new file is written to, if it can be."""
        return str(cache_files.places(self._source)[0].folder)

    def enable(self) -> None:
        """Reads and writes files."""
        self._enabled = True

    def disable(self) -> None:
        """Reads and writes none."""
        self._enabled = False

    def flush(self) -> None:
        """Does nothing: ``python -m numbaconv cache --clear`` removes the files."""
