"""Checks of single arguments, and the forms they are brought to. Pure Python; `shapes` builds problems of them."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from .errors import ArgumentError, ShapeError, message

Pair = tuple[int, int]
_INTS = {int}
_AS_THEY_ARE = {int, str}  # of what `hashable` takes


def integer(op: str, name: str, value: Any, minimum: int) -> int:
    """`value` as an int of at least `minimum`, or an error that names it."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ArgumentError(message(op, f"{name} must be an int", **{name: value})) from None
    if number < minimum:
        raise ArgumentError(message(op, f"{name} must be at least {minimum}", **{name: value}))
    return number


def pair(op: str, name: str, value: Any, minimum: int) -> Pair:
    """An int, or a (vertical, horizontal) pair of ints, as a pair."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        number = integer(op, name, value, minimum)
        return number, number
    if len(value) != 2:
        raise ArgumentError(message(op, f"{name} must be an int or a (vertical, horizontal) pair", **{name: value}))
    return integer(op, name, value[0], minimum), integer(op, name, value[1], minimum)


class _Refused:
    """Stands for an argument that is no int, pair or name: equal to nothing, prints as what it stands for."""

    def __init__(self, value: Any) -> None:
        self._text = repr(value)

    def __repr__(self) -> str:
        return self._text


def hashable(value: Any) -> Any:
    """An argument in the one form that keys a cache: ints, names, None, and tuples of these.

    Lists become tuples, NumPy's ints ints. Everything else is refused by the check behind the cache: 1.0
    and True equal 1, and would else be let through where 1 was before.
    """
    if type(value) is int or value is None or isinstance(value, str):
        return value
    if type(value) is tuple and set(map(type, value)) == _INTS:
        return value
    if isinstance(value, (list, tuple)):
        return tuple(hashable(v) for v in value)
    try:
        return _Refused(value) if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return _Refused(value)


def remembered(function: Callable[..., Any]) -> Any:
    """Caches a function of shapes and arguments, brought to the form of `hashable` first.

    Keyword-only arguments are flags and names, and go as they are. ``of_arrays`` of the result takes those shapes, the
    arguments whose names end in "_shape", as they are too: tuples of ints, as arrays have them.
    """
    cached = functools.lru_cache(maxsize=4096)(function)
    flags = function.__kwdefaults__ or {}

    @functools.wraps(function)
    def remember(*args: Any, **kwargs: Any) -> Any:
        values = {name: value if name in flags else hashable(value) for name, value in kwargs.items()}
        return cached(*[value if type(value) is int else hashable(value) for value in args], **values)

    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    shapes = sum(name.endswith("_shape") for name in names)  # they come first

    def of_arrays(*args: Any, **kwargs: Any) -> Any:
        for value in args[shapes:]:
            if type(value) not in _AS_THEY_ARE:
                return cached(*args[:shapes], *map(hashable, args[shapes:]), **kwargs)
        return cached(*args, **kwargs)

    remember.of_arrays = of_arrays  # type: ignore[attr-defined]
    return remember


def number(op: str, name: str, value: Any) -> float:
    """`value` as a float, or an error that names it."""
    try:
        if isinstance(value, (bool, str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise ArgumentError(message(op, f"{name} must be a number", **{name: value})) from None


def is_shape(value: Any) -> bool:
    """Whether a `hashable` value is a shape: a tuple of ints of at least 0."""
    if type(value) is tuple and set(map(type, value)) == _INTS:  # the usual case, in a comparison
        return min(value) >= 0
    return isinstance(value, tuple) and all(isinstance(size, int) and size >= 0 for size in value)


_MOST_ELEMENTS = 1 << 59  # as float64 they have an address each, and NumPy can count their bytes


def require_countable(op: str, **shapes: tuple[int, ...]) -> None:
    """Raises ShapeError for an array that no machine can hold; an empty axis counts as one, as in NumPy's check."""
    for name, shape in shapes.items():
        if math.prod(max(size, 1) for size in shape) >= _MOST_ELEMENTS:
            raise ShapeError(message(op, f"{name} must have fewer than 2**59 elements", **{f"{name}__shape": shape}))


def batched(op: str, shape: Any, axes: str = "C, H, W", name: str = "x") -> bool:
    """False for one image (C, H, W), True for a batch (N, C, H, W).

    Raises:
        ShapeError: for any other rank, and what is no shape at all.
    """
    if is_shape(shape) and len(shape) in (3, 4):
        return len(shape) == 4
    rule = f"{name} must have 4 axes (N, {axes}), or 3 ({axes}) for one image"
    raise ShapeError(message(op, rule, **{f"{name}__shape": shape}))


def require_same_shape(op: str, first: str, a: tuple[int, ...], second: str, b: tuple[int, ...]) -> None:
    """Raises ShapeError where two arrays that go together differ in shape."""
    if a != b:
        values = {f"{first}__shape": a, f"{second}__shape": b}
        raise ShapeError(message(op, f"{first}.shape must equal {second}.shape", **values))
