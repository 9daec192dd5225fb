"""Options of the benchmarks: one provider a process, so that no library's threads or memory disturb another's."""

from __future__ import annotations

import os
import platform
import sys

import pytest

from .providers import PROVIDERS, Unavailable, load

# How many threads BLAS and OpenMP libraries use is read once, when they are loaded.
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def pytest_addoption(parser):
    group = parser.getgroup("benchmarks")
    group.addoption("--provider", default="numbaconv", choices=sorted(PROVIDERS), help="the library to time")
    group.addoption("--device", default="cpu", help='"cpu" (default), "cuda", "cuda:1"')
    group.addoption("--threads", type=int, default=os.cpu_count(), metavar="N", help="default: every core")
    group.addoption("--dtype", default="float32", choices=["float32", "float64"])
    group.addoption(
        "--layout", default="channels_first", choices=["channels_first", "channels_last"], help="of x in memory"
    )


def pytest_configure(config):
    threads = config.getoption("--threads")
    for name in THREAD_VARIABLES:
        if "numpy" in sys.modules and config.getoption("--provider") == "numpy_im2col":
            if os.environ.get(name, "") != str(threads) and threads != os.cpu_count():
                raise pytest.UsageError(f"another plugin has loaded NumPy already: set {name}={threads} yourself")
        else:
            os.environ[name] = str(threads)
    if threads > int(os.environ.get("NUMBA_NUM_THREADS", os.cpu_count())):
        os.environ["NUMBA_NUM_THREADS"] = str(threads)


@pytest.fixture(scope="session")
def provider(request):
    option = request.config.getoption
    try:
        return load(option("--provider"), option("--device"), option("--threads"))
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def dtype(request):
    return request.config.getoption("--dtype")


@pytest.fixture(scope="session")
def layout(request):
    return request.config.getoption("--layout")


@pytest.fixture
def rng():
    import numpy as np

    return np.random.default_rng(0)


@pytest.fixture
def timed(benchmark, provider, request):
    """``timed(call, check, group=..., flops=...)``: runs once, checks the result, then times ``call``."""

    def run(call, check, *, group, flops=None, nbytes=None):
        def call_and_wait():
            result = call()
            provider.finish()
            return result

        try:
            first = call_and_wait()  # compiles, plans, and shows that the numbers are right
        except Unavailable as reason:
            pytest.skip(str(reason))
        check(first)
        benchmark.group = group
        option = request.config.getoption
        benchmark.extra_info |= {
            **{name: option(f"--{name}") for name in ("provider", "device", "threads", "dtype", "layout")},
            "version": provider.version(),
            "python": platform.python_version(),
        }
        benchmark(call_and_wait)
        if benchmark.stats is not None:  # None under --benchmark-disable
            seconds = benchmark.stats.stats.median
            ordered = sorted(benchmark.stats.stats.data)
            for percent in (10, 90):
                benchmark.extra_info[f"ms_p{percent}"] = 1e3 * ordered[(len(ordered) - 1) * percent // 100]
            if flops:
                benchmark.extra_info["gflops"] = flops / seconds / 1e9
            if nbytes:
                benchmark.extra_info["gigabytes_per_second"] = nbytes / seconds / 1e9

    return run
