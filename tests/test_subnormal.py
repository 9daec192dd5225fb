"""Convolutions, `linear` and optimizer steps take subnormal numbers for zero, without leaving the state behind."""

from __future__ import annotations

import platform

import numpy as np
import pytest

import numbaconv
from numbaconv import algorithm, functional
from numbaconv.cpu.conv2d.choose import ALGORITHMS
from numbaconv.shapes import conv2d_problem

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="other CPUs take subnormals at full speed"
)
SMALL = {"float32": 1e-40, "float64": 1e-310}
# (x, weight, groups, stride): of the algorithms, each supports one of them; work for one thread and for two.
PROBLEMS = [
    ((1, 16, 8, 8), (16, 16, 3, 3), 1, 1),
    ((4, 32, 40, 40), (32, 32, 3, 3), 1, 1),
    ((4, 64, 20, 20), (64, 64, 1, 1), 1, 1),
    ((4, 64, 40, 40), (64, 1, 3, 3), 64, 1),
    ((2, 3, 40, 40), (16, 3, 5, 5), 1, 1),
    ((2, 3, 80, 80), (16, 3, 5, 5), 1, 2),
    ((2, 16, 80, 80), (16, 16, 3, 3), 1, 2),
]


def _state_is_the_callers(dtype: str) -> bool:
    value = np.full(64, SMALL[dtype], dtype)
    return bool(((value * np.asarray(0.5, dtype)) > 0).all())


@pytest.fixture(params=[1, 2])
def threads(request):
    with numbaconv.num_threads(min(request.param, numbaconv.get_num_threads())):
        yield


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize("record", ALGORITHMS, ids=lambda record: record.name)
def test_conv2d(record, dtype, threads):
    tried = 0
    for x_shape, w_shape, groups, stride in PROBLEMS:
        padding = w_shape[2] // 2
        if record.supports(conv2d_problem(x_shape, w_shape, None, stride, padding, 1, groups)):
            continue
        tried += 1
        x, weight = np.full(x_shape, SMALL[dtype], dtype), np.ones(w_shape, dtype)
        options = {"padding": padding, "groups": groups, "stride": stride}
        with algorithm(record.name):
            out = functional.conv2d(x, weight, **options)
            grad = np.full_like(out, SMALL[dtype])
            grads = functional.conv2d_backward(grad, np.ones_like(x), weight, **options)
        assert not out.any()
        assert not grads[0].any()
        assert not grads[1].any()
        assert _state_is_the_callers(dtype)
    assert tried


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize("rows", [1, 3, 256])
def test_linear(rows, dtype, threads):
    x, weight = np.full((rows, 512), SMALL[dtype], dtype), np.ones((300, 512), dtype)
    out = functional.linear(x, weight)
    grads = functional.linear_backward(np.full_like(out, SMALL[dtype]), np.ones_like(x), weight)
    assert not out.any()
    assert not grads[0].any()
    assert not grads[1].any()
    assert _state_is_the_callers(dtype)


@pytest.mark.parametrize("dtype", SMALL)
def test_a_product_too_small(dtype):
    tiny = np.asarray(np.finfo(dtype).smallest_normal, dtype)
    x, weight = np.full((1, 16, 8, 8), tiny), np.full((16, 16, 1, 1), np.asarray(1 / 256, dtype))
    assert not functional.conv2d(x, weight).any()


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize("size", [5, 100_000])
def test_optimizer_steps(size, dtype, threads):
    """What is left of a velocity, or of an average of gradients, that gets nothing any more ends at zero."""
    parameter, velocity, mean, square = (np.full(size, value, dtype) for value in (1, *[SMALL[dtype]] * 3))
    grad = np.zeros_like(parameter)
    functional.sgd_update(parameter, grad, velocity, lr=0.1, momentum=0.9)
    functional.adam_update(parameter, grad, mean, square, lr=0.1, step=7)
    assert not velocity.any()
    assert not mean.any()
    assert not square.any()
    assert (parameter == 1).all()
    faint = np.full(size, SMALL[dtype], dtype)
    functional.sgd_update(faint, grad, lr=0.1)
    assert not faint.any()
    assert _state_is_the_callers(dtype)


@pytest.mark.parametrize("dtype", SMALL)
def test_others_keep_them(dtype, threads):
    """Where a value is only chosen, moved or added, it stays: in both kinds of loop, short and on threads."""
    for size in (8, 256):
        x = np.full((2, 4, size, size), SMALL[dtype], dtype)
        assert (functional.relu(x) == x).all()
        assert (functional.max_pool2d(x, 2) == x[:, :, ::2, ::2]).all()
        assert (functional.add(x, np.zeros_like(x)) == x).all()
        assert (functional.flatten(x).ravel() == x.ravel()).all()
