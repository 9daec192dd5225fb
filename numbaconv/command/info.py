"""``python -m numbaconv info``: what this machine and installation are, for people and for bug reports."""

from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version

import numba
import numpy as np
from numba.core import config
from numba.core.registry import cpu_target

from .. import __version__, backend, get_num_threads, parallel
from ..cpu.simd import VECTOR_BYTES
from ..errors import DeviceError
from . import cache

# Features of processors that kernels differ by; the full list is hundreds of names.
_FEATURES = ("sse4.2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "neon", "sve")
_OPTIONAL = {"safetensors": "core", "tqdm": "core", "numba-cuda": "cuda12 or cuda13", "tbb": "none: threads"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command: none."""


def run(arguments: argparse.Namespace) -> int:
    """Prints one line for each fact."""
    facts = [*_versions(), *_processor(), *_threads(), *_cache(), ("cuda", _cuda()), ("missing", _missing())]
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print(f"{name:{width}}  {value}")
    return 0


def _versions() -> list[tuple[str, str]]:
    return [
        ("numbaconv", __version__),
        ("python", f"{platform.python_version()} ({platform.python_implementation()}, {platform.platform()})"),
        ("numba", f"{numba.__version__} (llvmlite {_version('llvmlite')})"),
        ("numpy", np.__version__),
        *((name, _version(name) or "not installed") for name in _OPTIONAL),
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _processor() -> list[tuple[str, str]]:
    _, name, features = cpu_target.target_context.codegen().magic_tuple()
    named = [feature for feature in _FEATURES if f"+{feature}" in features.split(",")]
    settings = vars(config)
    forced = settings["CPU_NAME"] is not None or settings["CPU_FEATURES"] is not None
    chosen = " (set by NUMBA_CPU_NAME or NUMBA_CPU_FEATURES)" if forced else ""
    return [
        ("cpu", f"{name}, {os.cpu_count()} cores{chosen}"),
        ("cpu features", " ".join(named) or "none of those that kernels differ by"),
        ("vectors", f"{VECTOR_BYTES * 8} bits"),
    ]


def _threads() -> list[tuple[str, str]]:
    return [("threading layer", parallel.threading_layer()), ("threads", str(get_num_threads()))]


def _cache() -> list[tuple[str, str]]:
    first, *others = cache.described(cache.folders())
    return [("cache", first), *(("", line) for line in others)]


def _cuda() -> str:
    try:
        backend.to_device(np.zeros(1, np.float32), "cuda")
    except DeviceError as error:
        return f"not usable: {error}"
    return "usable"


def _missing() -> str:
    missing = [f"{name} (extra: {extra})" for name, extra in _OPTIONAL.items() if not _version(name)]
    return ", ".join(missing) or "nothing"
