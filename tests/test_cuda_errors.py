"""Errors that kernels find: noted on the device, raised at the next wait, and no parameter is changed meanwhile.

The kernels run in the PTX interpreter; labels are a kernel's like those of a loss.
"""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv.errors import LabelError, ShapeError

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numba import cuda
from ptx.runtime import InterpreterRuntime

from numbaconv.cuda import errorword, launch, limits, memory, streams, transfer
from numbaconv.cuda.errorword import report
from numbaconv.cuda.launch import T

CHANNELS = 10


def kernel(function):
    made = launch.kernel(threads=32)(function)
    del launch.KERNELS[made.name]
    return made


@kernel
def pick(target: "i64*", size: "i32", errors: "i64*", slot: "i32"):
    i = cuda.grid(1)
    if i < size:
        label = target[i]
        if label < 0 or label >= CHANNELS:
            report(errors, slot, i, label)


@kernel
def update(parameter: "T*", errors: "i64*"):
    if errors[0] == 0:
        parameter[cuda.threadIdx.x] += T(1)


@pytest.fixture(autouse=True)
def device():
    with launch.use(InterpreterRuntime((7, 5))) as interpreter:
        yield interpreter


def label_error(position, value):
    return LabelError(f"position {position}, value {value}")


def check_labels(labels, describe=label_error):
    target = transfer.to_device(np.asarray(labels, "i8"), 0)
    slot = errorword.expect(0, describe)
    launch.launch(pick, "float32", -(-len(labels) // 32), target, len(labels), errorword.words(0), slot)


def test_no_error():
    check_labels(range(10))
    errorword.synchronize()
    errorword.check(0)


@pytest.mark.parametrize("position", [0, 1, 31, 32, 95])
@pytest.mark.parametrize("value", [-1, 10, 255, -100, 2**31 - 1, -(2**31)])
def test_the_first_offender_is_named(position, value):
    labels = np.zeros(96, "i8")
    labels[position:] = 99
    labels[position] = value
    check_labels(labels)
    with pytest.raises(LabelError, match=rf"^position {position}, value {value}$"):
        errorword.synchronize()


def test_it_is_raised_once():
    check_labels([99])
    with pytest.raises(LabelError):
        errorword.synchronize()
    errorword.synchronize()
    check_labels([0])
    errorword.synchronize()
    check_labels([0, 98])
    with pytest.raises(LabelError, match="position 1, value 98"):
        errorword.synchronize()


def test_every_wait_raises():
    x = transfer.to_device(np.zeros(3), 0)
    for wait in (
        lambda: transfer.to_host(x),
        lambda: x.copy_to_host(),
        errorword.synchronize,
        lambda: errorword.check(0),
    ):
        check_labels([10])
        with pytest.raises(LabelError, match="position 0, value 10"):
            wait()
        wait()


def test_the_first_call_is_the_one_that_raises():
    check_labels([0], lambda position, value: AssertionError("not this one"))
    check_labels([0, 0, 11], lambda position, value: LabelError("first"))
    check_labels([12], lambda position, value: LabelError("second"))
    with pytest.raises(LabelError, match="first"):
        errorword.synchronize()


def test_parameters_stay_until_it_was_raised():
    parameter = memory.zeros((32,), np.dtype("f4"), 0)

    def step():
        launch.launch(update, "float32", 1, parameter, errorword.words(0))

    step()
    check_labels([0])
    step()
    check_labels([-1])
    step()
    step()
    with pytest.raises(LabelError):
        errorword.synchronize()
    assert transfer.to_host(parameter).tolist() == [2] * 32
    step()
    assert transfer.to_host(parameter).tolist() == [3] * 32


def test_a_wait_for_one_stream_is_none_for_another(device):
    """Its call may not have been done; its error comes with its own wait."""
    side = device.create_stream(0)
    with streams.stream(side):
        check_labels([10])
    transfer.to_host(memory.zeros((3,), np.dtype("f4"), 0))
    with streams.stream(side), pytest.raises(LabelError):
        errorword.check(0)
    with streams.stream(side):
        check_labels([10])
    with pytest.raises(LabelError):
        errorword.synchronize()


def test_more_calls_than_slots(monkeypatch):
    """The call that finds no slot waits."""
    monkeypatch.setattr(errorword, "SLOTS", 4)
    check_labels([0, 77])
    for _ in range(3):
        check_labels([0])
    with pytest.raises(LabelError, match="position 1, value 77"):
        check_labels([0])
    for _ in range(9):
        check_labels([0])
    check_labels([78])
    with pytest.raises(LabelError, match="position 0, value 78"):
        errorword.synchronize()


def test_calls_that_a_graph_does_again():
    target = transfer.to_device(np.array([3], "i8"), 0)
    slot = errorword.expect(0, label_error)
    calls = errorword.expected(0)
    errorword.synchronize()
    for label in (5, 50):
        transfer_in_place(target, label)
        errorword.expect_again(0, calls)
        launch.launch(pick, "float32", 1, target, 1, errorword.words(0), slot)
        if label == 5:
            errorword.synchronize()
    with pytest.raises(LabelError, match="position 0, value 50"):
        errorword.synchronize()


def transfer_in_place(target, label):
    from numbaconv.cuda.runtime import runtime

    runtime().copy_to_device(0, target.address, np.array([label], "i8"), 0)


def test_arrays_that_int32_cannot_count():
    class Large:
        shape, size = (2**16, 2**15), 2**31

    class Largest:
        shape, size = (2**31 - 1024,), 2**31 - 1024

    limits.require_32_bit("relu", Largest(), None)
    with pytest.raises(ShapeError, match=r"^relu: .* 2\^31 - 1024 = 2147482624 elements; got elements=2147483648\."):
        limits.require_32_bit("relu", Largest(), None, Large())
