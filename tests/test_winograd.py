"""Winograd: its transforms in exact arithmetic, its variants on filters and edges of every kind, its accuracy."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import reference
from compare import assert_close

import numbaconv
from numbaconv import functional
from numbaconv.cpu.conv2d import prepare_conv2d, winograd_plan
from numbaconv.cpu.conv2d.winograd_points import transform_data, transform_filter, transform_result
from numbaconv.cpu.conv2d.winograd_tiling import block_of, blocks_for, count_runs, run_of, tile_of
from numbaconv.cpu.simd import VECTOR_BYTES
from numbaconv.errors import ArgumentError
from numbaconv.shapes import conv2d_problem


class Exact:
    """A number that is added, subtracted and multiplied without rounding."""

    def __init__(self, value):
        self.value = Fraction(value)

    def __add__(self, other):
        return Exact(self.value + other.value)

    def __sub__(self, other):
        return Exact(self.value - other.value)

    def __mul__(self, number):
        return Exact(self.value * Fraction(number).limit_denominator(10**6))


@pytest.mark.reduced
@pytest.mark.parametrize(
    ("m", "r"), [(1, 1), (4, 1), (4, 2), (2, 3), (3, 2), (4, 3), (3, 4), (2, 5), (5, 2), (4, 5), (5, 4), (6, 3), (2, 7)]
)
def test_transforms_are_exactly_a_correlation(m, r, rng):
    data, taps = ([Exact(int(v)) for v in rng.integers(-9, 10, size)] for size in (m + r - 1, r))
    filters = transform_filter(taps, m + r - 1)
    filters *= m if r == 1 else 1  # one for all
    products = [Exact(g.value * d.value) for g, d in zip(filters, transform_data(data, m), strict=True)]
    expected = [sum(data[i + j].value * taps[j].value for j in range(r)) for i in range(m)]
    assert [y.value for y in transform_result(products, m)] == expected


# N, C, H, W; K, R, S; then stride-1 arguments. Edges cut tiles on every side; blocks and register tiles are cut too.
CASES = {
    "3x3": ((2, 20, 13, 29), (33, 3, 3), {"padding": 1}),
    "3x3_one_vector": ((1, 16, 8, 8), (16, 3, 3), {}),
    "3x3_asymmetric": ((1, 17, 9, 6), (65, 3, 3), {"padding": ((2, 0), (0, 3))}),
    "3x3_smaller_than_a_tile": ((3, 16, 3, 3), (16, 3, 3), {"padding": 0}),
    "5x5": ((1, 19, 11, 14), (40, 5, 5), {"padding": 2}),
    "1x3": ((1, 32, 6, 19), (48, 1, 3), {"padding": (0, 1)}),
    "3x1_dilated": ((2, 16, 23, 5), (16, 3, 1), {"padding": (2, 0), "dilation": (3, 1)}),
    "2x2": ((2, 18, 14, 17), (35, 2, 2), {"padding": 1}),
    "2x3_dilated": ((1, 16, 15, 12), (16, 2, 3), {"padding": (0, 2), "dilation": (2, 1)}),
    "7x1": ((1, 16, 17, 7), (24, 7, 1), {"padding": (3, 0)}),
    "3x5": ((1, 16, 9, 17), (16, 3, 5), {"padding": (1, 2)}),
    "dilation_2": ((1, 18, 15, 16), (16, 3, 3), {"padding": 2, "dilation": 2}),
    "groups": ((2, 66, 7, 9), (34, 3, 3), {"padding": 1, "groups": 2}),
    "groups_wide": ((1, 32, 10, 10), (160, 3, 3), {"padding": 1, "groups": 2}),
    "many_tiles": ((2, 16, 57, 61), (16, 3, 3), {"padding": 1}),
    "more_than_512_channels": ((1, 520, 8, 8), (16, 3, 3), {"padding": 1}),
    "filters_transformed_in_segments": ((1, 300, 9, 10), (70, 3, 3), {"padding": 1}),
    "groups_in_segments": ((1, 300, 7, 9), (256, 3, 3), {"padding": 1, "groups": 2}),
    "filters_read_often": ((2, 70, 45, 41), (150, 3, 3), {"padding": 1}),
    # The last block of columns, of 64 in float32 with AVX-512, has 1, 2 and 3 vectors of them.
    "columns_of_1_and_3_vectors_more": ((1, 72, 20, 21), (104, 3, 3), {"padding": 1}),
    "columns_of_2_and_3_vectors_more": ((1, 90, 9, 13), (40, 3, 3), {"padding": 1}),
    "groups_with_columns_more": ((2, 66, 9, 9), (144, 3, 3), {"padding": 1, "groups": 2}),
}

DEFAULTS = {"padding": 0, "dilation": 1, "groups": 1}


def combinations():
    """Each filter size is a kernel of its own, in each variant and type: quick is one of four in turn, for 3x3 all."""
    kinds = (4, "float32"), (2, "float64"), (4, "float64"), (2, "float32")
    for turn, (case, (_, (_, r, s), _)) in enumerate(CASES.items()):
        for number, (results, dtype) in enumerate(kinds):
            is_quick = (r, s) == (3, 3) or number == turn % 4
            marks = () if is_quick else pytest.mark.full
            yield pytest.param(case, results, dtype, id=f"{case}-{results}-{dtype}", marks=marks)


@pytest.mark.reduced
@pytest.mark.parametrize(("case", "results", "dtype"), list(combinations()))
def test_all_directions(case, results, dtype, rng):
    input_shape, (k, r, s), arguments = CASES[case]
    x = rng.standard_normal(input_shape)
    weight = rng.standard_normal((k, input_shape[1] // arguments.get("groups", 1), r, s))
    bias = rng.standard_normal(k)
    expected = reference.conv2d(x, weight, bias, **arguments)
    grad_output = rng.standard_normal(expected.shape)
    wanted = (
        reference.conv2d_backward_input(grad_output, weight, x.shape, **arguments),
        reference.conv2d_backward_weight(grad_output, x, weight.shape, **arguments),
        reference.conv2d_backward_bias(grad_output),
    )
    x, weight, bias, grad_output = (a.astype(dtype) for a in (x, weight, bias, grad_output))
    problem = conv2d_problem(x.shape, weight.shape, bias.shape, 1, *(arguments.get(n, d) for n, d in DEFAULTS.items()))
    with numbaconv.algorithm(f"winograd_{results}"):
        if results + max(r, s) - 1 > 8 or results + min(r, s) - 1 == 3:  # points that there are no transforms for
            with pytest.raises(ArgumentError, match="there are no transforms"):
                functional.conv2d(x, weight, bias, **arguments)
            return
        output = functional.conv2d(x, weight, bias, **arguments)
        prepared = prepare_conv2d(weight, bias)(problem, x, False)
        grads = functional.conv2d_backward(grad_output, x, weight, **arguments)
    assert_close(output, expected, dtype, "output", looser=5.0)
    assert_close(prepared, expected, dtype, "prepared", looser=5.0)
    for name, actual, value in zip(("grad_input", "grad_weight", "grad_bias"), grads, wanted, strict=True):
        assert_close(actual, value, dtype, name, looser=5.0)


@pytest.fixture
def nothing_fused(monkeypatch):
    monkeypatch.setattr(winograd_plan, "_FUSED_FILTER_BYTES", 0)
    winograd_plan.plan_for.cache_clear()
    yield
    winograd_plan.plan_for.cache_clear()


@pytest.mark.reduced
@pytest.mark.parametrize("case", [case for case, (_, (_, r, s), _) in CASES.items() if (r, s) == (3, 3)])
def test_not_fused(case, rng, nothing_fused):
    test_all_directions(case, 4, "float32", rng)


@pytest.mark.parametrize("itemsize", [4, 8])
def test_blocks_have_less_than_a_vector_too_many(itemsize):
    lanes = VECTOR_BYTES // itemsize
    for columns in range(1, 300):
        cut = blocks_for(columns, itemsize)
        parts = [block_of.py_func(b, cut.blocks, cut.block, columns, itemsize) for b in range(2 * cut.blocks)]
        assert [group for group, *_ in parts] == [0] * cut.blocks + [1] * cut.blocks
        assert sum(count for _, _, count, _ in parts) == 2 * columns
        assert sum(width for *_, width in parts) < 2 * (columns + lanes)
        assert all(count <= width <= cut.block and width % lanes == 0 for _, _, count, width in parts)
        assert all(cut.rows % tile_of.py_func(width, itemsize)[0] == 0 for *_, width in parts)


@pytest.mark.parametrize("most", [12, 24, 96])
@pytest.mark.parametrize("columns", [64, 80])
def test_runs_cover_the_tiles(columns, most):
    cut = blocks_for(columns, 4)
    for tiles in range(1, 400):
        for alone in (True, False):
            runs, longest = count_runs(tiles, most, cut, alone)
            tiling = SimpleNamespace(unit=cut.rows, runs=runs)
            parts = [run_of.py_func(number, tiling, tiles) for number in range(runs)]
            ends = [first + count for first, count in parts]
            assert [first for first, _ in parts] == [0, *ends[:-1]]
            assert ends[-1] == tiles
            assert all(first % cut.rows == 0 and 0 < count <= longest <= most for first, count in parts)
            assert runs % 2 == 0 or runs == -(-tiles // cut.rows) or (alone and runs == 1)


@pytest.mark.parametrize("channels", [64, 1024])
def test_error_of_the_chosen_variant(channels, rng):
    """Relative L2 error against float64 at most 1e-5, in all three directions."""
    x = rng.standard_normal((1, channels, 24, 24), dtype=np.float32)
    weight = rng.standard_normal((channels, channels, 3, 3), dtype=np.float32)
    problem = conv2d_problem(x.shape, weight.shape, None, 1, 1, 1, 1)
    grad_output = rng.standard_normal(problem.output_shape, dtype=np.float32)
    wide = [a.astype(np.float64) for a in (x, weight, grad_output)]
    with numbaconv.algorithm("winograd_4"):
        actual = [functional.conv2d(x, weight, padding=1)]
        actual += functional.conv2d_backward(grad_output, x, weight, padding=1)[:2]
    with numbaconv.algorithm("direct"):
        expected = [functional.conv2d(wide[0], wide[1], padding=1)]
        expected += functional.conv2d_backward(wide[2], wide[0], wide[1], padding=1)[:2]
    for a, e in zip(actual, expected, strict=True):
        assert np.linalg.norm(a - e) <= 1e-5 * np.linalg.norm(e)


def test_an_inf_stays_in_its_tile(rng):
    x = rng.standard_normal((1, 32, 40, 40), dtype=np.float32)
    weight = rng.standard_normal((32, 32, 3, 3), dtype=np.float32)
    x[0, 3, 17, 21] = np.inf
    with numbaconv.algorithm("winograd_4"), np.errstate(invalid="ignore"):
        finite = np.isfinite(functional.conv2d(x, weight, padding=1)[0, 0])
    rows, columns = np.where(~finite)
    assert {rows.min(), rows.max(), columns.min(), columns.max()} <= set(range(12, 24))
    assert not finite[16:19, 20:23].any()
