"""The training loop: that it learns, that it repeats and resumes to the bit, and what it refuses."""

import signal
import sys

import numpy as np
import pytest

from numbaconv import cpu, nn, optim, train
from numbaconv.data import batches
from numbaconv.errors import ArgumentError, DeviceError, DTypeError, FileFormatError, LabelError, ShapeError
from numbaconv.io import write_tensors
from numbaconv.train.capture import refusal

CLASSES = 3


@pytest.fixture(scope="module")
def samples():
    """48 noisy 8x8 images, each bright in the third of its class: three bands of rows."""
    rng = np.random.default_rng(5)
    y = np.arange(48) % CLASSES
    x = rng.random((48, 1, 8, 8)).astype(np.float32)
    for image, label in zip(x, y, strict=True):
        image[0, 3 * label : 3 * label + 2] += 2
    return x, y


def make_model(seed=0, dropout=0.25, classes=CLASSES):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(64, classes),
    )
    return model.initialize(np.random.default_rng(seed))


def sgd(model):
    return optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def adam(model):
    return optim.Adam(model.parameters(), lr=0.01)


def falling(step):
    """A schedule under which a step taken twice, or left out, shows."""
    return 0.05 / (1 + 0.1 * step)


def fit(model, samples, optimizer=None, **options):
    options = {"epochs": 2, "batch_size": 16, **options}
    return train.fit(model, *samples, optimizer=optimizer or sgd(model), **options)


def assert_same_state(state, expected):
    assert state.keys() == expected.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


# --- learning -----------------------------------------------------------------------------------------------


def test_it_learns(samples):
    model = make_model()
    history = fit(model, samples, epochs=15, validation=samples)
    assert history.epochs[-1].loss < 0.3 * history.epochs[0].loss
    assert history.epochs[-1].validation_accuracy == 1
    assert train.evaluate(model, *samples).accuracy == 1


def test_history(samples):
    history = fit(make_model(), samples, epochs=3, validation=samples, schedule=falling)
    assert history.column("epoch") == [1, 2, 3]
    assert len(history.step_losses) == 9
    for epoch, result in enumerate(history.epochs):
        steps = history.step_losses[3 * epoch : 3 * epoch + 3]
        assert result.loss == pytest.approx(np.mean(steps))
        assert 0 <= result.accuracy <= 1
        assert result.learning_rate == falling(3 * epoch + 2)
        assert result.images_per_second > 0
        assert result.seconds > 0
    assert history.best_epoch is None
    assert not history.stopped_early
    assert str(history.epochs[0]).startswith("epoch 1: loss ")
    assert "validation accuracy" in str(history.epochs[0])


def test_two_epochs_are_pytorchs(samples):
    """The same weights, order, momentum, schedule and clipping: the same weights afterwards."""
    torch = pytest.importorskip("torch")
    model = make_model(dropout=0)
    conv, linear = torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Linear(64, CLASSES)
    reference = torch.nn.Sequential(conv, torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), linear)
    with torch.no_grad():
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            theirs.copy_(torch.from_numpy(ours.data))
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for epoch in (0, 1):
        for xb, yb in batches(*samples, 16, seed=7, epoch=epoch):
            optimizer.param_groups[0]["lr"] = falling(len(losses))
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(reference(torch.from_numpy(xb)), torch.from_numpy(yb))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
    history = fit(model, samples, seed=7, schedule=falling, clip_norm=1.0)
    np.testing.assert_allclose(history.step_losses, losses, rtol=1e-5)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        np.testing.assert_allclose(ours.data, theirs.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_regression_has_no_accuracy(samples):
    x, y = samples
    target = np.stack([y, 2 * y], axis=1).astype(np.float32)
    model = make_model(classes=2)
    history = fit(model, (x, target), epochs=8, loss=nn.MSELoss(), optimizer=adam(model))
    assert history.epochs[-1].loss < history.epochs[0].loss
    assert history.epochs[-1].accuracy is None
    assert "accuracy" not in str(history.epochs[-1])
    evaluation = train.evaluate(model, x, target, loss=nn.MSELoss())
    assert evaluation.accuracy is None
    assert evaluation.loss == pytest.approx(np.mean((train.predict(model, x) - target) ** 2), rel=1e-5)


def test_class_probabilities_as_targets(samples):
    x, y = samples
    smooth = np.full((len(y), CLASSES), 0.1, np.float32)
    smooth[np.arange(len(y)), y] = 0.8
    model = make_model()
    fit(model, (x, smooth), epochs=15)
    assert train.evaluate(model, x, smooth).accuracy == 1


def test_one_seed_one_result(samples):
    def run(seed):
        model = make_model()
        fit(model, samples, seed=seed)
        return model.state_dict()

    assert_same_state(run(1), run(1))
    assert not np.array_equal(run(1)["0.weight"], run(2)["0.weight"])


def test_augment_changes_the_batch_and_not_the_data(samples):
    x, y = samples
    before, seen = x.copy(), []

    def augment(xb, rng):
        seen.append(rng.integers(1 << 30))
        xb += 1
        return xb

    fit(make_model(), (x, y), augment=augment)
    np.testing.assert_array_equal(x, before)
    assert len(set(seen)) == 6
    first, seen = seen, []
    fit(make_model(), (x, y), augment=augment)
    assert seen == first


def test_frozen_parameters_stay(samples):
    model = make_model()
    model[0].weight.trainable = False
    before = model.state_dict()
    fit(model, samples)
    np.testing.assert_array_equal(model.state_dict()["0.weight"], before["0.weight"])
    assert not np.array_equal(model.state_dict()["0.bias"], before["0.bias"])


def test_no_epochs_change_nothing(samples):
    model = make_model()
    before = model.state_dict()
    assert fit(model, samples, epochs=0).epochs == []
    assert_same_state(model.state_dict(), before)


# --- validation, early stop ---------------------------------------------------------------------------------


def test_a_fraction_is_held_out(samples):
    seen = []

    def augment(xb, rng):
        seen.append(xb.copy())
        return xb

    history = fit(make_model(), samples, epochs=1, validation=0.25, augment=augment)
    learnt = {image.tobytes() for xb in seen for image in xb}
    assert len(learnt) == 36
    assert learnt < {image.tobytes() for image in samples[0]}
    assert history.epochs[0].validation_accuracy in {n / 12 for n in range(13)}


def upside_down_after(steps):
    """An augmentation that teaches the opposite from some step on: the validation loss then rises."""
    calls = []

    def augment(xb, rng):
        calls.append(None)
        return xb if len(calls) <= steps else np.ascontiguousarray(xb[:, :, ::-1])

    return augment


def test_early_stop_restores_the_best_weights(samples, tmp_path):
    options = {"epochs": 20, "validation": samples, "early_stop": 2}
    model = make_model()
    history = fit(model, samples, checkpoint=tmp_path / "run", augment=upside_down_after(9), **options)
    losses = history.column("validation_loss")
    assert history.stopped_early
    assert history.best_epoch == 3 == 1 + int(np.argmin(losses))
    assert len(losses) == 5
    assert train.evaluate(model, *samples).loss == pytest.approx(min(losses))

    other = make_model(seed=9)  # a run that has stopped stays stopped
    again = fit(other, samples, checkpoint=tmp_path / "run", resume=True, **options)
    assert again == history
    assert_same_state(other.state_dict(), model.state_dict())


def test_best_weights_are_restored_after_the_last_epoch_too(samples):
    model = make_model()
    history = fit(model, samples, epochs=4, validation=samples, early_stop=5, augment=upside_down_after(9))
    assert not history.stopped_early
    assert history.best_epoch == 3
    assert train.evaluate(model, *samples).loss == pytest.approx(history.epochs[2].validation_loss)


# --- checkpoints --------------------------------------------------------------------------------------------


def interrupt_after(epoch):
    def on_epoch(result):
        if result.epoch == epoch:
            raise KeyboardInterrupt

    return on_epoch


def shaken(xb, rng):
    return xb + rng.normal(0, 0.1, xb.shape).astype(xb.dtype)


@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(samples, tmp_path, optimizer):
    options = {"epochs": 4, "schedule": falling, "validation": 0.25, "early_stop": 9, "augment": shaken, "seed": 3}
    whole = make_model()
    expected = fit(whole, samples, optimizer(whole), **options)

    options["checkpoint"] = tmp_path / "run.safetensors"
    first = make_model()
    with pytest.raises(KeyboardInterrupt):
        fit(first, samples, optimizer(first), on_epoch=interrupt_after(2), **options)
    second = make_model(seed=99)
    history = fit(second, samples, optimizer(second), resume=True, **options)

    assert_same_state(second.state_dict(), whole.state_dict())
    assert history.step_losses == expected.step_losses
    assert history.column("loss") == expected.column("loss")
    assert history.column("validation_loss") == expected.column("validation_loss")
    assert history.best_epoch == expected.best_epoch


@pytest.mark.parametrize("step", [1, 7], ids=["first epoch", "third epoch"])
def test_ctrl_c_within_an_epoch(samples, tmp_path, step):
    """A real signal in the middle of an epoch: the checkpoint is that of the epoch before, and resumes exactly."""
    options = {"epochs": 4, "checkpoint": tmp_path / "run.safetensors"}
    whole = make_model()
    fit(whole, samples, epochs=4)

    calls = []

    def augment(xb, rng):
        calls.append(None)
        if len(calls) == step + 1:
            signal.raise_signal(signal.SIGINT)
        return xb

    model = make_model()
    with pytest.raises(KeyboardInterrupt):
        fit(model, samples, augment=augment, **options)
    assert train.predict(model, samples[0]).shape == (48, CLASSES)  # still usable
    fit(model, samples, resume=True, **options)
    assert_same_state(model.state_dict(), whole.state_dict())
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]


def test_resume_without_a_file_starts_fresh(samples, tmp_path):
    whole, model = make_model(), make_model()
    fit(whole, samples)
    fit(model, samples, checkpoint=tmp_path / "run", resume=True)
    assert_same_state(model.state_dict(), whole.state_dict())


def test_more_epochs_go_on_and_fewer_do_nothing(samples, tmp_path):
    whole, model = make_model(), make_model()
    fit(whole, samples, epochs=3)
    fit(model, samples, epochs=2, checkpoint=tmp_path / "run")
    assert len(fit(model, samples, epochs=3, checkpoint=tmp_path / "run", resume=True).epochs) == 3
    assert_same_state(model.state_dict(), whole.state_dict())
    assert len(fit(model, samples, epochs=1, checkpoint=tmp_path / "run", resume=True).epochs) == 3
    assert_same_state(model.state_dict(), whole.state_dict())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 1}, "saved seed=0, given seed=1"),
        ({"batch_size": 8}, "saved batch_size=16, given batch_size=8"),
        ({"optimizer": adam}, "saved optimizer='SGD', given optimizer='Adam'"),
        ({"classes": 4}, r"saved 5.weight='float32 \(3, 64\)', .*, given 5.weight='float32 \(4, 64\)'"),
        ({"dropout": 0.5}, r"saved module 4='Dropout\(p=0.25\)', given module 4='Dropout\(p=0.5\)'"),
        ({"samples": 47}, "saved samples=48, given samples=47"),
    ],
)
def test_resume_refuses_another_run(samples, tmp_path, changed, said):
    fit(make_model(), samples, epochs=1, checkpoint=tmp_path / "run")
    model = make_model(1, changed.get("dropout", 0.25), changed.get("classes", CLASSES))
    before = model.state_dict()
    optimizer = changed.get("optimizer", sgd)(model)
    some = tuple(array[: changed.get("samples")] for array in samples)
    options = {name: changed[name] for name in ("seed", "batch_size") if name in changed}
    with pytest.raises(train.CheckpointError, match=said):
        fit(model, some, optimizer, checkpoint=tmp_path / "run", resume=True, **options)
    assert_same_state(model.state_dict(), before)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:100], lambda b: b[:-1], lambda b: b"{}" + b])
def test_damaged_checkpoint(samples, tmp_path, damage):
    path = tmp_path / "run"
    fit(make_model(), samples, epochs=0, checkpoint=path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FileFormatError, match=r"must be a complete \.safetensors file"):
        fit(make_model(), samples, checkpoint=path, resume=True)


@pytest.mark.parametrize("metadata", [None, "{", "[]", '{"format": 99}'])
def test_a_file_that_is_no_checkpoint(samples, tmp_path, metadata):
    header = None if metadata is None else {"numbaconv_checkpoint": metadata}
    write_tensors(tmp_path / "run", {"0.weight": np.zeros(3)}, header)
    with pytest.raises(FileFormatError, match="checkpoint must be a file that fit wrote"):
        fit(make_model(), samples, checkpoint=tmp_path / "run", resume=True)


def test_a_path_that_cannot_be_written_is_found_before_training(samples, tmp_path):
    model = make_model()
    before = model.state_dict()
    with pytest.raises(OSError, match="none"):
        fit(model, samples, checkpoint=tmp_path / "none" / "run")
    assert_same_state(model.state_dict(), before)


# --- what is refused ----------------------------------------------------------------------------------------


def wrong_label(y, value):
    y = y.copy()
    y[5] = value
    return y


@pytest.mark.parametrize(
    "function", [fit, lambda model, samples: train.evaluate(model, *samples)], ids=["fit", "evaluate"]
)
@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda x, y: (x[:-1], y), ShapeError, "x and y must hold equally many samples"),
        (lambda x, y: (x[:0], y[:0]), ShapeError, "at least one sample"),
        (lambda x, y: (x, y.tolist()), DTypeError, "y must be an array"),
        (lambda x, y: (x, np.array(3)), ShapeError, "x and y must hold equally many samples"),
        (lambda x, y: (x.tolist(), y), DTypeError, "x must be an array"),
        (lambda x, y: (x.astype(np.uint8), y), DTypeError, r"x.astype\(\"float32\"\) / 255"),
        (lambda x, y: (x.astype(complex), y), DTypeError, "x must be float32 or float64"),
        (
            lambda x, y: (x.astype(np.float64), y),
            DTypeError,
            r"parameters='float32'\. Convert it: x.astype\(\"float32\"\)",
        ),
        (lambda x, y: (x[:, 0, 0, 0], y), ShapeError, "two or more axes"),
        (lambda x, y: (np.concatenate([x, x], axis=1), y), ShapeError, r"weight.shape\[1\] must equal"),
        (lambda x, y: (x, y.astype(np.float32)), DTypeError, r"y.astype\(numpy.int64\)"),
        (lambda x, y: (x, y.astype(object)), DTypeError, "y must hold integers"),
        (lambda x, y: (x, wrong_label(y, 3)), LabelError, r"labels must be 0 to 2, .*y\[5\]=3"),
        (lambda x, y: (x, wrong_label(y, -1)), LabelError, r"y\[5\]=-1"),
    ],
)
def test_data_that_do_not_fit(samples, function, change, error, said):
    model = make_model()
    before = model.state_dict()
    with pytest.raises(error, match=said):
        function(model, change(*samples))
    assert_same_state(model.state_dict(), before)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"epochs": -1}, ArgumentError, "epochs must be at least 0"),
        ({"batch_size": 0}, ArgumentError, "batch_size must be at least 1"),
        ({"seed": "a"}, ArgumentError, "seed must be an int"),
        ({"early_stop": 2}, ArgumentError, "early_stop needs validation data"),
        ({"early_stop": 0, "validation": 0.2}, ArgumentError, "early_stop must be at least 1"),
        ({"validation": 2}, ArgumentError, "a fraction between 0 and 1"),
        ({"validation": 0.001}, ArgumentError, "leave samples on both sides"),
        ({"clip_norm": 0.0}, ArgumentError, "clip_norm must be positive"),
        ({"resume": True}, ArgumentError, "resume needs checkpoint"),
        ({"device": "cuda"}, DeviceError, "cuda"),
        ({"device": "tpu"}, DeviceError, "tpu"),
    ],
)
def test_options_that_do_not_fit(samples, options, error, said):
    with pytest.raises(error, match=said):
        fit(make_model(), samples, **options)


def test_the_optimizer_of_another_model(samples):
    with pytest.raises(ArgumentError, match="optimizer must hold parameters of this model"):
        fit(make_model(), samples, optimizer=sgd(make_model()))


def test_validation_data_are_checked_before_training(samples):
    x, y = samples
    with pytest.raises(LabelError, match=r"fit: validation: .*y\[5\]=7"):
        fit(make_model(), samples, validation=(x, wrong_label(y, 7)))


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_spoilt(samples):
    x = samples[0].copy()
    x[20, 0, 0, 0] = np.nan
    model = make_model()
    with pytest.raises(train.NotFiniteError, match=r"loss must stay finite.*value=nan"):
        fit(model, (x, samples[1]))
    assert all(np.isfinite(array).all() for array in model.state_dict().values())


def test_gradients_that_are_not_finite_stop_it_too_if_they_are_clipped(samples):
    class Steep(nn.MSELoss):
        def backward_ctx(self, ctx):
            return np.full_like(super().backward_ctx(ctx), np.inf)

    model = make_model(classes=1)
    target = np.ones((48, 1), np.float32)
    before = model.state_dict()
    with pytest.raises(train.NotFiniteError, match="norm of all gradients must stay finite"):
        fit(model, (samples[0], target), loss=Steep(), clip_norm=1.0)
    assert_same_state(model.state_dict(), before)


# --- captured passes: on a CPU there are none (tests/test_cuda_fit.py has the others) --------------------------


def test_capture_on_a_cpu_warns_and_goes_on(samples):
    plain, model = make_model(dropout=0), make_model(dropout=0)
    fit(plain, samples)
    with pytest.warns(
        UserWarning, match=r"fit: capture is off, .*got reason='record: a CPU cannot write down its work"
    ):
        fit(model, samples, capture=True)
    assert_same_state(model.state_dict(), plain.state_dict())


class Noisy(nn.ReLU):
    """A layer of one's own."""


class Halved(nn.MSELoss):
    """A loss of one's own, by the two methods that there must be."""

    def forward_ctx(self, output, target):
        loss, ctx = super().forward_ctx(output, target)
        return loss / 2, ctx


@pytest.mark.parametrize(
    ("layers", "loss", "said"),
    [
        ([], nn.CrossEntropyLoss(), ""),
        ([nn.Dropout(0.0), nn.BatchNorm2d(1)], nn.MSELoss(), ""),
        ([nn.Dropout(0.5)], nn.CrossEntropyLoss(), "Dropout has another mask"),
        ([nn.BatchNorm2d(1, momentum=None)], nn.CrossEntropyLoss(), "another momentum"),
        ([Noisy()], nn.CrossEntropyLoss(), "Noisy may compute on the host"),
        ([], Halved(), "Halved may compute on the host"),
    ],
)
def test_why_passes_cannot_be_captured(layers, loss, said):
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 2))
    assert said in refusal(model, loss, sgd(model)) if said else refusal(model, loss, sgd(model)) == ""
    bias = model[-1].bias
    optimizer = optim.SGD([p for p in model.parameters() if p is not bias], lr=0.1)
    bias.trainable = False
    assert bool(refusal(model, loss, optimizer)) == bool(said)
    bias.trainable = True
    assert "not the optimizer's" in refusal(model, loss, optimizer)


def test_a_loss_of_ones_own_counts(samples):
    x, y = samples
    model, target = make_model(classes=1), y[:, None].astype(np.float32)
    whole, half = (train.evaluate(model, x, target, loss=loss).loss for loss in (nn.MSELoss(), Halved()))
    assert half == pytest.approx(whole / 2, rel=1e-6)


# --- modes, memory, progress --------------------------------------------------------------------------------


def test_modes_and_dropout_are_left_alone(samples):
    model = make_model()
    model[0].eval()
    model[4].step = 5
    modes = [module.training for module in model.modules()]
    train.evaluate(model, *samples)
    train.predict(model, samples[0])
    assert [module.training for module in model.modules()] == modes
    assert model[4].step == 5
    fit(model, samples)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(KeyboardInterrupt):
        fit(model, samples, on_epoch=interrupt_after(1))
    assert [module.training for module in model.modules()] == modes


def test_steps_reuse_the_memory_of_activations(rng):
    """After the second step the pool has all it needs; only a smaller last batch and validation add to it, once."""
    x, y = rng.random((80, 1, 32, 32)).astype(np.float32), rng.integers(0, 3, 80)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(256, 3))
    held = []
    with cpu.reuse_buffers() as pool:

        def augment(xb, generator):
            held.append(pool.nbytes)  # before the step
            return xb

        fit(model, (x, y), epochs=3, augment=augment)
    assert held[2] > 16 * 4 * 32 * 32 * 4  # two steps' activations at least
    assert set(held[2:]) == {held[2]}


def test_a_bar_with_loss_accuracy_and_speed(samples, capsys):
    fit(make_model(), samples, progress=True, validation=samples)
    shown = capsys.readouterr().err
    for text in ("epoch 2/2", "48/48", "images/s", "loss", "accuracy", "validation loss"):
        assert text in shown


def test_quiet_unless_on_a_terminal(samples, capsys, monkeypatch):
    fit(make_model(), samples)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fit(make_model(), samples)
    assert "epoch 1/2" in capsys.readouterr().err
    fit(make_model(), samples, progress=False)
    assert capsys.readouterr().err == ""


# --- evaluate, predict --------------------------------------------------------------------------------------


def test_evaluate(samples):
    """Against plain NumPy on the model's outputs; a batch size that does not divide the data."""
    x, y = samples
    model = make_model()
    outputs = train.predict(model, x).astype(np.float64)
    logs = outputs - np.log(np.exp(outputs).sum(axis=1, keepdims=True))
    result = train.evaluate(model, x, y, batch_size=7)
    assert result.loss == pytest.approx(-logs[np.arange(48), y].mean(), rel=1e-6)
    assert result.accuracy == (outputs.argmax(axis=1) == y).mean()
    assert result.images_per_second > 0


def test_ignored_labels_count_neither_for_loss_nor_accuracy(samples):
    x, y = samples
    model = make_model()
    some = y.copy()
    some[10:] = -100
    for batch_size in (8, 48):  # 8: batches in which every label is ignored
        ignoring = train.evaluate(model, x, some, batch_size=batch_size)
        expected = train.evaluate(model, x[:10], y[:10])
        assert ignoring.loss == pytest.approx(expected.loss, rel=1e-6)
        assert ignoring.accuracy == expected.accuracy


def test_predict(samples):
    x = samples[0]
    model = make_model()
    model.eval()
    whole = model(x)
    model.train()
    # Batches of another size may take another algorithm: sums are added in another order.
    np.testing.assert_allclose(train.predict(model, x, batch_size=7), whole, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(train.predict(model, x, batch_size=48), whole)
    empty = train.predict(model, x[:0])
    assert (empty.shape, empty.dtype) == ((0, CLASSES), np.float32)
    with pytest.raises(DTypeError, match="predict: x must be float32 or float64"):
        train.predict(model, x.astype(int))


def test_pytorch_tensors_are_arrays_too(samples):
    torch = pytest.importorskip("torch")
    x, y = samples
    ours, theirs = make_model(), make_model()
    fit(ours, (x, y))
    fit(theirs, (torch.from_numpy(x), torch.from_numpy(y)))
    assert_same_state(theirs.state_dict(), ours.state_dict())


def test_read_only_and_strided_data(samples):
    x, y = samples
    frozen = x.copy()
    frozen.flags.writeable = False
    wide = np.repeat(x, 2, axis=3)[..., ::2]
    results = []
    for images in (x, frozen, wide, np.asfortranarray(x)):
        model = make_model()
        fit(model, (images, y))
        results.append(model.state_dict())
    for state in results[1:]:
        assert_same_state(state, results[0])
