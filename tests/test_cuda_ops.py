"""Operations on a GPU but convolution: compiled kernels in the PTX interpreter, and as Python in the simulator.

Sizes and layouts are drawn; all of the interpreter's checks are on (races, bounds, alignment, barriers, memory nobody
wrote). Each kernel runs as compiled for three architectures.
"""

from __future__ import annotations

import itertools
from collections import Counter

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

import cuda_op_checks
from cuda_op_checks import CHECKS, Drawn, to_host
from ptx.runtime import InterpreterRuntime

from numbaconv import cuda, functional, to_device
from numbaconv.cuda import convert, launch, limits
from numbaconv.errors import ArgumentError, LabelError, ShapeError

ARCHITECTURES = ((8, 0), (9, 0), (10, 0))
MODULES = ("avg_pool", "convert", "dropout", "elementwise", "loss", "max_pool", "moments", "norm", "shape", "softmax")
ELSEWHERE = {"elementwise.sum", "elementwise.product"}  # of update.py
EXAMPLES = max(hypothesis.settings.default.max_examples // 30, 2)
launched: dict[tuple[str, tuple[int, int]], Counter[str]] = {}
checked: dict[tuple[str, tuple[int, int]], set[str]] = {}


# Whose kernels treat both types alike; in the others VECTOR, or the index of a lane, differs.
SAME_IN_FLOAT64 = ("activations", "softmax", "cross_entropy", "mse")


def combinations(name):
    """float32 on each architecture, float64 on one, or of some kernels on none; with --full both on each."""
    for dtype in ("float32", "float64"):
        for cc in ARCHITECTURES:
            long = dtype == "float64" and (cc != (8, 0) or name in SAME_IN_FLOAT64)
            marks = pytest.mark.full if long else ()
            yield pytest.param(name, dtype, cc, id=f"{name}-{dtype}-sm_{cc[0]}{cc[1]}", marks=marks)


@pytest.mark.parametrize(("name", "dtype", "cc"), [case for name in CHECKS for case in combinations(name)])
def test_compiled_kernels(name, dtype, cc):
    counts = launched.setdefault((dtype, cc), Counter())
    checked.setdefault((dtype, cc), set()).add(name)

    @hypothesis.settings(max_examples=EXAMPLES, phases=[hypothesis.Phase.generate])
    @hypothesis.given(st.data())
    def check(data):
        runtime = InterpreterRuntime(cc)
        with launch.use(runtime):
            CHECKS[name](Drawn(data), np.random.default_rng(20240607), dtype)
        counts.update(runtime.launches)

    check()


@pytest.mark.parametrize("cc", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.full)])
def test_every_kernel_was_executed(dtype, cc):
    """After the tests above, on this architecture."""
    if checked.get((dtype, cc)) != set(CHECKS):
        pytest.skip("not all tests of this file ran in this process")
    kernels = [k for name, k in launch.KERNELS.items() if name.partition(".")[0] in MODULES and name not in ELSEWHERE]
    expected = {k.specialise(np.dtype(dtype)).name for k in kernels if np.dtype(dtype) in k.dtypes}
    assert expected - set(launched.get((dtype, cc), ())) == set()


SIMULATED = """
import numpy as np
from cuda_op_checks import CHECKS, Seeded
for dtype in ("float32", "float64"):
    for seed, (name, check) in enumerate(CHECKS.items()):
        if (seed + (dtype == "float64")) % int({every!r}) == 0:
            rng = np.random.default_rng(seed)
            check(Seeded(rng, 20), rng, dtype)
            print(name, dtype)
"""


@pytest.mark.parametrize("every", ["2", pytest.param("1", marks=pytest.mark.full)])
def test_simulator(every, run_python):
    """Without --full a check runs in one of the two types."""
    output = run_python(SIMULATED.format(every=every), NUMBA_ENABLE_CUDASIM="1")
    assert len(output.splitlines()) == 2 * len(CHECKS) // int(every)


# --- odd values and bad input -----------------------------------------------------------------------------


@pytest.fixture
def device():
    with launch.use(InterpreterRuntime((8, 0))) as runtime:
        yield runtime


def there(x):
    return to_device(x, "cuda")


ODD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30, 88.8, -88.8, 1e-40, 2, -2], np.float32)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu"])
def test_activations_of_odd_values_are_pytorchs(name, device):
    torch = pytest.importorskip("torch")
    # One at a time: with AVX-512 from Intel its vectors make a NaN of gelu(inf), its scalars do not.
    expected = torch.cat(
        [getattr(torch.nn.functional, name)(torch.from_numpy(ODD[i : i + 1])) for i in range(ODD.size)]
    )
    y = getattr(functional, name)(there(ODD))
    np.testing.assert_allclose(to_host(y), expected.numpy(), rtol=1e-5, atol=1e-37)


def test_maximum_of_odd_values(device):
    x = np.full((1, 4, 4, 4), -np.inf, np.float32)
    x[0, 0, 0, 1], x[0, 0, 1, 0], x[0, 1, 0, 0], x[0, 2, 1, 1] = np.nan, 9, np.inf, 5
    for make in (np.ascontiguousarray, lambda a: np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)):
        y, indices = functional.max_pool2d(there(make(x)), 2, return_indices=True)
        np.testing.assert_array_equal(to_host(y)[0, :, 0, 0], [np.nan, np.inf, 5, -np.inf])
        np.testing.assert_array_equal(to_host(indices)[0, :, 0, 0], [1, 0, 5, 0])


def test_arrays_without_elements(device):
    x = there(np.empty((0, 3, 4, 4), np.float32))
    assert functional.relu(x).shape == (0, 3, 4, 4)
    assert functional.max_pool2d(x, 2).shape == functional.avg_pool2d(x, 2).shape == (0, 3, 2, 2)
    assert functional.pad(x, 1).shape == (0, 3, 6, 6)
    assert functional.softmax(x, 1).shape == functional.dropout(x, 0.5, seed=1).shape == x.shape
    assert functional.flatten(x).shape == (0, 48)
    labels = there(np.empty((0, 4, 4), np.int64))
    assert to_host(functional.cross_entropy(x, labels, reduction="sum")) == 0
    assert np.isnan(to_host(functional.cross_entropy(x, labels)))
    assert functional.cross_entropy_backward(x, labels).shape == x.shape
    result = functional.batch_norm(x, running_mean=there(np.ones(3, "f4")), running_var=there(np.ones(3, "f4")),
                                   training=True)  # fmt: skip
    np.testing.assert_array_equal(to_host(result.running_var), np.ones(3))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("dense", [True, False])
def test_labels_of_every_integer_dtype(dtype, dense, device, rng):
    x, target = rng.standard_normal((9, 5)), rng.integers(0, 5, 9)
    expected, _ = cuda_op_checks.reference_cross_entropy(x, target, 0, "mean")
    held = there(target.astype(dtype)) if dense else there(np.repeat(target, 2).astype(dtype))[::2]
    assert float(to_host(functional.cross_entropy(there(x), held))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("op", ["cross_entropy", "cross_entropy_backward"])
@pytest.mark.parametrize("wrong", [5, -1, -100, 2**31])
def test_the_first_label_out_of_range_is_named_at_the_next_wait(op, wrong, device, rng):
    x, target = rng.standard_normal((2, 5, 300)), rng.integers(0, 5, (2, 300))
    target[1, 7], target[1, 299] = wrong, 77
    named = "" if wrong > 2**31 - 1 else rf"target\[1, 7\]={wrong}\. Count classes from 0"
    with pytest.raises(
        LabelError, match=f"^{op}: target must hold class indices from 0 to 4, or ignore_index = -7.*{named}"
    ):
        to_host(getattr(functional, op)(there(x), there(target), ignore_index=-7))
    assert to_host(functional.relu(there(x))).shape == x.shape  # and is over then


@pytest.mark.parametrize("wrong", [-1, 16, 2**31 - 1, 2**32 + 5])
def test_an_index_out_of_range(wrong, device):
    x = there(np.arange(16, dtype="f4").reshape(1, 1, 4, 4))
    y, indices = functional.max_pool2d(x, 2, return_indices=True)
    bad = to_host(indices).astype("int64")
    bad[0, 0, 1, 1] = wrong
    grad = functional.max_pool2d_backward(y, there(bad), x.shape, 2)
    with pytest.raises(ArgumentError, match=r"indices must be from 0 to H \* W - 1 = 15; got indices\[0, 0, 1, 1\]"):
        to_host(grad)


def test_what_int32_cannot_count_is_refused_by_name():
    limits.require_32_bit("relu", 2**31 - 1024, None)
    with pytest.raises(ShapeError, match=r"^softmax: on a GPU .* 2147482624 elements; got elements=2147483647"):
        limits.require_32_bit("softmax", 1, 2**31 - 1)


def test_copies_of_many_elements_are_cut():
    """Into parts that a kernel can count, as few as can be; together they are the whole."""
    source = cuda.DeviceArray(0, (3, 2**30, 2), np.dtype("f4"), 0, None, (8, 24, 4))
    target = cuda.DeviceArray(0, (3, 2**30, 2), np.dtype("f4"), 0, None)
    parts = list(itertools.islice(convert._parts(source, target, 4), 10))
    assert [p.size for p in parts] == 3 * [2 * (2**30 - 512), 2 * 512]
    assert [p.target.address for p in parts[:3]] == [0, 4 * parts[0].size, 2**33]
    assert [p.source.address for p in parts[:3]] == [0, 24 * (2**30 - 512), 8]


def test_the_same_bits_every_time(device, rng):
    x, g = (there(rng.standard_normal((3, 8, 5, 7)).astype("f4")) for _ in range(2))
    target = there(rng.integers(0, 8, (3, 5, 7)))

    def run():
        result = functional.batch_norm(x, training=True)
        grads = functional.batch_norm_backward(g, x, None, result.mean, result.inverse_std, training=True)
        return [np.asarray(to_host(a)).tobytes() for a in (result.output, *grads, functional.cross_entropy(x, target))]

    assert run() == run()
