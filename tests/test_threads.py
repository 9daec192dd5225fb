"""Kernels under several Python threads, and in a forked child."""

from __future__ import annotations

import json
import os

import pytest

SETUP = """
import json, os, threading
import numpy as np
from numbaconv import functional, parallel

parallel.PARALLEL_WORK_NS = 0.0
rng = np.random.default_rng(0)
x, weight = rng.standard_normal((4, 8, 20, 20)).astype("f4"), rng.standard_normal((16, 8, 3, 3)).astype("f4")
expected = functional.conv2d(x, weight)
"""

PYTHON_THREADS = f"""{SETUP}
wrong = []

def work(seed):
    mine = np.random.default_rng(seed).standard_normal(x.shape).astype("f4")
    first = functional.conv2d(mine, weight)
    for _ in range(40):
        same = np.array_equal(functional.conv2d(x, weight), expected)
        if not same or not np.array_equal(functional.conv2d(mine, weight), first):
            wrong.append(seed)

threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(wrong))
"""

FORK = f"""{SETUP}
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(functional.conv2d(x, weight), expected) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_python_threads_do_not_disturb_each_other(run_python):
    """Each has its own scratch memory; numba's thread count is applied in each."""
    assert json.loads(run_python(PYTHON_THREADS)) == []


@pytest.mark.full
@pytest.mark.xfail(reason="numba's workqueue layer (no OpenMP, no TBB) aborts under two Python threads", strict=False)
def test_python_threads_without_openmp(run_python):
    assert json.loads(run_python(PYTHON_THREADS, NUMBA_THREADING_LAYER="workqueue")) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_computes(run_python):
    """GNU OpenMP ends a forked child at its first parallel region: the child takes the serial twins."""
    assert run_python(FORK).strip() == "0"
