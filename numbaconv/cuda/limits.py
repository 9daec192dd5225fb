"""What an int32 can count: kernels that divide indices count in 32 bits, and are refused larger arrays by name."""

from __future__ import annotations

from typing import Any

from ..errors import ShapeError, message

LARGEST = 2**31 - 1024  # the numbers of the last block's idle threads are below 2^31 too


def require_32_bit(op: str, *arrays: Any) -> None:
    """Refuses arrays (or counts, as ints) of more than `LARGEST` elements; None is passed over.

    Raises:
        ShapeError: says how many elements there are.
    """
    sizes = [getattr(a, "size", a) for a in arrays if a is not None]
    if max(sizes, default=0) > LARGEST:
        rule = f"on a GPU this takes arrays of at most 2^31 - 1024 = {LARGEST} elements"
        raise ShapeError(message(op, rule, "Use a smaller batch, or several.", elements=max(sizes)))
