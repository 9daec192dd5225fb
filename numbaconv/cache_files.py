"""Files of compiled code on disk: where they may lie, whose they may be, and when they count.

A file belongs to a source file and lies in the first of these places that can be written; all are read:

* where NUMBA_CACHE_DIR is set: below it, and nowhere else;
* else ``__pycache__`` beside the source, where numba and Python keep theirs;
* else the user's cache directory (``~/.cache/numbaconv``; XDG_CACHE_HOME moves it).

What is in a file is run. So a directory that others could write is not used, nor is a file that belongs to anyone but
this user, root or the owner of the source, or that others could write: whatever happened to the directories above it.
A file holds a stamp, which says what it was made from, and the SHA-256 of its content: a stale, truncated or damaged
one is as good as none, and the next `write` replaces it. It is replaced in one step: readers and other writers see
the old file or the new one, and a process that is killed leaves the old one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from numba.core import config
from numba.misc.appdirs import AppDirs

__all__ = ["Place", "StampedFile", "chosen_folder", "places", "quiet", "read", "shared_folder", "tell", "write"]

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def quiet() -> bool:
    """Whether NUMBACONV_QUIET asks for no lines on stderr."""
    return os.environ.get("NUMBACONV_QUIET", "") not in ("", "0")


def tell(text: str) -> None:
    """One line on stderr. Not a Python warning, which ``-W error`` would make an exception."""
    if not quiet() and sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(f"numbaconv: {text}", file=sys.stderr, flush=True)


# --- one file ---------------------------------------------------------------------------------------------


class StampedFile(NamedTuple):
    """Content on disk that counts only if it is complete, carries this stamp and is one of `owners`' files."""

    path: Path
    stamp: bytes
    owners: frozenset[int]

    def read(self) -> bytes | None:
        """What was written with the same stamp; None if there is nothing, or not all of it."""
        # Without O_NONBLOCK a pipe in the file's place would be waited for.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            handle = os.open(self.path, flags)
        except OSError:
            return None
        try:
            if not self._is_trusted(os.fstat(handle)):
                return None
            with open(handle, "rb", closefd=False) as file:
                found = file.read()
        except OSError:
            return None
        finally:
            os.close(handle)
        length = len(self._head(b""))
        head, content = found[:length], found[length:]
        return content if head == self._head(content) else None

    def write(self, content: bytes) -> None:
        """At once or not at all: another process may read or write the same file.

        Raises:
            OSError: it cannot be written.
        """
        temporary = self.path.with_name(f"{self.path.name}.{os.urandom(6).hex()}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            with open(os.open(temporary, flags, 0o644), "wb") as out:
                out.write(self._head(content) + content)
            if self.path.is_dir() and not self.path.is_symlink():
                shutil.rmtree(self.path)  # it has our name and is in our way
            os.replace(temporary, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def _head(self, content: bytes) -> bytes:
        return self.stamp + hashlib.sha256(content).digest()

    def _is_trusted(self, found: os.stat_result) -> bool:
        if not stat.S_ISREG(found.st_mode):
            return False
        return not _has_owners() or (found.st_uid in self.owners and not found.st_mode & _OTHERS_WRITE)


# --- places -----------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A directory for the code of one source file."""

    folder: Path
    ours: tuple[Path, ...]  # the directories of it that only `owners` may write, from the top
    mode: int  # of those, where they are made
    owners: frozenset[int]
    allowed: int  # write permissions of others that give them nothing they do not have

    def refusal(self) -> str:
        """Why it must not be used; "" if it may, or is not there yet."""
        for folder in self.ours:
            try:
                found = folder.stat()
            except FileNotFoundError:
                return ""
            except OSError as error:
                return f"{folder}: {error.strerror}"
            if not stat.S_ISDIR(found.st_mode):
                return f"{folder}: not a directory"
            if not _has_owners():
                continue
            if found.st_uid not in self.owners:
                return f"{folder} belongs to another user, who could run code through it"
            if found.st_mode & _OTHERS_WRITE & ~self.allowed:
                return f"{folder} can be written by other users, who could run code through it (chmod go-w)"
        return ""

    def make(self) -> None:
        """Makes the directory.

        Raises:
            OSError: it cannot be made.
        """
        self.ours[0].parent.mkdir(parents=True, exist_ok=True)
        for folder in self.ours:
            folder.mkdir(self.mode, exist_ok=True)


def chosen_folder() -> str:
    """NUMBA_CACHE_DIR; "" where it is not set."""
    return vars(config)["CACHE_DIR"]


def shared_folder() -> Path:
    """The directory outside the package where compiled code lies, of all installations, if any is there."""
    chosen = chosen_folder()
    if chosen:
        return Path(chosen).absolute() / "numbaconv"
    return Path(AppDirs("numbaconv", appauthor=False).user_cache_dir).absolute()


@functools.cache
def places(source: str) -> tuple[Place, ...]:
    """Where the compiled code of a source file may lie, the best place first; nowhere, if there is no such file."""
    try:
        found, beside = os.stat(source), Path(source).absolute().parent
    except OSError:
        return ()
    name = f"{beside.name}-{hashlib.sha256(str(beside).encode()).hexdigest()[:16]}"
    root = shared_folder()
    chosen = bool(chosen_folder())
    shared = Place(root / name, (root, root / name), 0o755 if chosen else 0o700, _trusted_users(), 0)
    if chosen:
        return (shared,)
    cache = beside / "__pycache__"
    # Who may write the source may as well run code through it.
    return Place(cache, (cache,), 0o777, _trusted_users() | {found.st_uid}, os.stat(beside).st_mode), shared


def _has_owners() -> bool:
    return hasattr(os, "geteuid")


def _trusted_users() -> frozenset[int]:
    return frozenset({os.geteuid(), 0}) if _has_owners() else frozenset()


# --- reading and writing ----------------------------------------------------------------------------------


@functools.cache
def _refusal(place: Place) -> str:
    return place.refusal()


def read(source: str, name: str, stamp: bytes) -> bytes | None:
    """What any process wrote for this source file, name and stamp; None if there is nothing good."""
    for file in _readable(source, name, stamp):
        content = file.read()
        if content is not None:
            return content
    return None


def _readable(source: str, name: str, stamp: bytes) -> Iterator[StampedFile]:
    for place in places(source):
        if not _refusal(place):
            yield StampedFile(place.folder / name, stamp, place.owners)


def write(source: str, name: str, stamp: bytes, content: bytes) -> bool:
    """Keeps content for later processes, in the first place that takes it; where none does, says so, once."""
    reasons = []
    for place in places(source):
        reason = _refusal(place)
        if not reason:
            try:
                place.make()
                reason = place.refusal()
                if not reason:
                    StampedFile(place.folder / name, stamp, place.owners).write(content)
                    return True
            except OSError as error:
                reason = f"{place.folder}: {error.strerror}"
        reasons.append(reason)
    if reasons:
        _tell_nowhere("; ".join(reasons))
    return False


_told_nowhere = False


def _tell_nowhere(reason: str) -> None:
    global _told_nowhere
    if not _told_nowhere:
        _told_nowhere = True
        tell(
            f"compiled kernels cannot be kept for later processes ({reason}). "
            "Set NUMBA_CACHE_DIR to a directory that this user alone can write."
        )
