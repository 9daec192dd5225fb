"""Summaries: the lecture's numbers, and tables of whole models, without running a kernel."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv import jit, nn
from numbaconv.errors import ArgumentError, ShapeError


def test_the_lectures_convolution():
    """32x32x3 with ten 5x5 filters, pad 2: 32x32x10, and each filter has 5 * 5 * 3 + 1 = 76 parameters."""
    summary = nn.Conv2d(3, 10, 5, padding=2).summary((3, 32, 32), show=False)
    assert summary.output_shape == (10, 32, 32)
    assert summary.parameters == 760
    assert summary.multiply_adds == 10 * 32 * 32 * 75
    assert "10x32x32" in str(summary)
    assert " 760 " in str(summary)


def test_the_lectures_other_numbers():
    assert nn.Conv2d(3, 6, 5).output_shape((3, 32, 32)) == (6, 28, 28)
    assert nn.Conv2d(6, 10, 5).output_shape((6, 28, 28)) == (10, 24, 24)
    assert nn.Conv2d(64, 32, 1).output_shape((64, 56, 56)) == (32, 56, 56)
    for stride, size in ((1, 5), (2, 3), (3, 2)):
        assert nn.Conv2d(1, 1, 3, stride=stride).output_shape((1, 7, 7)) == (1, size, size)
    assert nn.Conv2d(1, 1, 3, padding=1).output_shape((1, 7, 7)) == (1, 7, 7)
    assert nn.MaxPool2d(2).output_shape((64, 224, 224)) == (64, 112, 112)
    assert nn.Linear(3072, 10).summary((3072,), show=False).parameters == 30_730


def lenet5():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def test_lenet5():
    before = jit.compiled_signatures()
    summary = lenet5().summary((1, 28, 28), show=False)
    assert jit.compiled_signatures() == before, "a kernel ran"
    assert summary.parameters == 61_706
    assert summary.trainable_parameters == 61_706
    counts = [row.parameters for row in summary.rows if row.parameters]
    assert counts == [156, 2_416, 48_120, 10_164, 850]
    shapes = ["6x28x28", "6x28x28", "6x14x14", "16x10x10", "16x10x10", "16x5x5", "400", "120", "120", "84", "84", "10"]
    assert ["x".join(map(str, row.output_shape)) for row in summary.rows] == shapes
    assert summary.multiply_adds == 117_600 + 240_000 + 48_000 + 10_080 + 840


def test_the_table(capsys):
    model = nn.Sequential(nn.Conv2d(3, 10, 5, padding=2), nn.ReLU())
    model[0].bias.trainable = False
    summary = model.summary((3, 32, 32))
    assert capsys.readouterr().out == f"{summary}\n"
    lines = str(summary).splitlines()
    assert lines[0].split() == ["layer", "type", "output", "shape", "parameters", "multiply-adds"]
    assert lines[2].split() == ["(input)", "3x32x32"]
    assert lines[3].split() == ["0", "Conv2d", "10x32x32", "760", "768,000"]
    assert lines[4].split() == ["1", "ReLU", "10x32x32", "0", "0"]
    assert lines[6].split() == ["total", "760", "768,000"]
    assert lines[7] == "of these trainable: 750"
    assert repr(summary) == str(summary)


def test_containers():
    block = nn.Residual(nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8)), nn.Conv2d(4, 8, 1))
    model = nn.Sequential(block, nn.Concat(nn.AvgPool2d(2), nn.MaxPool2d(2)), nn.AdaptiveAvgPool2d(1))
    summary = model.summary((4, 6, 6), show=False)
    rows = [(row.name, row.type, row.output_shape, row.parameters) for row in summary.rows]
    assert rows == [
        ("0.body.0", "Conv2d", (8, 6, 6), 8 * 36 + 8),
        ("0.body.1", "BatchNorm2d", (8, 6, 6), 16),
        ("0.shortcut", "Conv2d", (8, 6, 6), 40),
        ("0", "Residual", (8, 6, 6), 0),
        ("1.0", "AvgPool2d", (8, 3, 3), 0),
        ("1.1", "MaxPool2d", (8, 3, 3), 0),
        ("1", "Concat", (16, 3, 3), 0),
        ("2", "AdaptiveAvgPool2d", (16, 1, 1), 0),
    ]
    assert summary.multiply_adds == 36 * 8 * 36 + 36 * 8 * 4 == model.multiply_adds((4, 6, 6))
    assert model.output_shape((4, 6, 6)) == (16, 1, 1)


def test_a_layer_used_twice_counts_its_parameters_once():
    layer = nn.Linear(5, 5)
    summary = nn.Sequential(layer, nn.ReLU(), layer).summary((5,), show=False)
    assert [row.parameters for row in summary.rows] == [30, 0, 0]
    assert [row.multiply_adds for row in summary.rows] == [25, 0, 25]
    assert summary.parameters == 30


def test_other_layers():
    up = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1)
    assert up.output_shape((4, 5, 7)) == (6, 10, 14)
    assert up.multiply_adds((4, 5, 7)) == 5 * 7 * 4 * 6 * 9
    same = nn.Conv2d(4, 6, 3, stride=2, padding="same", padding_mode="reflect")
    assert same.output_shape((4, 5, 7)) == (6, 3, 4)
    for layer in (nn.ReLU(), nn.LeakyReLU(), nn.Sigmoid(), nn.Tanh(), nn.GELU(), nn.SiLU(), nn.Dropout()):
        assert layer.output_shape((4, 5, 7)) == (4, 5, 7)
    assert nn.AdaptiveAvgPool2d((2, 3)).output_shape((4, 5, 7)) == (4, 2, 3)
    assert nn.Linear(4, 3).output_shape((5, 4)) == (5, 3)
    assert nn.Linear(4, 3).multiply_adds((5, 4)) == 60
    assert nn.Sequential().summary((4,), show=False).output_shape == (4,)
    assert nn.Linear(4, 3).summary(np.int64(4), show=False).output_shape == (3,)


@pytest.mark.parametrize(
    ("model", "shape", "says"),
    [
        (nn.Conv2d(3, 4, 3), (8, 3, 9, 9), "x must have 4 axes"),
        (nn.Conv2d(3, 4, 3), (4, 9, 9), "weight.shape"),
        (nn.Conv2d(3, 4, 3), (3, 2, 2), "kernel must not be larger"),
        (nn.Linear(48, 10), (3, 4, 4), r"nn\.Flatten\(\)"),
        (nn.BatchNorm2d(3), (4, 9, 9), "num_features = 3"),
        (nn.AdaptiveAvgPool2d(1), (4,), "3 axes"),
        (nn.MaxPool2d(3), (4, 2, 2), "window must not be larger"),
        (nn.Residual(nn.Conv2d(3, 4, 1)), (3, 2, 2), r"Residual: body\(x\)\.shape must equal shortcut\(x\)\.shape"),
        (nn.Concat(nn.ReLU(), nn.MaxPool2d(2)), (3, 4, 4), "Concat: the branches' outputs must differ in channels"),
    ],
)
def test_shapes_that_do_not_fit(model, shape, says):
    with pytest.raises(ShapeError, match=says):
        model.summary(shape, show=False)


def test_bad_input_shapes():
    for shape in ((3, 0, 4), (3, 4.5, 4), "32"):
        with pytest.raises(ArgumentError, match="input_shape"):
            nn.ReLU().summary(shape, show=False)
