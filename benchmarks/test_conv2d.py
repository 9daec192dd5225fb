"""conv2d: forward, the whole backward, and each of its two large parts."""

from __future__ import annotations

import pytest

from .cases import CONV, each
from .checks import check_conv2d, check_conv2d_backward

GRADIENTS = {
    "backward": (True, True, True),
    "backward_input": (True, False, False),
    "backward_weight": (False, True, False),
}


@pytest.fixture
def arrays(row, rng, dtype):
    """x, weight, bias, grad_output, as NumPy arrays."""
    shapes = row.input_shape, row.weight_shape, (row.out_channels,), row.output_shape
    return [rng.standard_normal(shape, dtype=dtype) for shape in shapes]


@each(CONV)
def test_forward(row, arrays, provider, layout, timed):
    x, weight, bias, _ = arrays
    own = [provider.array(a, layout if a is x else "channels_first") for a in (x, weight, bias)]
    timed(
        lambda: provider.conv2d(row, *own),
        lambda output: check_conv2d(row, provider.to_numpy(output), x, weight, bias),
        group="conv2d forward",
        flops=row.flops,
    )


@pytest.mark.parametrize("part", GRADIENTS)
@each(CONV)
def test_backward(row, part, arrays, provider, layout, timed):
    x, weight, _, grad_output = arrays
    own = [provider.array(a, "channels_first" if a is weight else layout) for a in (grad_output, x, weight)]
    needs = GRADIENTS[part]

    def check(gradients):
        host = [provider.to_numpy(g) if need else None for g, need in zip(gradients, needs, strict=True)]
        check_conv2d_backward(row, host, grad_output, x, weight)

    timed(
        lambda: provider.conv2d_backward(row, *own, needs),
        check,
        group=f"conv2d {part}",
        flops=row.flops * (2 if part == "backward" else 1),
    )
