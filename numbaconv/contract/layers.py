"""Operations of layers, forward and backward, and losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..shapes import Conv2dProblem, PadProblem, Pool2dProblem, Shape4

Array = Any  # numpy.ndarray on cpu, a device array on cuda


class BatchNormResult(NamedTuple):
    """What `batch_norm` returns. The last two are what its backward needs."""

    output: Array
    running_mean: Array | None
    running_var: Array | None
    mean: Array
    inverse_std: Array


# --- convolution and linear -------------------------------------------------------------------------------


def conv2d(problem: Conv2dProblem, x: Array, weight: Array, bias: Array | None, relu: bool = False) -> Array:
    """output[n,k,p,q] = bias[k] + sum over c,r,s of x[n,c,p*stride+r*dilation-pad,...] * weight[k,c,r,s].

    With `relu` max(output, 0).
    """
    raise NotImplementedError


def prepare_conv2d(weight: Array, bias: Array | None) -> Callable[[Conv2dProblem, Array, bool, str | None], Array]:
    """A function (problem, x, relu, layout) that convolves with copies of weight and bias, packed once.

    With `relu` it gives max(result, 0). `layout` is that of the result; None: that of x.
    """
    raise NotImplementedError


def conv2d_backward_input(
    problem: Conv2dProblem, grad_output: Array, weight: Array, bias: Array | None = None
) -> Array:
    """grad_input; plus a bias per input channel, for the transposed convolution that this is the forward of."""
    raise NotImplementedError


def conv2d_backward_weight(problem: Conv2dProblem, grad_output: Array, x: Array) -> Array:
    """grad_weight, C-contiguous."""
    raise NotImplementedError


def conv2d_backward_bias(grad_output: Array) -> Array:
    """grad_bias[k] = sum of grad_output[:, k]."""
    raise NotImplementedError


def conv2d_backward(
    problem: Conv2dProblem, grad_output: Array, x: Array, weight: Array, needs: tuple[bool, bool, bool]
) -> tuple[Array | None, Array | None, Array | None]:
    """(grad_input, grad_weight, grad_bias), sharing what they can."""
    raise NotImplementedError


def explain(problem: Conv2dProblem) -> str:
    """Every convolution algorithm's verdict on a problem, and which is chosen in each direction."""
    raise NotImplementedError


def linear(x: Array, weight: Array, bias: Array | None, relu: bool = False) -> Array:
    """x (M, in) times weight (out, in) transposed, plus bias (out,): (M, out); with `relu` max(result, 0)."""
    raise NotImplementedError


def prepare_linear(weight: Array, bias: Array | None) -> Callable[[Array, bool], Array]:
    """A function (x, relu) that multiplies with copies of weight and bias, packed once; then max(result, 0)."""
    raise NotImplementedError


def linear_backward(
    grad_output: Array, x: Array, weight: Array, needs: tuple[bool, bool, bool]
) -> tuple[Array | None, Array | None, Array | None]:
    """(grad_input, grad_weight, grad_bias)."""
    raise NotImplementedError


# --- activations ------------------------------------------------------------------------------------------


def relu(x: Array) -> Array:
    """max(x, 0); NaN stays NaN."""
    raise NotImplementedError


def relu_backward(grad_output: Array, x: Array) -> Array:
    """grad_output where x > 0 or x is NaN, else 0. `x` may be the input or the output."""
    raise NotImplementedError


def leaky_relu(x: Array, negative_slope: float) -> Array:
    """X where x > 0, else negative_slope * x."""
    raise NotImplementedError


def leaky_relu_backward(grad_output: Array, x: Array, negative_slope: float) -> Array:
    """Gradient at the input `x`."""
    raise NotImplementedError


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    raise NotImplementedError


def sigmoid_backward(grad_output: Array, output: Array) -> Array:
    """grad_output * output * (1 - output)."""
    raise NotImplementedError


def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    raise NotImplementedError


def tanh_backward(grad_output: Array, output: Array) -> Array:
    """grad_output * (1 - output^2)."""
    raise NotImplementedError


def gelu(x: Array, approximate: bool) -> Array:
    """x * Phi(x), Phi the normal distribution function, or its tanh approximation."""
    raise NotImplementedError


def gelu_backward(grad_output: Array, x: Array, approximate: bool) -> Array:
    """Gradient at the input `x`."""
    raise NotImplementedError


def silu(x: Array) -> Array:
    """x * sigmoid(x)."""
    raise NotImplementedError


def silu_backward(grad_output: Array, x: Array) -> Array:
    """Gradient at the input `x`."""
    raise NotImplementedError


# --- pooling ----------------------------------------------------------------------------------------------


def max_pool2d(
    problem: Pool2dProblem, x: Array, return_indices: bool, relu: bool = False
) -> tuple[Array, Array | None]:
    """(output, indices): int32 positions h * W + w of each maximum (the first; a NaN wins), or None.

    With `relu` max(output, 0), and an index of -1 where the output is 0.
    """
    raise NotImplementedError


def max_pool2d_backward(problem: Pool2dProblem, grad_output: Array, indices: Array, relu: bool = False) -> Array:
    """grad_input: each gradient added at its index; with `relu` none at -1."""
    raise NotImplementedError


def avg_pool2d(problem: Pool2dProblem, x: Array) -> Array:
    """Mean of each window."""
    raise NotImplementedError


def avg_pool2d_backward(problem: Pool2dProblem, grad_output: Array) -> Array:
    """grad_input."""
    raise NotImplementedError


def adaptive_avg_pool2d(x: Array, output_size: tuple[int, int]) -> Array:
    """Means of P x Q windows: rows floor(p * H / P) to ceil((p + 1) * H / P), columns likewise."""
    raise NotImplementedError


def adaptive_avg_pool2d_backward(grad_output: Array, input_shape: Shape4) -> Array:
    """grad_input."""
    raise NotImplementedError


# --- normalisation, dropout, shape ------------------------------------------------------------------------


def batch_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    training: bool,
    momentum: float,
    eps: float,
) -> BatchNormResult:
    """Normalises axis 1. In training by the batch (biased variance), else by the running statistics."""
    raise NotImplementedError


def batch_norm_backward(
    grad_output: Array, x: Array, weight: Array | None, mean: Array, inverse_std: Array, training: bool
) -> tuple[Array, Array, Array]:
    """(grad_input, grad_weight, grad_bias)."""
    raise NotImplementedError


def dropout(x: Array, p: float, seed: int, layer: int, step: int) -> Array:
    """x times 1 / (1 - p) where a Philox4x32-10 number keyed by (seed, layer, step, element) is at least p, else 0."""
    raise NotImplementedError


def pad(problem: PadProblem, x: Array, value: float) -> Array:
    """x with a border; `value` fills it in mode "zeros"."""
    raise NotImplementedError


def pad_backward(problem: PadProblem, grad_output: Array) -> Array:
    """grad_input: the border's gradients added where they came from."""
    raise NotImplementedError


def flatten(x: Array) -> Array:
    """(N, C, H, W) as (N, C * H * W) in logical order; a view where strides allow it."""
    raise NotImplementedError


def add(x: Array, y: Array) -> Array:
    """Elementwise sum of two arrays of one shape."""
    raise NotImplementedError


def concat(arrays: tuple[Array, ...]) -> Array:
    """Joined along axis 1."""
    raise NotImplementedError


def concat_backward(grad_output: Array, sizes: tuple[int, ...]) -> tuple[Array, ...]:
    """grad_output cut along axis 1 into pieces of these sizes; views."""
    raise NotImplementedError


# --- losses -----------------------------------------------------------------------------------------------


def softmax(x: Array, axis: int) -> Array:
    """exp(x - max) / sum along one axis (0 <= axis < ndim)."""
    raise NotImplementedError


def softmax_backward(grad_output: Array, output: Array, axis: int) -> Array:
    """output * (grad_output - sum(grad_output * output))."""
    raise NotImplementedError


def log_softmax(x: Array, axis: int) -> Array:
    """x - max - log(sum(exp(x - max))) along one axis."""
    raise NotImplementedError


def log_softmax_backward(grad_output: Array, output: Array, axis: int) -> Array:
    """grad_output - exp(output) * sum(grad_output)."""
    raise NotImplementedError


def cross_entropy(x: Array, target: Array, label_smoothing: float, ignore_index: int, reduction: str) -> float | Array:
    """Cross-entropy of logits x (N, C, ...): summed or averaged in float64, or each (x's shape without C, x's dtype).

    Sum and mean are floats, or where the device runs ahead of the host arrays of shape (), float64.

    `target` holds class indices (any integer dtype, x's shape without C), or probabilities (x's shape and dtype).
    "mean" divides by the number of positions not ignored. Labels out of range: LabelError.
    """
    raise NotImplementedError


def cross_entropy_backward(
    grad_output: float | Array, x: Array, target: Array, label_smoothing: float, ignore_index: int, reduction: str
) -> Array:
    """grad_x; `grad_output` is a number, or for "none" an array of x's shape without C."""
    raise NotImplementedError


def mse_loss(x: Array, target: Array, reduction: str) -> float | Array:
    """(x - target)^2: summed or averaged in float64, or each."""
    raise NotImplementedError


def mse_loss_backward(grad_output: float | Array, x: Array, target: Array, reduction: str) -> Array:
    """grad_x = grad_output * 2 * (x - target), divided by x.size for "mean"."""
    raise NotImplementedError
