"""Arrays on a GPU: copies from and to the host, views, and other libraries' arrays. All with the host's memory for a
device's; another library's arrays are PyTorch's on the CPU, said to be on a GPU.
"""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from recording import Recorder, RecordingError

from numbaconv import backend, functional
from numbaconv.errors import DeviceError, DTypeError, ShapeError

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numbaconv.cuda import dlpack, interop, launch, memory, streams, transfer
from numbaconv.cuda.runtime import runtime
from numbaconv.cuda.simulator import Simulator


def layouts(x):
    """Views of (N, C, H, W) with all kinds of strides."""
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return {
        "dense": x,
        "channels-last": last,
        "channels-last, one channel": np.ascontiguousarray(x[:, :1].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "another order": x.transpose(3, 0, 2, 1),
        "every second": x[:, ::2],
        "backwards": x[:, :, ::-1],
        "broadcast": np.broadcast_to(x[:1], (5, *x.shape[1:])),
        "part": last[:, 1:, 1:-1],
        "empty": x[:0],
        "scalar": x[0, 0, 0, 0].reshape(()),
        "read-only": np.frombuffer(x.tobytes(), x.dtype),
    }


@pytest.fixture
def device():
    with launch.use(Recorder(Simulator())) as recorder:
        yield recorder


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool"])
@pytest.mark.parametrize("layout", layouts(np.zeros((2, 3, 4, 5))))
def test_there_and_back(device, rng, monkeypatch, dtype, layout):
    monkeypatch.setattr(transfer, "_PIECE", 64)  # bytes: several pieces
    x = layouts((rng.standard_normal((2, 3, 4, 5)) * 9).astype(dtype))[layout]
    there = transfer.to_device(x, 0)
    back = transfer.to_host(there)
    np.testing.assert_array_equal(back, x, strict=True)
    assert there.shape == x.shape
    if layout.startswith(("dense", "channels-last", "another")):
        assert there.strides == back.strides == x.strides


KEYS = [1, -1, np.s_[1:], np.s_[:, ::-2], np.s_[..., 0], np.s_[None, 0, ..., 3:0:-1], np.s_[5:1], np.s_[:, 1:2, None]]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_views_are_numpy_s(device, rng, key):
    x = rng.standard_normal((2, 3, 4, 5))
    there = transfer.to_device(x, 0)[key]
    assert there.shape == x[key].shape
    np.testing.assert_array_equal(transfer.to_host(there), x[key])


def test_other_axes_are_numpy_s(device, rng):
    x = rng.standard_normal((2, 3, 4))
    there = transfer.to_device(x, 0)
    pairs = [
        (there.T, x.T),
        (there.transpose(1, 0, 2), x.transpose(1, 0, 2)),
        (there.transpose((2, 0, 1)), x.transpose(2, 0, 1)),
        (there.reshape(6, 4), x.reshape(6, 4)),
        (there.reshape((-1, 2)), x.reshape(-1, 2)),
        (there.reshape(-1), x.ravel()),
        (there[:, None].reshape(2, 12), x.reshape(2, 12)),
        (there[:, :1].transpose(1, 0, 2), x[:, :1].transpose(1, 0, 2)),
    ]
    for ours, theirs in pairs:
        np.testing.assert_array_equal(transfer.to_host(ours), theirs, strict=True)
        assert ours.c_contiguous == theirs.flags.c_contiguous
    assert (len(there), there.ndim, there.size, there.nbytes, there.itemsize) == (2, 3, 24, 192, 8)


@hypothesis.given(st.data())
def test_reshaped_as_numpy_does_without_a_copy(data):
    """Wherever NumPy finds strides these are found, and they address the same elements."""
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4), label="shape")
    x = np.arange(2 * np.prod(shape), dtype="i4").reshape(*shape[:-1], 2 * shape[-1])
    if data.draw(st.booleans(), label="strided"):
        x = x[..., ::2]
    x = x.transpose(data.draw(st.permutations(range(x.ndim)), label="axes"))
    divisors = st.integers(1, x.size).filter(lambda n: x.size % n == 0)
    first = data.draw(divisors, label="first")
    second = data.draw(divisors.filter(lambda n: (x.size // first) % n == 0), label="second")
    new = data.draw(st.permutations([first, second, x.size // first // second, 1]), label="new")
    with launch.use(Recorder(Simulator())):
        ours = interop.as_device_array("op", "x", Interface(x))
        try:
            expected = x.reshape(new, copy=False)
        except ValueError:
            with pytest.raises(ShapeError, match="strides must allow it without a copy"):
                ours.reshape(new)
        else:
            result = ours.reshape(*new)
            np.testing.assert_array_equal(transfer.to_host(result), expected, strict=True)
            assert result.address == x.ctypes.data


def test_views_that_are_refused(device):
    x = transfer.to_device(np.zeros((2, 3)), 0)
    for wrong in (lambda: x.reshape(4), lambda: x.T.reshape(6), lambda: x.transpose(0, 0), lambda: x.reshape(-1, 4)):
        with pytest.raises(ValueError, match=r"^(reshape|transpose): "):
            wrong()
    for wrong in (lambda: x[2], lambda: x[0, 0, 0]):
        with pytest.raises(IndexError):
            wrong()
    with pytest.raises(TypeError):
        len(x[0, 0])
    with pytest.raises(RuntimeError, match=r"^numpy\.asarray: .*numbaconv\.to_host"):
        np.asarray(x)


def test_the_array_may_be_changed_at_once(device):
    """to_device returns before the device has copied; the recorder raises if a pinned buffer changes under a copy."""
    x = np.arange(3_000_000.0)
    expected = x.copy()
    there = transfer.to_device(x, 0)
    x[:] = 0
    np.testing.assert_array_equal(transfer.to_host(there), expected)
    assert device.counts["copies to device"] == 6  # 24 MB in pieces of 4 MiB
    assert device.counts["pinned allocations"] == 2


@pytest.mark.parametrize("dtype", ["U3", "O", ">f4", "M8[s]", "c8"])
def test_elements_that_are_refused(device, dtype):
    x = np.zeros(2, dtype)
    with pytest.raises(TypeError, match=r"^to_device: x must hold numbers in the machine's byte order; got x.dtype="):
        transfer.to_device(x, 0)


# --- other libraries' arrays -------------------------------------------------------------------------------


class OnGpu:
    """A PyTorch tensor on the CPU that says by DLPack that it is on a GPU."""

    def __init__(self, tensor, device=0):
        self.tensor, self.device, self.stream = tensor, device, "none"

    def __dlpack_device__(self):
        return dlpack.CUDA, self.device

    def __dlpack__(self, *, stream=None):
        self.stream = stream
        return self.tensor.__dlpack__()


class OnCpu:
    """The other way round: one of our arrays that says it is on the CPU."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return dlpack.CPU, 0

    def __dlpack__(self, **kwargs):
        return dlpack.write(self.array, dlpack.CPU)


class Interface:
    """A NumPy array that says by the other protocol that it is on a GPU."""

    def __init__(self, array, **more):
        self.array = array
        plain = array.__array_interface__
        facts = {key: plain[key] for key in ("shape", "strides", "typestr", "data")}
        self.__cuda_array_interface__ = {**facts, "version": 3, **more}


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def test_pytorch_in_and_out_without_a_copy(device, torch):
    x = torch.arange(24.0).reshape(2, 3, 4)
    integers = x.to(torch.int64)
    for tensor in (x, x.transpose(0, 2), x[:, 1:], x[1, 1, 1], x[:0], integers, x > 3, x.double()[:, :, ::2]):
        ours = interop.as_device_array("op", "x", OnGpu(tensor))
        assert tensor.numel() == 0 or ours.address == tensor.data_ptr()
        np.testing.assert_array_equal(transfer.to_host(ours), tensor.numpy(), strict=True)
        again = torch.from_dlpack(OnCpu(ours))
        assert again.data_ptr() == tensor.data_ptr()
        assert torch.equal(again, tensor)
        assert again.stride() == tensor.stride() or tensor.numel() < 2


def test_a_tensor_lives_as_long_as_an_array_on_it(device, torch):
    ours = interop.as_device_array("op", "x", OnGpu(torch.arange(6.0)))
    view = ours[2:]
    again = torch.from_dlpack(OnCpu(view))
    del ours, view
    gc.collect()
    memory.collect()
    assert again.tolist() == [2, 3, 4, 5]
    assert len(dlpack._lent) == 1
    del again
    gc.collect()
    assert not dlpack._lent


class Kept:
    """Something that is gone when nobody keeps it."""

    def __init__(self, device, nbytes=24):
        self.array = np.arange(nbytes // 4, dtype="f4")
        self.__cuda_array_interface__ = {**Interface(self.array).__cuda_array_interface__, "stream": 1}


def test_a_foreign_array_is_kept_until_the_device_is_done(device):
    foreign = Kept(device)
    gone = weakref.ref(foreign)
    ours = interop.as_device_array("op", "x", foreign)
    host = transfer.to_host(ours)
    ours.owner.used_on(0)
    runtime().clear(0, ours.address, ours.nbytes, 0)
    del foreign, ours
    memory.collect()  # the recorder says at first that the event has not been reached
    assert gone() is not None
    memory.collect()
    assert gone() is None
    assert host.tolist() == [0, 1, 2, 3, 4, 5]


def test_at_once_where_nothing_was_queued(device):
    foreign = Kept(device)
    gone = weakref.ref(foreign)
    ours = interop.as_device_array("op", "x", foreign)
    del foreign, ours
    memory.collect()
    assert gone() is None


def test_what_a_graph_uses_is_held(device):
    """Replayed, it reads the same memory again, although no array is on it any more."""
    side = runtime().create_stream(0)
    foreign, own = Kept(device), transfer.to_device(np.zeros(1000), 0)
    gone, address = weakref.ref(foreign), own.address
    ours = interop.as_device_array("op", "x", foreign)
    memory.keep(0, side)
    for array in (ours, own):
        array.owner.used_on(side)
    del foreign, ours, own, array
    memory.collect()
    memory.collect()
    assert gone() is not None
    assert memory.empty((1000,), np.dtype("f8"), 0).address != address
    memory.keep(0, side, kept=False)
    memory.collect()
    memory.collect()
    assert gone() is None
    memory.empty_cache()
    assert memory.empty((1000,), np.dtype("f8"), 0) is not None


def test_a_tensor_that_starts_after_its_data(device):
    """PyTorch puts the offset into the address; others write it beside."""
    x = transfer.to_device(np.arange(4.0), 0)
    capsule = x[:2].__dlpack__()
    ((managed, *_),) = dlpack._lent.values()
    managed.tensor.byte_offset = 16
    assert dlpack.read(capsule).address == x.address + 16


def test_a_capsule_nobody_takes(device):
    x = transfer.to_device(np.arange(3.0), 0)
    capsule = x.__dlpack__()
    assert len(dlpack._lent) == 1
    del capsule
    assert not dlpack._lent
    capsule = x.__dlpack__()
    tensor = dlpack.read(capsule)
    with pytest.raises(ValueError, match="taken before"):
        dlpack.read(capsule)
    del capsule
    assert len(dlpack._lent) == 1
    del tensor
    assert not dlpack._lent


def test_the_other_protocol(device):
    x = np.arange(24.0, dtype="f4").reshape(2, 3, 4)
    for array in (x, x.T, x[:, ::-1], x[1:, 1, ::2], x[:0], np.asfortranarray(x), x.astype("i4")):
        ours = interop.as_device_array("op", "x", Interface(array))
        np.testing.assert_array_equal(transfer.to_host(ours), array, strict=True)
        interface = ours.__cuda_array_interface__
        assert interface["version"] == 3
        assert interface["shape"] == array.shape
        assert array.size == 0 or interface["data"] == (array.ctypes.data, False)
        assert np.dtype(interface["typestr"]) == array.dtype
        assert (interface["strides"] is None) == array.flags.c_contiguous
        assert interface["strides"] in (None, array.strides)


def test_streams_of_both_protocols(device, torch):
    """The recorder raises where a stream reads what another one writes and nothing says when."""
    side = runtime().create_stream(0)
    tensor = OnGpu(torch.zeros(4))
    interop.as_device_array("op", "x", tensor)
    assert tensor.stream == 1
    with streams.stream(side):
        interop.as_device_array("op", "x", tensor)
        assert tensor.stream == side
    for producer, number in ((0, 1), (side, side)):
        x = np.zeros(4)
        ours = interop.as_device_array("op", "x", Interface(x))
        with streams.stream(producer):
            runtime().clear(0, ours.address, ours.nbytes, producer)
        ours = interop.as_device_array("op", "x", Interface(x, stream=number))
        transfer.to_host(ours)
    with streams.stream(side):
        assert ours.__cuda_array_interface__["stream"] == side
    assert ours.__cuda_array_interface__["stream"] == 1


def test_a_stream_that_is_not_named_is_not_waited_for(device):
    side = runtime().create_stream(0)
    x = np.zeros(4)
    ours = interop.as_device_array("op", "x", Interface(x))
    runtime().clear(0, ours.address, ours.nbytes, side)
    ours = interop.as_device_array("op", "x", Interface(x, stream=None))
    with pytest.raises(RecordingError):
        transfer.to_host(ours)


@pytest.mark.parametrize("number", [None, 1, 2, 77])
def test_the_consumer_s_stream_waits(device, number):
    """None is the default stream; -1 (below) asks for no order."""
    consumer = {None: 0, 1: 0}.get(number, number)
    side = runtime().create_stream(0)
    x = transfer.to_device(np.zeros(4), 0)
    with streams.stream(side, ordered=False):
        streams.order(0, 0, side)
        runtime().clear(0, x.address, x.nbytes, side)
        x.__dlpack__(stream=number)
    target = np.empty(4)
    runtime().copy_to_host(0, target, x.address, consumer)
    assert x.owner.others >= {consumer} - {0}


def test_or_does_not_if_it_says_so(device):
    side = runtime().create_stream(0)
    x = transfer.to_device(np.zeros(4), 0)
    runtime().clear(0, x.address, x.nbytes, 0)
    x.__dlpack__(stream=-1)
    with pytest.raises(RecordingError):
        runtime().copy_to_host(0, np.empty(4), x.address, side)


def test_what_a_capsule_cannot_do(device):
    x = transfer.to_device(np.zeros(4), 0)
    assert x.__dlpack_device__() == (2, 0)
    for wrong in ({"copy": True}, {"dl_device": (1, 0)}):
        with pytest.raises(BufferError, match="without a copy"):
            x.__dlpack__(**wrong)
    x.__dlpack__(stream=None, max_version=(1, 0), dl_device=(2, 0), copy=False)


MISALIGNED = np.zeros(33, "u1")[1:].view("f8")


@pytest.mark.parametrize(
    ("foreign", "reason"),
    [
        (Interface(np.zeros(3), mask=0), "it has a mask"),
        (Interface(MISALIGNED), "its address is not a multiple of 8"),
        (Interface(np.zeros(3), stream="0"), "stream must be a CUDA stream"),
    ],
)
def test_arrays_that_are_refused(device, foreign, reason):
    with pytest.raises((DTypeError, ValueError), match=reason):
        interop.as_device_array("op", "x", foreign)


def test_tensors_that_are_refused(device, torch):
    with pytest.raises(DTypeError, match=r"^op: x could not be taken as an array on a GPU; got .*x\.detach\(\)"):
        interop.as_device_array("op", "x", OnGpu(torch.zeros(3, requires_grad=True)))
    with pytest.raises(DTypeError, match="its element type is not NumPy's: DLPack code 4, 16 bits"):
        interop.as_device_array("op", "x", OnGpu(torch.zeros(3, dtype=torch.bfloat16)))


# --- into the ops ------------------------------------------------------------------------------------------


@pytest.fixture
def blind():
    """Two devices that compute nothing."""
    with launch.use(Recorder(devices=2)) as recorder:
        yield recorder


def test_an_op_takes_anybody_s_array(blind, torch):
    ours = transfer.to_device(np.zeros((2, 3), "f4"), 0)
    for given in (ours, Interface(np.zeros((2, 3), "f4")), OnGpu(torch.zeros(2, 3))):
        result = functional.relu(given)
        assert type(result) is type(ours)
        assert result.shape == (2, 3)
        assert backend.device_of(given) == "cuda"
        assert functional.relu_backward(given, ours).shape == (2, 3)
    assert blind.counts["launches"] == 6
    assert blind.counts["copies to host"] == 0


def test_dtypes_are_checked_as_on_the_cpu(blind, torch):
    with pytest.raises(DTypeError, match=r"^relu: x must be float32 or float64; got x\.dtype='int64'\. "):
        functional.relu(OnGpu(torch.zeros(3, dtype=torch.int64)))
    with pytest.raises(DTypeError, match=r"^relu_backward: grad_output and x must have one dtype; got "):
        functional.relu_backward(transfer.to_device(np.zeros(3), 0), transfer.to_device(np.zeros(3, "f4"), 0))


def test_all_arrays_on_one_gpu(blind):
    here, there = (transfer.to_device(np.zeros(3), device) for device in (0, 1))
    rule = r"^relu_backward: all arrays must be on one device; got grad_output='cuda:0', x='cuda:1'\. "
    with pytest.raises(DeviceError, match=rule):
        functional.relu_backward(here, there)
    with pytest.raises(DeviceError, match=r"got grad_output='cpu', x='cuda'\. "):
        functional.relu_backward(np.zeros(3), there)
    assert functional.relu(there).device == 1


def test_between_devices_by_name(blind):
    x = backend.to_device(np.zeros(3), "cuda:1")
    assert (x.device, backend.device_of(x), backend.place_of(x)) == (1, "cuda", "cuda:1")
    assert backend.to_device(x, "cuda:1") is x
    y = backend.to_device(x, "cuda")
    assert y.device == 0
    assert isinstance(backend.to_device(y, "cpu"), np.ndarray)


def test_a_copy_has_memory_of_its_own(device, rng):
    """A model's deepcopy, which `prepare` and `gradcheck` make; pickling would lose the memory."""
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    for layout in ("dense", "channels-last", "another order"):
        there = transfer.to_device(layouts(x)[layout], 0)
        for made in (copy.deepcopy(there), copy.copy(there)):
            assert made.address != there.address
            assert made.strides == there.strides
            np.testing.assert_array_equal(transfer.to_host(made), transfer.to_host(there))
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(there)
