"""``python -m numbaconv cache``: where compiled kernels lie, how large they are, and how to be rid of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .. import cache_files

_PACKAGE = Path(__file__).parent.parent
_SUFFIXES = {".nbc", ".nbi", ".ptx", ".cubin"}  # .nbi: numba's index, which older versions wrote


class Folder(NamedTuple):
    """A directory that compiled kernels may lie in, and the files of them that are there."""

    path: Path
    files: list[Path]
    size: int  # bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    parser.add_argument("--clear", action="store_true", help="delete the compiled kernels")


def run(arguments: argparse.Namespace) -> int:
    """Prints where and how large the cache is; with --clear deletes it. 1 if a file could not be deleted."""
    found = folders()
    if not arguments.clear:
        for line in described(found):
            print(line)
        return 0
    files = [file for folder in found for file in folder.files]
    failures = [failure for file in files if (failure := _delete(file))]
    print(f"deleted {len(files) - len(failures)} files, {sum(f.size for f in found) / 1e6:.1f} MB before")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def folders() -> list[Folder]:
    """The cache of this installation inside the package, and that outside of it, of all installations."""
    found = [] if cache_files.chosen_folder() else [_folder(_PACKAGE, _PACKAGE.rglob("__pycache__/*"))]
    shared = cache_files.shared_folder()
    return [*found, _folder(shared, shared.rglob("*"))]


def described(found: list[Folder]) -> list[str]:
    """A line for each folder."""
    return [f"{folder.path}: {len(folder.files)} files, {folder.size / 1e6:.1f} MB" for folder in found]


def _folder(path: Path, candidates: Iterator[Path]) -> Folder:
    files = []
    size = 0
    for file in candidates:
        name = Path(file.stem.rpartition(".")[0]) if file.suffix == ".tmp" else file  # what a killed process left
        if name.suffix not in _SUFFIXES:
            continue
        try:
            size += file.lstat().st_size
        except OSError:  # deleted meanwhile
            continue
        files.append(file)
    return Folder(path, sorted(files), size)


def _delete(file: Path) -> str:
    """Why a file could not be deleted; "" if it is gone."""
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        return f"numbaconv: cache: {file}: {error.strerror}"
    return ""
