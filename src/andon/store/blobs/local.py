"""Blobs on a local disk.

::

    format              "andon-blobs 1": later layouts (packs of small files, chunks of large ones) stand beside ``loose``, under a 2
    loose/ab/cdef…      one file a blob, by BLAKE3, write-protected
    tmp/PID-RANDOM/     what a process is writing
    uploads/ID/         parts of what is being uploaded, see ``uploads``
    trash/abcdef…       what a gc is about to delete, still readable
    quarantine/         what did not match its digest, moved aside by ``andon doctor``

A blob is written to ``tmp``, fsynced, renamed into ``loose``, and its folder fsynced: under its name it is whole, and once acknowledged it
is durable. A blob's modification time is when it was last put, by the clock handed in; ``gc`` spares what was put lately.
"""

# Paths are text here: pathlib would cost more than the work itself on trees of many small files.
# ruff: noqa: PTH104, PTH108, PTH110, PTH116, PTH123, PTH208

from __future__ import annotations

import mmap
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from blake3 import blake3

from andon.core import faults
from andon.core.clocks import Clock
from andon.core.digests import check_digest, digest_bytes, digest_file
from andon.core.errors import Conflict, CorruptBytes, Incompatible, InvalidInput, LeaseHeld, NotFound
from andon.store.blobs import trees
from andon.store.blobs.staging import Staging, sync_files
from andon.store.blobs.uploads import clean_uploads
from andon.store.blobs.writing import LocalIncoming, read_proving, read_range
from andon.store.disk import disk_errors, fsync_path, make_folder, try_lock, write_all
from andon.store.ports import Collected

FORMAT = b"andon-blobs 1\n"
_SMALL_BYTES = 4 << 20
_CHUNK = 1 << 20
_BATCH_FILES = 20_000
_BATCH_BYTES = 1 << 30
_PREFIX = len("b3:")


class LocalBlobs:
    """The ``Blobs`` port over one folder. Threads and processes may share it."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self.root = root
        self._clock = clock
        self._loose = str(root / "loose")
        self._trash = str(root / "trash")
        self._staging = Staging(root / "tmp")
        self._proven: dict[str, tuple[int, int, int]] = {}
        self._prepared = False
        self._lock = threading.Lock()

    # --- writing

    def put(self, data: bytes | IO[bytes]) -> str:
        """See ``Blobs.put``. Raises ``DiskFull``, ``ReadOnly`` or ``Unavailable`` with nothing left behind."""
        self._prepare()
        if isinstance(data, bytes | bytearray | memoryview):
            return self._put_bytes(bytes(data))
        return self._put_stream(data)

    def put_file(self, path: str | os.PathLike[str]) -> str:
        """See ``Blobs.put_file``. Raises ``NotFound`` when there is no such file."""
        self._prepare()
        if not stat.S_ISREG(trees.look_at(path).st_mode):
            raise InvalidInput("only a plain file can be put; put a directory as a tree", path=os.fspath(path))
        with disk_errors(path), open(trees.open_source(path), "rb", buffering=0) as source:
            return self._put_open_file(source, os.fspath(path))

    def put_tree(self, path: str | os.PathLike[str]) -> str:
        """See ``Blobs.put_tree``. Raises ``InvalidInput`` naming the path that no tree may hold; then nothing was acknowledged."""
        self._prepare()
        entries: list[trees.Entry] = []
        batch = _Batch(self)
        with disk_errors(path):
            try:
                for entry, here in trees.walk(Path(path)):
                    if entry.kind in "fx":
                        digest, size = batch.add(here)
                        entry = trees.Entry(entry.kind, entry.path, digest, size)
                    entries.append(entry)
                batch.finish()
            finally:
                batch.drop()
        return self._put_bytes(trees.encode(entries))

    def put_tree_of(self, files: Mapping[str, str]) -> str:
        """See ``Blobs.put_tree_of``. The bytes count as put again, so that no gc takes them before the tree is recorded."""
        self._prepare()
        entries = [trees.Entry("f", path, digest, self.size_bytes(digest)) for path, digest in files.items()]
        data = trees.encode(entries)
        with disk_errors(self.root):
            for entry in entries:
                if not self._freshen(entry.target, entry.size_bytes) and not self.has(entry.target):
                    raise NotFound("these bytes are not here", digest=entry.target)
        return self._put_bytes(data)

    def begin(self) -> LocalIncoming:
        """See ``Blobs.begin``."""
        self._prepare()
        return LocalIncoming(self._staging, self._keep)

    def uploads_folder(self) -> Path:
        """See ``Blobs.uploads_folder``."""
        return self.root / "uploads"

    def _put_bytes(self, data: bytes) -> str:
        digest = digest_bytes(data)
        with disk_errors(self.root):
            if self._freshen(digest, len(data)):
                fsync_path(self._shard(digest))  # whoever put it first may not have come that far
                return digest
        with self._staging.file() as (fd, temporary):
            faults.point("blobs.begin")
            write_all(fd, data)
            self._name(fd, temporary, digest)
        return digest

    def _put_stream(self, source: IO[bytes]) -> str:
        hasher = blake3()
        with self._staging.file() as (fd, temporary):
            faults.point("blobs.begin")
            size = 0
            while chunk := source.read(_CHUNK):
                hasher.update(chunk)
                write_all(fd, chunk)
                size += len(chunk)
            digest = "b3:" + hasher.hexdigest()
            self._keep(fd, temporary, digest, size)
        return digest

    def _keep(self, fd: int, temporary: str, digest: str, size: int) -> None:
        if self._freshen(digest, size):
            fsync_path(self._shard(digest))
        else:
            self._name(fd, temporary, digest)

    def _put_open_file(self, source: IO[bytes], path: str) -> str:
        if os.fstat(source.fileno()).st_size <= _SMALL_BYTES:
            return self._put_bytes(source.read())
        digest = digest_file(path)  # reading twice is cheaper than writing what is here already
        if self._freshen(digest, os.fstat(source.fileno()).st_size):
            fsync_path(self._shard(digest))
            return digest
        return self._put_stream(source)

    def _name(self, fd: int, temporary: str, digest: str) -> None:
        faults.point("blobs.written")
        now_ns = self._clock.now_us() * 1000
        os.utime(fd, ns=(now_ns, now_ns))
        os.fsync(fd)
        faults.point("blobs.fsynced")
        os.rename(temporary, self._path(digest))
        faults.point("blobs.named")
        fsync_path(self._shard(digest))
        faults.point("blobs.kept")

    def _freshen(self, digest: str, size: int) -> bool:
        """Whether the bytes are here already; if so, they count as put now.

        The time is set by path: had a gc moved the file away before, this fails, and if it moves it after, it will see the new time.
        """
        path = self._path(digest)
        now_ns = self._clock.now_us() * 1000
        try:
            os.utime(path, ns=(now_ns, now_ns))
            return os.stat(path).st_size == size  # else it is damaged, and what the caller has replaces it
        except (FileNotFoundError, PermissionError):  # not here, or another user's file, whose time is not ours to set
            return False

    # --- reading

    def get(self, digest: str) -> bytes:
        """See ``Blobs.get``."""
        fd, path = self._open(digest)
        try:
            with disk_errors(path):
                data = _read_all(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)
        if digest_bytes(data) != digest:
            raise CorruptBytes(digest=digest, path=path, size_bytes=len(data))
        return data

    def open(self, digest: str) -> IO[bytes]:
        """See ``Blobs.open``."""
        fd, path = self._open(digest)
        try:
            self._prove(fd, digest, path)
        except BaseException:  # close the descriptor whatever happened, then let it happen
            os.close(fd)
            raise
        return open(fd, "rb")

    def pieces(self, digest: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """See ``Blobs.pieces``."""
        fd, path = self._open(digest)
        try:
            state = _state(fd)
            if self._proven.get(digest) != state and (start, stop) == (0, None):
                return read_proving(fd, digest, path, lambda: self._remember(digest, state))
            self._prove(fd, digest, path)
        except BaseException:  # close the descriptor whatever happened, then let it happen
            os.close(fd)
            raise
        return read_range(fd, path, start, state[1] if stop is None else min(stop, state[1]))

    def get_tree(self, digest: str, into: str | os.PathLike[str]) -> None:
        """See ``Blobs.get_tree``. Raises ``Conflict`` when ``into`` exists and is not an empty directory."""
        entries = self._entries(digest)
        target = Path(into).absolute()
        if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
            raise Conflict("a tree is laid out in a new directory", path=str(target), next_step="name a directory that does not exist")
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{target.name[:100]}.", dir=target.parent))
            try:
                trees.lay_out(entries, temporary, self)
                temporary.chmod(0o755)
                faults.point("blobs.laid_out")
                temporary.rename(target)
            except BaseException:  # all of it or nothing, also when interrupted
                shutil.rmtree(temporary, ignore_errors=True)
                raise

    def tree(self, digest: str) -> Mapping[str, str]:
        """See ``Blobs.tree``."""
        return {entry.path: entry.target for entry in self._entries(digest) if entry.kind in "fx"}

    def local_path(self, digest: str) -> Path:
        """See ``Blobs.local_path``. The file is write-protected; do not change it."""
        fd, path = self._open(digest)
        try:
            self._prove(fd, digest, path)
        finally:
            os.close(fd)
        if path.startswith(self._trash):  # a gc has it in hand; whoever asks for the path needs it to stay
            with disk_errors(path), suppress(FileNotFoundError):
                os.rename(path, self._path(digest))
        return Path(self._path(digest))

    def has(self, digest: str) -> bool:
        """See ``Blobs.has``."""
        try:
            fd, _ = self._open(digest)
        except NotFound:
            return False
        os.close(fd)
        return True

    def size_bytes(self, digest: str) -> int:
        """See ``Blobs.size_bytes``."""
        fd, _ = self._open(digest)
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def digests(self) -> Iterator[str]:
        """See ``Blobs.digests``."""
        for digest, _ in self.files():
            yield digest

    def files(self) -> Iterator[tuple[str, Path]]:
        """Every blob and the file it is in."""
        for shard in sorted(_names(self._loose)):
            for rest in sorted(_names(f"{self._loose}/{shard}")):
                yield f"b3:{shard}{rest}", Path(f"{self._loose}/{shard}/{rest}")

    def quarantine(self, digest: str) -> Path:
        """Move a damaged blob aside, so that putting its bytes again heals it; returns where it went."""
        target = self.root / "quarantine" / digest[_PREFIX:]
        with disk_errors(target):
            make_folder(target.parent)
            os.rename(self._path(digest), target)
            fsync_path(target.parent)
        return target

    def _entries(self, digest: str) -> list[trees.Entry]:
        return trees.decode(self.get(digest), digest)

    def _open(self, digest: str) -> tuple[int, str]:
        check_digest(digest)
        loose = self._path(digest)
        for path in (loose, f"{self._trash}/{digest[_PREFIX:]}", loose):  # a gc may be moving it either way
            with disk_errors(path), suppress(FileNotFoundError):
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC), path
        raise NotFound("these bytes are not here", digest=digest)

    def _prove(self, fd: int, digest: str, path: str) -> None:
        state = _state(fd)
        if self._proven.get(digest) == state:
            return
        hasher = blake3()
        if state[1]:
            with disk_errors(path), mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as view:
                hasher.update(view)
        if "b3:" + hasher.hexdigest() != digest:
            raise CorruptBytes(digest=digest, path=path, size_bytes=state[1])
        self._remember(digest, state)

    def _remember(self, digest: str, state: tuple[int, int, int]) -> None:
        if len(self._proven) > 100_000:
            self._proven.clear()
        self._proven[digest] = state

    # --- collecting

    def gc(self, keep: Callable[[], set[str]], *, older_than_us: int, dry_run: bool = False) -> Collected:
        """See ``Blobs.gc``. Raises ``LeaseHeld`` while another gc runs, ``CorruptBytes`` when a tree to keep cannot be read.

        Two phases: what looks unneeded goes to the trash, where it can still be read; then ``keep`` is asked again, and what it names by
        now, or was put again meanwhile, comes back.
        """
        self._prepare()
        before_ns = (self._clock.now_us() - older_than_us) * 1000
        with disk_errors(self.root):
            fd = os.open(self.root / "gc.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if not try_lock(fd):
                    raise LeaseHeld("another gc is running", path=str(self.root))
                old = {digest for digest, path in self.files() if _last_put_ns(path) < before_ns}
                unneeded = sorted(old - self._needed(keep()) if old else old)
                if dry_run:
                    return Collected(tuple(unneeded), sum(map(self.size_bytes, unneeded)))
                self._staging.clean()
                clean_uploads(self.uploads_folder())
                for digest in unneeded:
                    with suppress(FileNotFoundError):
                        os.rename(self._path(digest), f"{self._trash}/{digest[_PREFIX:]}")
                        faults.point("blobs.trashed")
                return self._empty_trash(keep, before_ns)
            finally:
                os.close(fd)

    def _empty_trash(self, keep: Callable[[], set[str]], before_ns: int) -> Collected:
        trashed = ["b3:" + name for name in sorted(_names(self._trash))]  # also what a gc that was killed left here
        needed = self._needed(keep()) if trashed else set()
        deleted: list[str] = []
        size_bytes = 0
        for digest in trashed:
            path = f"{self._trash}/{digest[_PREFIX:]}"
            with suppress(FileNotFoundError):
                found = os.stat(path)
                if os.path.exists(self._path(digest)):  # put anew while its old copy lay here
                    os.unlink(path)
                elif digest in needed or found.st_mtime_ns >= before_ns:
                    os.rename(path, self._path(digest))
                    faults.point("blobs.restored")
                else:
                    os.unlink(path)
                    deleted.append(digest)
                    size_bytes += found.st_size
                    faults.point("blobs.deleted")
        return Collected(tuple(deleted), size_bytes)

    def _needed(self, roots: set[str]) -> set[str]:
        """The roots, and what those that are trees hold."""
        needed = set(roots)
        for digest in roots:
            try:
                fd, _ = self._open(digest)
            except NotFound:
                continue
            try:
                head = os.read(fd, len(trees.HEADER))
            finally:
                os.close(fd)
            if trees.is_tree(head):
                needed |= set(self.tree(digest).values())
        return needed

    # --- places

    def _path(self, digest: str) -> str:
        return f"{self._loose}/{digest[_PREFIX : _PREFIX + 2]}/{digest[_PREFIX + 2 :]}"

    def _shard(self, digest: str) -> str:
        return f"{self._loose}/{digest[_PREFIX : _PREFIX + 2]}"

    def _prepare(self) -> None:
        if self._prepared:
            return
        marker = self.root / "format"
        with self._lock, disk_errors(self.root):
            if not marker.exists():
                for name in ("tmp", "trash"):
                    make_folder(self.root / name)
                make_folder(Path(self._loose))
                for shard in range(256):
                    Path(f"{self._loose}/{shard:02x}").mkdir(exist_ok=True)
                fsync_path(self._loose)
                with self._staging.file() as (fd, temporary):
                    write_all(fd, FORMAT)
                    os.fsync(fd)
                    os.rename(temporary, marker)
                fsync_path(self.root)
            if (found := marker.read_bytes()) != FORMAT:
                raise Incompatible("these blobs were written by a newer Andon", path=str(self.root), found=repr(found[:40]))
            self._prepared = True


class _Batch:
    """Many small files put together: written first, synced by one call, then named."""

    def __init__(self, blobs: LocalBlobs) -> None:
        self._blobs = blobs
        self._pending: dict[str, str] = {}  # digest -> temporary file
        self._shards: set[str] = set()
        self._size = 0

    def add(self, path: Path) -> tuple[str, int]:
        """Put one file, durable after ``finish``; its digest and size."""
        blobs = self._blobs
        fd = trees.open_source(path, os.O_NOFOLLOW)
        try:
            size = os.fstat(fd).st_size
            if size > _SMALL_BYTES:
                with open(fd, "rb", buffering=0, closefd=False) as source:
                    digest = blobs._put_open_file(source, str(path))
                return digest, blobs.size_bytes(digest)
            data = _read_all(fd, size)
        finally:
            os.close(fd)
        digest = digest_bytes(data)
        if digest not in self._pending:
            if not blobs._freshen(digest, len(data)):
                self._pending[digest] = blobs._staging.write(data, blobs._clock.now_us() * 1000)
                self._size += len(data)
            self._shards.add(blobs._shard(digest))
            if len(self._pending) >= _BATCH_FILES or self._size >= _BATCH_BYTES:
                self.finish()
        return digest, len(data)

    def finish(self) -> None:
        """Make everything added durable, under its name."""
        if self._pending:
            sync_files(list(self._pending.values()), self._blobs.root)
            for digest, temporary in self._pending.items():
                faults.point("blobs.batch_name")
                os.rename(temporary, self._blobs._path(digest))
            self._pending.clear()
            self._size = 0
        for shard in self._shards:
            fsync_path(shard)
        self._shards.clear()
        faults.point("blobs.batch_kept")

    def drop(self) -> None:
        """Delete what was not finished."""
        for temporary in self._pending.values():
            with suppress(OSError):
                os.unlink(temporary)


def _read_all(fd: int, size: int) -> bytes:
    pieces = [os.read(fd, size + 1)]
    while len(pieces[-1]) and (more := os.read(fd, _CHUNK)):
        pieces.append(more)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _state(fd: int) -> tuple[int, int, int]:
    found = os.fstat(fd)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _last_put_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 1 << 62
