"""The recorder itself: each mistake it is there for is made once, and beside it the right way, which passes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from recording import Recorder, RecordingError

POINTER, NUMBER = SimpleNamespace(pointer=True), SimpleNamespace(pointer=False)
KERNEL = SimpleNamespace(name="kernel", parameters=(POINTER, POINTER, NUMBER))


@pytest.fixture
def device():
    return Recorder()


def block(device, floats=4):
    """Memory full of zeros, which the host has waited for."""
    address = device.allocate(0, 4 * floats)
    device.clear(0, address, 4 * floats, 0)
    device.synchronize(0)
    return address


def launch(device, *addresses, stream=0):
    device.launch(0, KERNEL, (1, 1, 1), 0, stream, [*addresses, 7])


def order(device, first, then):
    event = device.create_event(0)
    device.record(0, event, first)
    device.wait(0, then, event)


UNORDERED = "nothing says which comes first"


# --- order --------------------------------------------------------------------------------------------------


def test_two_streams_on_one_block_need_an_event(device):
    a, b, c = block(device), block(device), block(device)
    other = device.create_stream(0)
    launch(device, a, b)
    launch(device, c, c, stream=other)
    with pytest.raises(RecordingError, match=UNORDERED):
        launch(device, b, c, stream=other)


def test_an_event_orders_them(device):
    a, b = block(device), block(device)
    other = device.create_stream(0)
    launch(device, a, b)
    order(device, 0, other)
    launch(device, a, b, stream=other)
    with pytest.raises(RecordingError, match=UNORDERED):  # the way back is another one
        launch(device, a, b)


def test_an_event_recorded_too_early_orders_nothing(device):
    a, b = block(device), block(device)
    other, event = device.create_stream(0), device.create_event(0)
    device.record(0, event, 0)
    launch(device, a, b)
    device.wait(0, other, event)
    with pytest.raises(RecordingError, match=UNORDERED):
        launch(device, a, b, stream=other)


def test_order_goes_on_through_a_third_stream(device):
    a, b = block(device), block(device)
    second, third = device.create_stream(0), device.create_stream(0)
    launch(device, a, b)
    order(device, 0, second)
    order(device, second, third)
    launch(device, a, b, stream=third)


@pytest.mark.parametrize("wait", ["stream", "device", "event"])
def test_the_host_waiting_orders_too(device, wait):
    a, b = block(device), block(device)
    other, event = device.create_stream(0), device.create_event(0)
    launch(device, a, b, stream=other)
    device.record(0, event, other)
    if wait == "event":
        device.wait_on_host(0, event)
    else:
        device.synchronize(0, other if wait == "stream" else None)
    launch(device, a, b)


def test_waiting_for_another_stream_orders_nothing(device):
    a, b = block(device), block(device)
    other = device.create_stream(0)
    launch(device, a, b, stream=other)
    device.synchronize(0, 0)
    with pytest.raises(RecordingError, match=UNORDERED):
        launch(device, a, b)


def test_copies_may_read_the_same_bytes_and_write_different_ones(device):
    a, b = block(device, 8), block(device, 8)
    other = device.create_stream(0)
    device.copy(0, b, a, 16, 0)
    device.copy(0, b + 16, a, 16, other)
    with pytest.raises(RecordingError, match=UNORDERED):
        device.copy(0, b + 12, a, 8, other)


def test_a_poll_says_no_once(device):
    a, b = block(device), block(device)
    other, event = device.create_stream(0), device.create_event(0)
    launch(device, a, b, stream=other)
    device.record(0, event, other)
    assert not device.finished(0, event)
    assert device.finished(0, event)
    launch(device, a, b)


def test_addresses_in_a_table_count(device):
    a, b, table = block(device), block(device), device.allocate(0, 16)
    other = device.create_stream(0)
    device.copy_to_device(0, table, np.array([b, 0], np.int64), 0)
    device.synchronize(0)
    launch(device, b, b, stream=other)
    with pytest.raises(RecordingError, match=UNORDERED):
        launch(device, a, table)


# --- life of memory -----------------------------------------------------------------------------------------


def test_memory_that_was_freed(device):
    a, b = block(device), block(device)
    device.free(0, a)
    with pytest.raises(RecordingError, match="was freed"):
        launch(device, a, b)
    with pytest.raises(RecordingError, match="freed twice"):
        device.free(0, a)
    with pytest.raises(RecordingError, match="never allocated"):
        device.free(0, b + 4)


def test_memory_that_is_nobodys(device):
    a = block(device)
    with pytest.raises(RecordingError, match="in no allocation"):
        launch(device, a, 12)
    with pytest.raises(RecordingError, match="8 bytes past the end"):
        device.clear(0, a + 8, 16, 0)
    launch(device, a, 0)  # a null pointer: an argument that is not there


def test_bytes_nobody_wrote(device):
    a = device.allocate(0, 16)
    device.copy_to_device(0, a, np.ones(3, np.float32), 0)
    device.copy_to_host(0, np.empty(3, np.float32), a, 0)
    with pytest.raises(RecordingError, match=r"reads byte 12 of .*, which nobody wrote"):
        device.copy_to_host(0, np.empty(4, np.float32), a, 0)


def test_a_device_that_is_full():
    device = Recorder(bytes_per_device=1000)
    a = device.allocate(0, 800)
    with pytest.raises(MemoryError):
        device.allocate(0, 400)
    device.free(0, a)
    assert device.memory_info(0) == (1000, 1000)
    device.allocate(0, 400)


# --- the host's memory --------------------------------------------------------------------------------------


def test_pinned_memory_changed_too_early(device):
    a, staging = block(device), device.pinned_empty((4,), np.float32)
    staging[:] = 1
    device.copy_to_device(0, a, staging, 0)
    device.synchronize(0)
    staging[:] = 2
    device.copy_to_device(0, a, staging, 0)
    staging[3] = 5
    with pytest.raises(RecordingError, match="changed pinned memory"):
        device.synchronize(0)


def test_other_memory_may_be_changed_at_once(device):
    a, values = block(device), np.ones(4, np.float32)
    device.copy_to_device(0, a, values, 0)
    values[:] = 2
    device.synchronize(0)


def test_what_was_copied_arrives_when_the_host_has_waited(device):
    a, target = block(device), device.pinned_empty((4,), np.float32)
    target[:] = 3
    device.copy_to_host(0, target, a, 0)
    assert np.isnan(target).all()
    device.synchronize(0)
    np.testing.assert_array_equal(target, 0)


# --- graphs and counts --------------------------------------------------------------------------------------


def test_a_graph_is_done_when_it_is_replayed(device):
    a, b = block(device), block(device)
    stream = device.create_stream(0)
    device.begin_capture(0, stream)
    launch(device, a, b, stream=stream)
    device.copy(0, a, b, 16, stream)
    graph = device.end_capture(0, stream)
    assert device.launches == []
    with device.counting() as counts:
        device.replay(0, graph, 0)
        device.replay(0, graph, 0)
    assert counts == {"replays": 2, "kernels in replays": 2, "copies on device": 2}
    launch(device, a, b)
    with pytest.raises(RecordingError, match=UNORDERED):
        launch(device, a, b, stream=stream)
    device.free(0, a)
    with pytest.raises(RecordingError, match="was freed"):
        device.replay(0, graph, 0)


def test_what_cannot_be_captured(device):
    with pytest.raises(RecordingError, match="default stream"):
        device.begin_capture(0, 0)
    stream, a = device.create_stream(0), block(device)
    device.begin_capture(0, stream)
    with pytest.raises(RecordingError, match="cannot be waited for"):
        device.synchronize(0)
    with pytest.raises(RecordingError, match="not pinned"):
        device.copy_to_device(0, a, np.ones(4, np.float32), stream)


def test_counts(device):
    with device.counting() as counts:
        a, b = block(device), block(device)
        launch(device, a, b)
        device.copy(0, a, b, 16, 0)
        device.free(0, a)
    assert counts == {
        "allocations": 2, "clears": 2, "waits for the device": 2, "launches": 1, "copies on device": 1, "frees": 1
    }  # fmt: skip


def test_another_runtime_may_execute():
    """Around one that executes (here: on the host), values are that one's."""
    memory = {}

    class Executing:
        def allocate(self, device, nbytes):
            memory[len(memory) * 4096 + 4096] = np.zeros(nbytes, np.uint8)
            return max(memory)

        def copy_to_device(self, device, address, source, stream):
            memory[address][: source.nbytes] = source.reshape(-1).view(np.uint8)

        def copy_to_host(self, device, target, address, stream):
            target.reshape(-1).view(np.uint8)[:] = memory[address][: target.nbytes]

        def launch(self, device, kernel, grid, shared, stream, args):
            memory[args[0]].view(np.float32)[:] += memory[args[1]].view(np.float32) * args[2]

    device = Recorder(Executing())
    a, b = device.allocate(0, 8), device.allocate(0, 8)
    device.copy_to_device(0, a, np.array([1, 2], np.float32), 0)
    device.copy_to_device(0, b, np.array([10, 20], np.float32), 0)
    launch(device, a, b)
    result = np.empty(2, np.float32)
    device.copy_to_host(0, result, a, 0)
    np.testing.assert_array_equal(result, [71, 142])
