"""Options, markers and fixtures of the whole suite.

``pytest`` runs everything quick; ``pytest --full`` adds the long tests; ``pytest --backend NAME`` runs the op tests on
another backend; ``pytest -m gpu`` runs them on a GPU (``--backend cuda:1``: on that one), with training and all else
that wants one; ``pytest -m reduced`` runs one to two minutes of kernel correctness for another CPU target::

    NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+avx2,+fma,... pytest -m reduced
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

# Products in reference values are small: BLAS threads would only fight with the kernels' for the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="run the long tests (marker `full`) as well")
    parser.addoption("--backend", default="cpu", metavar="NAME", help="device the op tests run on (default: cpu)")


def pytest_configure(config):
    config.addinivalue_line("markers", "full: a long test; runs only with --full")
    config.addinivalue_line("markers", "gpu: on a GPU; skipped, with the reason, where there is none")
    if _wants_gpu(config) and config.option.backend == "cpu":
        config.option.backend = "cuda"
    config.addinivalue_line("markers", "reduced: kernel correctness, for runs on another CPU target (-m reduced)")
    # Derandomised: every run tests the same examples, so that a failure is there to stay until it is repaired.
    always = {"derandomize": True, "deadline": None, "database": None, "print_blob": False}
    unhurried = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much]
    for name, examples in (("quick", 60), ("full", 1000)):
        hypothesis.settings.register_profile(
            name, max_examples=examples, suppress_health_check=unhurried, parent=None, **always
        )
    if not config.getoption("hypothesis_profile", None):
        hypothesis.settings.load_profile("full" if config.getoption("--full") else "quick")


def _wants_gpu(config):
    return config.option.markexpr == "gpu"


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config, items):
    if _wants_gpu(config):
        for item in items:
            if "run" in getattr(item, "fixturenames", ()):  # the op tests
                item.add_marker(pytest.mark.gpu)
                item.fixturenames.append("gpu")
    if config.getoption("--full"):
        return
    for item in items:
        if item.get_closest_marker("full"):
            item.add_marker(pytest.mark.skip(reason="a long test: run pytest --full"))


@pytest.fixture(autouse=True)
def seeded_layers(monkeypatch):
    """Layers that are made without a seed are drawn from one: a test fails in every run or in none."""
    from numbaconv.nn import init

    original, stream = init.generator, np.random.default_rng(20240607)
    monkeypatch.setattr(init, "generator", lambda rng: original(stream if rng is None else rng))


@pytest.fixture
def rng():
    """A NumPy Generator, the same in every run."""
    return np.random.default_rng(20240607)


@pytest.fixture(scope="session")
def device(request):
    """The device named by --backend."""
    return request.config.getoption("--backend")


@pytest.fixture(scope="session")
def gpu(request):
    """The name of a GPU that is there; else the test is skipped."""
    from numbaconv import to_device
    from numbaconv.errors import DeviceError

    name = request.config.getoption("--backend")
    name = "cuda" if name == "cpu" else name
    try:
        to_device(np.zeros(1, np.float32), name)
    except DeviceError as error:
        pytest.skip(f"no GPU: {error}")
    return name


@pytest.fixture(scope="session")
def run(device):
    """``run(op, *arrays, **arguments)``: calls op with its arrays on --backend, and brings the results back."""
    from numbaconv import to_device, to_host

    def call(op, *args, **kwargs):
        if device == "cpu":
            return op(*args, **kwargs)
        result = op(*(to_device(a, device) if isinstance(a, np.ndarray) else a for a in args), **kwargs)
        if isinstance(result, tuple):
            return tuple(None if r is None else to_host(r) for r in result)
        return to_host(result)

    return call


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """A process that a shell started in the background ignores Ctrl-C; the tests of it need it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def force_parallel(monkeypatch):
    """Every kernel with two tasks or more runs its parallel twin (given two cores)."""
    from numbaconv import parallel

    monkeypatch.setattr(parallel, "PARALLEL_WORK_NS", 0.0)


@pytest.fixture
def force_serial(monkeypatch):
    """Every kernel runs its serial twin."""
    from numbaconv import parallel

    monkeypatch.setattr(parallel, "PARALLEL_WORK_NS", float("inf"))


@pytest.fixture
def serial_float64(request, monkeypatch):
    """Without --full a test with ``dtype="float64"`` runs serial twins: the parallel ones cost 10 s of compiling."""
    from numbaconv import parallel

    parameters = getattr(getattr(request.node, "callspec", None), "params", {})
    if parameters.get("dtype") == "float64" and not request.config.getoption("--full"):
        monkeypatch.setattr(parallel, "PARALLEL_WORK_NS", float("inf"))


@pytest.fixture(scope="session")
def run_python():
    """``run_python(code, **environment)``: what a fresh interpreter prints; a failure shows what it wrote."""

    def call(code, *args, cwd=ROOT, timeout=600, **environment):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), **environment}
        command = [sys.executable, "-c", code, *map(str, args)]
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    return call


@pytest.fixture(scope="session")
def forked():
    """``forked(code, **environment)``: what a process leaves that begins with numba imported (see `forked.Server`)."""
    from forked import Server

    if not hasattr(os, "fork"):
        pytest.skip("processes cannot be forked here")
    server = Server()
    yield server
    server.close()
