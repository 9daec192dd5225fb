"""What `test_crash.py` runs in a process of its own: children that save or train, and are killed or run out of disk."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from numbaconv import io, nn, optim, train
from numbaconv.io import tensors

ELEMENTS = 60_000  # enough that a write is not over before a signal comes


def constant_model(value):
    model = nn.Sequential(nn.Linear(ELEMENTS // 10, 10), nn.BatchNorm2d(10)).initialize(0)
    for parameter in model.parameters():
        parameter.data[:] = value
    return model


def value_of(path):
    """The one value in a saved `constant_model`; fails if there are several."""
    (value,) = set(np.concatenate([p.data.ravel() for p in io.load(path).parameters()]).tolist())
    return value


def child(action):
    """The pid of a forked process that runs `action` and ends with 0, or with 1 after an exception."""
    pid = os.fork()
    if pid:
        return pid
    try:
        action()
        os._exit(0)
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(1)


def kill_while(action, seconds):
    pid = child(action)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] in (signal.SIGKILL, 0), "the child failed before it was killed"


def kill_at(stage):
    """Makes this process end itself, as by SIGKILL, at a stage of `write_atomically`."""

    def die(*args):
        os.kill(os.getpid(), signal.SIGKILL)

    def die_after(function):
        return lambda *args: (function(*args), die())

    class HalfWritten:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, content):
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            die()

    if stage == "half written":
        tensors.open = lambda *args: HalfWritten(Path(args[0]).open(args[1]))  # noqa: SIM115
    else:
        moment, name = stage.split()
        function = getattr(os, name)
        setattr(os, name, die if moment == "before" else die_after(function))


STAGES = {"half written": 1, "before fsync": 1, "after fsync": 1, "before replace": 1, "after replace": 2}


def save_killed_at_each_stage(directory):
    """The old model (1) up to the replacing, the new one (2) after it."""
    path = Path(directory) / "model.safetensors"
    for stage, expected in STAGES.items():
        io.save(constant_model(1.0), path)

        def save(stage=stage):
            kill_at(stage)
            io.save(constant_model(2.0), path)

        assert os.waitpid(child(save), 0)[1] == signal.SIGKILL
        assert value_of(path) == expected, stage


def save_killed_at_random(directory, moments):
    path = Path(directory) / "model.safetensors"
    io.save(constant_model(0.0), path)
    models = [constant_model(float(i)) for i in range(2)]

    def keep_saving():
        while True:
            for model in models:
                io.save(model, path)

    moment = random.Random(7)
    for _ in range(int(moments)):
        kill_while(keep_saving, moment.uniform(0.0, 0.05))
        assert value_of(path) in (0.0, 1.0)


# --- training ----------------------------------------------------------------------------------------------


def training(checkpoint=None, resume=False, epochs=12, seed=0):
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((32, 1, 6, 6)).astype(np.float32), np.arange(32) % 4
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 4)
    model = nn.Sequential(*layers).initialize(seed)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    history = train.fit(
        model, x, y, epochs=epochs, batch_size=8, optimizer=optimizer, checkpoint=checkpoint, resume=resume, seed=5
    )
    return model.state_dict(), history.step_losses


def same(first, second):
    assert first[1] == second[1]
    for name, array in first[0].items():
        np.testing.assert_array_equal(array, second[0][name], err_msg=name)


def training_killed_at_random(directory, moments):
    """Whenever it is killed, going on from the checkpoint gives the bits of the run that was left alone."""
    expected = training()
    training(Path(directory) / "warm")
    start = time.perf_counter()
    training(Path(directory) / "timed")
    seconds = time.perf_counter() - start
    moment = random.Random(11)
    for i in range(int(moments)):
        path = Path(directory) / f"run{i}"
        kill_while(lambda path=path: training(path), moment.uniform(0.0, seconds))
        # Killed before the first checkpoint, it begins anew, with the weights that it is given.
        same(training(path, resume=True, seed=9 if path.exists() else 0), expected)


# --- a full disk --------------------------------------------------------------------------------------------


def fails_for_want_of_disk(action):
    """`action` in a child whose files may have 20,000 bytes: OSError, not the signal that would end it."""

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            action()

    assert os.waitpid(child(limited), 0)[1] == 0


def disk_full(directory):
    path, run = Path(directory) / "model.safetensors", Path(directory) / "run"
    io.save(constant_model(1.0), path)
    training(run, epochs=1)
    before = path.read_bytes(), run.read_bytes()
    fails_for_want_of_disk(lambda: io.save(constant_model(2.0), path))
    fails_for_want_of_disk(lambda: tensors.write_tensors(run, {"weight": np.zeros(ELEMENTS)}))
    assert (path.read_bytes(), run.read_bytes()) == before
    assert sorted(os.listdir(directory)) == ["model.safetensors", "run"]
