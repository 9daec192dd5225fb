"""How close a result must be to a float64 reference."""

from __future__ import annotations

import numpy as np

# Relative L2 error, and the largest single error as a share of the root mean square of the expected values.
# float32 has 24 bits; 512-term sums in random order lose about 3e-7 (KERNELS of any library; oneDNN's too).
L2 = {"float32": 2e-6, "float64": 1e-12}
MAX = {"float32": 4e-5, "float64": 1e-11}


def assert_close(actual, expected, dtype, what="result"):
    """`actual` has `dtype` and the shape of `expected`, and is as near to it as that dtype allows."""
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
        f"{what}: relative L2 error {relative:.3g} (allowed {L2[name]:.1g}); worst at {tuple(map(int, worst))}: "
        f"{actual[worst]!r}, expected {expected[worst]!r}"
    )
    assert relative <= L2[name], detail
    assert abs(error[worst]) <= MAX[name] * scale, detail


def random_array(rng, shape, dtype):
    """Standard normal numbers."""
    return rng.standard_normal(shape).astype(dtype)
