"""The driver's runtime without a GPU: through the real cuda.bindings to a stub of the driver, on the host's memory.

What the stub cannot say is what a driver does with these calls; that they are made, in which order, with which values
and what becomes of their errors, it does. The stub is C: without a C compiler these tests skip.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

STUB = Path(__file__).parent / "stub_driver"

CASES = [
    "from_the_user_s_side",
    "arguments",
    "order",
    "not_yet",
    "memory_of_it",
    "two_gpus",
    "foreign",
    "a_broken_kernel",
    "no_gpu",
    "no_device",
    "old_driver",
    "old_gpu",
    "another_memory_manager",
]


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    """Case -> what went wrong in it, or ""."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("stub")
    options = ["-shared", "-fPIC", "-Wall", "-Werror"]
    subprocess.run([compiler, *options, "-o", folder / "libcuda.so.1", STUB / "libcuda.c"], check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    command = [sys.executable, str(STUB / "cases.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_all_cases_were_run(failures):
    assert list(failures) == CASES


@pytest.mark.parametrize("case", CASES)
def test_driver(failures, case):
    """Each is a function of stub_driver/cases.py."""
    assert not failures[case], failures[case]
