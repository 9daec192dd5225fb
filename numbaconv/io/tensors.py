"""Named arrays and text in one .safetensors file, written atomically and read with suspicion.

The format (https://github.com/huggingface/safetensors): eight bytes of header length, a JSON header with dtype,
shape and offsets of every array and a ``__metadata__`` dict of strings, then the data. Reading it runs no code.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ..errors import FileFormatError, message

PathLike = str | os.PathLike[str]

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "?",
}

_LONGEST_HEADER, _MOST_ARRAYS = 2**24, 2**17  # of the largest models there are a few thousand arrays


def write_tensors(path: PathLike, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Writes arrays and strings to a .safetensors file; the old file stays if anything fails.

    Args:
        path: the file.
        tensors: name to NumPy array.
        metadata: name to text.
    """
    arrays = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in tensors.items()}
    write_atomically(path, safetensors.numpy.save(arrays, dict(metadata or {}) or None))


def read_tensors(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a .safetensors file.

    Returns:
        (name to array, name to text); bfloat16 arrays become float32.

    Raises:
        FileFormatError: if the file is truncated, corrupt, or something else; if a name is there twice; of more than
            131,072 arrays.
        OSError: if it cannot be read.
    """
    content = Path(path).read_bytes()
    try:
        metadata = _metadata(content)
        parts = safetensors.deserialize(content)
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        rule = "the file must be a complete .safetensors file"
        fix = "It is truncated, corrupt, or of another format; write it again."
        raise FileFormatError(message("read_tensors", rule, fix, path=str(path), reason=str(error))) from None
    return {name: _array(str(path), name, part) for name, part in parts}, metadata


def _metadata(content: bytes) -> dict[str, str]:
    """The header's text, after the checks that safetensors leaves out: names used twice, and a header so large that
    the lists and dicts of it need far more memory than the file.
    """
    length = int.from_bytes(content[:8], "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes, more than {_LONGEST_HEADER}")
    arrays = 0

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal arrays
        names = dict(pairs)
        if len(names) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"two entries of the name {twice[:100]!r}")
        arrays += "data_offsets" in names
        if arrays > _MOST_ARRAYS:
            raise ValueError(f"more than {_MOST_ARRAYS} arrays")
        return names

    header = json.loads(content[8 : 8 + length], object_pairs_hook=unique)
    return (header.get("__metadata__") if isinstance(header, dict) else None) or {}


def _array(path: str, name: str, part: Mapping[str, Any]) -> np.ndarray:
    shape = tuple(part["shape"])
    if part["dtype"] == "BF16":  # the upper half of a float32
        halves = np.frombuffer(part["data"], "<u2").astype(np.uint32)
        return (halves << 16).view(np.float32).reshape(shape)
    if part["dtype"] not in _DTYPES:
        rule = f"dtypes must be one of BF16, {', '.join(_DTYPES)}"
        raise FileFormatError(message("read_tensors", rule, path=path, tensor=name, dtype=part["dtype"]))
    return np.frombuffer(part["data"], _DTYPES[part["dtype"]]).reshape(shape)


def write_atomically(path: PathLike, content: bytes) -> None:
    """Writes a whole file or, if anything fails, leaves the old one (or none) and no other trace.

    The bytes go to a new file in the same directory, are forced to the disk, and take the old file's place in one
    step; a symbolic link is followed.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(message("save", "the file's directory must exist", "Make it first.", path=str(path)))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_directory(target.parent)


def _sync_directory(directory: Path) -> None:
    """Makes the renaming itself survive a power cut, where the system lets one."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
