"""Sizes of a problem on their way into a kernel: a named tuple of ints, passed as one array.

A tuple of twenty is twenty Python numbers to look at in every call, 2 us, and as many to convert in code that has to
be compiled; an array is one pointer.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic


@functools.lru_cache(maxsize=8192)
def sizes_of(values: tuple[int, ...]) -> np.ndarray:
    """The array that a kernel unpacks. Nobody writes it, though it can be written: numba is slower at read-only ones.

    Raises:
        TypeError: one of them is not an integer.
    """
    return np.array([operator.index(value) for value in values], np.int64)


@intrinsic
def _unpack(typing_context: Any, array: Any, kind: Any) -> Any:
    named_tuple = kind.instance_class
    result = types.NamedUniTuple(types.int64, len(named_tuple._fields), named_tuple)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(array)(context, builder, args[0]).data
        places = (builder.gep(data, [ir.Constant(ir.IntType(64), i)]) for i in range(len(result)))
        return context.make_tuple(builder, result, [builder.load(place) for place in places])

    return result(array, kind), codegen


# In a kernel: unpack(sizes, Kind) is the named tuple that the array was made of.
unpack: Any = _unpack
