"""``python -m numbaconv``: what it prints, compiles, deletes and refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import numbaconv
from numbaconv import nn
from numbaconv.__main__ import main

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def command(tmp_path):
    """``command(*arguments)``: the finished process, whose cache is ``tmp_path / "cache"``."""

    def call(*arguments, expect=0, **environment):
        cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, "-m", "numbaconv", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **cache, **environment},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done

    return call


@pytest.fixture
def model_file(tmp_path):
    """A saved model of one elementwise layer: its kernel compiles in a moment."""
    path = tmp_path / "model.safetensors"
    numbaconv.save(nn.Sequential(nn.Flatten(), nn.ReLU()), path)
    return path


def test_info_tells_versions_processor_threads_cache_and_cuda(command, tmp_path):
    facts = dict(line.split(maxsplit=1) for line in command("info").stdout.splitlines())
    assert facts["numbaconv"] == numbaconv.__version__
    assert facts["numpy"] == np.__version__
    assert facts["threads"] == str(numba.config.NUMBA_NUM_THREADS)
    assert facts["cache"].startswith(str(tmp_path / "cache"))
    assert {"python", "numba", "cpu", "vectors", "cuda", "missing"} <= set(facts)


def test_warmup_of_a_model_leaves_nothing_to_compile(command, model_file, tmp_path):
    arguments = ("warmup", "--model", model_file, "--input-shape", "2,3", "4,5,2")
    first = command(*arguments).stdout
    assert not first.startswith("0 kernels compiled")
    assert command(*arguments).stdout.startswith("0 kernels compiled")

    def files():
        return {file for file in (tmp_path / "cache").rglob("*") if file.is_file()}

    held = files()
    assert held
    assert f"{len(held)} files" in command("cache").stdout
    stray = next(iter(held)).parent / "notes.txt"
    stray.write_text("not a kernel")
    left_by_a_killed_process = next(iter(held)).with_suffix(".nbc.0123456789ab.tmp")
    left_by_a_killed_process.write_bytes(b"half")
    assert f"deleted {len(held) + 1} files" in command("cache", "--clear").stdout
    assert files() == {stray}
    assert "0 files" in command("cache").stdout


@pytest.mark.full
def test_warmup_without_a_model_serves_a_training_step_of_lenet(command, run_python, tmp_path):
    command("warmup", "--train")
    code = (
        "import numpy as np; from numbaconv import jit, train, optim; from numbaconv.models.lenet import lenet5\n"
        "m = lenet5(rng=0); x = np.ones((64, 1, 28, 28), 'float32'); y = np.zeros(64, int)\n"
        "train.fit(m, x, y, epochs=1, batch_size=64, optimizer=optim.Adam(m.parameters()))\n"
        "print(jit.compile_counts()[0])"
    )
    assert run_python(code, NUMBA_CACHE_DIR=str(tmp_path / "cache")).strip() == "0"


def test_warmup_with_train_compiles_the_step(command, model_file):
    predicts = command("warmup", "--model", model_file, "--input-shape", "2,3").stdout
    trains = command("warmup", "--model", model_file, "--input-shape", "2,3", "--train").stdout
    assert int(predicts.split()[0]) >= 1
    assert int(trains.split()[0]) >= 2, "the loss, its gradient, that of the layer"


def test_mistakes_are_told_in_one_line(model_file, tmp_path, capsys):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(model_file.read_bytes()[:-3])
    shape = ("--input-shape", "1,2")
    for arguments, words in {
        ("warmup", "--model", broken, *shape): "complete .safetensors file",
        ("warmup", "--model", tmp_path / "none", *shape): "No such file",
        ("warmup", "--model", tmp_path, *shape): "Is a directory",
        ("warmup", "--model", model_file): "--model and --input-shape go together",
        ("warmup", *shape): "--model and --input-shape go together",
    }.items():
        assert main([str(argument) for argument in arguments]) == 1
        out, err = capsys.readouterr()
        assert words in err
        assert len(err.splitlines()) == 1, err
        assert not out


@pytest.mark.parametrize("text", ["1,a", "", "1,-2", "0,3", "1,,2"])
def test_a_bad_shape_is_a_wrong_argument(text, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["warmup", "--model", "m", "--input-shape", text])
    assert stopped.value.code == 2
    assert "such as 1,1,28,28" in capsys.readouterr().err


def test_a_model_that_takes_no_such_input(tmp_path, capsys):
    path = tmp_path / "linear.safetensors"
    numbaconv.save(nn.Linear(3, 2, rng=0), path)
    assert main(["warmup", "--model", str(path), "--input-shape", "1,4"]) == 1
    assert capsys.readouterr().err.startswith("linear: ")


def test_help_names_each_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("info", "warmup", "cache", "Exit codes"))
