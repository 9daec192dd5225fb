"""Run by test_cuda_conv.py in a process with NUMBA_ENABLE_CUDASIM=1: tiny convolutions and linear layers."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from cases import FEW_NAMES, SHAPES
from compare import assert_close, random_array

from numbaconv import functional, to_device, to_host

TINY = [case for case in SHAPES if case.name in FEW_NAMES and np.prod(case.x) * case.weight[0] < 10_000]


@pytest.mark.parametrize(
    ("case", "dtype"), [(case, ("float32", "float64")[i % 2]) for i, case in enumerate(TINY)], ids=str
)
def test_convolution(case, dtype):
    rng = np.random.default_rng(1)
    x, weight, bias = (random_array(rng, s, dtype) for s in (case.x, case.weight, case.weight[:1]))
    expected = reference.conv2d(x, weight, bias, **case.arguments)
    grad_output = random_array(rng, expected.shape, dtype)
    x_, weight_, bias_, grad_output_ = (to_device(a, "cuda") for a in (x, weight, bias, grad_output))
    assert_close(to_host(functional.conv2d(x_, weight_, bias_, **case.arguments)), expected, dtype, "output")
    grads = [to_host(g) for g in functional.conv2d_backward(grad_output_, x_, weight_, **case.arguments)]
    for got, wanted in zip(
        grads,
        (
            reference.conv2d_backward_input(grad_output, weight, case.x, **case.arguments),
            reference.conv2d_backward_weight(grad_output, x, case.weight, **case.arguments),
            reference.conv2d_backward_bias(grad_output),
        ),
        strict=True,
    ):
        assert_close(got, wanted, dtype, "gradient")


def test_linear():
    rng = np.random.default_rng(2)
    x, weight, bias = (random_array(rng, s, "float32") for s in ((3, 8), (4, 8), (4,)))
    x_, weight_, bias_ = (to_device(a, "cuda") for a in (x, weight, bias))
    assert_close(to_host(functional.linear(x_, weight_, bias_)), reference.linear(x, weight, bias), "float32")
