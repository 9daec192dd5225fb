"""Random problems for hypothesis: convolutions, transposed ones, poolings, linear layers; and ways to spoil a call."""

from __future__ import annotations

import numpy as np
import reference
from hypothesis import assume
from hypothesis import strategies as st
from pool_reference import PoolCase, as_pair, windows

small = st.integers(0, 3)
PADDINGS = st.one_of(
    small,
    st.tuples(small, small),
    st.tuples(st.tuples(small, small), st.tuples(small, small)),
    st.sampled_from(["same", "valid"]),
)
one_or_pair = st.one_of(st.integers(1, 4), st.tuples(st.integers(1, 4), st.integers(1, 4)))
# Weighted towards the usual: a vector's worth of channels and a tile's worth of pixels
few_channels = st.one_of(st.integers(1, 5), st.sampled_from([16, 17, 33]))


@st.composite
def convolutions(draw):
    """The arguments of a conv2d whose channels fit; its kernel may be larger than its input."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 5]))
    per_group, out_per_group = draw(few_channels), draw(few_channels)
    assume(groups * max(per_group, out_per_group) <= 66)
    x = (draw(st.integers(0, 3)), groups * per_group, draw(st.integers(1, 15)), draw(st.integers(1, 15)))
    weight = (groups * out_per_group, per_group, draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    arguments = {
        "stride": draw(one_or_pair),
        "padding": draw(PADDINGS),
        "dilation": draw(st.one_of(st.just(1), one_or_pair)),
        "groups": groups,
    }
    return x, weight, arguments


@st.composite
def transposed_convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    per_group, out_per_group = draw(few_channels), draw(few_channels)
    x = (draw(st.integers(0, 2)), groups * per_group, draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    weight = (groups * per_group, out_per_group, draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride, dilation = draw(one_or_pair), draw(st.one_of(st.just(1), one_or_pair))
    limits = [max(a, b) - 1 for a, b in zip(reference.as_pair(stride), reference.as_pair(dilation), strict=True)]
    arguments = {
        "stride": stride,
        "padding": draw(st.one_of(small, st.tuples(small, small))),
        "output_padding": tuple(draw(st.integers(0, limit)) for limit in limits),
        "groups": groups,
        "dilation": dilation,
    }
    return x, weight, arguments


def transposed_sizes(shape, weight_shape, arguments):
    """(rows, columns) of the result; less than 1 where there is none."""
    stride, padding, dilation = (reference.as_pair(arguments[name]) for name in ("stride", "padding", "dilation"))
    return [
        (shape[2 + i] - 1) * stride[i]
        - 2 * padding[i]
        + dilation[i] * (weight_shape[2 + i] - 1)
        + arguments["output_padding"][i]
        + 1
        for i in (0, 1)
    ]


@st.composite
def poolings(draw, dilated):
    """A `PoolCase` whose padding is allowed; its window may be larger than its input."""
    shape = (draw(st.integers(0, 2)), draw(st.sampled_from([1, 2, 3, 17])), *(draw(st.integers(1, 9)) for _ in "hw"))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    return PoolCase(
        "drawn",
        shape,
        kernel,
        draw(st.one_of(st.none(), st.tuples(st.integers(1, 4), st.integers(1, 4)))),
        tuple(draw(st.integers(0, size // 2)) for size in kernel),
        draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) if dilated else 1,
        draw(st.booleans()),
    )


def pooling_fits(case):
    """Whether each axis has a window, and each window an element of the image."""
    kernel, dilation, padding = map(as_pair, (case.kernel_size, case.dilation, case.padding))
    stride = kernel if case.stride is None else as_pair(case.stride)
    for i in (0, 1):
        size = case.x[2 + i]
        hangs_over = stride[i] - 1 if case.ceil_mode else 0
        if dilation[i] * (kernel[i] - 1) + 1 > size + 2 * padding[i] + hangs_over:
            return False
        for taps in windows(size, kernel[i], stride[i], padding[i], dilation[i], case.ceil_mode):
            if not any(0 <= tap < size for tap in taps):
                return False
    return True


linears = st.tuples(
    st.sampled_from([0, 1, 2, 5, 8, 17, 33]),  # rows
    st.sampled_from([1, 2, 3, 15, 16, 17, 64, 70, 600]),  # in_features: sums are cut at 512
    st.sampled_from([1, 2, 3, 15, 16, 17, 33, 65]),  # out_features
)

# --- spoiling ----------------------------------------------------------------------------------------------

# What no array argument may be, whatever the operation
BAD_ARRAYS = {
    "int64": lambda a: a.astype(np.int64),
    "uint8": lambda a: np.ones(a.shape, np.uint8),
    "float16": lambda a: a.astype(np.float16),
    "complex128": lambda a: a.astype(np.complex128),
    "bool": lambda a: a > 0,
    "objects": lambda a: a.astype(object),
    "records": lambda a: np.zeros(a.shape, [("value", a.dtype)]),
    "masked": lambda a: np.ma.masked_invalid(a),
    "list": lambda a: a.tolist(),
    "None": lambda a: None,
    "text": lambda a: "array",
    "scalar": lambda a: 1.0,
    "no axes": lambda a: np.ones((), a.dtype),
    "two more axes": lambda a: a[None, None],
    "one more channel": lambda a: np.concatenate([a, a[:, :1]], axis=1),
    "one channel less": lambda a: a[:, :-1],
}
# What no size may be: kernel_size, stride, dilation, groups
BAD_SIZES = [0, -1, -(2**70), 1.5, float("nan"), "2", b"2", (), (1,), (1, 1, 1), (1, 0), (1.0, 1), True, {}, [[1], [1]]]
BAD_PADDINGS = [-1, (0, -1), 1.5, float("inf"), "full", b"valid", (), (1,), (1, 1, 1, 1), {}, ((1, 1), (1, -1)), True]
