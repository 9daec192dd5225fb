"""Every threading layer of numba, under every arrangement of Python threads and processes that people use."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from numbaconv import parallel

CASES = [
    "main_thread",
    "threads",
    "pool",
    "spawned",
    "joblib_pool",
    "object_mode",
    "training_and_predicting",
    "interrupted",
    pytest.param("forked", marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")),
]
QUICK = {"threads", "forked", "interrupted"}  # on the layers that are not chosen by default


def layers():
    """omp is what pip installs on Linux; workqueue is always there; tbb needs its library."""
    for layer in ("omp", "workqueue", "tbb"):
        for case in CASES:
            name = case if isinstance(case, str) else case.values[0]
            marks = [] if isinstance(case, str) else list(case.marks)
            if layer != "omp" and name not in QUICK:
                marks.append(pytest.mark.full)
            yield pytest.param(layer, name, id=f"{layer}-{name}", marks=marks)


@pytest.fixture
def run_case(run_python):
    """``run_case(layer, case, rounds)``: how many results were compared."""
    script = Path(__file__).with_name("threading_cases.py")
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    library = Path(sys.prefix) / "lib"  # where pip puts the library of TBB, and no loader looks

    def run(layer, case, rounds):
        found = (library / "libtbb.so.12").exists()
        if layer == "tbb" and not found:
            pytest.skip("TBB is not installed: pip install tbb")
        if layer == "omp" and importlib.util.find_spec("numba.np.ufunc.omppool") is None:
            pytest.skip("this numba has no OpenMP")
        if case == "joblib_pool":
            pytest.importorskip("joblib", reason="joblib is not installed")
        paths = os.pathsep.join(filter(None, [str(library) if found else "", os.environ.get("LD_LIBRARY_PATH", "")]))
        # More threads than this machine may have cores: what goes wrong with threads goes wrong then.
        environment = {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "4", "LD_LIBRARY_PATH": paths}
        return int(run_python(code, script, case, rounds, timeout=580, **environment))

    return run


@pytest.mark.parametrize(("layer", "case"), list(layers()))
def test_bits_are_those_of_one_thread(layer, case, run_case):
    assert run_case(layer, case, 12) >= 12


@pytest.mark.full
@pytest.mark.parametrize("layer", ["omp", "workqueue", "tbb"])
def test_200_rounds_of_everything(layer, run_case):
    assert run_case(layer, "mixed", 200) >= 198


@pytest.mark.parametrize(("threads", "least"), [(2, 2), (4, 4), (16, parallel._MOST_COUNTED)])
def test_threads_share_what_is_enough_for_each(threads, least, monkeypatch):
    """A kernel is called with minus the number of threads it is to hand itself to."""
    monkeypatch.setattr(parallel, "get_num_threads", lambda: threads)
    called = []

    def kernel(first, end):
        called.append(first)

    for work in (least - 0.01, least):
        parallel.launch(kernel, 100, work * parallel.PARALLEL_WORK_NS)
    assert called == [-1, -threads]
