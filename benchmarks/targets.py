"""How to make every library behave as on a CPU with narrower vectors: environment variables, read at start.

Only x86-64. Libraries that cannot be limited, or do not prove that they were (`Provider.limited_to`), are skipped.
"""

from __future__ import annotations

# A CPU name alone changes nothing: numba keeps the host's features unless they are given too.
_SSE = "+64bit,+cmov,+cx16,+cx8,+fxsr,+mmx,+popcnt,+sahf,+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3"
_AVX2 = f"{_SSE},+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+xsave"

NATIVE = "native"
TARGETS: dict[str, dict[str, str]] = {
    NATIVE: {},
    "avx2": {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": _AVX2,
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # on Intel; elsewhere MKL stops at AVX2 by itself
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    },
    "sse42": {
        "NUMBA_CPU_NAME": "nehalem",
        "NUMBA_CPU_FEATURES": _SSE,
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    },
}
# Registers that a target has not.
FORBIDDEN = {NATIVE: (), "avx2": ("zmm",), "sse42": ("ymm", "zmm")}
