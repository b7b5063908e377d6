"""Uploads in parts, which outlive the process that began them: a folder each, below the blobs' own, until they are joined or forgotten.

::

    uploads/ID/facts              what the upload is for, as its caller wrote it
    uploads/ID/00007-HEX          part 7, by the BLAKE3 of its bytes; a part sent again with other bytes stands beside the first
    uploads/ID/.00007-RANDOM      a part that is arriving

An id is as good as a key: whoever knows it may add parts, so it cannot be guessed.
"""

# Paths are text here, as in the modules beside this one.
# ruff: noqa: PTH104, PTH108

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from andon.core import faults
from andon.core.errors import Conflict, InvalidInput, NotFound
from andon.store.blobs.writing import PIECE_BYTES, write_pieces
from andon.store.disk import disk_errors, make_folder

MAX_PARTS = 10_000
FORGOTTEN_S = 24 * 3600.0
_ID = re.compile(r"[A-Za-z0-9_-]{32}")
_PART = re.compile(r"([0-9]{5})-([0-9a-f]{64})")


class Uploads:
    """The uploads below one folder. Threads and processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, facts: bytes) -> str:
        """Start an upload; its id. Forgets the uploads that nobody has added to for a day."""
        identity = secrets.token_urlsafe(24)
        with disk_errors(self._folder):
            make_folder(self._folder)
            clean_uploads(self._folder)
            here = self._folder / identity
            here.mkdir(mode=0o700)
            (here / "facts").write_bytes(facts)
        return identity

    def facts(self, identity: str) -> bytes:
        """What ``begin`` was given. Raises ``NotFound``."""
        try:
            return (self._at(identity) / "facts").read_bytes()
        except FileNotFoundError:
            raise _unknown() from None

    def size_bytes(self, identity: str) -> int:
        """How many bytes its parts hold by now."""
        try:
            with os.scandir(self._at(identity)) as found:
                return sum(item.stat().st_size for item in found if item.name != "facts")
        except FileNotFoundError:
            return 0

    def part(self, identity: str, number: int) -> IncomingPart:
        """A part that is about to arrive. Raises ``NotFound``, or ``InvalidInput`` for a number that no part can have."""
        if not 1 <= number <= MAX_PARTS:
            raise InvalidInput(f"parts are numbered 1 to {MAX_PARTS}", field="part_number", got=number)
        self.facts(identity)
        return IncomingPart(self._at(identity), number)

    def pieces(self, identity: str, parts: Sequence[tuple[int, str]]) -> Iterator[bytes]:
        """The bytes of ``(number, etag)`` in their order. Raises ``Conflict`` for one that is missing or torn."""
        here = self._at(identity)
        for number, etag in parts:
            path = here / f"{number:05d}-{etag}"
            if not _PART.fullmatch(path.name):
                raise _other(number)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                raise _other(number) from None
            hasher = blake3()
            try:
                with disk_errors(path):
                    while piece := os.read(fd, PIECE_BYTES):
                        hasher.update(piece)
                        yield piece
            finally:
                os.close(fd)
            if hasher.hexdigest() != etag:  # torn by a power cut: parts are not fsynced, only what is made of them is
                raise _other(number)

    def forget(self, identity: str) -> None:
        """Delete an upload and its parts; nothing when there is none."""
        shutil.rmtree(self._at(identity), ignore_errors=True)

    def _at(self, identity: str) -> Path:
        if not _ID.fullmatch(identity):
            raise _unknown()
        return self._folder / identity


class IncomingPart:
    """A part on its way to the disk; ``drop`` in the end, kept or not."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number = str(folder), number
        self._path = f"{folder}/.{number:05d}-{secrets.token_hex(8)}"
        self._hasher = blake3()
        self.size_bytes = 0
        try:
            with disk_errors(self._path):
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            raise _unknown() from None

    def write(self, pieces: Sequence[bytes]) -> None:
        """Add pieces. Raises ``DiskFull``, ``ReadOnly`` or ``Unavailable``."""
        with disk_errors(self._path):
            faults.point("uploads.piece")
            for piece in pieces:
                self._hasher.update(piece)
                self.size_bytes += len(piece)
            write_pieces(self._fd, pieces)

    def keep(self) -> str:
        """Give the part its name; returns its etag. Raises ``NotFound`` when the upload was forgotten meanwhile."""
        etag = self._hasher.hexdigest()
        with disk_errors(self._path):
            try:
                os.rename(self._path, f"{self._folder}/{self._number:05d}-{etag}")
            except FileNotFoundError:
                raise _unknown() from None
        return etag

    def drop(self) -> None:
        """Let go; what was not kept is gone."""
        os.close(self._fd)
        with suppress(OSError):
            os.unlink(self._path)


def clean_uploads(folder: Path, older_than_s: float = FORGOTTEN_S) -> int:
    """Delete the uploads that nobody has added to for so long; how many."""
    before, removed = time.time() - older_than_s, 0
    with suppress(FileNotFoundError), os.scandir(folder) as found:
        for item in found:
            with suppress(FileNotFoundError):
                if item.is_dir(follow_symlinks=False) and item.stat(follow_symlinks=False).st_mtime < before:
                    shutil.rmtree(item.path, ignore_errors=True)
                    removed += 1
    return removed


def _unknown() -> NotFound:
    return NotFound("there is no such upload; it was finished, aborted or forgotten", field="upload_id", next_step="start the upload again")


def _other(number: int) -> Conflict:
    return Conflict("this part is not there, or is not what its etag says", field="parts", part_number=number, next_step="send it again")
