"""Temporary files: each process writes in a folder of its own, which the kernel tells from a dead process's by a lock."""

# Paths are text here: pathlib would cost more than the work itself on trees of many small files.
# ruff: noqa: PTH108

from __future__ import annotations

import ctypes
import itertools
import os
import secrets
import shutil
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from andon.core import faults
from andon.store.disk import disk_errors, fsync_path, lock_file, try_lock, write_all

_LOCK = ".lock"
_YOUNG_S = 3600.0
_libc = ctypes.CDLL(None, use_errno=True)


class Staging:
    """Where this process writes before the bytes have their name. ``folder`` holds one folder for each living process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mine: str | None = None
        self._numbers = itertools.count()

    def path(self) -> str:
        """A path for a new temporary file."""
        if self._mine is None:
            self._mine = self._make()
        return f"{self._mine}/{os.getpid()}-{next(self._numbers)}"  # the pid: a forked child shares the folder

    @contextmanager
    def file(self) -> Iterator[tuple[int, str]]:
        """A new temporary file, open for writing, and its path; gone at the end unless it was renamed, whatever went wrong."""
        path = self.path()
        with disk_errors(path):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
            try:
                yield fd, path
            finally:
                os.close(fd)
                with suppress(OSError):
                    os.unlink(path)

    def write(self, data: bytes, at_ns: int) -> str:
        """A new temporary file with ``data``, not yet on disk; the caller renames or deletes it."""
        path = self.path()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        try:
            write_all(fd, data)
            os.utime(fd, ns=(at_ns, at_ns))
        except OSError:
            with suppress(OSError):
                os.unlink(path)
            raise
        finally:
            os.close(fd)
        return path

    def _make(self) -> str:
        while True:
            mine = self._folder / f"{os.getpid()}-{secrets.token_hex(6)}"
            with disk_errors(mine):
                mine.mkdir()
                fd = os.open(mine / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if try_lock(fd):  # and so it stays until this process ends, however it ends
                weakref.finalize(self, _leave, str(mine), fd, os.getpid())
                return str(mine)
            os.close(fd)

    def clean(self) -> int:
        """Delete the folders of dead processes; returns how many."""
        removed = 0
        with os.scandir(self._folder) as found:
            folders = [Path(item.path) for item in found if item.path != self._mine]
        for folder in folders:
            fd = lock_file(folder / _LOCK)
            if fd is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(fd)
                removed += 1
            elif not (folder / _LOCK).exists():
                with suppress(OSError):
                    if time.time() - folder.stat().st_mtime > _YOUNG_S:  # died between making the folder and its lock
                        shutil.rmtree(folder, ignore_errors=True)
                        removed += 1
        return removed


def _leave(mine: str, fd: int, pid: int) -> None:
    if os.getpid() == pid:  # a forked child leaves its parent's folder alone
        shutil.rmtree(mine, ignore_errors=True)
    os.close(fd)


def sync_files(paths: list[str], folder: Path) -> None:
    """Put the content of many new files in ``folder``'s file system on disk: by one ``syncfs`` when they are many, else one by one.

    ``syncfs`` writes back everything dirty in that file system in one go and reports errors since Linux 5.8, so one call replaces thousands
    of journal commits; for a few files it would make us wait for everybody else's bytes too.
    """
    faults.point("blobs.sync")
    if len(paths) >= 64 and hasattr(_libc, "syncfs"):
        fd = os.open(folder, os.O_RDONLY)
        try:
            if _libc.syncfs(fd) == 0:
                return
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
        finally:
            os.close(fd)
    for path in paths:
        fsync_path(path)
