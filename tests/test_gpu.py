"""On a GPU itself: operations and training against the CPU backend. ``pytest -m gpu`` runs the op tests there too."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv import backend, nn, optim, train
from numbaconv import functional as F
from numbaconv.models import lenet5

pytestmark = pytest.mark.gpu
DTYPES = ("float32", "float64")
TOLERANCE = {"float32": {"rtol": 2e-5, "atol": 2e-6}, "float64": {"rtol": 1e-11, "atol": 1e-13}}


def normal(*shape):
    return lambda rng, dtype: rng.standard_normal(shape).astype(dtype)


def labels(count, classes):
    return lambda rng, dtype: rng.integers(0, classes, count)


X = normal(3, 17, 33, 30)  # some way past one block, and no multiple of anything
CASES = {
    **{name: (getattr(F, name), [X]) for name in ("relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu")},
    **{
        f"{name}_backward": (getattr(F, f"{name}_backward"), [X, X])
        for name in ("relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu")
    },
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, stride=2, padding=1, return_indices=True), [X]),
    "max_pool2d_backward": (
        lambda x, g: F.max_pool2d_backward(g, F.max_pool2d(x, 2, return_indices=True)[1], x.shape, 2),
        [X, normal(3, 17, 16, 15)],
    ),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, stride=2, padding=1), [X]),
    "avg_pool2d_backward": (lambda g: F.avg_pool2d_backward(g, (3, 17, 32, 30), 2), [normal(3, 17, 16, 15)]),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, 7), [X]),
    "adaptive_avg_pool2d_backward": (
        lambda g: F.adaptive_avg_pool2d_backward(g, (3, 17, 33, 30)),
        [normal(3, 17, 7, 7)],
    ),
    "batch_norm": (lambda x, w, b: F.batch_norm(x, w, b, training=True).output, [X, normal(17), normal(17)]),
    "batch_norm_backward": (
        lambda g, x, w: F.batch_norm_backward(g, x, w, *F.batch_norm(x, w, training=True)[3:], training=True),
        [X, X, normal(17)],
    ),
    "dropout": (lambda x: F.dropout(x, 0.3, seed=5, layer=1, step=2), [X]),
    "pad": (lambda x: F.pad(x, 2, mode="reflect"), [X]),
    "pad_backward": (lambda g: F.pad_backward(g, (3, 17, 29, 26), 2, mode="reflect"), [X]),
    "flatten": (F.flatten, [X]),
    "add": (F.add, [X, X]),
    "concat": (lambda x, y: F.concat([x, y]), [X, normal(3, 5, 33, 30)]),
    "softmax": (lambda x: F.softmax(x, 1), [X]),
    "softmax_backward": (lambda g, x: F.softmax_backward(g, F.softmax(x, 1), 1), [X, X]),
    "log_softmax": (lambda x: F.log_softmax(x, -1), [X]),
    "log_softmax_backward": (lambda g, x: F.log_softmax_backward(g, F.log_softmax(x, -1), -1), [X, X]),
    "cross_entropy": (F.cross_entropy, [normal(70, 1000), labels(70, 1000)]),
    "cross_entropy_backward": (F.cross_entropy_backward, [normal(70, 1000), labels(70, 1000)]),
    "mse_loss": (F.mse_loss, [X, X]),
    "mse_loss_backward": (F.mse_loss_backward, [X, X]),
    "sum_of_squares": (F.sum_of_squares, [X]),
}


def host(result):
    """A result, or the arrays of one that is several."""
    parts = result if isinstance(result, tuple) else (result,)
    return [np.asarray(part) if isinstance(part, float) else backend.to_host(part) for part in parts]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("case", CASES)
def test_operations_equal_the_cpus(case, layout, dtype, gpu, rng):
    function, shapes = CASES[case]
    arrays = [make(rng, dtype) for make in shapes]
    if layout == "channels_last":
        arrays = [backend.channels_last(a) if a.ndim == 4 else a for a in arrays]
    expected = host(function(*arrays))
    found = host(function(*(backend.to_device(a, gpu) for a in arrays)))
    for a, b in zip(found, expected, strict=True):
        scale = max(1.0, float(np.abs(b).max())) if b.size else 1.0
        np.testing.assert_allclose(a / scale, b / scale, **TOLERANCE[dtype])


def make_model(dropout=0.0):
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Residual(nn.Conv2d(16, 16, 3, padding=1)),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(16 * 14 * 14, 10),
    )
    return model.initialize(0)


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    return rng.random((1000, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, 1000)


def fit(model, samples, **options):
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return train.fit(model, *samples, **{"epochs": 2, "batch_size": 64, "optimizer": optimizer, **options})


@pytest.mark.parametrize(
    "make", [make_model, lambda: lenet5(rng=0), lambda: make_model(0.3)], ids=["digits", "lenet5", "dropout"]
)
def test_fit_equals_the_cpus(make, samples, gpu):
    here, there = make(), make()
    expected = fit(here, samples, epochs=1)
    history = fit(there, samples, epochs=1, device=gpu)
    np.testing.assert_allclose(history.step_losses, expected.step_losses, rtol=1e-3)
    outputs = train.predict(here, samples[0])
    np.testing.assert_allclose(train.predict(there, samples[0]), outputs, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("capture", [False, True])
def test_every_run_gives_the_same_bits(capture, samples, gpu):
    """Captured or not: sums are taken in a fixed order, whatever order blocks come in."""
    states = []
    for captured in (False, capture):
        model = make_model()
        fit(model, samples, device=gpu, capture=captured)
        states.append(model.state_dict())
    for name, array in states[0].items():
        np.testing.assert_array_equal(states[1][name], array, err_msg=name)


def test_a_second_epoch_allocates_nothing(samples, gpu):
    cuda, number = backend.backend_at(gpu)
    model, seen = make_model(), []
    fit(model, samples, device=gpu, epochs=4, on_epoch=lambda _: seen.append(cuda.memory_stats(number)["allocations"]))
    assert seen[1] == seen[-1]


def test_a_label_out_of_range_is_an_error_at_the_next_wait(gpu, rng):
    x = backend.to_device(rng.standard_normal((8, 5)).astype(np.float32), gpu)
    target = backend.to_device(np.array([0, 1, 2, 3, 4, 5, 0, 0]), gpu)
    with pytest.raises(IndexError, match=r"target\[5\]=5"):
        F.cross_entropy(x, target)
    assert np.isfinite(backend.to_host(x)).all()
