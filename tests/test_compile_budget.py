"""What a cold start compiles: nothing at import, one kernel for a first convolution, few for a training step.

Each case runs in a process of its own with an empty cache, and counts signatures (kernel x argument types).
"""

import json
import os
import subprocess
import sys
import textwrap

PRELUDE = """
import json, time
import numpy as np
import numbaconv as nc
from numbaconv import functional, jit

rng = np.random.default_rng(0)
report = {}
"""


def run_cold(body, cache_directory):
    """Runs `body` after PRELUDE in a new process; returns its `report` and the signatures it compiled."""
    code = (
        PRELUDE + textwrap.dedent(body) + "\nreport['compiled'] = jit.compiled_signatures()\nprint(json.dumps(report))"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache_directory)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def total(report):
    return sum(report["compiled"].values())


def test_nothing_compiles_at_import(tmp_path):
    assert run_cold("", tmp_path)["compiled"] == {}


def test_first_conv2d_compiles_one_kernel_and_its_two_packers(tmp_path):
    report = run_cold(
        """
        x = rng.standard_normal((1, 20, 10, 10), dtype=np.float32)
        weight = rng.standard_normal((16, 20, 3, 3), dtype=np.float32)
        functional.conv2d(x, weight, padding=1)
        """,
        tmp_path,
    )
    kernels = ("correlate._correlate", "packing._pack", "packing.read_columns")
    assert report["compiled"] == {f"numbaconv.cpu.{name}": 1 for name in kernels}


def test_a_first_small_conv2d_compiles_one_kernel_and_its_two_helpers(tmp_path):
    report = run_cold(
        """
        x = rng.standard_normal((1, 8, 5, 5), dtype=np.float32)
        weight = rng.standard_normal((64, 8, 3, 3), dtype=np.float32)
        functional.conv2d(x, weight)
        """,
        tmp_path,
    )
    kernels = ("im2col._convolve", "im2col._products", "im2col_patches.copy_patches")
    assert report["compiled"] == {f"numbaconv.cpu.conv2d.{name}": 1 for name in kernels}


LENET_STEP = """
    from numbaconv import nn, optim
    from numbaconv.models.lenet import lenet5

    model = lenet5(rng=0)
    loss = nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = rng.random((64, 1, 28, 28), dtype=np.float32)
    labels = rng.integers(0, 10, 64)
    model.train()
    def step():
        output, context = model.forward_ctx(x)
        value, loss_context = loss.forward_ctx(output, labels)
        model.backward_ctx(loss.backward_ctx(loss_context), context, needs_input=False)
        optimizer.step()
        optimizer.zero_grad()
        return value
    report["losses"] = [step() for _ in range(3)]
"""


def test_lenet_training_step_compiles_at_most_20_signatures(tmp_path):
    report = run_cold(LENET_STEP, tmp_path)
    assert report["losses"][2] < report["losses"][0]
    assert total(report) <= 20, report["compiled"]


def test_a_second_process_compiles_nothing_new(tmp_path):
    run_cold(LENET_STEP, tmp_path)
    files = sorted(path.name for path in tmp_path.rglob("*.nbc"))
    run_cold(LENET_STEP, tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*.nbc")) == files
