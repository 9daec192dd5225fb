"""Convolution as a matrix product whose patches are never written to memory: any problem, all three directions.

Few input channels need no algorithm of their own: neighbouring filter columns are one run of terms (`taps`), so 7 x 7
on 3 channels fills 21 of the 24 terms of three stages. Where channels are not whole vectors of 16 bytes, x is read
element by element; weights never are, they are packed.
"""

from __future__ import annotations

from ...shapes import Conv2dProblem
from ..array import DeviceArray
from ..layout import CHANNELS_LAST, channels_last, empty
from .algorithm import Algorithm
from .correlate import correlate
from .pack import Packed, pack_backward, pack_forward
from .taps import backward_taps, forward_taps
from .weight_gradient import backward_weight


def pack_weight(problem: Conv2dProblem, weight: DeviceArray, bias: DeviceArray | None, kept: bool) -> Packed:
    return pack_forward(problem, forward_taps(problem), weight, bias)


def forward(problem: Conv2dProblem, x: DeviceArray, packed: Packed, relu: bool) -> DeviceArray:
    out = empty(problem.output_shape, x.dtype, x.device, CHANNELS_LAST)
    _, _, p, q = problem.output_shape
    correlate(forward_taps(problem), channels_last(x), packed, out, problem.stride, problem.groups, (p, q), relu)
    return out


def backward_input(
    problem: Conv2dProblem, grad_output: DeviceArray, weight: DeviceArray, bias: DeviceArray | None
) -> DeviceArray:
    out = empty(problem.input_shape, weight.dtype, weight.device, CHANNELS_LAST)
    taps = backward_taps(problem)
    packed = pack_backward(problem, taps, weight, bias)
    _, _, h, w = problem.input_shape
    size = -(-h // taps.row_classes), -(-w // taps.column_classes)
    correlate(taps, channels_last(grad_output), packed, out, (1, 1), problem.groups, size, False)
    return out


ALGORITHM = Algorithm(
    name="implicit_gemm",
    supports=lambda problem: "",
    pack_weight=pack_weight,
    forward=forward,
    backward_input=backward_input,
    backward_weight=backward_weight,
)
