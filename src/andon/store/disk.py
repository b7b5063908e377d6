"""What both file stores need of a disk: durable names, locks that end with their process, and errors in our own words."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from andon.core.errors import AndonError, DiskFull, ReadOnly, Unavailable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def disk_error(error: OSError, path: str | os.PathLike[str]) -> AndonError:
    """The ``DiskFull``, ``ReadOnly`` or ``Unavailable`` that an operating-system error on ``path`` means."""
    if error.errno in _FULL:
        return DiskFull(path=os.fspath(path), reason=error.strerror)
    if error.errno in _READ_ONLY:
        return ReadOnly(path=os.fspath(path), reason=error.strerror)
    return Unavailable(f"the disk answered with an error: {error}", path=os.fspath(path))


@contextmanager
def disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an ``OSError`` raised inside into one of Andon's."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte; a short write goes on until the disk says what is wrong."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def fsync_path(path: str | os.PathLike[str]) -> None:
    """Make a file's content, or a directory's names, durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(path: Path) -> None:
    """Make a folder and the missing ones above it, each durably named in its parent."""
    missing = []
    folder = path
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        fsync_path(folder.parent)


def try_lock(fd: int) -> bool:
    """Take the exclusive lock of an open file unless somebody holds it. It ends when the last descriptor of this open file is closed."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def create_locked(folder: Path, stem: str) -> tuple[int, Path]:
    """Make ``.STEM.tmp`` in ``folder``, open for writing and locked before anybody who cleans up could take it for a leftover."""
    for attempt in range(100):
        path = folder / (f".{stem}.{attempt}.tmp" if attempt else f".{stem}.tmp")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        if try_lock(fd) and os.fstat(fd).st_nlink:
            return fd, path
        os.close(fd)  # somebody cleaned it up between its making and its lock
    raise OSError(errno.EBUSY, "files vanish as soon as they are made", str(folder))


def lock_file(path: Path) -> int | None:
    """Open and lock the file at ``path``; the descriptor, or ``None`` when it is locked, gone, or replaced since it was opened."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    held = False
    try:
        if try_lock(fd):
            with suppress(FileNotFoundError):
                held = os.path.samestat(os.fstat(fd), path.stat())
    finally:
        if not held:
            os.close(fd)
    return fd if held else None
