"""Run by test_threads.py in processes of its own: ``python threading_cases.py CASE ROUNDS``.

Each case computes under some arrangement of threads and processes, compares every result with what one thread gave
before, and prints how many it compared.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import sys
import threading

import numpy as np

from numbaconv import functional, get_num_threads, nn, num_threads, optim, parallel, train

parallel.PARALLEL_WORK_NS = 0.0  # everything that can be shared among threads is
THREADS = 8


def model():
    layers = (
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(288, 5),
    )
    return nn.Sequential(*layers).initialize(0)


def inputs(seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((4, 1, 12, 12)).astype(np.float32), rng.integers(0, 5, 4)


def work(seed):
    """The bits of some operations, of a training step, and of a prediction."""
    x, y = inputs(seed)
    rng = np.random.default_rng(seed)
    image, weight = rng.standard_normal((4, 16, 9, 9)).astype("f4"), rng.standard_normal((16, 16, 3, 3)).astype("f4")
    out = functional.conv2d(image, weight, padding=1)
    results = [out, *functional.conv2d_backward(out, image, weight, padding=1), functional.softmax(out, 1)]
    net = model()
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    train.fit(net, x, y, epochs=1, batch_size=2, optimizer=optimizer)
    results += [p.data for p in net.parameters()]
    results.append(net.eval()(x))
    return [np.ascontiguousarray(r).tobytes() for r in results]


def expected(seeds):
    with num_threads(1):
        return {seed: work(seed) for seed in seeds}


def check(wanted, seeds):
    for seed in seeds:
        assert work(seed) == wanted[seed], f"other bits for seed {seed}"
    return len(seeds)


def main_thread(rounds, wanted):
    return check(wanted, [r % len(wanted) for r in range(rounds)])


def threads(rounds, wanted):
    """A thread each, at the same time: some predict with one model that another thread prepares anew."""
    count, failed = [], []

    def run(number):
        try:
            count.append(check(wanted, [(number + r) % len(wanted) for r in range(-(-rounds // THREADS))]))
        except BaseException as error:
            failed.append(error)

    running = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not failed, failed
    return sum(count)


def pool(rounds, wanted):
    with concurrent.futures.ThreadPoolExecutor(THREADS) as executor:
        results = executor.map(work, [r % len(wanted) for r in range(rounds)])
        for r, result in enumerate(results):
            assert result == wanted[r % len(wanted)]
    return rounds


def _child(rounds, wanted, queue):
    queue.put(threads(rounds, wanted) if rounds > 1 else check(wanted, [0]))


def _children(method, rounds, wanted):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=_child, args=(-(-rounds // 2), wanted, queue)) for _ in range(2)]
    for child in children:
        child.start()
    total = sum(queue.get(timeout=300) for _ in children)
    for child in children:
        child.join()
        assert child.exitcode == 0, child.exitcode
    return total + check(wanted, [0])  # the parent goes on


def forked(rounds, wanted):
    """Children of a parent that has used its threads."""
    return check(wanted, [0]) + _children("fork", rounds, wanted)


def spawned(rounds, wanted):
    return _children("spawn", rounds, wanted)


def joblib_pool(rounds, wanted):
    import joblib

    for prefer in ("threads", "processes"):
        jobs = joblib.Parallel(n_jobs=4, prefer=prefer)(joblib.delayed(work)(r % len(wanted)) for r in range(rounds))
        for r, result in enumerate(jobs):
            assert result == wanted[r % len(wanted)]
    return 2 * rounds


def object_mode(rounds, wanted):
    """Called back from a user's own parallel kernel."""
    import numba

    @numba.njit
    def user(seed):
        with numba.objmode(equal="boolean"):
            equal = work(seed) == wanted[seed]
        return equal  # noqa: RET504

    assert all(user(r % len(wanted)) for r in range(rounds))
    return rounds


def training_and_predicting(rounds, wanted):
    """A model predicts from 8 threads while another is trained, and the number of threads changes."""
    net, x = model().eval(), inputs(0)[0]
    before, stop, failed = net(x).tobytes(), threading.Event(), []

    def predict():
        try:
            while not stop.is_set():
                assert net(x).tobytes() == before
        except BaseException as error:
            failed.append(error)

    running = [threading.Thread(target=predict) for _ in range(THREADS)]
    for thread in running:
        thread.start()
    try:
        for r in range(rounds):
            with num_threads(1 + r % get_num_threads()):
                check(wanted, [r % len(wanted)])
    finally:
        stop.set()
        for thread in running:
            thread.join()
    assert not failed, failed
    return rounds


def interrupted(rounds, wanted):
    """Ctrl-C at any moment of a call."""
    import signal
    import time

    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((8, 64, 64, 64)).astype("f4"), rng.standard_normal((64, 64, 3, 3)).astype("f4")
    before, caught = functional.conv2d(x, weight), 0
    for r in range(rounds):
        timer = threading.Timer(0.002 * (1 + r % 7), os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            for _ in range(3):
                functional.conv2d(x, weight)
            time.sleep(10)
        except KeyboardInterrupt:
            caught += 1
        timer.join()
        np.testing.assert_array_equal(functional.conv2d(x, weight), before)
    assert caught == rounds, caught
    return rounds + check(wanted, [0])


CASES = {
    f.__name__: f
    for f in (
        main_thread,
        threads,
        pool,
        forked,
        spawned,
        joblib_pool,
        object_mode,
        training_and_predicting,
        interrupted,
    )
}

if __name__ == "__main__":
    name, rounds = sys.argv[1], int(sys.argv[2])
    names = list(CASES) if name == "mixed" else [name]
    wanted = expected(range(3))
    done = sum(CASES[n](max(rounds // len(names), 1), wanted) for n in names)
    print(done, flush=True)
