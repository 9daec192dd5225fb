"""Kernels for other CPUs than this one, and the cache that must never serve stale ones.

The target is set for a process of its own; its assembly shows which vectors it really uses.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import numbaconv

SSE42 = "+64bit,+cx8,+cx16,+cmov,+fxsr,+mmx,+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt"
AVX2 = SSE42 + ",+avx,+avx2,+fma,+bmi,+bmi2,+f16c,+lzcnt,+movbe"

x86_only = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="targets of x86-64; this is " + platform.machine()
)

CONVOLVE = """
import numpy as np
from numbaconv import functional
from numbaconv.cpu import correlate, simd
x = np.arange(2 * 7 * 9 * 8, dtype=np.float32).reshape(2, 7, 9, 8) % 5
weight = np.arange(70 * 7 * 9, dtype=np.float32).reshape(70, 7, 3, 3) % 3
out = functional.conv2d(x, weight, padding=1)
padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
expected = sum(
    np.einsum("nchw,kc->nkhw", padded[:, :, r : r + 9, s : s + 8], weight[:, :, r, s])
    for r in range(3) for s in range(3)
)
assert np.array_equal(out, expected)  # small whole numbers: exact in any order
assembly = next(iter(correlate._correlate.inspect_asm().values()))
print(simd.VECTOR_BYTES, *(assembly.count(name) for name in ("zmm", "ymm", "vfmadd")))
"""


def run(code, cache_directory, package_directory=None, **environment):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache_directory), **environment}
    environment["PYTHONPATH"] = str(package_directory or Path(numbaconv.__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=cache_directory, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@x86_only
def test_avx2_target_uses_256_bit_vectors_only(tmp_path):
    width, zmm, ymm, fma = map(int, run(CONVOLVE, tmp_path, NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES=AVX2))
    assert width == 32
    assert zmm == 0
    assert ymm > 0
    assert fma >= 24  # both tiles


@x86_only
def test_128_bit_target_uses_no_wider_vectors_and_no_fma(tmp_path):
    width, zmm, ymm, fma = map(int, run(CONVOLVE, tmp_path, NUMBA_CPU_NAME="nehalem", NUMBA_CPU_FEATURES=SSE42))
    assert (width, zmm, ymm, fma) == (16, 0, 0, 0)


def test_editing_a_helper_in_another_file_is_seen_by_cached_kernels(tmp_path):
    """numba stamps a cached kernel with its own file only; ours with every file that kernels come from."""
    shutil.copytree(
        Path(numbaconv.__file__).parent, tmp_path / "numbaconv", ignore=shutil.ignore_patterns("__pycache__")
    )
    helper = tmp_path / "numbaconv" / "cpu" / "edited_helper.py"
    user = tmp_path / "numbaconv" / "cpu" / "edited_kernel.py"
    user.write_text(
        "from ..jit import kernel\nfrom .edited_helper import helper\n\n@kernel\ndef answer(x):\n    return helper(x)\n"
    )
    body = "from ..jit import kernel\n\n@kernel\ndef helper(x):\n    return x + {}\n"
    code = "from numbaconv.cpu.edited_kernel import answer; print(answer(1), sum(answer.stats.cache_hits.values()))"

    cache = tmp_path / "cache"
    cache.mkdir()

    def answer_with(increment):
        helper.write_text(body.format(increment))
        stat = helper.stat()
        os.utime(helper, ns=(stat.st_atime_ns, 10**18))  # the same time stamp and size each time
        return run(code, cache, tmp_path)

    assert answer_with(1) == ["2", "0"]
    assert answer_with(1) == ["2", "1"]  # unchanged: from the cache
    assert answer_with(5) == ["6", "0"]
    assert answer_with(1) == ["2", "0"]
