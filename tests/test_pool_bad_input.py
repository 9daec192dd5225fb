"""Bad input to the poolings: one error in one form."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv import functional
from numbaconv.errors import ArgumentError, DeviceError, DTypeError, ShapeError

BAD = {
    "rank": ({"x": np.ones((2, 2), "f4")}, ShapeError, r"x must have 4 axes .*; got x.shape=\(2, 2\)"),
    "no kernel": ({"kernel_size": 0}, ArgumentError, "kernel_size must be at least 1; got kernel_size=0"),
    "kernel of three": ({"kernel_size": (1, 2, 3)}, ArgumentError, "kernel_size must be an int or a"),
    "half a kernel": ({"kernel_size": 1.5}, ArgumentError, "kernel_size must be an int; got kernel_size=1.5"),
    "zero stride": ({"stride": 0}, ArgumentError, "stride must be at least 1; got stride=0"),
    "negative stride": ({"stride": (1, -1)}, ArgumentError, "stride must be at least 1; got stride=-1"),
    "padding": ({"padding": 2}, ArgumentError, "padding must be at most half of kernel_size"),
    "negative padding": ({"padding": -1}, ArgumentError, "padding must be at least 0"),
    "large kernel": ({"kernel_size": 9}, ShapeError, "the window must not be larger than the padded input"),
    "no channels": ({"x": np.ones((2, 0, 5, 5), "f4")}, ShapeError, "x.shape"),
    "integers": ({"x": np.ones((2, 3, 5, 5), "i4")}, DTypeError, "x must be float32 or float64; got x.dtype='int32'"),
}


@pytest.mark.parametrize(("change", "error", "text"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("op", ["max_pool2d", "avg_pool2d"])
def test_bad_arguments(op, change, error, text):
    arguments = {"x": np.ones((2, 3, 5, 5), "f4"), "kernel_size": 2, **change}
    with pytest.raises(error, match=f"^{op}: .*{text}"):
        getattr(functional, op)(**arguments)


@pytest.mark.parametrize(
    ("x", "output_size", "error", "text"),
    [
        (np.ones((3, 4), "f4"), 1, ShapeError, "x must have 4 axes"),
        (np.ones((3, 0, 4, 4), "f4"), 1, ShapeError, "every axis of x but N must be at least 1"),
        (np.ones((3, 4, 4), "f4"), 0, ArgumentError, "output_size must be at least 1"),
        (np.ones((3, 4, 4), "f4"), (1, None), ArgumentError, "output_size must be an int"),
    ],
)
def test_bad_adaptive_arguments(x, output_size, error, text):
    with pytest.raises(error, match=f"^adaptive_avg_pool2d: {text}"):
        functional.adaptive_avg_pool2d(x, output_size)


def test_dilation_over_the_whole_image():
    """A window without an element has no maximum; PyTorch returns -inf and an index outside of the image."""
    with pytest.raises(ShapeError, match=r"max_pool2d: every window must hold an element of x; got x.shape="):
        functional.max_pool2d(np.ones((1, 1, 3, 3), "f4"), 2, padding=1, dilation=4)
    y = functional.max_pool2d(
        np.ones((1, 1, 3, 3), "f4"), (4, 1), padding=(2, 0), dilation=(4, 1), stride=9, ceil_mode=True
    )
    np.testing.assert_array_equal(y, [[[[1]]]])  # its taps: rows -2, 2, 6, 10


def test_bad_indices():
    x = np.arange(16, dtype="f4").reshape(1, 1, 4, 4)
    y, indices = functional.max_pool2d(x, 2, return_indices=True)

    def backward(grad_output=y, indices=indices, input_shape=(1, 1, 4, 4)):
        return functional.max_pool2d_backward(grad_output, indices, input_shape, 2)

    for wrong in (-1, 16, 2**31 - 1):
        bad = indices.copy()
        bad[0, 0, 1, 1] = wrong
        with pytest.raises(ArgumentError, match=r"max_pool2d_backward: indices must be from 0 to H \* W - 1 = 15; got"):
            backward(indices=bad)
    with pytest.raises(ArgumentError, match="largest=4294967311"):
        backward(indices=indices.astype("int64") + 2**32)  # int64: would be in range if cut to 32 bits
    for dtype in ("int64", "uint8", ">i4"):
        np.testing.assert_array_equal(backward(indices=indices.astype(dtype)), backward())
    with pytest.raises(DTypeError, match=r"indices must be integers; got indices.dtype='float32'"):
        backward(indices=indices.astype("f4"))
    with pytest.raises(DTypeError, match="must be an array"):
        backward(indices=[[[[5, 7], [13, 15]]]])
    elsewhere = type("OnTheGpu", (), {"__cuda_array_interface__": {}})()
    with pytest.raises(DeviceError, match="all arrays must be on one device; got grad_output='cpu', indices='cuda'"):
        backward(indices=elsewhere)
    with pytest.raises(ShapeError, match=r"indices.shape must equal grad_output.shape"):
        backward(indices=indices[:, :, :1])
    with pytest.raises(ShapeError, match=r"grad_output.shape must equal output.shape"):
        backward(grad_output=y[:, :, :1], indices=indices[:, :, :1])
    with pytest.raises(ShapeError, match=r"grad_output.shape must equal output.shape"):
        backward(input_shape=(1, 4, 4))
    with pytest.raises(ShapeError, match="x must have 4 axes"):
        backward(input_shape=(4, 4))


def test_bad_gradients():
    grad_output = np.ones((2, 3, 2, 2), "f4")
    with pytest.raises(ShapeError, match=r"avg_pool2d_backward: grad_output.shape must equal output.shape"):
        functional.avg_pool2d_backward(grad_output, (2, 3, 7, 7), 2)
    for shape in ((2, 4, 5, 5), (3, 5, 5), (1, 3, 5, 5)):
        with pytest.raises(
            ShapeError, match="adaptive_avg_pool2d_backward: grad_output and the input must have the same"
        ):
            functional.adaptive_avg_pool2d_backward(grad_output, shape)
    with pytest.raises(ShapeError, match="adaptive_avg_pool2d_backward: every axis of input but N"):
        functional.adaptive_avg_pool2d_backward(grad_output, (2, 3, 0, 5))
