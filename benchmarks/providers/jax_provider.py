"""JAX: compiled by XLA for the row's shape; threads follow the process's CPU affinity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ..cases import ConvRow, pair
from .base import Provider

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", True)


class Jax(Provider):
    """jax.lax.conv_general_dilated."""

    name = "jax"

    def __init__(self, device: str, threads: int) -> None:
        super().__init__(device, threads)
        self.layout = "channels_first"
        self.compiled: dict[Any, Any] = {}

    def version(self) -> str:
        return str(jax.__version__)

    def array(self, x: np.ndarray, layout: str) -> Any:
        if x.ndim == 4 and layout == "channels_last":
            self.layout = layout
            return jax.numpy.asarray(np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
        return jax.numpy.asarray(x)

    def to_numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x)

    def _function(self, row: ConvRow) -> Callable[..., Any]:
        names = ("NHWC", "OIHW", "NHWC") if self.layout == "channels_last" else ("NCHW", "OIHW", "NCHW")

        def conv2d(x: Any, weight: Any, bias: Any) -> Any:
            y = jax.lax.conv_general_dilated(
                x, weight, [row.stride] * 2, [(side, side) for side in pair(row.padding)],
                rhs_dilation=pair(row.dilation), dimension_numbers=names, feature_group_count=row.groups,
            )  # fmt: skip
            return y + (bias if names[0] == "NHWC" else bias[:, None, None])

        return conv2d

    def _logical(self, y: Any) -> Any:
        return y.transpose(0, 3, 1, 2) if self.layout == "channels_last" else y

    def prepared_conv2d(self, row: ConvRow, x: Any, weight: Any, bias: Any) -> Callable[[], Any]:
        compiled = jax.jit(self._function(row)).lower(x, weight, bias).compile()
        return lambda: _View(compiled(x, weight, bias).block_until_ready(), self.layout)

    def conv2d(self, row: ConvRow, x: Any, weight: Any, bias: Any) -> Any:
        key = (row.name, x.dtype)
        if key not in self.compiled:
            self.compiled[key] = jax.jit(self._function(row))
        return _View(self.compiled[key](x, weight, bias).block_until_ready(), self.layout)


class _View:
    """A result that is transposed to NCHW only when it is looked at, outside the timed call."""

    def __init__(self, y: Any, layout: str) -> None:
        self.y, self.layout = y, layout

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        result = np.asarray(self.y)
        return result.transpose(0, 3, 1, 2) if self.layout == "channels_last" else result
