"""Trains and predicts for a long time, and looks whether memory grows: ``python -m tests.soak --minutes 20``.

One line a minute; the exit code is 1 if the process takes 1 % more at the end than after the first tenth of the time.
"""

from __future__ import annotations

import argparse
import gc
import sys
import threading
import time
from pathlib import Path

import numpy as np

from numbaconv import nn, optim, train
from numbaconv.models import lenet5


def resident() -> float:
    """Megabytes of this process in memory (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def one_round(number: int) -> None:
    """A model of its own: an epoch of training, predictions of batches of several sizes, from two threads too."""
    rng = np.random.default_rng(number)
    x, y = rng.random((512, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, 512)
    model = lenet5(rng=number)
    optimizer = (optim.SGD if number % 2 else optim.Adam)(model.parameters(), lr=0.01)
    train.fit(model, x, y, epochs=1, batch_size=32 + number % 3, optimizer=optimizer, progress=False)
    prepared = model.prepare()
    # All at once: malloc keeps an arena for every thread there has been at one time, so the most must come early.
    together = threading.Barrier(3)

    def predict(count: int) -> None:
        together.wait()
        prepared(x[:count])

    threads = [threading.Thread(target=predict, args=(1 + 60 * i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wide = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()).initialize(number)
    wide.backward(wide.forward(rng.random((4, 16, 20 + number % 5, 20)).astype(np.float32)))


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20)
    seconds = 60 * parser.parse_args().minutes
    start, number, before, told = time.monotonic(), 0, 0.0, 0.0
    while (passed := time.monotonic() - start) < seconds:
        one_round(number)
        number += 1
        if not before and passed > seconds / 10:
            gc.collect()
            before = resident()
        if passed - told >= 60:
            told = passed
            print(f"{passed / 60:5.1f} min, {number} rounds, {resident():.1f} MB", flush=True)
    gc.collect()
    growth = resident() / before - 1
    print(f"{number} rounds, {before:.1f} MB after a tenth of the time, {resident():.1f} MB at the end: {growth:+.2%}")
    return int(growth >= 0.01)


if __name__ == "__main__":
    sys.exit(main())
