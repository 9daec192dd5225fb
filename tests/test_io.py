"""Files: a model comes back as it went, PyTorch reads and writes the same ones, and a bad file is one clear error."""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from numbaconv import io, nn
from numbaconv.errors import ArgumentError, FileFormatError, StateDictError
from numbaconv.io import architecture, tensors


def every_layer():
    """One of each class, shared layers, every kind of argument."""
    shared = nn.Conv2d(4, 4, (3, 1), padding=((1, 1), (0, 0)), padding_mode="reflect")
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=(2, 1), padding="same", dilation=1, groups=1, bias=False),
        nn.BatchNorm2d(4, momentum=None, eps=1e-3),
        nn.BatchNorm2d(4, affine=False),
        nn.LeakyReLU(0.2),
        nn.Residual(nn.Sequential(shared, nn.GELU(approximate=True), nn.Dropout(0.25, seed=9)), shared),
        nn.Concat(nn.Sequential(nn.SiLU(), nn.Dropout(0.1)), nn.Tanh(), nn.Residual(nn.Sigmoid())),
        nn.ConvTranspose2d(12, 6, 3, stride=2, padding=1, output_padding=1, groups=3),
        nn.MaxPool2d(2, 1, padding=1, ceil_mode=True),
        nn.AvgPool2d((2, 1), count_include_pad=False),
        nn.AdaptiveAvgPool2d((2, 3)),
        nn.Flatten(),
        nn.Linear(36, 5),
        nn.ReLU(),
        nn.Softmax(axis=-1),
    )


def same_state(first, second):
    a, b = first.state_dict(), second.state_dict()
    assert list(a) == list(b)
    for key, value in a.items():
        assert value.dtype == b[key].dtype
        np.testing.assert_array_equal(value, b[key], err_msg=key)


# --- there and back -----------------------------------------------------------------------------------------


def test_every_class_comes_back(tmp_path):
    model, path = every_layer().initialize(1), tmp_path / "model.safetensors"
    assert {type(m).__name__ for m in model.modules()} == set(architecture.CLASSES), "a class is not tested here"
    model[1].running_mean = np.arange(4, dtype=np.float32)
    io.save(model, path)
    loaded = io.load(path)
    assert repr(loaded) == repr(model)
    same_state(model, loaded)
    assert [m.config().keys() for m in loaded.modules()] == [m.config().keys() for m in model.modules()]
    assert len(loaded.parameters()) == len(model.parameters())
    assert loaded[4].shortcut is loaded[4].body[0]
    dropouts = [[(m.p, m.seed, m.layer) for m in x.modules() if isinstance(m, nn.Dropout)] for x in (model, loaded)]
    assert dropouts[0] == dropouts[1] == [(0.25, 9, 0), (0.1, 0, 1)]
    assert loaded.training
    assert loaded.summary((3, 8, 8), show=False) == model.summary((3, 8, 8), show=False)
    for parameter in loaded.parameters():
        assert parameter.data.flags.writeable
        assert parameter.data.flags.c_contiguous


def test_outputs_come_back(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    io.save(model, tmp_path / "model.safetensors")
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    np.testing.assert_array_equal(io.load(str(tmp_path / "model.safetensors"))(x), model(x))


def test_float64_stays_float64(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 2, 3).astype("float64"), nn.BatchNorm2d(2).astype("float64"), nn.Linear(2, 2))
    io.save(model, tmp_path / "model.safetensors")
    same_state(model, io.load(tmp_path / "model.safetensors"))


class Custom(nn.Module):
    def __init__(self):
        self.layer = nn.Linear(2, 3)


class Linear(nn.Linear):
    """Has the name of an allow-listed class, and is none."""


def test_custom_classes(tmp_path):
    path = tmp_path / "model.safetensors"
    for model, name in ((Custom(), "Custom"), (nn.Sequential(Linear(2, 3)), "Linear")):
        io.save(model, path)
        with pytest.raises(FileFormatError, match=rf"load\(path, model=model\)|classes=\['{name}'\]"):
            io.load(path)
        twin = Custom() if name == "Custom" else nn.Sequential(Linear(2, 3))
        assert io.load(path, model=twin) is twin
        same_state(model, twin)
        with pytest.raises(ArgumentError, match="own layers can be described"):
            architecture.describe(model)


def test_load_state_into_a_model(tmp_path):
    path = tmp_path / "model.safetensors"
    model = nn.Sequential(nn.Linear(2, 3))
    io.save(model, path)
    twin = nn.Sequential(nn.Linear(2, 3))
    assert io.load_state(path, twin) == ([], [])
    same_state(model, twin)
    with pytest.raises(StateDictError, match="missing"):
        io.load_state(path, nn.Sequential(nn.ReLU(), nn.Linear(2, 3)))
    mismatch = io.load_state(path, nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), strict=False)
    assert mismatch.missing == ["1.weight", "1.bias"]


# --- PyTorch ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def torch():
    pytest.importorskip("safetensors.torch", reason="PyTorch is not installed")
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def small_models(torch):
    t = torch.nn
    ours = nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5)),
        *(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 10)),
    )
    theirs = t.Sequential(
        *(t.Conv2d(1, 6, 5, padding=2), t.BatchNorm2d(6), t.ReLU(), t.MaxPool2d(2), t.Conv2d(6, 16, 5)),
        *(t.ReLU(), t.MaxPool2d(2), t.Flatten(), t.Linear(400, 10)),
    )
    return ours, theirs


def test_a_model_moves_to_pytorch_and_back(torch, tmp_path):
    from safetensors.torch import load_file, save_file

    ours, theirs = small_models(torch)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((3, 1, 28, 28)).astype(np.float32)
    ours(x)  # running statistics of their own
    io.save(ours, tmp_path / "ours.safetensors")
    theirs.load_state_dict(load_file(tmp_path / "ours.safetensors"))
    expected = theirs.eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(ours.eval()(x), expected, rtol=1e-4, atol=1e-5)

    _, fresh = small_models(torch)
    fresh.train()(torch.from_numpy(x))
    save_file(fresh.state_dict(), tmp_path / "theirs.safetensors")
    with pytest.raises(FileFormatError, match=r"no architecture.*load\(path, model=model\)"):
        io.load(tmp_path / "theirs.safetensors")
    loaded = io.load(tmp_path / "theirs.safetensors", model=ours).eval()
    expected = fresh.eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(loaded(x), expected, rtol=1e-4, atol=1e-5)
    assert loaded[1].num_batches_tracked == 1


def test_half_precision_files(torch, tmp_path):
    from safetensors.torch import save_file

    linear = torch.nn.Linear(3, 2)
    for dtype in (torch.float16, torch.bfloat16):
        state = {key: value.to(dtype) for key, value in linear.state_dict().items()}
        save_file(state, tmp_path / "half.safetensors")
        ours = nn.Linear(3, 2)
        io.load_state(tmp_path / "half.safetensors", ours)
        np.testing.assert_array_equal(ours.weight.data, state["weight"].float().numpy())
        assert ours.weight.dtype == np.float32


def test_a_live_state_dict_of_pytorch(torch):
    """Tensors and parameters, shared memory or not: values are copied."""
    theirs, ours = torch.nn.Linear(3, 2), nn.Linear(3, 2)
    for state in (theirs.state_dict(), dict(theirs.named_parameters())):
        ours.load_state_dict(state)
        np.testing.assert_array_equal(ours.weight.data, theirs.weight.detach().numpy())
        ours.weight.data[:] = 0
        assert theirs.weight.detach().numpy().any()


# --- writing ------------------------------------------------------------------------------------------------


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    io.save(nn.Linear(2, 3), path)
    before = path.read_bytes()

    def fail(*args):
        raise OSError("disk full")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(tensors.os, name, fail)
            with pytest.raises(OSError, match="disk full"):
                io.save(nn.Linear(4, 5), path)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["model.safetensors"]
    with pytest.raises(FileNotFoundError):
        io.save(nn.Linear(2, 3), tmp_path / "nowhere" / "model.safetensors")


def test_saved_files_have_ordinary_permissions(tmp_path):
    path, plain = tmp_path / "model.safetensors", tmp_path / "plain"
    io.save(nn.Linear(2, 3), path)
    plain.write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_link_is_followed(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    io.save(nn.Linear(2, 3), real)
    link.symlink_to(real)
    io.save(nn.Linear(4, 5), link)
    assert link.is_symlink()
    assert io.load(real).in_features == 4


def test_tensors_of_any_layout(tmp_path):
    rng = np.random.default_rng(3)
    written = {
        "fortran": np.asfortranarray(rng.standard_normal((3, 4))),
        "reversed": rng.standard_normal((3, 4))[::-1, ::2],
        "swapped": rng.standard_normal(3).astype(">f4"),
        "scalar": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
        "flags": np.array([True, False]),
    }
    io.write_tensors(tmp_path / "file", written, {"note": "ä"})
    read, metadata = io.read_tensors(tmp_path / "file")
    assert metadata == {"note": "ä"}
    for key, value in written.items():
        assert read[key].shape == value.shape
        assert read[key].dtype == value.dtype.newbyteorder("=")
        np.testing.assert_array_equal(read[key], value)
    io.write_tensors(tmp_path / "file", {})
    assert io.read_tensors(tmp_path / "file") == ({}, {})


# --- hostile files ------------------------------------------------------------------------------------------


def test_truncated_and_corrupt_files(tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    model = nn.Sequential(nn.Linear(3, 2))
    io.save(model, good)
    content = good.read_bytes()
    header = struct.unpack("<Q", content[:8])[0]
    broken = [content[:cut] for cut in (0, 1, 7, 8, 9, header, header + 8, len(content) - 1)]
    broken += [
        content + b"x",
        b"\xff" * len(content),
        struct.pack("<Q", 2**62) + content[8:],
        content[:8] + b"\xff" + content[9:],
        b"PK\x03\x04 a zip file of torch.save",
        json.dumps({"weights": []}).encode(),
    ]
    for damaged in broken:
        bad.write_bytes(damaged)
        for call in (lambda: io.load(bad), lambda: io.load_state(bad, model), lambda: io.load(bad, model=model)):
            with pytest.raises(FileFormatError, match=r"path=.*bad"):
                call()
    same_state(model, io.load(good))
    with pytest.raises(FileNotFoundError):
        io.load(tmp_path / "none")


def test_every_single_byte_may_be_wrong(tmp_path):
    """Flipping a bit of any byte gives the model, another valid one, or a FileFormatError; nothing else."""
    path = tmp_path / "file"
    io.save(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5)), path)
    content = path.read_bytes()
    for index in range(len(content)):
        flip = 0x01 if index % 2 else 0x80
        path.write_bytes(content[:index] + bytes([content[index] ^ flip]) + content[index + 1 :])
        try:
            loaded = io.load(path)
        except FileFormatError:
            continue
        assert isinstance(loaded, nn.Module)


def write(path, header, arrays=None):
    text = header if isinstance(header, str) else json.dumps(header)
    arrays = arrays or {"0.weight": np.zeros((3, 2), np.float32)}
    path.write_bytes(safetensors.numpy.save(arrays, {"numbaconv": text}))


def module(name, **arguments):
    return {"class": name, "arguments": arguments}


HOSTILE = {
    "not json": "{",
    "not a dict": "[1]",
    "no format": {"architecture": module("ReLU")},
    "a newer format": {"format": 2, "architecture": module("ReLU")},
    "no architecture": {"format": 1},
    "deep json": "[" * 100_000,
    "null": "null",
}
ARCHITECTURES = {
    "an unknown class": module("os.system", command="true"),
    "a class of the package": module("Module"),
    "a base class": module("Container"),
    "a class that is no string": {"class": ["ReLU"], "arguments": {}},
    "no arguments": {"class": "ReLU"},
    "arguments that are a list": {"class": "ReLU", "arguments": []},
    "an extra key": {"class": "ReLU", "arguments": {}, "code": "1"},
    "an unknown argument": module("ReLU", inplace=True),
    "a private argument": module("Linear", in_features=2, out_features=3, __class__="x"),
    "a missing argument": module("Linear", in_features=2),
    "rng": module("Linear", in_features=2, out_features=3, rng=0),
    "a string for an int": module("Linear", in_features="2", out_features=3),
    "a negative size": module("Linear", in_features=-2, out_features=3),
    "a huge layer": module("Linear", in_features=10**6, out_features=10**6),
    "an impossible layer": module("Conv2d", in_channels=10**15, out_channels=10**15, kernel_size=10**15),
    "more than an int": module("Linear", in_features=10**40, out_features=3),
    "a huge norm": module("BatchNorm2d", num_features=10**12),
    "layers that are no list": module("Sequential", layers=5),
    "layers that are no modules": module("Sequential", layers=[1, "ReLU"]),
    "a module for a number": module("Linear", in_features=module("ReLU"), out_features=3),
    "itself": module("Sequential", layers=[{"again": 0}]),
    "a module that is not there": module("Sequential", layers=[{"again": 7}]),
    "a module of no number": module("Sequential", layers=[{"again": "0"}]),
    "a negative number": module("Sequential", layers=[module("ReLU"), {"again": -1}]),
    "weights of another shape": module("Sequential", layers=[module("Linear", in_features=4, out_features=3)]),
    "weights that are not there": module(
        "Sequential", layers=[module("Conv2d", in_channels=1, out_channels=1, kernel_size=1)]
    ),
    "an unknown padding": module("Conv2d", in_channels=1, out_channels=1, kernel_size=1, padding="__import__"),
    "a probability of text": module("Dropout", p="1"),
    "none": None,
    "a number": 3,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers(name, tmp_path):
    write(tmp_path / "file", HOSTILE[name])
    with pytest.raises(FileFormatError, match="load: "):
        io.load(tmp_path / "file")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hostile_architectures(name, tmp_path):
    write(tmp_path / "file", {"format": 1, "architecture": ARCHITECTURES[name]})
    with pytest.raises(FileFormatError, match="load: ") as caught:
        io.load(tmp_path / "file")
    assert len(str(caught.value)) < 1000


def test_a_deeply_nested_architecture(tmp_path):
    text = '{"class": "Residual", "arguments": {"body": ' * 5000 + "null" + "}}" * 5000
    write(tmp_path / "file", '{"format": 1, "architecture": ' + text + "}")
    with pytest.raises(FileFormatError, match="load: "):
        io.load(tmp_path / "file")


def test_unknown_dtypes(tmp_path):
    header = json.dumps({"weight": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "file").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(FileFormatError, match=r"dtypes must be one of .*tensor='weight', dtype='F8_E4M3'"):
        io.read_tensors(tmp_path / "file")


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^save: the file's directory must exist; got path=.*nowhere"):
        io.save(nn.ReLU(), tmp_path / "nowhere" / "model.safetensors")
    assert not list(tmp_path.iterdir())


def tensor(dtype="F32", shape=(1,), offsets=(0, 4)):
    return f'{{"dtype": "{dtype}", "shape": {list(shape)}, "data_offsets": {list(offsets)}}}'


WEIGHT, BIAS = f'"0.weight": {tensor(shape=(1, 1))}', f'"0.bias": {tensor(offsets=(4, 8))}'
DAMAGED = {
    "a name used twice": f"{{{WEIGHT}, {WEIGHT}, {BIAS}}}",
    "a key used twice": f'{{{WEIGHT[:-1]}, "shape": [1, 1]}}, {BIAS}}}',
    "data used twice": f'{{{WEIGHT}, "0.bias": {tensor()}}}',
    "data of nobody": f'{{{WEIGHT}, "0.bias": {tensor(offsets=(8, 12))}}}',
    "data beyond the end": f'{{{WEIGHT}, "0.bias": {tensor(offsets=(4, 4000), shape=(999,))}}}',
    "data that ends before it begins": f'{{{WEIGHT}, "0.bias": {tensor(offsets=(8, 4))}}}',
    "a negative offset": f'{{{WEIGHT}, "0.bias": {tensor(offsets=(-4, 8))}}}',
    "a size beyond 64 bits": f'{{"0.weight": {tensor(shape=(2**62, 4))}, {BIAS}}}',
    "a shape of more than the data": f'{{"0.weight": {tensor(shape=(2**40,))}, {BIAS}}}',
    "an empty shape beyond 64 bits": f'{{"0.weight": {tensor(shape=(0, 2**63), offsets=(0, 0))}, {BIAS}}}',
    "another dtype": f'{{"0.weight": {tensor(dtype="F64", shape=(1, 1))}, {BIAS}}}',
    "a list": "[1, 2]",
    "200,000 names": "{" + ", ".join(f'"{i}": {tensor(shape=(0,), offsets=(0, 0))}' for i in range(200_000)) + "}",
    "6,000,000 lists": '{"__metadata__": [' + "[], " * 6_000_000 + "1]}",
}


def write_header(path, header, data=bytes(8), length=None):
    text = header.encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_tensors(name, tmp_path):
    model = nn.Sequential(nn.Linear(1, 1)).initialize(0)
    before = {key: value.copy() for key, value in model.state_dict().items()}
    write_header(tmp_path / "file", DAMAGED[name])
    for call in (lambda: io.load(tmp_path / "file"), lambda: io.load_state(tmp_path / "file", model)):
        with pytest.raises(FileFormatError, match=r"file'") as caught:
            call()
        assert len(str(caught.value)) < 1000
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_what_the_damage_was_done_to_is_whole(tmp_path):
    write_header(tmp_path / "file", f"{{{WEIGHT}, {BIAS}}}")
    io.load_state(tmp_path / "file", nn.Sequential(nn.Linear(1, 1)))


def test_truncated_at_every_byte(tmp_path):
    path, model = tmp_path / "file", nn.Sequential(nn.Linear(3, 2))
    io.save(model, path)
    content = path.read_bytes()
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        with pytest.raises(FileFormatError):
            io.load_state(path, model)


def test_names_that_would_fill_many_screens(tmp_path):
    """The message of a file of another model is not as long as that model's list of names."""
    empty = tensor(shape=(0,), offsets=(0, 0))
    write_header(tmp_path / "file", "{" + ", ".join(f'"layer.{i}": {empty}' for i in range(10_000)) + "}", b"")
    with pytest.raises(StateDictError, match=r"unexpected=.*more characters") as caught:
        io.load_state(tmp_path / "file", nn.Sequential(nn.Linear(1, 1)))
    assert len(str(caught.value)) < 3000


MEMORY = """
import resource, sys
from numbaconv import errors, io, nn

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

model = nn.Sequential(nn.Linear(1, 1)).initialize(0)
before = peak()
try:
    io.load_state(sys.argv[1], model)
except (errors.FileFormatError, errors.StateDictError):
    pass
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
@pytest.mark.parametrize(
    "name", ["a header of terabytes", "a shape of terabytes", "6,000,000 lists", "large and whole"]
)
def test_memory_is_bounded_by_the_file(name, tmp_path):
    path = tmp_path / "file"
    if name == "a header of terabytes":
        write_header(path, "{}", length=2**43)
    elif name == "a shape of terabytes":
        write_header(path, f'{{"0.weight": {tensor(shape=(2**20, 2**20), offsets=(0, 2**42))}}}')
    elif name == "large and whole":
        io.write_tensors(path, {"a": np.zeros(2**25, "float32")})
    else:
        write_header(path, DAMAGED[name])
    done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 3 * path.stat().st_size + 2**24
