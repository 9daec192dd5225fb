"""Borders, flattening, joining and adding, and their backwards; a result is laid out as its first array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..arguments import batched, hashable, integer, is_shape, number, require_same_shape
from ..backend import enter
from ..errors import ArgumentError, ShapeError, message
from ..shapes import PadProblem, pad_problem

Array = Any


def pad(x: Array, padding: Any, *, mode: str = "zeros", value: float = 0.0) -> Array:
    """Puts a border around the last two axes.

    Args:
        x: float32 or float64, (N, C, H, W) or (C, H, W).
        padding: an int, a (vertical, horizontal) pair, or ((top, bottom), (left, right)); rows and columns to add.
        mode: "zeros"; "reflect" mirrors at the edge row, which is not repeated; "replicate" repeats the edge row;
            "circular" goes on at the opposite edge.
        value: what fills the border in mode "zeros".

    Returns:
        (N, C, H + top + bottom, W + left + right).

    Raises:
        ShapeError, ArgumentError: with the rule that is broken; "reflect" adds at most size - 1, "circular" at most
            size.
    """
    backend, x = enter("pad", x=x)
    problem = _pad_problem("pad", x.shape, padding, mode)
    value = number("pad", "value", value)
    if mode != "zeros" and value != 0:
        raise ArgumentError(message("pad", 'value is for mode "zeros" only', mode=mode, value=value))
    output = backend.pad(problem, x.reshape(problem.input_shape), value)
    return output[0] if len(x.shape) == 3 else output


def pad_backward(grad_output: Array, input_shape: tuple[int, ...], padding: Any, *, mode: str = "zeros") -> Array:
    """Vector-Jacobian product of `pad`.

    Args:
        grad_output: gradient of the output, of its shape.
        input_shape: of the forward's x.
        padding, mode: as in the forward call.

    Returns:
        input_shape: the gradient inside the border, plus the border's where it was copied from.

    Raises:
        ShapeError: if grad_output has not the shape of the output.
    """
    op = "pad_backward"
    backend, grad_output = enter(op, grad_output=grad_output)
    problem = _pad_problem(op, input_shape, padding, mode)
    output_shape = problem.output_shape
    require_same_shape(op, "grad_output", grad_output.shape, "output", output_shape[4 - len(input_shape) :])
    return backend.pad_backward(problem, grad_output.reshape(output_shape)).reshape(input_shape)


def _pad_problem(op: str, shape: tuple[int, ...], padding: Any, mode: str) -> PadProblem:
    shape = hashable(shape)
    return pad_problem(shape if batched(op, shape) else (1, *shape), padding, mode, op)


def flatten(x: Array) -> Array:
    """One row of features per image.

    Args:
        x: float32 or float64, (N, ...).

    Returns:
        (N, C * H * W) in the logical order of x, whatever its strides; a view where they allow it.

    Raises:
        ShapeError: if x has fewer than 2 axes.
    """
    backend, x = enter("flatten", x=x)
    if len(x.shape) < 2:
        raise ShapeError(message("flatten", "x must have at least 2 axes (N, ...)", x__shape=x.shape))
    return backend.flatten(x)


def flatten_backward(grad_output: Array, input_shape: tuple[int, ...]) -> Array:
    """Vector-Jacobian product of `flatten`.

    Args:
        grad_output: gradient of the output, (N, C * H * W).
        input_shape: of the forward's x.

    Returns:
        grad_output in input_shape, C-contiguous; a view where its strides allow it.

    Raises:
        ShapeError: if grad_output does not go with input_shape.
    """
    op = "flatten_backward"
    backend, grad_output = enter(op, grad_output=grad_output)
    input_shape = hashable(input_shape)
    if not is_shape(input_shape) or len(input_shape) < 2:
        raise ShapeError(message(op, "input_shape must have at least 2 axes (N, ...)", input_shape=input_shape))
    output_shape = input_shape[0], math.prod(input_shape[1:])
    require_same_shape(op, "grad_output", grad_output.shape, "output", output_shape)
    return backend.contiguous(grad_output).reshape(input_shape)


def add(x: Array, y: Array) -> Array:
    """Elementwise sum; nothing is broadcast.

    Args:
        x, y: float32 or float64, of one shape and dtype.

    Returns:
        x + y, laid out as x.

    Raises:
        ShapeError: if the shapes differ.
    """
    backend, x, y = enter("add", x=x, y=y)
    require_same_shape("add", "x", x.shape, "y", y.shape)
    return backend.add(x, y)


def add_backward(grad_output: Array) -> tuple[Array, Array]:
    """Vector-Jacobian product of `add`: its gradient is that of both terms.

    Args:
        grad_output: gradient of the output.

    Returns:
        (grad_output, grad_output), not copied.
    """
    _, grad_output = enter("add_backward", grad_output=grad_output)
    return grad_output, grad_output


def concat(arrays: Sequence[Array]) -> Array:
    """Joins arrays along their channels.

    Args:
        arrays: one or more, float32 or float64, (N, C_i, ...), of one dtype and of equal shapes but for axis 1.

    Returns:
        (N, sum of C_i, ...), laid out as the first.

    Raises:
        ShapeError: if the shapes differ in another axis than 1, or there is no axis 1.
        ArgumentError: if there is no array.
    """
    op = "concat"
    if not isinstance(arrays, (list, tuple)) or not arrays:
        raise ArgumentError(message(op, "arrays must be a list or tuple of at least one array", arrays=arrays))
    backend, *entered = enter(op, **{f"arrays[{i}]": a for i, a in enumerate(arrays)})
    shapes = [tuple(a.shape) for a in entered]
    first = shapes[0]
    if len(first) < 2 or any(len(s) != len(first) or s[0] != first[0] or s[2:] != first[2:] for s in shapes):
        raise ShapeError(message(op, "arrays must have at least 2 axes and differ in axis 1 only", shapes=shapes))
    return backend.concat(tuple(entered))


def concat_backward(grad_output: Array, sizes: Sequence[int]) -> tuple[Array, ...]:
    """Vector-Jacobian product of `concat`.

    Args:
        grad_output: gradient of the output, (N, C, ...).
        sizes: C_i of each joined array.

    Returns:
        The gradient of each, (N, C_i, ...): views of grad_output.

    Raises:
        ShapeError: if the sizes do not add up to C.
    """
    op = "concat_backward"
    backend, grad_output = enter(op, grad_output=grad_output)
    if not isinstance(sizes, Sequence) or isinstance(sizes, (str, bytes)):
        raise ArgumentError(message(op, "sizes must be a list of ints", sizes=sizes))
    pieces = tuple(integer(op, "sizes", size, 0) for size in sizes)
    if len(grad_output.shape) < 2 or sum(pieces) != grad_output.shape[1]:
        values = {"grad_output__shape": grad_output.shape, "sizes": pieces}
        raise ShapeError(message(op, "sizes must add up to grad_output.shape[1]", **values))
    return backend.concat_backward(grad_output, pieces)
