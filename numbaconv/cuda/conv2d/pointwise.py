"""1x1 convolution at stride 1, and linear layers: a matrix product of pixels by channels.

The weight is read as it lies, (out channels, in channels), by both directions: packing a 4096 x 4096 one in every call
would read and write it once more than multiplying 64 samples by it. Only where channels are not whole vectors of 16
bytes is it packed.
"""

from __future__ import annotations

from ...shapes import Conv2dProblem
from ..array import DeviceArray
from ..layout import CHANNELS_LAST, aligned, channels_last, contiguous, empty
from .algorithm import Algorithm
from .correlate import correlate, whole_vectors
from .pack import Packed, pack_backward, pack_forward
from .taps import backward_taps, forward_taps
from .weight_gradient import backward_weight


def supports(problem: Conv2dProblem) -> str:
    """Empty for 1x1 at stride 1 without padding, in one group."""
    if problem.weight_shape[2:] != (1, 1):
        return f"the kernel is {problem.weight_shape[2]}x{problem.weight_shape[3]}, not 1x1"
    if problem.stride != (1, 1):
        return f"the stride is {problem.stride}, not 1"
    if problem.groups != 1:
        return f"there are {problem.groups} groups"
    if problem.input_shape[2:] != problem.output_shape[2:]:
        return "input and output differ in size"  # a transposed problem with output_padding
    return "there is padding" if any(problem.padding) else ""


def pack_weight(problem: Conv2dProblem, weight: DeviceArray, bias: DeviceArray | None, kept: bool) -> Packed:
    k, c, _, _ = problem.weight_shape
    weight = contiguous(weight)
    if kept or not (whole_vectors(weight.itemsize, k, c) and aligned(weight)):
        return pack_forward(problem, forward_taps(problem), weight, bias)
    return Packed(weight, bias, row=c, tap_rows=c, across=True)


def forward(problem: Conv2dProblem, x: DeviceArray, packed: Packed, relu: bool) -> DeviceArray:
    out = empty(problem.output_shape, x.dtype, x.device, CHANNELS_LAST)
    correlate(forward_taps(problem), _line(channels_last(x)), packed, _line(out), (1, 1), 1, (1, 1), relu)
    return out


def backward_input(
    problem: Conv2dProblem, grad_output: DeviceArray, weight: DeviceArray, bias: DeviceArray | None
) -> DeviceArray:
    k, c, _, _ = problem.weight_shape
    out = empty(problem.input_shape, weight.dtype, weight.device, CHANNELS_LAST)
    weight, taps = contiguous(weight), backward_taps(problem)
    if whole_vectors(weight.itemsize, k, c) and aligned(weight):
        packed = Packed(weight, bias, row=c, tap_rows=k, across=False)
    else:
        packed = pack_backward(problem, taps, weight, bias)
    correlate(taps, _line(channels_last(grad_output)), packed, _line(out), (1, 1), 1, (1, 1), False)
    return out


def _line(x: DeviceArray) -> DeviceArray:
    """Channels-last pixels as images of one pixel: images are counted first, so nothing is divided by their size."""
    n, c, h, w = x.shape
    return x.transpose(0, 2, 3, 1).reshape(n * h * w, c, 1, 1)


ALGORITHM = Algorithm(
    name="pointwise",
    supports=supports,
    pack_weight=pack_weight,
    forward=forward,
    backward_input=backward_input,
    backward_weight=backward_weight,
)
