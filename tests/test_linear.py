"""linear and its gradients against the float64 reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
from compare import LAYOUTS_2D, Unchanged, assert_close, random_array

from numbaconv import functional
from numbaconv.cpu import linear_blocks

pytestmark = pytest.mark.usefixtures("serial_float64")
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])

# rows, in, out: tile remainders in each, and sums longer than 512 terms
SIZES = [
    (1, 1, 1), (1, 5, 3), (3, 1, 4), (2, 3, 1), (5, 16, 16), (6, 17, 31), (7, 64, 33), (8, 100, 10), (13, 31, 65),
    (17, 120, 84), (4, 513, 5), (3, 1030, 17), (2, 3072, 10), (600, 3, 4), (0, 5, 3),
    (2, 60000, 3), (1, 3, 60000), (60000, 1, 1),
    (1, 200, 50), (9, 130, 7), (20, 65, 300), (64, 257, 49), (512, 65, 6), (513, 70, 8),
    (40, 20, 16), (41, 20, 32), (42, 70, 64), (200, 600, 70), (25, 1100, 90), (17, 1, 1),
    (64, 3072, 10), (47, 1500, 13), (3, 1100, 90), (8, 605, 70),
    (65, 20, 16), (66, 20, 32), (67, 70, 64), (90, 1100, 90), (70, 120, 84), (89, 65, 300), (33, 84, 10),
]  # fmt: skip


def arrays(size, rng, dtype):
    """x, weight, bias, grad_output."""
    m, i, o = size
    return [random_array(rng, shape, dtype) for shape in ((m, i), (o, i), (o,), (m, o))]


@pytest.mark.reduced
@DTYPES
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_forward_and_backward(size, dtype, rng, run):
    x, weight, bias, grad_output = arrays(size, rng, dtype)
    with Unchanged(x, weight, bias, grad_output):
        output = run(functional.linear, x, weight, bias)
        without = run(functional.linear, x, weight)
        result = run(functional.linear_backward, grad_output, x, weight)
    assert_close(output, reference.linear(x, weight, bias), dtype, "output")
    assert_close(without, reference.linear(x, weight), dtype, "output without bias")
    wanted = reference.linear_backward(grad_output, x, weight)
    for name, actual, value in zip(("grad_input", "grad_weight", "grad_bias"), result, wanted, strict=True):
        assert_close(actual, value, dtype, name)


@pytest.mark.parametrize("size", [(17, 40, 70), (70, 600, 33), (20, 33, 300)], ids=str)
def test_a_weight_packed_for_all_tasks(size, rng, run, monkeypatch):
    """What very large layers do."""
    monkeypatch.setattr(linear_blocks, "MOST", 0)
    x, weight, bias, _ = arrays(size, rng, "float32")
    assert_close(run(functional.linear, x, weight, bias), reference.linear(x, weight, bias), "float32")


@pytest.mark.parametrize("size", [(7, 70, 11), (33, 600, 15), (8, 605, 70), (600, 3, 4)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS_2D)
def test_gradients_of_every_layout(layout, size, rng, run):
    """Of small and of large layers, and of those that are packed."""
    x, weight, _, grad_output = arrays(size, rng, "float32")
    x, weight, grad_output = (LAYOUTS_2D[layout](a) for a in (x, weight, grad_output))
    wanted = reference.linear_backward(grad_output, x, weight)
    result = run(functional.linear_backward, grad_output, x, weight)
    for name, actual, value in zip(("grad_input", "grad_weight", "grad_bias"), result, wanted, strict=True):
        assert_close(actual, value, "float32", name, looser=10)  # broadcast terms round to the same side each time


@pytest.mark.parametrize("needs", list(itertools.product([True, False], repeat=3)))
def test_needs(needs, rng, run):
    x, weight, _, grad_output = arrays((7, 20, 11), rng, "float32")
    result = run(functional.linear_backward, grad_output, x, weight, needs=needs)
    assert [gradient is not None for gradient in result] == list(needs)
    for actual, value in zip(result, reference.linear_backward(grad_output, x, weight), strict=True):
        if actual is not None:
            assert_close(actual, value, "float32")


@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (2, 1, 3), (0, 3)], ids=str)
def test_leading_axes(leading, rng, run):
    x, weight = random_array(rng, (*leading, 12), "float64"), random_array(rng, (7, 12), "float64")
    bias, grad_output = random_array(rng, (7,), "float64"), random_array(rng, (*leading, 7), "float64")
    output = run(functional.linear, x, weight, bias)
    expected = reference.linear(x.reshape(-1, 12), weight, bias).reshape(*leading, 7)
    assert_close(output, expected, "float64")
    grad_input, grad_weight, grad_bias = run(functional.linear_backward, grad_output, x, weight)
    wanted = reference.linear_backward(grad_output.reshape(-1, 7), x.reshape(-1, 12), weight)
    assert_close(grad_input, wanted[0].reshape(x.shape), "float64")
    assert_close(grad_weight, wanted[1], "float64")
    assert_close(grad_bias, wanted[2], "float64")


@pytest.mark.parametrize("layout", LAYOUTS_2D)
def test_layouts(layout, rng, run):
    x, weight, bias, grad_output = (LAYOUTS_2D[layout](a) for a in arrays((9, 20, 11), rng, "float32"))
    with Unchanged(x, weight, bias, grad_output):
        output = run(functional.linear, x, weight, bias)
        result = run(functional.linear_backward, grad_output, x, weight)
    assert_close(output, reference.linear(x, weight, bias), "float32")
    for actual, value in zip(result, reference.linear_backward(grad_output, x, weight), strict=True):
        assert_close(actual, value, "float32")


@pytest.mark.parametrize("size", [(37, 130, 70), (2, 3072, 10), (600, 3, 4)], ids=str)
def test_parallel_and_serial_twins_agree_in_every_bit(size, rng, monkeypatch):
    from numbaconv import parallel

    x, weight, bias, grad_output = arrays(size, rng, "float32")
    results = []
    for limit in (0.0, float("inf")):
        monkeypatch.setattr(parallel, "PARALLEL_WORK_NS", limit)
        gradients = functional.linear_backward(grad_output, x, weight)
        results.append([functional.linear(x, weight, bias), *gradients])
    for shared, alone in zip(*results, strict=True):
        np.testing.assert_array_equal(shared, alone)
    assert_close(results[0][0], reference.linear(x, weight, bias), "float32")
