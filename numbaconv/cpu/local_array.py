"""Arrays that a kernel makes for itself and drops when it returns.

``np.empty`` in a kernel is three functions of numba's, compiled for each kernel anew: 0.1 to 0.2 s. These are a call of
the allocator, and the array begins at a cache line.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

_CACHE_LINE = 64  # bytes
_MOST_BYTES = 1 << 60


def _local_array(zeroed: bool) -> Any:
    @intrinsic
    def local_array(typing_context: Any, count: Any, dtype: Any = None) -> Any:
        array = types.Array(types.float64 if dtype is None else dtype.dtype, 1, "C")

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            element = context.get_data_type(array.dtype)
            itemsize = context.get_abi_sizeof(element)
            # What is no size, negative ones included, becomes one that no memory has.
            most = ir.Constant(args[0].type, _MOST_BYTES // itemsize)
            possible = builder.icmp_unsigned("<=", args[0], most)
            elements = builder.select(possible, args[0], most)
            size = builder.mul(elements, ir.Constant(args[0].type, itemsize))
            memory = context.nrt.meminfo_alloc_aligned(builder, size, _CACHE_LINE)
            data = builder.bitcast(context.nrt.meminfo_data(builder, memory), element.as_pointer())
            if zeroed:
                cgutils.memset(builder, data, size, 0)
            made = context.make_array(array)(context, builder)
            populate_array(made, data, [args[0]], [ir.Constant(args[0].type, itemsize)], itemsize, memory)
            return made._getvalue()

        return array(types.intp, types.Omitted(None) if dtype is None else dtype), codegen

    return local_array


# local_array(count, dtype=np.float64), and the same full of zeros. Raise MemoryError.
local_array: Any = _local_array(zeroed=False)
zeroed_local_array: Any = _local_array(zeroed=True)
