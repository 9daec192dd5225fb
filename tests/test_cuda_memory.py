"""Device memory and streams: what is lent again, to whom, and what waits for what.

On a recording device: it raises where two streams touch the same bytes in no order, and where memory is used that was
freed.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import time

import numpy as np
import pytest
from recording import Recorder, RecordingError

from numbaconv.errors import ArgumentError, DeviceMemoryError

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numbaconv.cuda import launch, memory, streams
from numbaconv.cuda.runtime import runtime

FLOAT32 = np.dtype(np.float32)
MIB = 1 << 20


@pytest.fixture
def device():
    with launch.use(Recorder(bytes_per_device=100 * MIB)) as recorder:
        yield recorder


def empty(mib, device=0):
    return memory.empty((int(mib * MIB),), np.dtype(np.uint8), device)


# --- the allocator -----------------------------------------------------------------------------------------


def test_a_steady_step_allocates_nothing(device):
    def step():
        x = empty(3)
        y = memory.empty((7, 5), FLOAT32, 0)
        z = memory.empty((1000, 3), FLOAT32, 0)
        del x
        return empty(3), y, z

    step()
    first = device.counts["allocations"]
    for _ in range(10):
        step()
    assert device.counts["allocations"] == first
    assert memory.memory_stats()["allocations"] == first


def test_no_two_arrays_share_memory(device):
    arrays = [empty(0.3) for _ in range(20)] + [empty(1) for _ in range(3)]
    del arrays[::2]
    arrays += [empty(0.3) for _ in range(10)]
    spans = sorted((a.address, a.address + a.nbytes) for a in arrays)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_a_view_keeps_the_memory(device):
    x = empty(1)
    address = x.address
    view = x[5:10]
    del x
    assert empty(1).address != address
    del view
    assert empty(1).address == address


@pytest.mark.parametrize(
    ("nbytes", "size"),
    # Up to an eighth of the power of two below or at it, and to 512 bytes: counted by hand.
    [(0, 512), (1, 512), (512, 512), (513, 1024), (4096, 4096), (4097, 4608), (9000, 9216), (16385, 18432),
     (MIB, MIB), (MIB + 1, MIB + MIB // 8), (3 * MIB - 1, 3 * MIB), (100_000_000, 100_663_296)],
)  # fmt: skip
def test_sizes_are_rounded_up_by_an_eighth_at_most(nbytes, size):
    assert memory._size_class(nbytes) == size
    assert size <= max(nbytes * 1.125, nbytes + 511, 512)


def test_nearly_equal_sizes_share(device):
    x = memory.empty((1000, 1000), FLOAT32, 0)
    address = x.address
    del x
    assert memory.empty((1000, 999), FLOAT32, 0).address == address


def test_what_the_statistics_say(device):
    assert memory.memory_stats() == {"allocated": 0, "peak": 0, "reserved": 0, "allocations": 0}
    x, y = empty(1), empty(2)
    del x
    assert memory.memory_stats() == {"allocated": 2 * MIB, "peak": 3 * MIB, "reserved": 3 * MIB, "allocations": 2}
    memory.empty_cache()
    assert memory.memory_stats() == {"allocated": 2 * MIB, "peak": 3 * MIB, "reserved": 2 * MIB, "allocations": 2}
    assert device.counts["frees"] == 1
    assert y.nbytes == 2 * MIB


def test_each_device_has_its_own():
    with launch.use(Recorder(devices=2)):
        x = empty(1, device=1)
        assert memory.memory_stats(0)["allocated"] == 0
        assert memory.memory_stats(1)["allocated"] == MIB
        assert x.device == 1


def test_the_cache_is_emptied_before_memory_runs_out(device):
    x = empty(60)
    del x
    y = empty(70)  # 60 are cached: only without them there is room
    assert device.counts["frees"] == 1
    assert y.nbytes == 70 * MIB


def test_out_of_memory_says_what_is_where(device):
    x = empty(60)
    values = r"device='cuda:0', wanted='52.0 MiB', in_arrays='60.0 MiB', free='40.0 MiB', total='100.0 MiB'"
    with pytest.raises(
        DeviceMemoryError, match=rf"^allocate: the device must have enough memory; got {values}\. "
    ) as raised:
        empty(50)
    assert isinstance(raised.value, MemoryError)
    del x
    assert empty(50).nbytes == 50 * MIB


def test_many_threads(device):
    owner, shared = {}, []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(200):
            held = [memory.empty((int(rng.integers(1, 3)) * 1024,), FLOAT32, 0) for _ in range(3)]
            owner.update((array.address, (seed, place)) for place, array in enumerate(held))
            time.sleep(0)  # another thread's turn
            shared.extend(a.address for place, a in enumerate(held) if owner[a.address] != (seed, place))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not shared
    assert memory.memory_stats()["allocated"] == 0


# --- more than one stream ----------------------------------------------------------------------------------


def test_memory_of_one_stream_is_not_another_s(device):
    other = runtime().create_stream(0)
    x = empty(1)
    address = x.address
    del x
    with streams.stream(other):
        assert empty(1).address != address
    assert empty(1).address == address


def fill(x):
    runtime().clear(x.device, x.address, x.nbytes, streams.current_stream(x.device))


def copy(to, source):
    stream = streams.current_stream(0)
    to.owner.used_on(stream)
    source.owner.used_on(stream)
    runtime().copy(0, to.address, source.address, source.nbytes, stream)


def test_memory_used_elsewhere_is_waited_for(device):
    """A batch is filled on one stream and read on another; its memory is the next batch's."""
    side = runtime().create_stream(0)
    with streams.stream(side, ordered=False):
        batch = empty(1)
        fill(batch)
    streams.order(0, side, 0)
    result = empty(1)
    copy(result, batch)
    address = batch.address
    del batch
    with streams.stream(side, ordered=False):
        batch = empty(1)
        assert batch.address == address
        fill(batch)  # the recorder raises if this does not wait for the copy


def test_the_recorder_would_have_seen_it(device, monkeypatch):
    monkeypatch.setattr(memory.Memory, "used_on", lambda self, stream: None)
    with pytest.raises(RecordingError):
        test_memory_used_elsewhere_is_waited_for(device)


def test_the_cache_is_emptied_after_what_is_queued(device):
    x = empty(1)
    fill(x)
    del x
    with device.counting() as counts:
        memory.empty_cache()
    assert counts["frees"] == 1
    assert counts["waits for the device"] == 1


def test_a_kept_pool_stays(device):
    side = runtime().create_stream(0)
    memory.keep(0, side)
    with streams.stream(side):
        x = empty(1)
    address = x.address
    del x
    memory.empty_cache()
    with streams.stream(side):
        assert empty(1).address == address
    memory.keep(0, side, kept=False)
    memory.empty_cache()
    assert memory.memory_stats()["reserved"] == 0


def test_work_in_a_stream_is_in_the_program_s_order(device):
    side = runtime().create_stream(0)
    x, y, z = empty(1), empty(1), empty(1)
    fill(x)
    with streams.stream(side):
        assert streams.current_stream(0) == side
        copy(y, x)
    assert streams.current_stream(0) == 0
    copy(z, y)


def test_unless_it_is_told_not_to_be(device):
    side = runtime().create_stream(0)
    x, y = empty(1), empty(1)
    fill(x)
    with pytest.raises(RecordingError), streams.stream(side, ordered=False):
        copy(y, x)
    assert streams.current_stream(0) == 0


def test_streams_belong_to_a_thread_and_a_device(device):
    side = runtime().create_stream(0)
    found = []
    with streams.stream(side):
        thread = threading.Thread(target=lambda: found.append(streams.current_stream(0)))
        thread.start()
        thread.join()
        assert streams.current_stream(1) == 0
    assert found == [0]


def test_an_exception_leaves_the_stream(device):
    side = runtime().create_stream(0)
    with pytest.raises(KeyError), streams.stream(side):
        raise KeyError
    assert streams.current_stream(0) == 0


class Named:
    def __init__(self, **attributes):
        vars(self).update(attributes)


class Protocol:
    def __cuda_stream__(self):
        return 0, 77


def test_anybody_s_streams():
    """PyTorch, CuPy, numba (a ctypes pointer, or an int), cuda.core; 1 is the default stream's other name."""
    streams_and_handles = [
        (0, 0), (1, 0), (2, 2), (77, 77), (Named(cuda_stream=77), 77), (Named(cuda_stream=0), 0), (Named(ptr=77), 77),
        (Named(handle=ctypes.c_void_p(77)), 77), (Named(handle=ctypes.c_void_p()), 0), (Named(handle=1), 0),
        (Protocol(), 77),
    ]  # fmt: skip
    assert [streams.stream_value(stream) for stream, _ in streams_and_handles] == [h for _, h in streams_and_handles]
    assert [streams.protocol_number(s) for s in (0, 2, 77)] == [1, 2, 77]


@pytest.mark.parametrize("thing", [None, True, "0", 1.0, object()])
def test_things_that_are_no_streams(thing):
    with pytest.raises(ArgumentError, match=r"^stream: stream must be a CUDA stream; got stream="):
        streams.stream_value(thing)
