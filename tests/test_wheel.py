"""The wheel: built from a copy of the checkout, installed elsewhere, and used from there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

TRAIN = """
import sys
import numpy as np
import numbaconv
from numbaconv import functional as F, nn, optim

assert numbaconv.__file__.startswith(sys.argv[1]), numbaconv.__file__
rng = np.random.default_rng(0)
x = rng.standard_normal((8, 1, 8, 8)).astype("float32")
target = rng.integers(0, 3, 8)
model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, rng=rng), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3, rng=rng))
optimizer = optim.SGD(model.parameters(), lr=0.01)
losses = []
for step in range(2):
    scores, ctx = model.forward_ctx(x)
    losses.append(float(F.cross_entropy(scores, target)))
    optimizer.zero_grad()
    model.backward_ctx(F.cross_entropy_backward(scores, target), ctx)
    optimizer.step()
assert losses[1] < losses[0], losses
print("trained")
"""


def pip(*arguments, cwd):
    """Runs pip with no index: a test fetches nothing."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    for builder in ("pip", "setuptools"):  # looked for, not imported: setuptools replaces distutils when it is
        if find_spec(builder) is None:
            pytest.skip(f"{builder}, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves files beside its source: not in the checkout
    shutil.copytree(ROOT / "numbaconv", source / "numbaconv", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip("wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder, source, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


def test_contents(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "numbaconv/py.typed" in names
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "numbaconv").rglob("*.py")}
    assert modules <= names, f"not in the wheel: {sorted(modules - names)}"
    others = {name.partition("/")[0] for name in names} - {"numbaconv"}
    assert all(name.endswith(".dist-info") for name in others), f"not the wheel's business: {others}"


def test_trains_one_step_outside_the_checkout(wheel, tmp_path):
    target = tmp_path / "site"
    pip("install", "--no-deps", "--no-index", "--target", target, wheel, cwd=tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(target)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "trained"
