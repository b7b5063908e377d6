"""Bytes that arrive or leave in pieces, so that no blob need fit in memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress

from blake3 import blake3

from andon.core import faults
from andon.core.errors import CorruptBytes
from andon.store.blobs.staging import Staging
from andon.store.disk import disk_errors

PIECE_BYTES = 1 << 20
_EARLY_BYTES = 8 << 20
_WRITE_BACK = 2  # SYNC_FILE_RANGE_WRITE
_libc = ctypes.CDLL(None, use_errno=True)


class LocalIncoming:
    """A blob on its way to the disk. One thread at a time; ``drop`` in the end, kept or not."""

    def __init__(self, staging: Staging, name: Callable[[int, str, str, int], None]) -> None:
        self._name = name
        self._hasher = blake3()
        self._open = ExitStack()
        self._fd, self._path = self._open.enter_context(staging.file())
        self._early = 0
        self.size_bytes = 0
        try:
            with disk_errors(self._path):
                faults.point("blobs.begin")
        except BaseException:  # nobody holds this yet who could drop it
            self.drop()
            raise

    def write(self, pieces: Sequence[bytes]) -> None:
        """Add pieces. Raises ``DiskFull``, ``ReadOnly`` or ``Unavailable``."""
        with disk_errors(self._path):
            faults.point("blobs.piece")
            for piece in pieces:
                self._hasher.update(piece)
                self.size_bytes += len(piece)
            write_pieces(self._fd, pieces)
            if self.size_bytes - self._early >= _EARLY_BYTES:
                start_writing_back(self._fd, self._early, self.size_bytes - self._early)
                self._early = self.size_bytes

    def keep(self) -> str:
        """Make the blob durable under its digest, and return that."""
        digest = "b3:" + self._hasher.hexdigest()
        with disk_errors(self._path):
            self._name(self._fd, self._path, digest, self.size_bytes)
        return digest

    def drop(self) -> None:
        """Let go; what was not kept is gone."""
        self._open.close()


def write_pieces(fd: int, pieces: Sequence[bytes]) -> None:
    """Write every byte of some pieces, by as few calls as the system allows."""
    left = [memoryview(piece) for piece in pieces if piece]
    while left:
        written = os.writev(fd, left[:1024])
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]


def start_writing_back(fd: int, start: int, size: int) -> None:
    """Let the disk begin, so that the fsync in the end has little left to wait for. A hint: it says nothing of durability."""
    if hasattr(_libc, "sync_file_range"):
        _libc.sync_file_range(fd, ctypes.c_int64(start), ctypes.c_int64(size), ctypes.c_uint(_WRITE_BACK))


def read_proving(fd: int, digest: str, path: str, proven: Callable[[], None]) -> Iterator[bytes]:
    """The whole of a file in pieces, verified on the way; the last one is held back until the digest has been met.

    Raises ``CorruptBytes``, after all but the last piece, when it is not. Closes ``fd``.
    """
    hasher = blake3()
    size = 0
    try:
        with disk_errors(path):
            held = os.read(fd, PIECE_BYTES)
            while True:
                hasher.update(held)
                size += len(held)
                following = os.read(fd, PIECE_BYTES)
                if not following:
                    break
                yield held
                held = following
        if "b3:" + hasher.hexdigest() != digest:
            raise CorruptBytes(digest=digest, path=path, size_bytes=size)
        proven()
        yield held
    finally:
        os.close(fd)


def read_range(fd: int, path: str, start: int, stop: int) -> Iterator[bytes]:
    """The bytes of a proven file from ``start`` to ``stop`` in pieces. Closes ``fd``."""
    try:
        with suppress(OSError):
            os.posix_fadvise(fd, start, stop - start, os.POSIX_FADV_SEQUENTIAL)
        while start < stop:
            with disk_errors(path):
                piece = os.pread(fd, min(PIECE_BYTES, stop - start), start)
            if not piece:
                return
            start += len(piece)
            yield piece
    finally:
        os.close(fd)
