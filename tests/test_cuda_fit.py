"""Training on a GPU without one: against the CPU backend, with every step's order, launches and allocations watched.

Kernels are executed as compiled, by the PTX interpreter behind the recording device; once by the simulator.
"""

from __future__ import annotations

import numpy as np
import pytest
from ptx.runtime import InterpreterRuntime
from recording import Recorder, RecordingError

from numbaconv import backend, io, nn, optim, train
from numbaconv.models import lenet5

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numbaconv.cuda.launch import use

CLASSES = 3
CLOSE = {"rtol": 2e-4, "atol": 2e-6}  # of weights after a few steps in float32, summed in another order


@pytest.fixture(scope="module")
def samples():
    """20 noisy 8x8 images, each bright in the rows of its class: two batches of 8 and one of 4."""
    rng = np.random.default_rng(5)
    y = np.arange(20) % CLASSES
    x = rng.random((20, 1, 8, 8)).astype(np.float32)
    for image, label in zip(x, y, strict=True):
        image[0, 2 * label : 2 * label + 2] += 2
    return x, y


@pytest.fixture
def device():
    with use(Recorder(InterpreterRuntime((8, 0)))) as recorder:
        yield recorder


def small(seed=0, dropout=0.25):
    """A LeNet of 8x8 images, with what has state: batch norm and dropout."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(64, CLASSES),
    )
    return model.initialize(seed)


def sgd(model, lr=0.05):
    return optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def adam(model):
    return optim.Adam(model.parameters(), lr=0.01)


def fit(model, samples, optimizer=None, **options):
    options = {"epochs": 2, "batch_size": 8, "device": "cuda", **options}
    return train.fit(model, *samples, optimizer=optimizer or sgd(model), **options)


def assert_close(state, expected):
    for name, array in expected.items():
        np.testing.assert_allclose(state[name], array, err_msg=name, **CLOSE)


def assert_same(state, expected):
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)


# --- fit is what it is on the CPU ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (sgd, {}),
        (adam, {"clip_norm": 0.5, "validation": 0.2, "early_stop": 3}),
        (sgd, {"schedule": lambda step: 0.05 / (1 + step), "augment": lambda x, rng: x + rng.random(dtype=np.float32)}),
    ],
    ids=["momentum", "adam, clipping, early stop", "schedule, augmentation"],
)
def test_fit_equals_the_cpus(optimizer, options, samples, device):
    here, there = small(), small()
    expected = fit(here, samples, optimizer(here), device="cpu", **options)
    history = fit(there, samples, optimizer(there), **options)
    assert all(backend.device_of(p.data) == "cuda" for p in there.parameters())
    assert_close(there.state_dict(), here.state_dict())
    np.testing.assert_allclose(history.step_losses, expected.step_losses, rtol=1e-5)
    assert history.column("accuracy") == expected.column("accuracy")
    assert history.best_epoch == expected.best_epoch
    for a, b in zip(history.column("validation_loss"), expected.column("validation_loss"), strict=True):
        assert a == b or a == pytest.approx(b, rel=1e-5)


def test_the_optimizer_follows_its_model(samples, device):
    """A run that began on the CPU goes on where the model goes, momentum included."""
    here, there = small(dropout=0), small(dropout=0)
    first, second = sgd(here), sgd(there)
    for where in ("cpu", "cuda"):
        fit(here, samples, first, device="cpu", epochs=1)
        fit(there, samples, second, device=where, epochs=1)
    assert_close(there.state_dict(), here.state_dict())


def test_evaluate_predict_and_prepare(samples, device):
    x, y = samples
    here, there = small(), small().to("cuda")
    expected, found = train.evaluate(here, x, y), train.evaluate(there, x, y, batch_size=8)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert found.accuracy == expected.accuracy
    outputs = train.predict(here, x)
    np.testing.assert_allclose(train.predict(there, x, batch_size=7), outputs, rtol=1e-4, atol=1e-6)
    assert train.predict(there, x[:0]).shape == (0, CLASSES)
    prepared = there.prepare()
    assert prepared.device == "cuda:0"
    fit(there, samples, epochs=1)  # changes nothing in what was prepared
    np.testing.assert_allclose(train.predict(prepared, x, batch_size=8), outputs, rtol=1e-4, atol=1e-6)


def test_there_and_back(device, tmp_path):
    model = small()
    expected = model.state_dict()
    model.to("cuda")
    assert_same(model.state_dict(), expected)
    io.save(model, tmp_path / "model.safetensors")
    assert_same(io.load(tmp_path / "model.safetensors").state_dict(), expected)
    model.astype("float64").astype("float32")
    assert_same(model.state_dict(), expected)
    model.initialize(1)
    assert_same(model.state_dict(), small(seed=1).state_dict())
    model.load_state_dict(expected)
    assert {backend.place_of(p.data) for p in model.parameters()} == {"cuda:0"}
    assert_same(model.to("cpu").state_dict(), expected)
    assert isinstance(model[1].running_mean, np.ndarray)


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(samples, device, tmp_path):
    options = {"epochs": 3, "validation": 0.2, "early_stop": 9, "seed": 3}
    whole, first, second = small(), small(), small(seed=99)
    expected = fit(whole, samples, adam(whole), **options)

    def interrupt(result):
        if result.epoch == 2:
            raise KeyboardInterrupt

    options["checkpoint"] = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(first, samples, adam(first), on_epoch=interrupt, **options)
    history = fit(second, samples, adam(second), resume=True, **options)
    assert_same(second.state_dict(), whole.state_dict())
    assert history.step_losses == expected.step_losses


def spoilt_at(step):
    """An augmentation that puts a NaN into the batch of one step."""
    calls = []

    def augment(x, rng):
        if len(calls) == step:
            x[0, 0, 0, 0] = np.nan
        calls.append(None)
        return x

    return augment


@pytest.mark.parametrize("capture", [False, True])
def test_a_loss_that_is_not_finite_leaves_the_weights_as_they_were(capture, samples, device):
    """It is found two steps later: until then no update has changed anything."""
    here, there = small(dropout=0), small(dropout=0)
    for model, options in ((here, {"device": "cpu"}), (there, {"capture": capture})):
        model[1] = nn.ReLU()  # a batch norm's running statistics are spoilt, on the CPU too
        with pytest.raises(train.NotFiniteError, match=r"the loss must stay finite.*value=nan, step=13, lr=0.05"):
            fit(model, samples, epochs=6, augment=spoilt_at(13), **options)
    assert bool(device.counts["replays"]) == capture
    assert_close(there.state_dict(), here.state_dict())


# --- LeNet-5, as compiled -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "capability", [(8, 0), *(pytest.param(cc, marks=pytest.mark.full) for cc in ((7, 5), (9, 0)))], ids=str
)
def test_three_steps_of_lenet5(capability, rng):
    x, y = rng.random((4, 1, 28, 28)).astype(np.float32), np.array([3, 1, 4, 1])
    here, there = lenet5(rng=0), lenet5(rng=0)
    loss = nn.CrossEntropyLoss()
    optimizers = sgd(here, 0.01), sgd(there, 0.01)
    with use(InterpreterRuntime(capability)):
        there.to("cuda")
        for _ in range(3):
            losses = []
            for model, optimizer, place in zip((here, there), optimizers, ("cpu", "cuda"), strict=True):
                optimizer.zero_grad()
                value, ctx = loss.forward_ctx(model.forward(backend.to_device(x, place)), backend.to_device(y, place))
                model.backward(loss.backward_ctx(ctx))
                losses.append(value)
            assert losses[1] == pytest.approx(losses[0], rel=1e-5)
            for (name, p), (_, q) in zip(here.named_parameters(), there.named_parameters(), strict=True):
                scale = np.abs(p.grad).max()
                np.testing.assert_allclose(backend.to_host(q.grad) / scale, p.grad / scale, atol=1e-5, err_msg=name)
            for optimizer in optimizers:
                optimizer.step()
        assert_close(there.state_dict(), here.state_dict())


# --- launches and allocations -------------------------------------------------------------------------------


MOST_LAUNCHES = 40  # of one step


def steady_counts(recorder, **options):
    """Counts of one step of LeNet-5 with momentum, deep in a run: from its 8th update to its 9th."""
    rng = np.random.default_rng(0)
    x, y = rng.random((160, 1, 28, 28)).astype(np.float32), np.arange(160) % 10
    model, seen = lenet5(rng=0), []

    class Watched(optim.SGD):
        def step(self):
            super().step()
            seen.append(recorder.counts.copy())

    optimizer = Watched(model.parameters(), lr=0.01, momentum=0.9)
    train.fit(model, x, y, epochs=1, batch_size=16, optimizer=optimizer, device="cuda", **options)
    return seen[-2] - seen[-3]


def test_a_steady_step_of_lenet5():
    with use(Recorder()) as recorder:
        counts = steady_counts(recorder)
    assert counts["launches"] <= MOST_LAUNCHES, counts
    stops = {"allocations", "pinned allocations", "frees", "waits for the device", "waits for a stream"}
    assert not stops & counts.keys(), counts
    assert counts["copies to device"] == 1, counts  # the next batch


def test_a_steady_captured_step_of_lenet5():
    with use(Recorder()) as recorder:
        counts = steady_counts(recorder, capture=True)
    assert counts["replays"] == 1
    assert counts["launches"] == 2, counts  # is the loss finite; the update
    stops = {"allocations", "pinned allocations", "frees", "waits for the device", "waits for a stream"}
    assert not stops & counts.keys(), counts


# --- captured passes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_captured_passes_give_the_same_bits(optimizer, samples, device):
    """Learning rates that change, a smaller last batch, running statistics, and an evaluation between the epochs."""
    options = {"epochs": 4, "schedule": lambda step: 0.02 / (1 + step), "validation": 0.2}
    plain, captured = small(dropout=0), small(dropout=0)
    expected = fit(plain, samples, optimizer(plain), **options)
    before = device.counts["replays"]
    history = fit(captured, samples, optimizer(captured), capture=True, **options)
    assert device.counts["replays"] > before
    assert_same(captured.state_dict(), plain.state_dict())
    assert history.step_losses == expected.step_losses
    assert history.column("validation_loss") == expected.column("validation_loss")


def test_weights_that_were_replaced_are_captured_anew(samples, device):
    plain, captured = small(dropout=0), small(dropout=0)

    def replace(model):
        def on_epoch(result):
            if result.epoch == 3:
                model.load_state_dict(small(seed=7).state_dict())
                model[-1].bias.trainable = False

        return on_epoch

    for model, capture in ((plain, False), (captured, True)):
        fit(model, samples, epochs=5, capture=capture, on_epoch=replace(model))
    assert_same(captured.state_dict(), plain.state_dict())


def test_what_cannot_be_captured_is_said(samples, device):
    with pytest.warns(UserWarning, match="capture is off.*Dropout has another mask"):
        fit(small(), samples, capture=True, epochs=1)
    assert not device.counts["replays"]


# --- order --------------------------------------------------------------------------------------------------


class Careless(Recorder):
    """A device on which one kind of wait does nothing, once a run is on its way."""

    left_out = ""

    def wait(self, device, stream, event):
        if not self.left_out or self.left_out != ("compute" if stream == 0 else "copy"):
            super().wait(device, stream, event)


@pytest.mark.parametrize("left_out", ["compute", "copy"])
def test_a_wait_that_fit_leaves_out_is_noticed(left_out, samples):
    with use(Careless()) as recorder:
        model = small().to("cuda")
        recorder.synchronize(0)
        recorder.left_out = left_out
        with pytest.raises(RecordingError, match="nothing says which comes first"):
            fit(model, samples, epochs=3)


# --- the simulator ------------------------------------------------------------------------------------------

SIMULATED = """
import numpy as np
from test_cuda_fit import fit, CLOSE
from numbaconv import backend, nn
rng = np.random.default_rng(0)
samples = rng.random((4, 1, 4, 4)).astype(np.float32), np.arange(4) % 3
def model():
    layers = nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    return nn.Sequential(*layers).initialize(0)
here, there = model(), model()
a = fit(here, samples, device="cpu", epochs=1, batch_size=2)
b = fit(there, samples, epochs=1, batch_size=2)
np.testing.assert_allclose(b.step_losses, a.step_losses, rtol=1e-5)
for name, array in here.state_dict().items():
    np.testing.assert_allclose(there.state_dict()[name], array, err_msg=name, **CLOSE)
print(backend.device_of(there[0].weight.data))
"""


def test_fit_in_the_simulator(run_python):
    assert run_python(SIMULATED, NUMBA_ENABLE_CUDASIM="1").split()[-1] == "cuda"
