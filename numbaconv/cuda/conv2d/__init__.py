"""2-D convolution on a GPU: one file per algorithm, `choose` picks one per problem."""

from __future__ import annotations

import math

from ...algorithm import forced
from ...errors import DeviceError
from ...shapes import Conv2dProblem
from .. import memory
from ..array import DeviceArray
from ..convert import copy
from ..layout import channels_last, dense, empty, in_layout, layout_of
from ..limits import require_32_bit
from ..precision import tf32_mode
from ..runtime import runtime
from .algorithm import Algorithm, Packed
from .choose import choose
from .choose import explain as explain_choice
from .column_sums import column_sums

__all__ = [
    "conv2d",
    "conv2d_backward",
    "conv2d_backward_bias",
    "conv2d_backward_input",
    "conv2d_backward_weight",
    "explain",
    "prepare_conv2d",
]


def algorithm_for(op: str, problem: Conv2dProblem, x: DeviceArray, name: str | None) -> Algorithm:
    """The algorithm for a problem on arrays like x; `name` forces one.

    Raises:
        ShapeError: an array of the problem has more elements than kernels count.
    """
    require_32_bit(op, *(math.prod(shape) for shape in problem[:3]))
    return choose(problem, name, str(x.dtype), tf32_mode(), runtime().compute_capability(x.device))


def conv2d(
    problem: Conv2dProblem, x: DeviceArray, weight: DeviceArray, bias: DeviceArray | None, relu: bool = False
) -> DeviceArray:
    layout = layout_of(x)
    if 0 in problem.output_shape:
        return empty(problem.output_shape, x.dtype, x.device, layout)
    algorithm = algorithm_for("conv2d", problem, x, forced())
    packed = algorithm.pack_weight(problem, weight, bias_of(bias), False)
    return in_layout(algorithm.forward(problem, dense(x), packed, relu), layout)


def bias_of(bias: DeviceArray | None) -> DeviceArray | None:
    """A bias as kernels read it."""
    return None if bias is None else dense(bias, any_address=True)


class PreparedConv2d:
    """A convolution of one layer, for prediction: its weights are copied once, and packed once per algorithm.

    Algorithms differ with the size of x; what they want of the weights does not, so it is kept by their names.
    """

    def __init__(self, weight: DeviceArray, bias: DeviceArray | None) -> None:
        self._weight = copied(weight)
        self._bias = None if bias is None else copied(bias)
        self._packed: dict[str, Packed] = {}

    def __call__(self, problem: Conv2dProblem, x: DeviceArray, relu: bool, layout: str | None = None) -> DeviceArray:
        layout = layout or layout_of(x)
        if 0 in problem.output_shape:
            return empty(problem.output_shape, x.dtype, x.device, layout)
        algorithm = algorithm_for("conv2d", problem, x, forced())
        packed = self._packed.get(algorithm.name)
        if packed is None:  # two threads may both do it: the results are the same
            packed = algorithm.pack_weight(problem, self._weight, self._bias, True)
            self._packed[algorithm.name] = packed
        return in_layout(algorithm.forward(problem, dense(x), packed, relu), layout)


def copied(x: DeviceArray) -> DeviceArray:
    """A copy in C order."""
    out = memory.empty(x.shape, x.dtype, x.device)
    copy(x, out)
    return out


def prepare_conv2d(weight: DeviceArray, bias: DeviceArray | None) -> PreparedConv2d:
    return PreparedConv2d(weight, bias)


def conv2d_backward_input(
    problem: Conv2dProblem, grad_output: DeviceArray, weight: DeviceArray, bias: DeviceArray | None = None
) -> DeviceArray:
    layout = layout_of(grad_output)
    if 0 in problem.input_shape:
        return empty(problem.input_shape, weight.dtype, weight.device, layout)
    algorithm = algorithm_for("conv2d_backward_input", problem, grad_output, forced())
    return in_layout(algorithm.backward_input(problem, dense(grad_output), weight, bias_of(bias)), layout)


def conv2d_backward_weight(problem: Conv2dProblem, grad_output: DeviceArray, x: DeviceArray) -> DeviceArray:
    return _backward_weight(problem, grad_output, x, False)[0]


def _backward_weight(
    problem: Conv2dProblem, grad_output: DeviceArray, x: DeviceArray, needs_bias: bool
) -> tuple[DeviceArray, DeviceArray | None]:
    if 0 in problem.output_shape:
        return memory.zeros(problem.weight_shape, x.dtype, x.device), None
    algorithm = algorithm_for("conv2d_backward_weight", problem, x, forced())
    return algorithm.backward_weight(problem, dense(grad_output), dense(x), needs_bias)


def conv2d_backward_bias(grad_output: DeviceArray) -> DeviceArray:
    pixels = channels_last(grad_output).transpose(0, 2, 3, 1)
    return column_sums(pixels.reshape(-1 if pixels.size else 0, grad_output.shape[1]))


def conv2d_backward(
    problem: Conv2dProblem,
    grad_output: DeviceArray,
    x: DeviceArray,
    weight: DeviceArray,
    needs: tuple[bool, bool, bool],
) -> tuple[DeviceArray | None, DeviceArray | None, DeviceArray | None]:
    layout = layout_of(grad_output)
    grad_output = channels_last(dense(grad_output))  # once for the three
    grad_input = grad_weight = grad_bias = None
    if needs[0]:
        grad_input = in_layout(conv2d_backward_input(problem, grad_output, weight), layout)
    if needs[1]:
        grad_weight, grad_bias = _backward_weight(problem, grad_output, x, needs[2])
    if needs[2] and grad_bias is None:
        grad_bias = conv2d_backward_bias(grad_output)
    return grad_input, grad_weight, grad_bias


def explain(problem: Conv2dProblem) -> str:
    try:
        cc = runtime().compute_capability(0)
    except DeviceError:  # without a GPU: what one of compute capability 8.0 would do
        cc = (8, 0)
    return explain_choice(problem, "float32", cc)
