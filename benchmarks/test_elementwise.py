"""Operations bound by memory, forward and backward: gigabytes per second, not flops."""

from __future__ import annotations

import numpy as np
import pytest

from . import elementwise
from .cases import ELEMENTWISE, each
from .kinds import MOST_ERROR
from .providers import Unavailable


@pytest.fixture
def arrays(row, rng, dtype):
    """x, and what else the operation takes, as NumPy arrays."""

    def normal(shape):
        return rng.standard_normal(shape, dtype=dtype)

    return normal(row.shape), elementwise.operands(row, normal)


@pytest.fixture
def own(row, arrays, provider, layout):
    """The same as the provider's arrays: x, arguments."""
    x, others = arrays
    return provider.array(x, layout), {
        **row.arguments,
        **{name: provider.array(a, layout) for name, a in others.items()},
    }


@each(ELEMENTWISE)
def test_forward(row, arrays, own, provider, dtype, timed):
    x, others = arrays

    def check(result):
        assert elementwise.forward_error(row, provider.to_numpy(result[0]), x, others) < MOST_ERROR[dtype]

    nbytes = row.streams[0] * x.nbytes
    timed(lambda: provider.forward(row.op, *own), check, group="elementwise forward", nbytes=nbytes)


@each(ELEMENTWISE)
def test_backward(row, arrays, own, rng, provider, dtype, layout, timed):
    x, others = arrays
    own_x, arguments = own
    try:
        output, context = provider.forward(row.op, own_x, arguments)
    except Unavailable as reason:
        pytest.skip(str(reason))
    grad_output = np.asarray(rng.standard_normal(provider.to_numpy(output).shape), dtype)
    own_grad = provider.array(grad_output, layout)

    def check(grad_input):
        error = elementwise.backward_error(row, provider.to_numpy(grad_input), grad_output, x, others)
        assert error < MOST_ERROR[dtype]

    timed(
        lambda: provider.backward(row.op, own_grad, own_x, context, arguments),
        check,
        group="elementwise backward",
        nbytes=row.streams[1] * x.nbytes,
    )
