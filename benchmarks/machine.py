"""What the machine can do at best: multiply-adds from registers, and copies of memory."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from numbaconv.cpu.simd import VECTOR_BYTES

_SUMS, _UNROLLED = 12, 4


@intrinsic
def _multiply_add_many(typing_context: Any, count: Any, out: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = signature.args[1].dtype.bitwidth
        lanes = 8 * VECTOR_BYTES // bits
        vector = ir.VectorType(ir.FloatType() if bits == 32 else ir.DoubleType(), lanes)
        out = context.make_array(signature.args[1])(context, builder, args[1]).data
        pointer = builder.bitcast(out, ir.PointerType(vector))
        name = f"llvm.fmuladd.v{lanes}f{bits}"
        multiply_add = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
        x = builder.load(pointer, align=4)
        sums = [cgutils.alloca_once_value(builder, ir.Constant(vector, [1.0] * lanes)) for _ in range(_SUMS)]
        with cgutils.for_range(builder, args[0]):
            for _ in range(_UNROLLED):
                for total in sums:
                    builder.store(builder.call(multiply_add, [x, x, builder.load(total)]), total)
        for total in sums:
            builder.store(builder.fadd(builder.load(pointer, align=4), builder.load(total)), pointer, align=4)
        return context.get_dummy_value()

    return types.void(types.intp, out), codegen


@njit(nogil=True)
def _multiply_add(count, out):
    _multiply_add_many(count, out)


def _together(function: Any, arguments: list[tuple[Any, ...]]) -> float:
    """Seconds until all are done, each in its own thread."""
    threads = [threading.Thread(target=function, args=a) for a in arguments]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def gflops(threads: int, dtype: str = "float32") -> float:
    """Measured peak of `threads` threads in `dtype`: 12 independent sums in registers.

    The best of five: threads that live for some milliseconds may all run on the core that started them.
    """
    count, lanes = 10_000_000, VECTOR_BYTES // np.dtype(dtype).itemsize
    arguments = [(count, np.zeros(lanes, dtype)) for _ in range(threads)]
    _multiply_add(1, arguments[0][1])
    seconds = min(_together(_multiply_add, arguments) for _ in range(5))
    return threads * count * _UNROLLED * _SUMS * lanes * 2 / seconds / 1e9


def gigabytes_per_second(threads: int) -> float:
    """Measured copy bandwidth of `threads` threads, bytes read plus written: 64 MB each, far beyond the caches.

    The best of ten, as above.
    """
    arguments = [(np.empty(1 << 24, np.float32), np.ones(1 << 24, np.float32)) for _ in range(threads)]
    _together(np.copyto, arguments)
    seconds = min(_together(np.copyto, arguments) for _ in range(10))
    return threads * 2 * arguments[0][0].nbytes / seconds / 1e9


def processor() -> str:
    """The processor's name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def facts(threads: int, dtype: str, environment: dict[str, str]) -> dict[str, Any]:
    """Peaks of a new process, whose environment may limit its vectors."""
    command = [sys.executable, "-m", "benchmarks.machine", str(threads), dtype]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


if __name__ == "__main__":
    THREADS = int(sys.argv[1])
    print(json.dumps({"gflops": gflops(THREADS, sys.argv[2]), "gigabytes_per_second": gigabytes_per_second(THREADS)}))
