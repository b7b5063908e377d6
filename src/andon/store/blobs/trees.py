"""Trees: a directory as a manifest of paths and blob digests, itself kept as a blob.

::

    manifest = "andon-tree/1\\n" canonical JSON array of entries, in order of path
    entry    = ["f" | "x", path, digest, size]     a file, or an executable one
             | ["l", path, target]                 a symbolic link that stays inside the tree
             | ["d", path]                         an empty directory

Paths are relative POSIX paths in UTF-8 without empty, ``.`` or ``..`` parts. Equal directories have equal digests, whatever their times,
owners or order on disk. A manifest that came from elsewhere is believed in nothing: every path is checked when it is read, and every
link is resolved before a laid-out tree gets its name.
"""

# Paths are text here: pathlib would cost more than the work itself on trees of many small files.
# ruff: noqa: PTH103, PTH115, PTH116, PTH211

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol

import msgspec

from andon.core.digests import check_digest
from andon.core.errors import CorruptBytes, Forbidden, InvalidInput, NotFound
from andon.store.disk import write_all

HEADER = b"andon-tree/1\n"
MAX_ENTRIES = 5_000_000
_CHUNK = 1 << 20
_SMALL_BYTES = 4 << 20


class Entry(msgspec.Struct, frozen=True):
    """One name in a tree. ``kind`` is ``f``, ``x``, ``l`` or ``d``; ``target`` is a digest for files and a relative path for links."""

    kind: str
    path: str
    target: str = ""
    size_bytes: int = 0


def encode(entries: Sequence[Entry]) -> bytes:
    """The manifest of a tree. Raises ``InvalidInput`` for paths that no tree may hold."""
    ordered = sorted(entries, key=lambda entry: entry.path)
    check_paths(ordered)
    rows: list[list[str | int]] = []
    for entry in ordered:
        row: list[str | int] = [entry.kind, entry.path]
        if entry.kind != "d":
            row.append(entry.target)
        if entry.kind in "fx":
            row.append(entry.size_bytes)
        rows.append(row)
    return HEADER + msgspec.json.encode(rows)  # canonical: no objects whose keys need order, no floats


def is_tree(head: bytes) -> bool:
    """Whether a blob that begins with ``head`` claims to be a tree."""
    return head.startswith(HEADER)


def decode(data: bytes, digest: str) -> list[Entry]:
    """The entries of a manifest, checked. Raises ``InvalidInput`` for a blob that is no tree and ``CorruptBytes`` for a malformed one."""
    if not is_tree(data):
        raise InvalidInput("this blob is not a tree", field="digest", got=digest)
    try:
        rows = msgspec.json.decode(data[len(HEADER) :], type=list[list[str | int]])
        entries = [_entry(row) for row in rows]
        check_paths(entries)
    except (msgspec.DecodeError, InvalidInput, ValueError, TypeError) as error:
        raise CorruptBytes(f"this tree's manifest is malformed: {error}", digest=digest) from None
    return entries


def _entry(row: list[str | int]) -> Entry:
    kind, path, *rest = row
    text = all(isinstance(item, str) for item in row[:3])
    if kind == "d" and not rest and text:
        return Entry("d", str(path))
    if kind == "l" and len(rest) == 1 and text:
        return Entry("l", str(path), str(rest[0]))
    if kind in ("f", "x") and len(rest) == 2 and text and isinstance(rest[1], int) and rest[1] >= 0:
        return Entry(str(kind), str(path), check_digest(str(rest[0])), rest[1])
    raise InvalidInput("an entry is a file, a link or an empty directory", got=repr(row)[:120])


def check_paths(entries: Sequence[Entry]) -> None:
    """Refuse paths that are absolute, climb, repeat, are out of order, or go through a file or a link. Raises ``InvalidInput``."""
    if len(entries) > MAX_ENTRIES:
        raise InvalidInput(f"a tree has at most {MAX_ENTRIES} entries", got=len(entries))
    leaves = {entry.path for entry in entries}
    if len(leaves) != len(entries):
        raise InvalidInput("a tree names each path once")
    safe_folders: set[str] = {""}
    before = None
    for entry in entries:
        path = entry.path
        if before is not None and path <= before:
            raise InvalidInput("a tree's paths are in order", got=path[:200])
        before = path
        folder, slash, name = path.rpartition("/")
        _check_part(name if folder or not slash else "", path)
        while folder not in safe_folders:
            if folder in leaves:
                raise InvalidInput("a path goes through a file or a link", got=path[:200])
            safe_folders.add(folder)
            folder, slash, name = folder.rpartition("/")
            _check_part(name if folder or not slash else "", path)  # nothing before a slash: the path is absolute
        if entry.kind == "l":
            check_link(path, entry.target)


def _check_part(name: str, path: str) -> None:
    if name in ("", ".", "..") or "\0" in name:
        raise InvalidInput("a path in a tree is relative, without empty, '.' or '..' parts", got=path[:200])
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InvalidInput("a path in a tree is UTF-8", got=repr(path)[:200]) from None


def check_link(path: str, target: str) -> None:
    """Refuse a link that is absolute or climbs out of the tree by its text. Raises ``InvalidInput``."""
    depth = path.count("/")
    if not target or target.startswith("/") or "\0" in target:
        raise InvalidInput("a link in a tree is relative", got=path[:200], target=target[:200])
    for part in target.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            raise InvalidInput("a link leaves the tree", got=path[:200], target=target[:200])
    try:
        target.encode()
    except UnicodeEncodeError:
        raise InvalidInput("a link's target is UTF-8", got=path[:200]) from None


def walk(root: Path) -> Iterator[tuple[Entry, Path]]:
    """Every leaf of a directory, files with no digest yet. Raises ``InvalidInput`` for devices, sockets, pipes and links that lead out."""
    if not root.is_dir():
        raise InvalidInput("a tree is made of a directory", got=str(root))
    top = os.path.realpath(root)
    yield from _walk(Path(top), top, "")


def _walk(folder: Path, top: str, prefix: str) -> Iterator[tuple[Entry, Path]]:
    try:
        with os.scandir(folder) as found:
            items = list(found)
    except PermissionError:
        raise Forbidden("this directory cannot be read", path=str(folder)) from None
    if not items and prefix:
        yield Entry("d", prefix[:-1]), folder
    for item in items:
        path = prefix + item.name
        here = folder / item.name
        mode = item.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from _walk(here, top, path + "/")
        elif stat.S_ISREG(mode):
            yield Entry("x" if mode & stat.S_IXUSR else "f", path), here
        elif stat.S_ISLNK(mode):
            target = os.readlink(here)
            check_link(path, target)
            _refuse_outside(os.path.realpath(here), top, path)
            yield Entry("l", path, target), here
        else:
            raise InvalidInput("a tree holds files, directories and links only", got=path)


def look_at(path: str | os.PathLike[str]) -> os.stat_result:
    """What is at ``path``, links followed. Raises ``NotFound`` or ``Forbidden``."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("there is no such file", path=os.fspath(path), next_step="check the path") from None
    except PermissionError:
        raise Forbidden("this file cannot be read", path=os.fspath(path)) from None


def open_source(path: str | os.PathLike[str], flags: int = 0) -> int:
    """Open somebody's file for reading. Raises ``NotFound`` or ``Forbidden``."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    except FileNotFoundError:
        raise NotFound("there is no such file", path=os.fspath(path), next_step="check the path") from None
    except PermissionError:
        raise Forbidden("this file cannot be read", path=os.fspath(path)) from None


def _refuse_outside(resolved: str, top: str, path: str) -> None:
    if resolved != top and not resolved.startswith(top + os.sep):
        raise InvalidInput("a link leaves the tree", got=path[:200])


class Reader(Protocol):
    """Where a tree's bytes come from; both verify."""

    def get(self, digest: str) -> bytes:
        """All bytes."""
        ...

    def open(self, digest: str) -> IO[bytes]:
        """A stream."""
        ...


def lay_out(entries: Sequence[Entry], into: Path, blobs: Reader) -> None:
    """Make the entries in the empty directory ``into``, files first, then links, then a look at where every link really leads.

    Raises ``CorruptBytes`` if the tree would reach outside ``into``, and whatever reading a blob raises.
    """
    top = os.path.realpath(into)
    made = {""}
    for entry in entries:
        folder = entry.path if entry.kind == "d" else entry.path.rpartition("/")[0]
        if folder not in made:
            os.makedirs(f"{top}/{folder}", exist_ok=True)
            made.add(folder)
        if entry.kind in "fx":
            _copy(blobs, entry, f"{top}/{entry.path}")
    links = [entry for entry in entries if entry.kind == "l"]
    for entry in links:
        os.symlink(entry.target, f"{top}/{entry.path}")
    for entry in links:
        try:
            _refuse_outside(os.path.realpath(f"{top}/{entry.path}"), top, entry.path)
        except InvalidInput as error:
            raise CorruptBytes(f"this tree is malformed: {error.message}", path=entry.path) from None


def _copy(blobs: Reader, entry: Entry, path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o777 if entry.kind == "x" else 0o666)
    try:
        if entry.size_bytes <= _SMALL_BYTES:
            write_all(fd, blobs.get(entry.target))
            return
        with blobs.open(entry.target) as source:
            while chunk := source.read(_CHUNK):
                write_all(fd, chunk)
    finally:
        os.close(fd)
