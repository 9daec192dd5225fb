"""Every backend has every op of the contract, with the same parameters; and a new backend needs only its row."""

from __future__ import annotations

import ast
import inspect
import types
from pathlib import Path

import numpy as np
import pytest

from numbaconv import backend, contract, cpu, functional, nn
from numbaconv.errors import DeviceError, DTypeError

PACKAGE = Path(backend.__file__).parent
MEMORY = {
    "to_device",
    "to_host",
    "channels_last",
    "contiguous",
    "layout_of",
    "reuse_buffers",
    "read",
    "feeder",
    "record",
}
TRAINING = {
    "assign",
    "sgd_update",
    "adam_update",
    "accumulate",
    "clip_update",
    "scale_update",
    "sum_of_squares",
    "require_finite",
}


def parameters(function):
    """(name, kind, default) of each parameter; annotations are documentation."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("op", contract.OPS)
def test_cpu_has_it_with_the_same_parameters(op):
    assert hasattr(cpu, op), f"numbaconv.cpu has no {op}"
    assert parameters(getattr(cpu, op)) == parameters(contract.OPS[op])


@pytest.mark.parametrize("op", contract.OPS)
def test_cuda_has_it_with_the_same_parameters(op):
    """Importing it needs no GPU."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    cuda = backend.load_backend("cuda")
    assert hasattr(cuda, op), f"numbaconv.cuda has no {op}"
    assert parameters(getattr(cuda, op)) == parameters(contract.OPS[op])


@pytest.mark.parametrize("op", contract.OPS)
def test_it_is_documented(op):
    assert inspect.getdoc(contract.OPS[op])


def test_the_contract_lists_its_ops():
    assert len(contract.OPS) > 40
    assert {"conv2d", "conv2d_backward", "linear", "relu", "max_pool2d", *MEMORY, *TRAINING} <= set(contract.OPS)


@pytest.mark.parametrize("op", [op for op in contract.OPS if op not in MEMORY])
def test_it_is_a_public_function(op):
    assert callable(getattr(functional, op, None)), f"functional.{op}"


def called_on_backends():
    """Names that files above the backends take as attributes: backend.conv2d, ..."""
    files = [p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).parts[0] not in ("cpu", "cuda")]
    trees = [ast.parse(p.read_text()) for p in files]
    return {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_nothing_in_the_contract_is_idle():
    assert set(contract.OPS) - called_on_backends() == set()


# --- a stand-in for a second backend -----------------------------------------------------------------------


class StandInArray:
    """An array of a device that is not there: it has a shape and a dtype, and NumPy cannot take it."""

    def __init__(self, data):
        self.data = np.array(data)
        self.shape, self.dtype, self.ndim = self.data.shape, self.data.dtype, self.data.ndim


@pytest.fixture
def calls(monkeypatch):
    """Registers the stand-in; the list of (op, arguments) it was called with."""
    record = []
    module = types.ModuleType("standin")

    def recorder(name, result):
        def op(*args):
            record.append((name, args))
            return result(*args)

        return op

    filled = {
        "relu": lambda x: StandInArray(np.maximum(x.data, 0)),
        "conv2d": lambda problem, x, weight, bias, relu: StandInArray(np.full(problem.output_shape, 7, x.dtype)),
        "to_device": lambda x, index: StandInArray(x),
        "to_host": lambda x: x.data,
    }
    for name, result in filled.items():
        setattr(module, name, recorder(name, result))
    row = backend.Row("standin", lambda x: isinstance(x, StandInArray), "Nothing to install.")
    monkeypatch.setitem(backend.ROWS, "standin", row)
    monkeypatch.setitem(backend._loaded, "standin", module)
    return record


def test_ops_go_to_the_arrays_backend(calls):
    result = functional.relu(StandInArray(np.array([-1.0, 2.0])))
    assert result.data.tolist() == [0, 2]
    assert [name for name, _ in calls] == ["relu"]


def test_shapes_are_checked_above_every_backend(calls):
    x, weight = StandInArray(np.ones((2, 4, 7, 8), "f4")), StandInArray(np.ones((6, 4, 3, 3), "f4"))
    result = functional.conv2d(x, weight, stride=2)
    assert result.shape == (2, 6, 3, 3)
    name, (problem, got_x, got_weight, bias, relu) = calls[0]
    assert name == "conv2d"
    assert (problem.stride, problem.output_shape) == ((2, 2), (2, 6, 3, 3))
    assert got_x is x
    assert got_weight is weight
    assert bias is None
    assert relu is False
    with pytest.raises(ValueError, match="groups must divide"):
        functional.conv2d(x, weight, groups=3)
    with pytest.raises(DTypeError, match="one dtype"):
        functional.conv2d(x, StandInArray(np.ones((6, 4, 3, 3))))
    with pytest.raises(DTypeError, match="x must be float32 or float64"):
        functional.relu(StandInArray(np.array([1, 2])))
    assert len(calls) == 1


def test_mixed_devices_are_an_error(calls):
    x, weight = np.ones((2, 4, 7, 8), "f4"), StandInArray(np.ones((6, 4, 3, 3), "f4"))
    with pytest.raises(
        DeviceError, match=r"^conv2d: all arrays must be on one device; got x='cpu', weight='standin'\. "
    ) as i:
        functional.conv2d(x, weight)
    assert isinstance(i.value, RuntimeError)
    with pytest.raises(DeviceError, match=r"^linear: all arrays must be on one device; got "):
        functional.linear(StandInArray(np.ones((2, 3), "f4")), np.ones((4, 3), "f4"))
    with pytest.raises(DeviceError, match=r"^relu_backward: .*; got "):
        functional.relu_backward(np.ones(3, "f4"), StandInArray(np.ones(3, "f4")))
    assert calls == []


def test_a_missing_op_is_an_error_that_names_it(calls):
    """No silent way round by the CPU."""
    with pytest.raises(Exception, match="sigmoid"):
        functional.sigmoid(StandInArray(np.ones(3, "f4")))
    assert calls == []


def test_moving_arrays(calls):
    x = np.arange(6.0).reshape(2, 3)
    there = backend.to_device(x, "standin:2")
    assert isinstance(there, StandInArray)
    assert calls[0][0] == "to_device"
    assert calls[0][1][1] == 2
    assert backend.device_of(there) == "standin"
    back = backend.to_host(there)
    np.testing.assert_array_equal(back, x)
    assert backend.device_of(back) == "cpu"
    assert backend.to_device(x, "cpu") is x
    assert backend.to_host(x) is x


# --- devices by name ---------------------------------------------------------------------------------------


def gpu_is_there():
    try:
        backend.to_device(np.ones(3, "f4"), "cuda")
    except DeviceError:
        return False
    return True


# Without numba-cuda the package cannot be imported; with it, but without a driver, nothing can be moved.
WITHOUT = r"(the cuda backend is not available here|no GPU can be used here); got .*pip install"


@pytest.mark.skipif(gpu_is_there(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_cuda_without_cuda_says_what_to_install(name):
    with pytest.raises(DeviceError, match=WITHOUT):
        backend.to_device(np.ones(3, "f4"), name)


@pytest.mark.skipif(gpu_is_there(), reason="there is a GPU")
def test_a_model_stays_where_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = [parameter.data for parameter in model.parameters()]
    with pytest.raises(DeviceError, match=WITHOUT):
        model.to("cuda")
    assert all(parameter.data is data for parameter, data in zip(model.parameters(), before, strict=True))


@pytest.mark.skipif(gpu_is_there(), reason="there is a GPU")
def test_an_array_of_cuda_without_cuda():
    class Foreign:
        __cuda_array_interface__ = {"shape": (3,), "typestr": "<f4", "data": (0, False), "version": 3}  # noqa: RUF012
        shape, dtype, ndim = (3,), np.dtype("f4"), 1

    assert backend.device_of(Foreign()) == "cuda"
    with pytest.raises(DeviceError, match=WITHOUT):
        functional.relu(Foreign())


@pytest.mark.parametrize("name", ["gpu", "", "CPU", "tpu:0"])
def test_unknown_devices(name):
    with pytest.raises(DeviceError, match=r"^to_device: device must be one of cpu, cuda; got device="):
        backend.to_device(np.ones(3, "f4"), name)


@pytest.mark.parametrize("name", [0, None, "cuda:one", "cuda:-1"])
def test_names_that_are_no_devices(name):
    with pytest.raises(ValueError, match=r"^to_device: device must be a name like "):
        backend.to_device(np.ones(3, "f4"), name)


def test_things_that_are_no_arrays():
    for thing in ([1.0], 3.0, None, "x"):
        with pytest.raises(DTypeError, match=r"^device_of: x must be an array .*; got type\(x\)="):
            backend.device_of(thing)
