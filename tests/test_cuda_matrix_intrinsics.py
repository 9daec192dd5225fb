"""Copies that do not wait, and products on tensor cores: compiled for three architectures, and in the simulator."""

from __future__ import annotations

import pytest

pytest.importorskip("numba.cuda", reason="numba-cuda is not installed")

import matrix_cases
from ptx.runtime import InterpreterRuntime

from numbaconv.cuda import launch, memory
from numbaconv.cuda.runtime import simulated

if simulated():
    pytest.skip("numba's simulator compiles nothing", allow_module_level=True)


@pytest.mark.parametrize("cc", [(8, 0), (9, 0), (10, 0)])
@pytest.mark.parametrize("check", [matrix_cases.check_copies, matrix_cases.check_products])
def test_compiled(check, cc):
    with launch.use(InterpreterRuntime(cc)):
        check()
        memory.collect()


def test_simulated(run_python):
    code = "import runpy; runpy.run_path('tests/matrix_cases.py', run_name='__main__')"
    output = run_python(code, NUMBA_ENABLE_CUDASIM="1")
    assert output.split() == ["check_copies", "check_products", "check_convolution"]
