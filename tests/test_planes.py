"""Vectors along pixels: every number of results and channels around a tile and a vector, every end of a line."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from compare import assert_close
from guards import guarded

import numbaconv
from numbaconv import functional
from numbaconv.cpu.conv2d import planes
from numbaconv.cpu.conv2d.choose import choose
from numbaconv.shapes import conv2d_problem

# N, C, H, W; K, R, S; arguments.
CASES = {
    "lenet_c1": ((2, 1, 28, 28), (6, 5, 5), {"padding": 2}),
    "lenet_c2": ((2, 6, 14, 14), (16, 5, 5), {}),
    "cifar": ((2, 3, 32, 32), (10, 5, 5), {"padding": 2}),
    "many_channels_to_three": ((1, 64, 9, 30), (3, 3, 3), {"padding": 1}),
    "inner_loop_cut": ((1, 600, 4, 5), (2, 2, 2), {}),
    "outer_loop_cut": ((1, 150, 5, 6), (5, 3, 3), {"padding": 1}),
    "many_outputs": ((1, 3, 6, 20), (37, 3, 3), {"padding": 1}),
    "dilated": ((2, 3, 20, 21), (7, 3, 2), {"padding": (2, 3), "dilation": (2, 3)}),
    "asymmetric_padding": ((1, 2, 8, 9), (4, 3, 4), {"padding": "same"}),
    "more_padding_than_filter": ((2, 2, 4, 5), (5, 2, 3), {"padding": 4}),
    "one_row": ((1, 5, 1, 40), (4, 1, 7), {"padding": (0, 3)}),
    "one_column": ((1, 5, 40, 1), (4, 7, 2), {"padding": (3, 1)}),
    "several_tasks_an_image": ((1, 4, 70, 40), (5, 3, 3), {"padding": 1}),
    "long_line": ((1, 2, 2, 2100), (3, 2, 2), {}),
}


def check(x, weight, bias, arguments, dtype, layout):
    expected = reference.conv2d(x, weight, bias, **arguments)
    grad_output = np.random.default_rng(1).standard_normal(expected.shape)
    wanted = (
        reference.conv2d_backward_input(grad_output, weight, x.shape, **arguments),
        reference.conv2d_backward_weight(grad_output, x, weight.shape, **arguments),
        reference.conv2d_backward_bias(grad_output),
    )
    x, weight, bias, grad_output = (a.astype(dtype) for a in (x, weight, bias, grad_output))
    if layout == "channels_last":
        x, grad_output = numbaconv.channels_last(x), numbaconv.channels_last(grad_output)
    with numbaconv.algorithm("planes"), guarded():
        assert_close(functional.conv2d(x, weight, bias, **arguments), expected, dtype, "output")
        rectified = functional.conv2d(x, weight, bias, relu=True, **arguments)
        assert_close(rectified, np.maximum(expected, 0), dtype, "relu")
        grads = functional.conv2d_backward(grad_output, x, weight, **arguments)
    for name, actual, value in zip(("grad_input", "grad_weight", "grad_bias"), grads, wanted, strict=True):
        assert_close(actual, value, dtype, name)


@pytest.mark.reduced
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("case", CASES)
def test_all_directions(case, layout, dtype, rng):
    (n, c, h, w), (k, r, s), arguments = CASES[case]
    x, weight = rng.standard_normal((n, c, h, w)), rng.standard_normal((k, c, r, s))
    check(x, weight, rng.standard_normal(k), arguments, dtype, layout)


@pytest.mark.reduced
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 7, 12, 13, 15, 16, 17, 31, 33])
def test_every_number_of_results_and_channels(channels, rng):
    """Copies go a channel at a time, in a block of which part is thrown away, or in whole blocks that overlap."""
    for other, width in ((3, 16), (5, 19), (18, 33)):
        for c, k in ((channels, other), (other, channels)):
            x, weight = rng.standard_normal((1, c, 5, width)), rng.standard_normal((k, c, 2, 3))
            check(x, weight, rng.standard_normal(k), {"padding": 1}, "float32", "channels_last")


@pytest.mark.reduced
@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 9, 15, 17, 31, 32, 47, 63, 64, 65])
def test_every_end_of_a_line(width, rng):
    x, weight = rng.standard_normal((2, 5, 3, width)), rng.standard_normal((6, 5, 2, 3))
    for layout in ("channels_first", "channels_last"):
        check(x, weight, rng.standard_normal(6), {"padding": (0, 2)}, "float32", layout)


def test_chosen_where_vectors_of_channels_would_waste_more():
    first = conv2d_problem((64, 1, 28, 28), (6, 1, 5, 5), None, 1, 2, 1, 1)
    assert [choose(first, direction, None).name for direction in ("forward", "backward_weight")] == ["planes"] * 2
    wide = conv2d_problem((8, 3, 32, 32), (64, 3, 3, 3), None, 1, 1, 1, 1)
    assert choose(wide, "forward", None).name == "direct"
    assert choose(wide, "backward_input", None).name == "col2im"
    strided = conv2d_problem((8, 3, 32, 32), (6, 3, 3, 3), None, 2, 1, 1, 1)
    assert "stride" in planes.supports(strided)
    assert "groups" in planes.supports(conv2d_problem((8, 4, 32, 32), (6, 2, 3, 3), None, 1, 1, 1, 2))
    assert "column" in planes.pays(conv2d_problem((8, 3, 32, 32), (6, 3, 5, 1), None, 1, 0, 1, 1), "forward")
    many = conv2d_problem((8, 512, 32, 32), (3, 512, 3, 3), None, 1, 1, 1, 1)
    assert [choose(many, d, None).name for d in ("forward", "backward_weight")] == ["planes", "direct"]
    assert "terms" in planes.pays(conv2d_problem((8, 1, 32, 32), (6, 1, 3, 3), None, 1, 0, 1, 1), "forward")


ENDS_AT_A_PAGE = """
import ctypes, mmap
import numpy as np
import numbaconv
from numbaconv import functional

pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
assert ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(start + mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
x = np.frombuffer(pages, np.float32, 5 * 6 * 20, mmap.PAGESIZE - 4 * 5 * 6 * 20).reshape(1, 6, 20, 5)
x = x.transpose(0, 3, 1, 2)  # its last element is the page's last
weight = np.ones((5, 5, 1, 5), np.float32)
with numbaconv.algorithm("planes"):
    y = functional.conv2d(x, weight, padding=(0, 2))
    functional.conv2d_backward(x, numbaconv.channels_last(y), weight, padding=(0, 2))
print(y.shape)
"""


@pytest.mark.reduced
def test_nothing_is_read_behind_an_array(run_python):
    """Blocks of which part is thrown away may not begin where they would end behind the last channel."""
    assert "(1, 5, 6, 20)" in run_python(ENDS_AT_A_PAGE)
