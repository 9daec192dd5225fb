"""Pooling and its backwards: x is (N, C, H, W), or (C, H, W) for one image.

Sizes follow PyTorch: along an axis, output = (size + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1;
with `ceil_mode` the division rounds up, as long as the last window starts inside the input or the padding before it.
Results are in the memory order of their first argument.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import Pair, batched, hashable, pair, require_countable, require_same_shape
from ..backend import device_of, enter, own_array, place_of
from ..errors import DeviceError, DTypeError, ShapeError, message
from ..shapes import Pool2dProblem, pool2d_problem

Array = Any


def max_pool2d(
    x: Array,
    kernel_size: int | Pair,
    *,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    relu: bool = False,
) -> Array | tuple[Array, Array]:
    """Largest element of each window.

    Args:
        x: float32 or float64, (N, C, H, W) or (C, H, W).
        kernel_size, stride, padding, dilation: an int, or a (vertical, horizontal) pair. `stride` None is
            `kernel_size`; `padding` is at most half of it, and never the maximum.
        ceil_mode: round output sizes up.
        return_indices: also return where the maxima are; `max_pool2d_backward` needs it.
        relu: give max(result, 0), which is the pooling of ``relu(x)`` in one pass instead of two.

    Returns:
        (N, C, P, Q), or that and int32 positions h * W + w of the same shape: the first of equal maxima; a NaN counts
        as the largest. With `relu` the position is -1 where the result is 0: no gradient flows back from there.

    Raises:
        ShapeError, ArgumentError: with the rule that is broken.
    """
    op = "max_pool2d"
    backend, x = enter(op, x=x)
    shape = x.shape if x.ndim == 4 else _batch_of(op, x.shape)
    problem = _max_pool_problem(op, shape, kernel_size, stride, padding, dilation, ceil_mode)
    output, indices = backend.max_pool2d(problem, x.reshape(shape), bool(return_indices), bool(relu))
    if len(x.shape) == 3:
        output, indices = output[0], indices[0] if return_indices else None
    return (output, indices) if return_indices else output


def max_pool2d_backward(
    grad_output: Array,
    indices: Array,
    input_shape: tuple[int, ...],
    kernel_size: int | Pair,
    *,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
    relu: bool = False,
) -> Array:
    """Vector-Jacobian product of `max_pool2d`.

    Args:
        grad_output: gradient of the output, (N, C, P, Q) or (C, P, Q).
        indices: what the forward call returned; integers of grad_output's shape.
        input_shape: of the forward's x.
        kernel_size, stride, padding, dilation, ceil_mode, relu: as in the forward call.

    Returns:
        input_shape: each gradient added at its index, zero elsewhere. With `relu` those with index -1 are left out.

    Raises:
        ShapeError: if grad_output or indices have not the shape of the output.
        ArgumentError: if an index is not a position in H x W (nor, with `relu`, -1).
        DTypeError: if indices are not integers.
    """
    op = "max_pool2d_backward"
    backend, grad_output = enter(op, grad_output=grad_output)
    indices = _integers(op, indices, grad_output)
    shape = _batch_of(op, input_shape)
    problem = _max_pool_problem(op, shape, kernel_size, stride, padding, dilation, ceil_mode)
    require_same_shape(op, "grad_output", grad_output.shape, "output", problem.output_shape[4 - len(input_shape) :])
    require_same_shape(op, "indices", indices.shape, "grad_output", grad_output.shape)
    grad_output, indices = (a.reshape(problem.output_shape) for a in (grad_output, indices))
    grad_input = backend.max_pool2d_backward(problem, grad_output, indices, bool(relu))
    return grad_input.reshape(input_shape)


def avg_pool2d(
    x: Array,
    kernel_size: int | Pair,
    *,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """Mean of each window.

    Args:
        x: float32 or float64, (N, C, H, W) or (C, H, W).
        kernel_size, stride, padding: an int, or a (vertical, horizontal) pair. `stride` None is `kernel_size`;
            `padding` is at most half of it.
        ceil_mode: round output sizes up.
        count_include_pad: the mean counts the zeros of the padding as elements; never those elements of a
            `ceil_mode` window that hang over the padded input.

    Returns:
        (N, C, P, Q): sum of the window / number of its elements.

    Raises:
        ShapeError, ArgumentError: with the rule that is broken.
    """
    op = "avg_pool2d"
    backend, x = enter(op, x=x)
    shape = x.shape if x.ndim == 4 else _batch_of(op, x.shape)
    problem = _avg_pool_problem(op, shape, kernel_size, stride, padding, ceil_mode, count_include_pad)
    output = backend.avg_pool2d(problem, x.reshape(shape))
    return output[0] if len(x.shape) == 3 else output


def avg_pool2d_backward(
    grad_output: Array,
    input_shape: tuple[int, ...],
    kernel_size: int | Pair,
    *,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """Vector-Jacobian product of `avg_pool2d`.

    Args:
        grad_output: gradient of the output, (N, C, P, Q) or (C, P, Q).
        input_shape: of the forward's x.
        kernel_size, stride, padding, ceil_mode, count_include_pad: as in the forward call.

    Returns:
        input_shape: each gradient, divided by its window's number of elements, added at all of them.

    Raises:
        ShapeError: if grad_output has not the shape of the output.
    """
    op = "avg_pool2d_backward"
    backend, grad_output = enter(op, grad_output=grad_output)
    shape = _batch_of(op, input_shape)
    problem = _avg_pool_problem(op, shape, kernel_size, stride, padding, ceil_mode, count_include_pad)
    require_same_shape(op, "grad_output", grad_output.shape, "output", problem.output_shape[4 - len(input_shape) :])
    grad_input = backend.avg_pool2d_backward(problem, grad_output.reshape(problem.output_shape))
    return grad_input.reshape(input_shape)


def adaptive_avg_pool2d(x: Array, output_size: int | Pair) -> Array:
    """Means of as many windows as asked for, which cover the input evenly.

    Args:
        x: float32 or float64, (N, C, H, W) or (C, H, W).
        output_size: P = Q, or (P, Q).

    Returns:
        (N, C, P, Q): output p is the mean of rows floor(p * H / P) to ceil((p + 1) * H / P); columns likewise.

    Raises:
        ShapeError, ArgumentError: with the rule that is broken.
    """
    op = "adaptive_avg_pool2d"
    backend, x = enter(op, x=x)
    shape = x.shape if x.ndim == 4 else _batch_of(op, x.shape)
    _require_pixels(op, "x", shape)
    sizes = pair(op, "output_size", output_size, 1)
    require_countable(op, output=(*shape[:2], *sizes))
    output = backend.adaptive_avg_pool2d(x.reshape(shape), sizes)
    return output[0] if len(x.shape) == 3 else output


def adaptive_avg_pool2d_backward(grad_output: Array, input_shape: tuple[int, ...]) -> Array:
    """Vector-Jacobian product of `adaptive_avg_pool2d`.

    Args:
        grad_output: gradient of the output, (N, C, P, Q) or (C, P, Q).
        input_shape: of the forward's x.

    Returns:
        input_shape: each gradient, divided by its window's number of elements, added at all of them.

    Raises:
        ShapeError: if grad_output does not go with input_shape.
    """
    op = "adaptive_avg_pool2d_backward"
    backend, grad_output = enter(op, grad_output=grad_output)
    shape = _batch_of(op, input_shape)
    _require_pixels(op, "input", shape)
    require_countable(op, input=shape)
    output_shape = grad_output.shape
    if len(output_shape) != len(input_shape) or output_shape[:-2] != tuple(input_shape[:-2]):
        values = {"grad_output__shape": output_shape, "input_shape": tuple(input_shape)}
        raise ShapeError(message(op, "grad_output and the input must have the same N and C", **values))
    output_shape = _batch_of(op, output_shape)
    _require_pixels(op, "grad_output", output_shape)
    grad_input = backend.adaptive_avg_pool2d_backward(grad_output.reshape(output_shape), shape)
    return grad_input.reshape(input_shape)


def _batch_of(op: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with N; an image is a batch of one."""
    shape = hashable(shape)
    return shape if batched(op, shape) else (1, *shape)


def _max_pool_problem(
    op: str, shape: tuple[int, ...], kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Pool2dProblem:
    problem = pool2d_problem.of_arrays(shape, kernel_size, stride, padding, dilation, ceil_mode=bool(ceil_mode), op=op)
    if problem.dilation[0] > shape[2] or problem.dilation[1] > shape[3]:
        _require_no_empty_window(op, problem)
    return problem


def _require_no_empty_window(op: str, problem: Pool2dProblem) -> None:
    """A window that starts in the padding may step over the whole image: it would have no maximum."""
    for axis in (0, 1):
        size, outputs = problem.input_shape[2 + axis], problem.output_shape[2 + axis]
        taps = range(0, problem.kernel_size[axis] * problem.dilation[axis], problem.dilation[axis])
        for start in (i * problem.stride[axis] - problem.padding[axis] for i in range(outputs)):
            if not any(0 <= start + tap < size for tap in taps):
                raise ShapeError(
                    message(
                        op,
                        "every window must hold an element of x",
                        "Use a smaller dilation, or no padding.",
                        x__shape=problem.input_shape,
                        kernel_size=problem.kernel_size,
                        padding=problem.padding,
                        dilation=problem.dilation,
                    )
                )


def _avg_pool_problem(
    op: str, shape: tuple[int, ...], kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, count: bool
) -> Pool2dProblem:
    return pool2d_problem.of_arrays(
        shape, kernel_size, stride, padding, 1, ceil_mode=bool(ceil_mode), count_include_pad=bool(count), op=op
    )


def _require_pixels(op: str, name: str, shape: tuple[int, ...]) -> None:
    if min(shape[1:]) < 1:
        raise ShapeError(message(op, f"every axis of {name} but N must be at least 1", **{f"{name}__shape": shape}))


def _integers(op: str, indices: Array, grad_output: Array) -> Array:
    """Indices as the backend expects them: integers on the device of grad_output."""
    where = {"grad_output": device_of(grad_output), "indices": device_of(indices, op, "indices")}
    if len(set(where.values())) == 1:
        indices = own_array(op, "indices", indices)
        where = {"grad_output": place_of(grad_output), "indices": place_of(indices)}
    if len(set(where.values())) > 1:
        raise DeviceError(message(op, "all arrays must be on one device", **where))
    if np.dtype(indices.dtype).kind not in "iu":
        raise DTypeError(message(op, "indices must be integers", indices__dtype=str(indices.dtype)))
    return indices
