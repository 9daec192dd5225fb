"""Another CPU, for real: no wider register than the target has in the machine code that numba emits for it."""

from __future__ import annotations

import json
import platform

import pytest

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="registers of x86-64")

# NUMBA_CPU_NAME alone keeps the host's features: both are needed (measured: 395 references to zmm registers).
SSE = "+64bit,+cmov,+cx16,+cx8,+fxsr,+mmx,+popcnt,+sahf,+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3"
TARGETS = {
    "haswell": (f"{SSE},+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+xsave", {"ymm"}, {"zmm"}),
    "nehalem": (SSE, {"xmm"}, {"ymm", "zmm"}),
}

COMPILE = """
import json
import numpy as np
from numbaconv import functional, jit

rng = np.random.default_rng(0)
x, weight = rng.standard_normal((1, 20, 6, 6)).astype("f4"), rng.standard_normal((40, 20, 3, 3)).astype("f4")
output = functional.conv2d(x, weight)
functional.conv2d_backward(output, x, weight)
code = "".join(
    text for kernel in jit._kernels if kernel.signatures for text in kernel.inspect_asm().values()
)
print(json.dumps({"registers": [r for r in ("xmm", "ymm", "zmm") if r in code], "bytes": len(code)}))
"""


@pytest.mark.parametrize("name", ["haswell", pytest.param("nehalem", marks=pytest.mark.full)])
def test_registers(name, run_python, tmp_path):
    features, needed, forbidden = TARGETS[name]
    found = json.loads(
        run_python(COMPILE, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features, NUMBA_CACHE_DIR=str(tmp_path))
    )
    assert found["bytes"] > 1000
    assert needed <= set(found["registers"]), "the tile does not use the target's vectors"
    assert not forbidden & set(found["registers"])
