"""The simulator, in a process where numba is one. Its cases are in simulator_cases.py."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

RUN = """
import sys, pytest
sys.exit(pytest.main([sys.argv[1], "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]))
"""


def test_simulator(run_python):
    output = run_python(RUN, "tests/simulator_cases.py", NUMBA_ENABLE_CUDASIM="1")
    assert re.match(r"\.{10,} +\[100%\]\n$", output), output  # none is skipped
