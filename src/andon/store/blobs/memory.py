"""Blobs in memory: a fake with the meaning of the real ones, for tests and trials. Nothing outlives the process."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from andon.core.clocks import Clock
from andon.core.digests import check_digest, digest_bytes
from andon.core.errors import Conflict, InvalidInput, NotFound
from andon.store.blobs import trees
from andon.store.blobs.writing import PIECE_BYTES
from andon.store.ports import Collected


class MemoryBlobs:
    """The ``Blobs`` port over a dictionary."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[str, tuple[bytes, int]] = {}  # digest -> bytes, when last put
        self._folder: Path | None = None
        self._lock = threading.Lock()

    def put(self, data: bytes | IO[bytes]) -> str:
        """See ``Blobs.put``."""
        content = bytes(data) if isinstance(data, bytes | bytearray | memoryview) else data.read()
        digest = digest_bytes(content)
        with self._lock:
            self._kept[digest] = (content, self._clock.now_us())
        return digest

    def put_file(self, path: str | os.PathLike[str]) -> str:
        """See ``Blobs.put_file``."""
        if not stat.S_ISREG(trees.look_at(path).st_mode):
            raise InvalidInput("only a plain file can be put; put a directory as a tree", path=os.fspath(path))
        with open(trees.open_source(path), "rb") as source:  # noqa: PTH123 - a descriptor, not a path
            return self.put(source.read())

    def put_tree(self, path: str | os.PathLike[str]) -> str:
        """See ``Blobs.put_tree``."""
        entries = []
        for entry, here in trees.walk(Path(path)):
            if entry.kind in "fx":
                entry = trees.Entry(entry.kind, entry.path, self.put_file(here), here.stat().st_size)
            entries.append(entry)
        return self.put(trees.encode(entries))

    def put_tree_of(self, files: Mapping[str, str]) -> str:
        """See ``Blobs.put_tree_of``."""
        held = {path: self.get(digest) for path, digest in files.items()}
        tree = trees.encode([trees.Entry("f", path, files[path], len(data)) for path, data in held.items()])
        for data in held.values():
            self.put(data)
        return self.put(tree)

    def get(self, digest: str) -> bytes:
        """See ``Blobs.get``."""
        try:
            return self._kept[check_digest(digest)][0]
        except KeyError:
            raise NotFound("these bytes are not here", digest=digest) from None

    def open(self, digest: str) -> IO[bytes]:
        """See ``Blobs.open``."""
        return io.BytesIO(self.get(digest))

    def pieces(self, digest: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """See ``Blobs.pieces``."""
        data = self.get(digest)[start:stop]
        return (data[at : at + PIECE_BYTES] for at in range(0, max(1, len(data)), PIECE_BYTES))

    def begin(self) -> MemoryIncoming:
        """See ``Blobs.begin``."""
        return MemoryIncoming(self.put)

    def uploads_folder(self) -> Path:
        """See ``Blobs.uploads_folder``."""
        return self._scratch() / "uploads"

    def get_tree(self, digest: str, into: str | os.PathLike[str]) -> None:
        """See ``Blobs.get_tree``."""
        entries = trees.decode(self.get(digest), digest)
        target = Path(into).absolute()
        if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
            raise Conflict("a tree is laid out in a new directory", path=str(target), next_step="name a directory that does not exist")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as parent:
            temporary = Path(parent, "tree")
            temporary.mkdir()
            trees.lay_out(entries, temporary, self)
            temporary.rename(target)

    def tree(self, digest: str) -> Mapping[str, str]:
        """See ``Blobs.tree``."""
        return {entry.path: entry.target for entry in trees.decode(self.get(digest), digest) if entry.kind in "fx"}

    def local_path(self, digest: str) -> Path:
        """See ``Blobs.local_path``."""
        data = self.get(digest)
        path = self._scratch() / digest[3:]
        with self._lock:
            if not path.exists():
                path.write_bytes(data)
                path.chmod(0o444)
        return path

    def _scratch(self) -> Path:
        with self._lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="andon-blobs-"))
                weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            return self._folder

    def has(self, digest: str) -> bool:
        """See ``Blobs.has``."""
        return check_digest(digest) in self._kept

    def size_bytes(self, digest: str) -> int:
        """See ``Blobs.size_bytes``."""
        return len(self.get(digest))

    def digests(self) -> Iterator[str]:
        """See ``Blobs.digests``."""
        return iter(sorted(self._kept))

    def gc(self, keep: Callable[[], set[str]], *, older_than_us: int, dry_run: bool = False) -> Collected:
        """See ``Blobs.gc``."""
        needed = keep()
        for digest in list(needed):
            if digest in self._kept and trees.is_tree(self._kept[digest][0]):
                needed = needed | set(self.tree(digest).values())
        before_us = self._clock.now_us() - older_than_us
        with self._lock:
            unneeded = sorted(digest for digest, (_, put_us) in self._kept.items() if put_us < before_us and digest not in needed)
            size_bytes = sum(len(self._kept[digest][0]) for digest in unneeded)
            if not dry_run:
                for digest in unneeded:
                    del self._kept[digest]
        return Collected(tuple(unneeded), size_bytes)


class MemoryIncoming:
    """A blob that arrives in pieces."""

    def __init__(self, put: Callable[[bytes], str]) -> None:
        self._put, self._pieces = put, bytearray()

    @property
    def size_bytes(self) -> int:
        """How many bytes have come."""
        return len(self._pieces)

    def write(self, pieces: Sequence[bytes]) -> None:
        """Add pieces."""
        for piece in pieces:
            self._pieces += piece

    def keep(self) -> str:
        """Keep the blob; its digest."""
        return self._put(bytes(self._pieces))

    def drop(self) -> None:
        """Let go."""
        self._pieces.clear()
