"""The errors users see, and the one form their messages take.

Every class is also the built-in error a caller would expect (ValueError, TypeError, RuntimeError),
so ``except ValueError`` keeps working for people who never import this module.
"""

from __future__ import annotations

from typing import Any


class NumbaconvError(Exception):
    """Base of every error this library raises on purpose."""


class ShapeError(NumbaconvError, ValueError):
    """Shapes that do not fit together: wrong rank, channel mismatch, a kernel larger than its input."""


class ArgumentError(NumbaconvError, ValueError):
    """An argument outside its range: zero stride, negative padding, an unknown mode."""


class DTypeError(NumbaconvError, TypeError):
    """An array of the wrong element type, or two that differ."""


class DeviceError(NumbaconvError, RuntimeError):
    """A device that is not there, or arrays that live on different ones."""


class DeviceMemoryError(NumbaconvError, MemoryError):
    """A device that has not enough memory left."""


class LabelError(NumbaconvError, IndexError, ValueError):
    """A class index outside 0 .. classes - 1."""


class StateError(NumbaconvError, RuntimeError):
    """Calls in the wrong order: a backward pass with no forward pass before it."""


class StateDictError(NumbaconvError, ValueError, KeyError):
    """A state dict whose keys or shapes are not the model's."""

    __str__ = Exception.__str__  # KeyError's shows the message's repr


class FileFormatError(NumbaconvError, ValueError):
    """A file that is truncated, corrupt, or not what it claims to be."""


_LONGEST = 2000  # characters of a value


def _shortened(text: str) -> str:
    more = len(text) - _LONGEST
    return text if more <= 0 else f"{text[:_LONGEST]} ... ({more} more characters)"


def message(op: str, rule: str, fix: str = "", /, **values: Any) -> str:
    """``<op>: <rule>; got <name>=<value>, …. <what to do>``.

    A double underscore in a keyword stands for a dot: ``x__shape`` prints as ``x.shape``. Values that would fill a
    screen, such as a list of all names in a file, are cut.
    """
    got = ", ".join(f"{name.replace('__', '.')}={_shortened(repr(value))}" for name, value in values.items())
    text = f"{op}: {rule}"
    if got:
        text += f"; got {got}"
    return f"{text}. {fix}".rstrip() if fix else f"{text}."
