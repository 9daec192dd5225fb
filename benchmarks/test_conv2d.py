"""conv2d: forward, the whole backward, and each of its two large parts."""

from __future__ import annotations

import pytest

from . import reference
from .cases import CONV, each
from .kinds import MOST_ERROR

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

    def check(output):
        assert reference.forward_error(row, provider.to_numpy(output), x, weight, bias) < MOST_ERROR[x.dtype.name]

    timed(
        lambda: provider.conv2d(row, *own),
        check,
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
        grad_input, grad_weight, _ = gradients
        if needs[0]:
            error = reference.input_gradient_error(row, provider.to_numpy(grad_input), grad_output, weight)
            assert error < MOST_ERROR[x.dtype.name]
        if needs[1]:
            error = reference.weight_gradient_error(row, provider.to_numpy(grad_weight), grad_output, x)
            assert error < MOST_ERROR[x.dtype.name]

    timed(
        lambda: provider.conv2d_backward(row, *own, needs),
        check,
        group=f"conv2d {part}",
        flops=row.flops * (2 if part == "backward" else 1),
    )
