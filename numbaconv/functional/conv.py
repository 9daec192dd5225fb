"""2-D convolution, transposed convolution, and their vector-Jacobian products.

Arguments mean what they mean in ``torch.nn.Conv2d``. ``stride`` and ``dilation`` are an int or a (vertical,
horizontal) pair; ``padding`` is that too, or ``"valid"``, ``"same"``, or ((top, bottom), (left, right)).

Subnormal numbers (below 1.2e-38 in float32, 2.2e-308 in float64) count as zero, as operands and as results, on x86.
"""

from __future__ import annotations

from typing import Any

from ..arguments import batched, hashable, require_same_shape
from ..backend import enter, load_backend
from ..errors import ShapeError, message
from ..shapes import Conv2dProblem, conv2d_problem, conv_transpose2d_problem

Array = Any


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    relu: bool = False,
) -> Array:
    """2-D cross-correlation, the "convolution" of neural networks.

    Args:
        x: (N, C, H, W), or (C, H, W) for one image; float32 or float64; any strides.
        weight: (K, C // groups, R, S), of x's dtype.
        bias: (K,) or None.
        stride, padding, dilation: see the module. ``"same"`` gives ceil(size / stride) outputs, the odd element of
            padding after.
        groups: how many independent groups the channels are cut into.
        relu: whether the results are max(result, 0), which costs no pass of its own.

    Returns:
        (N, K, P, Q), or (K, P, Q), in the layout of x:
        ``out[n,k,p,q] = bias[k] + sum x[n, c, p*stride - pad + r*dilation, ...] * weight[k,c,r,s]``.

    Raises:
        ShapeError, ArgumentError, DTypeError, DeviceError: with the rule that is broken and what was given.
    """
    backend, x, weight, bias = enter("conv2d", x=x, weight=weight, bias=bias)
    is_batch = x.ndim == 4 or batched("conv2d", x.shape)
    if not is_batch:
        x = x[None]
    bias_shape = None if bias is None else bias.shape
    problem = conv2d_problem.of_arrays(x.shape, weight.shape, bias_shape, stride, padding, dilation, groups)
    out = backend.conv2d(problem, x, weight, bias, bool(relu))
    return out if is_batch else out[0]


def conv2d_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Array | None, Array | None, Array | None]:
    """Vector-Jacobian products of `conv2d`, sharing their work.

    Args:
        grad_output: (N, K, P, Q), the gradient of the output.
        x, weight, stride, padding, dilation, groups: as given to `conv2d`.
        needs: which of the three to compute.

    Returns:
        (grad_input, grad_weight, grad_bias), None where not needed: of the shapes of x, of weight, and (K,).

    Raises:
        ShapeError: if grad_output is not of the output's shape; else as `conv2d`.
    """
    op = "conv2d_backward"
    backend, grad_output, x, weight = enter(op, grad_output=grad_output, x=x, weight=weight)
    is_batch = x.ndim == 4 or batched(op, x.shape)
    if not is_batch:
        x, grad_output = x[None], grad_output[None]
    problem = _problem(op, x.shape, weight.shape, grad_output, stride, padding, dilation, groups)
    grad_input, grad_weight, grad_bias = backend.conv2d_backward(problem, grad_output, x, weight, _needs(op, needs))
    return (grad_input if is_batch or grad_input is None else grad_input[0]), grad_weight, grad_bias


def conv2d_backward_input(
    grad_output: Array,
    weight: Array,
    input_shape: tuple[int, ...],
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Array:
    """The gradient of `conv2d` with respect to its input, of `input_shape`; see `conv2d_backward`."""
    op = "conv2d_backward_input"
    backend, grad_output, weight = enter(op, grad_output=grad_output, weight=weight)
    input_shape = hashable(input_shape)
    if not batched(op, input_shape):
        input_shape, grad_output = (1, *input_shape), grad_output[None]
        problem = _problem(op, input_shape, weight.shape, grad_output, stride, padding, dilation, groups)
        return backend.conv2d_backward_input(problem, grad_output, weight)[0]
    problem = _problem(op, input_shape, weight.shape, grad_output, stride, padding, dilation, groups)
    return backend.conv2d_backward_input(problem, grad_output, weight)


def conv2d_backward_weight(
    grad_output: Array,
    x: Array,
    weight_shape: tuple[int, ...],
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Array:
    """The gradient of `conv2d` with respect to its weight, of `weight_shape`; see `conv2d_backward`."""
    op = "conv2d_backward_weight"
    backend, grad_output, x = enter(op, grad_output=grad_output, x=x)
    if not batched(op, x.shape):
        x, grad_output = x[None], grad_output[None]
    problem = _problem(op, x.shape, hashable(weight_shape), grad_output, stride, padding, dilation, groups)
    return backend.conv2d_backward_weight(problem, grad_output, x)


def conv2d_backward_bias(grad_output: Array) -> Array:
    """The gradient of `conv2d` with respect to its bias: (K,), the sum of grad_output over N, P and Q."""
    op = "conv2d_backward_bias"
    backend, grad_output = enter(op, grad_output=grad_output)
    if not batched(op, grad_output.shape, "K, P, Q", "grad_output"):
        grad_output = grad_output[None]
    return backend.conv2d_backward_bias(grad_output)


def conv_transpose2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Array:
    """Transposed convolution: the input-gradient of the convolution that has this weight, plus a bias.

    Args:
        x: (N, C_in, H, W) or (C_in, H, W).
        weight: (C_in, C_out // groups, R, S).
        bias: (C_out,) or None.
        stride, padding, dilation: ints or (vertical, horizontal) pairs, of the convolution it transposes.
        output_padding: rows and columns added at the bottom and right, where several input sizes of that
            convolution give one output size.
        groups: as in `conv2d`.

    Returns:
        (N, C_out, H', W') with H' = (H - 1) * stride - 2 * padding + dilation * (R - 1) + output_padding + 1, in the
        layout of x.

    Raises:
        ShapeError, ArgumentError, DTypeError, DeviceError: with the rule that is broken and what was given.
    """
    op = "conv_transpose2d"
    backend, x, weight, bias = enter(op, x=x, weight=weight, bias=bias)
    is_batch = batched(op, x.shape)
    if not is_batch:
        x = x[None]
    bias_shape = None if bias is None else bias.shape
    options = stride, padding, output_padding, dilation, groups
    problem = conv_transpose2d_problem(x.shape, weight.shape, bias_shape, *options)
    out = backend.conv2d_backward_input(problem, x, weight, bias)
    return out if is_batch else out[0]


def conv_transpose2d_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Array | None, Array | None, Array | None]:
    """Vector-Jacobian products of `conv_transpose2d`: (grad_input, grad_weight, grad_bias).

    The input-gradient is the convolution itself, the weight-gradient the convolution's with its roles exchanged.
    """
    op = "conv_transpose2d_backward"
    backend, grad_output, x, weight = enter(op, grad_output=grad_output, x=x, weight=weight)
    needs = _needs(op, needs)
    is_batch = batched(op, x.shape)
    if not is_batch:
        x, grad_output = x[None], grad_output[None]
    options = stride, padding, output_padding, dilation, groups
    problem = conv_transpose2d_problem(x.shape, weight.shape, None, *options, op)
    require_same_shape(op, "grad_output", grad_output.shape, "output", problem.input_shape)
    grad_input = backend.conv2d(problem, grad_output, weight, None) if needs[0] else None
    grad_weight = backend.conv2d_backward_weight(problem, x, grad_output) if needs[1] else None
    grad_bias = backend.conv2d_backward_bias(grad_output) if needs[2] else None
    return (grad_input if is_batch or grad_input is None else grad_input[0]), grad_weight, grad_bias


def explain(problem: Conv2dProblem, *, device: str = "cpu") -> None:
    """Prints which algorithm computes a problem in each direction, and why not the others.

    Args:
        problem: from `numbaconv.shapes.conv2d_problem`.
        device: whose algorithms, by name.
    """
    print(load_backend(device, "explain").explain(problem))


def _problem(
    op: str,
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    grad_output: Array,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Conv2dProblem:
    problem = conv2d_problem.of_arrays(input_shape, weight_shape, None, stride, padding, dilation, groups, op)
    require_same_shape(op, "grad_output", grad_output.shape, "output", problem.output_shape)
    return problem


def _needs(op: str, needs: Any) -> tuple[bool, bool, bool]:
    if not isinstance(needs, (tuple, list)) or len(needs) != 3:
        raise ShapeError(message(op, "needs must be three bools: for the input, the weight and the bias", needs=needs))
    return bool(needs[0]), bool(needs[1]), bool(needs[2])
