"""1x1 convolution of channels-first images: every remainder of its blocks, spans, runs and segments."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from compare import Unchanged, assert_close, random_array

from numbaconv import functional
from numbaconv.cpu.conv2d import prepare_conv2d
from numbaconv.shapes import conv2d_problem

# N, C, H, W; K
CASES = {
    "fewest_pixels": ((2, 5, 4, 8), 7),
    "one_block_and_4": ((1, 17, 4, 17), 6),
    "two_vectors_left": ((2, 16, 6, 15), 13),
    "three_vectors_left": ((1, 3, 10, 17), 64),
    "two_spans": ((2, 9, 17, 19), 5),
    "two_segments": ((1, 300, 5, 9), 20),
    "three_runs": ((1, 8, 6, 6), 390),
    "all_of_them": ((2, 260, 16, 17), 200),
}


@pytest.mark.reduced
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_forward_and_input_gradient(case, dtype, rng, run):
    shape, k = CASES[case]
    x, weight, bias = (random_array(rng, s, dtype) for s in (shape, (k, shape[1], 1, 1), (k,)))
    expected = reference.conv2d(x, weight, bias)
    grad_output = random_array(rng, expected.shape, dtype)
    with Unchanged(x, weight, bias, grad_output):
        output = run(functional.conv2d, x, weight, bias)
        without = run(functional.conv2d, x, weight, relu=True)
        prepared = prepare_conv2d(weight, bias)(conv2d_problem(x.shape, weight.shape, None, 1, 0, 1, 1), x, False)
        grad_input = run(functional.conv2d_backward_input, grad_output, weight, x.shape)
    assert_close(output, expected, dtype, "output")
    assert_close(prepared, expected, dtype, "prepared")
    assert_close(without, np.maximum(reference.conv2d(x, weight), 0), dtype, "without bias, with ReLU")
    wanted = reference.conv2d_backward_input(grad_output, weight, x.shape)
    assert_close(grad_input, wanted, dtype, "grad_input")
    assert output.flags.c_contiguous
    assert grad_input.flags.c_contiguous


def test_nan_passes_relu_and_stays_in_its_pixel(rng):
    x = rng.standard_normal((1, 20, 8, 8), dtype=np.float32)
    x[0, 3, 2, 5] = np.nan
    output = functional.conv2d(x, rng.standard_normal((9, 20, 1, 1), dtype=np.float32), relu=True)
    assert np.isnan(output[0, :, 2, 5]).all()
    assert np.isnan(output).sum() == 9
