"""How close a result must be to a float64 reference."""

from __future__ import annotations

import numpy as np

# Relative L2 error, and the largest single error as a share of the root mean square of the expected values.
# float32 has 24 bits; sums of 512 random terms lose about 3e-7, whatever the library.
L2 = {"float32": 2e-6, "float64": 1e-12}
MAX = {"float32": 4e-5, "float64": 1e-11}


def assert_close(actual, expected, dtype, what="result", looser=1.0):
    """`actual` has `dtype` and the shape of `expected`, and is as near to it as that dtype allows.

    `looser`: by how much more it may err (Winograd's transforms cost digits: 1e-5).
    """
    assert isinstance(actual, np.ndarray), f"{what} is {type(actual)}"
    assert actual.dtype == np.dtype(dtype), f"{what} has dtype {actual.dtype}, not {dtype}"
    assert actual.shape == expected.shape, f"{what} has shape {actual.shape}, not {expected.shape}"
    if expected.size == 0:
        return
    name = np.dtype(dtype).name
    error = actual.astype(np.float64) - expected
    norm = np.linalg.norm(expected)
    relative = np.linalg.norm(error) / norm if norm else np.linalg.norm(error)
    worst = np.unravel_index(np.argmax(np.abs(error)), error.shape)
    scale = norm / np.sqrt(expected.size) or 1.0
    detail = (
        f"{what}: relative L2 error {relative:.3g} (allowed {looser * L2[name]:.1g}); "
        f"worst at {tuple(map(int, worst))}: {actual[worst]!r}, expected {expected[worst]!r}"
    )
    assert relative <= looser * L2[name], detail
    assert abs(error[worst]) <= looser * MAX[name] * scale, detail


def random_array(rng, shape, dtype):
    """Standard normal numbers."""
    return rng.standard_normal(shape).astype(dtype)


# --- one array, in every way memory can hold it ------------------------------------------------------------


def _channels_last(x):
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if x.ndim == 4 else x.copy()


def _sliced(x):
    big = np.full([2 * size + 3 for size in x.shape], np.nan, x.dtype)
    view = big[tuple(slice(1, 1 + 2 * size, 2) for size in x.shape)]
    view[...] = x
    return view


def _reversed(x):
    every = (slice(None, None, -1),) * x.ndim
    return x[every].copy()[every]


def _sliced_channels_last(x):
    return _channels_last(np.concatenate([x, x], axis=1))[:, : x.shape[1]] if x.ndim == 4 else _sliced(x)


def _transposed(x):
    return x.swapaxes(-1, -2).copy().swapaxes(-1, -2) if x.ndim > 1 else x


def _broadcast(axis):
    def expand(x):
        return np.broadcast_to(x.take([0], axis), x.shape) if axis < x.ndim and x.shape[axis] else x

    return expand


def _broadcast_all(x):
    """One number everywhere: in eighths, so that sums are exact (those of one rounded number err all one way)."""
    return np.broadcast_to(np.round(x.flat[0] * 8).astype(x.dtype) / 8 + 1, x.shape) if x.size else x


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def _unaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def _odd_strides(x):
    """A field of packed records: strides that are no multiple of the element's size."""
    records = np.zeros(x.shape, [("flag", np.uint8), ("value", x.dtype)])
    records["value"] = x
    return records["value"]


# name: (an array like x; zero-stride ones repeat x's first slice)
LAYOUTS = {
    "channels_first": np.ascontiguousarray,
    "channels_last": _channels_last,
    "fortran": np.asfortranarray,
    "sliced": _sliced,
    "sliced_channels_last": _sliced_channels_last,
    "negative_strides": _reversed,
    "transposed": _transposed,
    "broadcast_first": _broadcast(0),
    "broadcast_channels": _broadcast(1),
    "broadcast_last": _broadcast(-1),
    "broadcast_all": _broadcast_all,
    "read_only": _read_only,
    "read_only_channels_last": lambda x: _read_only(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "byte_swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "unaligned": _unaligned,
    "odd_strides": _odd_strides,
}
# Those for arrays of any rank
LAYOUTS_2D = {name: make for name, make in LAYOUTS.items() if not name.endswith("channels_last")}

# What `layout_of` says of each: C order wins, else C's stride against those of H and W
CHANNELS_LAST = ("channels_last", "fortran", "sliced_channels_last", "broadcast_channels", "read_only_channels_last")


class Unchanged:
    """``with Unchanged(x, weight):`` fails if an array's bytes, or those between its elements, have changed."""

    def __init__(self, *arrays):
        self.arrays = [a for a in arrays if isinstance(a, np.ndarray)]

    def __enter__(self):
        self.before = [(a.tobytes(), self._owner(a).tobytes(), a.strides, a.flags.writeable) for a in self.arrays]
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            after = [(a.tobytes(), self._owner(a).tobytes(), a.strides, a.flags.writeable) for a in self.arrays]
            assert after == self.before, "an input was changed"

    @staticmethod
    def _owner(a):
        while isinstance(a.base, np.ndarray):
            a = a.base
        return a
