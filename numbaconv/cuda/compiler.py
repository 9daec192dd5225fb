"""From a kernel to PTX and machine code, with or without a GPU.

Source to PTX is numba's compiler, PTX to machine code (a cubin) NVIDIA's nvJitLink; neither needs a driver. What they
return is kept on disk (`cache`). Several architectures share numba's half of the work.
"""

from __future__ import annotations

import contextlib
import functools
import re
import threading
import types as python_types
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..compile_notice import compiling
from ..errors import DeviceError, message
from . import cache

_lock = threading.RLock()


class Cubin(NamedTuple):
    """Machine code of one kernel, and the linker's report of registers, spills and shared memory."""

    code: bytes
    log: str


def ptx(kernel: Any, cc: tuple[int, int]) -> str:
    """PTX of a specialised kernel. Its entry point is called ``kernel.name``."""
    file = cache.file_of(kernel, cc, "ptx")
    text = file.read()
    if text is None:
        with compiling():
            text = _compile(kernel, cc).encode()
        file.write(text)
    return text.decode()


def cubin(kernel: Any, cc: tuple[int, int]) -> Cubin:
    """Machine code of a specialised kernel."""
    file = cache.file_of(kernel, cc, "cubin")
    content = file.read()
    if content is None:
        with compiling():
            code, log = link(kernel.ptx(cc), cc)
        content = log.encode() + b"\0" + code
        file.write(content)
    log_bytes, _, code = content.partition(b"\0")
    return Cubin(code, log_bytes.decode())


@functools.cache
def architecture(cc: tuple[int, int]) -> tuple[int, int]:
    """The newest architecture the toolkit knows whose machine code runs on a GPU.

    Raises:
        DeviceError: the GPU is newer than the toolkit.
    """
    from numba.cuda.cudadrv import nvrtc

    supported = nvrtc.get_supported_ccs()
    fitting = [known for known in supported if known[0] == cc[0] and known <= cc]
    if not fitting:
        newest = "{}.{}".format(*max(supported))
        raise DeviceError(
            message(
                "cuda",
                "the CUDA toolkit must know this GPU",
                'A newer one: `pip install --upgrade "numbaconv[cuda13]"`.',
                compute_capability=f"{cc[0]}.{cc[1]}",
                newest_known=newest,
            )
        )
    return max(fitting)


def _compile(kernel: Any, cc: tuple[int, int]) -> str:
    with _lock:
        return _readable(_library(kernel).get_asm_strs(cc=cc)[0], kernel.name)


_FRONT_END_CC = (7, 5)  # the oldest
_libraries: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def _library(kernel: Any) -> Any:
    """A kernel in LLVM's language, the same for every architecture: 0.1 to 0.4 s, and 0.03 s for PTX from it."""
    from numba.cuda import compiler

    library = _libraries.get(kernel)
    if library is None:
        with _architecture(_FRONT_END_CC):
            library, _ = compiler._compile_pyfunc_with_fixup(
                kernel.device_function(_FRONT_END_CC),
                kernel.signature(),
                debug=None,
                lineinfo=False,
                device=False,
                fastmath=False,
                cc=_FRONT_END_CC,
                opt=None,
                abi="numba",
                abi_info=None,
                forceinline=False,
                launch_bounds=(kernel.threads, kernel.kernel.blocks_per_sm),
                lto=False,
            )
        _libraries[kernel] = library
    return library


@contextlib.contextmanager
def _architecture(cc: tuple[int, int]) -> Iterator[None]:
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
