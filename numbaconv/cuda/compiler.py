"""From a kernel to PTX and machine code, with or without a GPU, and the cache of both.

Source to PTX is numba's compiler, PTX to machine code (a cubin) NVIDIA's nvJitLink; neither needs a driver. What they
return is kept on disk where numba keeps the CPU's machine code (NUMBA_CACHE_DIR, else __pycache__ beside the source),
one file for each kernel, type and architecture, stamped with a digest of all that made it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import sys
import tempfile
import threading
import types as python_types
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from numba.core.caching import FunctionCache

_PACKAGE = Path(__file__).parent
_lock = threading.RLock()


class Cubin(NamedTuple):
    """Machine code of one kernel, and the linker's report of registers, spills and shared memory."""

    code: bytes
    log: str


def ptx(kernel: Any, cc: tuple[int, int]) -> str:
    """PTX of a specialised kernel. Its entry point is called ``kernel.name``."""
    file = _cache_file(kernel, cc, "ptx")
    text = _read(file)
    if text is None:
        text = _compile(kernel, cc).encode()
        _write(file, text)
    return text.decode()


def cubin(kernel: Any, cc: tuple[int, int]) -> Cubin:
    """Machine code of a specialised kernel."""
    file = _cache_file(kernel, cc, "cubin")
    content = _read(file)
    if content is None:
        code, log = link(kernel.ptx(cc), cc)
        content = log.encode() + b"\0" + code
        _write(file, content)
    log_bytes, _, code = content.partition(b"\0")
    return Cubin(code, log_bytes.decode())


def _compile(kernel: Any, cc: tuple[int, int]) -> str:
    from numba import cuda

    bounds = (kernel.threads, kernel.kernel.blocks_per_sm)
    with _lock, _architecture(cc):
        text, _ = cuda.compile(
            kernel.device_function(cc),
            kernel.signature(),
            device=False,
            abi="numba",
            cc=cc,
            output="ptx",
            launch_bounds=bounds,
        )
    return _readable(text, kernel.name)


@contextlib.contextmanager
def _architecture(cc: tuple[int, int]) -> Any:
    """numba asks the GPU which architecture device functions are for; here they are for the kernel's."""
    from numba.cuda import dispatcher

    before = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: python_types.SimpleNamespace(compute_capability=cc)
    try:
        yield
    finally:
        dispatcher.get_current_device = before


def _readable(text: str, name: str) -> str:
    """The entry point renamed: numba's name is long, and holds a number that differs between processes."""
    found = re.search(r"\.visible \.entry (\w+)\(", text)
    if found is None:
        raise RuntimeError(f"{name}: no entry point in the compiler's PTX")
    mangled = found[1]
    text = re.sub(r"\.common \.global \.align 8 \.u64 _ZN08NumbaEnv\w+;\n", "", text)
    return text.replace(mangled, name)


def link(text: str, cc: tuple[int, int]) -> tuple[bytes, str]:
    """PTX to a cubin, and nvJitLink's log."""
    from cuda.bindings import nvjitlink

    source = text.encode()
    options = [f"-arch=sm_{cc[0]}{cc[1]}", "-O3", "-verbose"]
    handle = nvjitlink.create(len(options), options)
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, source, len(source), "kernel")
        nvjitlink.complete(handle)
        code = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, code)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
    finally:
        nvjitlink.destroy(handle)
    return bytes(code), log.decode().rstrip("\0")


# --- the cache on disk --------------------------------------------------------------------------------------


@functools.cache
def _toolchain() -> str:
    """Versions of all that turns a kernel into code."""
    packages = ["numba", "numba-cuda", "llvmlite", "numpy"]
    return " ".join([sys.version, *(f"{name}={version(name)}" for name in packages), _nvvm_version()])


def _nvvm_version() -> str:
    for name in ("nvidia-nvvm", "nvidia-cuda-nvcc-cu12", "cuda-toolkit"):
        with contextlib.suppress(ImportError):
            return f"{name}={version(name)}"
    return ""


@functools.cache
def _source_digest() -> str:
    """SHA-256 of every file kernels come from."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(_PACKAGE)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _CacheFile(NamedTuple):
    path: Path | None
    stamp: bytes


def _cache_file(kernel: Any, cc: tuple[int, int], kind: str) -> _CacheFile:
    stamp = hashlib.sha256(f"{_source_digest()} {_toolchain()} {cc}".encode()).digest()
    try:
        folder = Path(FunctionCache(kernel.kernel.function)._cache_path)
    except RuntimeError:  # no place to write: every process compiles anew
        return _CacheFile(None, stamp)
    return _CacheFile(folder / f"{kernel.name}-sm_{cc[0]}{cc[1]}.{kind}", stamp)


def _read(file: _CacheFile) -> bytes | None:
    if file.path is None:
        return None
    try:
        content = file.path.read_bytes()
    except OSError:
        return None
    size = len(file.stamp)
    return content[size:] if content[:size] == file.stamp else None


def _write(file: _CacheFile, content: bytes) -> None:
    """At once or not at all: another process may read or write the same file."""
    if file.path is None:
        return
    with contextlib.suppress(OSError):
        file.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.path.parent, prefix=file.path.name)
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(file.stamp + content)
            os.replace(name, file.path)
        except OSError:
            os.unlink(name)
            raise
