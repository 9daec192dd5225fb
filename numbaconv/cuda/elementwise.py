"""Kernels of one pass over memory, made from a function of one element.

They run over dense memory in whatever order it is: one thread does `VECTOR` elements with one access of 16 bytes for
each array; the last thread, and every thread where an array does not start at a multiple of 16 bytes, does them one
by one. Elements are counted in 64 bits: there is no limit to them. Bytes: each array once.
"""

from __future__ import annotations

from typing import Any

from numba import cuda

from .array import DeviceArray
from .intrinsics import load_vector, map_vector, store_vector
from .launch import VECTOR, Inline, Kernel, T, kernel, launch
from .layout import aligned, dense, empty_like, match


def unary(body: Any) -> Kernel:
    """The kernel ``out = body(x)``; ``body`` is an `inline` function, and gives it its name."""

    @kernel(threads=256, name=_name(body))
    def run(x: "T*", out: "T*", size: "i64", whole: "i64"):
        i = cuda.grid(1) * VECTOR
        if i + VECTOR <= whole:
            store_vector(out, i, map_vector(body, (load_vector(x, i),)))
        else:
            for j in range(i, i + VECTOR):  # of constant length: unrolled
                if j < size:
                    out[j] = body(x[j])

    return run


def unary_with_number(body: Any) -> Kernel:
    """The kernel ``out = body(x, number)``."""

    @kernel(threads=256, name=_name(body))
    def run(x: "T*", out: "T*", size: "i64", whole: "i64", number: "T"):
        i = cuda.grid(1) * VECTOR
        if i + VECTOR <= whole:
            store_vector(out, i, map_vector(body, (load_vector(x, i), number)))
        else:
            for j in range(i, i + VECTOR):
                if j < size:
                    out[j] = body(x[j], number)

    return run


def binary(body: Any) -> Kernel:
    """The kernel ``out = body(y, x)``."""

    @kernel(threads=256, name=_name(body))
    def run(y: "T*", x: "T*", out: "T*", size: "i64", whole: "i64"):
        i = cuda.grid(1) * VECTOR
        if i + VECTOR <= whole:
            store_vector(out, i, map_vector(body, (load_vector(y, i), load_vector(x, i))))
        else:
            for j in range(i, i + VECTOR):
                if j < size:
                    out[j] = body(y[j], x[j])

    return run


def binary_with_number(body: Any) -> Kernel:
    """The kernel ``out = body(y, x, number)``."""

    @kernel(threads=256, name=_name(body))
    def run(y: "T*", x: "T*", out: "T*", size: "i64", whole: "i64", number: "T"):
        i = cuda.grid(1) * VECTOR
        if i + VECTOR <= whole:
            store_vector(out, i, map_vector(body, (load_vector(y, i), load_vector(x, i), number)))
        else:
            for j in range(i, i + VECTOR):
                if j < size:
                    out[j] = body(y[j], x[j], number)

    return run


def _name(body: Inline) -> str:
    return body.__name__.strip("_")


def run_unary(body: Kernel, x: DeviceArray, *numbers: float) -> DeviceArray:
    """A new array, laid out as x."""
    x = dense(x, any_address=True)
    out = empty_like(x)
    run(body, (x, out), *numbers)
    return out


def run_binary(body: Kernel, y: DeviceArray, x: DeviceArray, *numbers: float) -> DeviceArray:
    """A new array, laid out as x."""
    x = dense(x, any_address=True)
    y = match(y, x, any_address=True)
    out = empty_like(x)
    run(body, (y, x, out), *numbers)
    return out


def run(body: Kernel, arrays: tuple[DeviceArray, ...], *numbers: float) -> None:
    """Launches a kernel over arrays that are dense in one order."""
    first = arrays[0]
    launch(body, first.dtype, blocks_of(body, first), *arrays, first.size, whole(*arrays), *numbers)


def blocks_of(body: Kernel, x: DeviceArray) -> int:
    """Blocks for 16 bytes a thread."""
    return -(-x.nbytes // (16 * body.threads))


def whole(*arrays: DeviceArray) -> int:
    """How many elements may be accessed 16 bytes at a time: all, or none."""
    return arrays[0].size if aligned(*arrays) else 0
