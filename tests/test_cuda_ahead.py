"""The host runs ahead of the device: batches, results and recorded work, on a device that watches the order.

Kernels are executed as compiled, by the PTX interpreter; what is taken away from the order in a test is noticed.
"""

from __future__ import annotations

import gc

import numpy as np
import pytest
from ptx.runtime import InterpreterRuntime
from recording import Recorder, RecordingError

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numbaconv import backend, functional
from numbaconv.cuda import ahead, memory, streams
from numbaconv.cuda.launch import use

UNORDERED = "nothing says which comes first"


@pytest.fixture
def device():
    with use(Recorder(InterpreterRuntime((8, 0)))) as recorder:
        yield recorder


def there(x):
    return backend.to_device(x, "cuda")


def pairs(count, rows=4, last=4):
    """Batches of (floats, labels), each full of its number."""
    for number in range(count):
        size = last if number == count - 1 else rows
        yield np.full((size, 3), number, np.float32), np.full(size, number)


# --- batches ------------------------------------------------------------------------------------------------


def sums(feed, batches):
    """A running sum on the device of each batch's floats, read at the end; labels as they were."""
    total, labels = there(np.zeros((4, 3), np.float32)), []
    for (_, y), (xb, yb) in feed(batches):
        functional.accumulate(total[: len(xb)], xb)
        labels += [int(v) for v in backend.to_host(yb)]
        assert labels[-1] == y[-1]
    return backend.to_host(total), labels


def test_batches_arrive_in_order(device):
    total, labels = sums(ahead.feeder(0), pairs(6, last=2))
    np.testing.assert_array_equal(total[0], 15)
    np.testing.assert_array_equal(total[3], 10)
    assert labels == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 + [5] * 2


def test_a_steady_feed_allocates_nothing_and_does_not_stop_the_device(device):
    feed, counts = ahead.feeder(0), []
    total = there(np.zeros((4, 3), np.float32))
    kept = []
    for _ in range(2):  # epochs
        for _, (x, _) in feed(pairs(5)):
            kept.append(x)
            counts.append(device.counts.copy())
            functional.accumulate(total, x)
    steady = counts[-1] - counts[4]
    assert steady["copies to device"] == 5
    assert not {"allocations", "pinned allocations", "waits for the device", "waits for a stream"} & steady.keys()
    assert len({id(x) for x in kept}) == 2  # a recorded step finds its inputs
    assert all(x.address == kept[i % 2].address for i, x in enumerate(kept[:5]))


def test_a_larger_batch_gets_a_larger_slot(device):
    feed = ahead.feeder(0)
    sums(feed, pairs(3, rows=2, last=4))
    total, _ = sums(feed, pairs(4, rows=4, last=4))
    np.testing.assert_array_equal(total, 6)


def test_a_feed_that_was_left_in_the_middle(device):
    feed = ahead.feeder(0)
    for _, (x, _) in feed(pairs(5)):
        functional.scale_update(x, 2)
        break
    total, _ = sums(feed, pairs(4))
    np.testing.assert_array_equal(total, 6)
    del feed, x
    gc.collect()
    memory.collect()


def test_data_in_the_other_byte_order(device):
    x = np.arange(6, dtype=">f4").reshape(2, 3)
    for (given,), (xb,) in ahead.feeder(0)([(x,)]):
        assert given is x
        np.testing.assert_array_equal(backend.to_host(xb), x)
        assert xb.dtype == np.float32


class Careless(Recorder):
    """A device whose host leaves one kind of wait out."""

    left_out = ""

    def wait(self, device, stream, event):
        computes = stream == 0
        if self.left_out != ("compute" if computes else "copy"):
            super().wait(device, stream, event)

    def wait_on_host(self, device, event):
        if self.left_out != "host":
            super().wait_on_host(device, event)


@pytest.mark.parametrize("left_out", ["", "compute", "copy", "host"])
def test_each_wait_of_the_feed_is_needed(left_out):
    """The kernels wait for the copy, the copy for the kernels before, and the host for the copy from pinned memory."""
    with use(Careless(InterpreterRuntime((8, 0)))) as recorder:
        total, feed = there(np.zeros((4, 3), np.float32)), ahead.feeder(0)
        recorder.synchronize(0)
        recorder.left_out = left_out

        def run():
            for _, (xb, _) in feed(pairs(6)):
                functional.accumulate(total, xb)
            recorder.synchronize(0)

        if not left_out:
            run()
            np.testing.assert_array_equal(backend.to_host(total), 15)
        else:
            expected = "changed pinned memory" if left_out == "host" else UNORDERED
            with pytest.raises(RecordingError, match=expected):
                run()


# --- results ------------------------------------------------------------------------------------------------


def test_a_reading_is_of_the_moment_it_was_asked_for(device):
    x = there(np.ones((2, 3), np.float32))
    backend.load_backend("cuda").synchronize()
    reading = ahead.read((x, 5.5, x.T))
    functional.scale_update(x, 7)
    assert not reading.done
    before = device.counts["waits for the device"] + device.counts["waits for a stream"]
    first, number, second = reading.wait()
    assert device.counts["waits for the device"] + device.counts["waits for a stream"] == before
    assert reading.done
    assert number == 5.5
    np.testing.assert_array_equal(first, np.ones((2, 3)))
    np.testing.assert_array_equal(second, np.ones((3, 2)))
    assert ahead.read((1.0,)).wait() == (1.0,)


def test_readings_reuse_pinned_memory(device):
    x = there(np.ones((2, 3), np.float32))
    for _ in range(3):
        first, second = ahead.read((x,)), ahead.read((x,))
        first.wait(), second.wait()
        pinned = device.counts["pinned allocations"]
    assert device.counts["pinned allocations"] == pinned


def test_an_error_is_raised_by_the_reading_behind_it(device):
    x, bad = there(np.ones(3, np.float32)), there(np.array(np.inf))
    before = ahead.read((x,))
    functional.require_finite(bad, lambda value: ArithmeticError(f"it is {value}"))
    after = ahead.read((x,))
    before.wait()
    with pytest.raises(ArithmeticError, match="it is inf"):
        after.wait()
    ahead.read((x,)).wait()


def test_two_thousand_steps_need_no_stop(device):
    """A call that may fail takes a slot of the error word until it is known that it did not."""
    good, last = there(np.array(1.0)), None
    functional.require_finite(good, ArithmeticError)
    backend.load_backend("cuda").synchronize()
    device.inner = None
    with device.counting() as counts:
        for _ in range(2000):
            functional.require_finite(good, ArithmeticError)
            if last is not None:
                last.wait()
            last = ahead.read((good,))
    assert not {"waits for the device", "waits for a stream"} & counts.keys()


# --- recorded work ------------------------------------------------------------------------------------------


def test_recorded_work_is_done_again(device):
    x = there(np.array([1.0, -2.0], np.float32))
    with ahead_record(True):
        functional.relu(x)
    with device.counting() as counts, ahead_record(False) as recorded:
        y = functional.relu(x)
        functional.scale_update(x, -2)
    assert not counts.keys() & {"launches", "allocations"}
    for expected, left in (([1, 0], [-2, 4]), ([0, 4], [4, -8])):
        with device.counting() as counts:
            recorded.replay()
        assert counts["replays"] == 1
        assert counts["launches"] == 0
        np.testing.assert_array_equal(backend.to_host(y), expected)
        np.testing.assert_array_equal(backend.to_host(x), left)


def test_memory_of_recorded_work_is_kept(device):
    x = there(np.ones(300, np.float32))
    with ahead_record(False) as recorded:
        y = functional.relu(functional.relu(x))
    memory.empty_cache()
    recorded.replay()
    np.testing.assert_array_equal(backend.to_host(y), 1)
    frees = device.counts["frees"]
    del recorded, y
    gc.collect()
    memory.empty_cache()
    assert device.counts["frees"] > frees


def test_an_error_while_recording_ends_it(device):
    x = there(np.ones(3, np.float32))

    def fail():
        with ahead_record(False):
            functional.relu(x)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert streams.current_stream(0) == 0
    np.testing.assert_array_equal(backend.to_host(functional.relu(x)), 1)
    with ahead_record(False) as recorded:
        functional.scale_update(x, 3)
    recorded.replay()
    np.testing.assert_array_equal(backend.to_host(x), 3)


def test_an_error_of_recorded_work_is_found(device):
    value = there(np.array(1.0))
    with ahead_record(False) as recorded:
        functional.require_finite(value, lambda number: ArithmeticError(f"it is {number}"))
        functional.scale_update(value, np.inf)
    recorded.replay()
    ahead.read((value,)).wait()
    recorded.replay()
    with pytest.raises(ArithmeticError, match="it is inf"):
        ahead.read((value,)).wait()


def ahead_record(rehearsal):
    return backend.load_backend("cuda").record(0, rehearsal)
