"""Files of runs, logged models and traces: names in the ledger, bytes in the artifact store.

An owner is an address as text (``run:ID``, ``logged-model:ID``, ``trace:ID``), or ``SHARED`` for files that belong to nothing. The rows
themselves are what keeps the bytes from a gc.
"""

from __future__ import annotations

import mimetypes
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Final

from sqlalchemy import Connection, select

from andon.core.actors import Actor
from andon.core.errors import Conflict, CorruptBytes, Gone, InvalidInput, NotFound
from andon.store import Store
from andon.store import schema as s
from andon.store.statements import places, rows_of, run_sql
from andon.tracking.batches import check_run_in
from andon.tracking.records import Artifact

MAX_PATH_BYTES = 1_000
_NAME_BYTES = 255  # what a disk takes, and so what a client can lay out
SHARED: Final = "files:shared"
_TYPES = {".log": "text/plain", ".diff": "text/x-diff", ".parquet": "application/vnd.apache.parquet", ".md": "text/markdown"}
_LAST = "\U0010ffff"  # no path holds it, and it sorts behind all that do
_THINGS = {"logged-model": ("logged_models", "logged model", "deleted_us"), "trace": ("traces", "trace", "null")}
_FEW, _MANY = 64, 8_192
_WRITE = (
    "insert into artifacts (owner, path, digest, size_bytes, media_type, at_us) values (?, ?, ?, ?, ?, ?) on conflict (owner, path)"
    " do update set digest = excluded.digest, size_bytes = excluded.size_bytes, media_type = excluded.media_type, at_us = excluded.at_us"
)


def log_artifact(
    store: Store, run: str, source: str | os.PathLike[str] | bytes, path: str | None = None, *, actor: Actor, media_type: str | None = None
) -> Artifact:
    """Keep a file (or ``bytes``, which need a ``path``) as the run's artifact ``path``; durable on return.

    A second artifact at the same path takes its place. Raises ``InvalidInput`` for a path that is not plain and relative, ``NotFound``
    when the file or run is not there.
    """
    named = check_path(path if path is not None else _own_name(source))
    if isinstance(source, bytes):
        digest, size_bytes = store.blobs.put(source), len(source)
    else:
        file = Path(source)
        if not file.is_file():
            raise NotFound("there is no such file", path=file, next_step="pass the path of a file, or log_artifacts for a folder")
        digest, size_bytes = store.blobs.put_file(file), file.stat().st_size
    at_us = store.clock.now_us()
    made = Artifact(path=named, digest=digest, size_bytes=size_bytes, media_type=media_type or media_type_of(named), at_us=at_us)
    store.ledger.write(lambda c: write_artifacts_in(c, run, [made], actor=actor))
    return made


def log_artifacts(store: Store, run: str, folder: str | os.PathLike[str], prefix: str = "", *, actor: Actor) -> list[Artifact]:
    """Keep every file below ``folder`` under ``prefix``; one transaction. Links are followed only to files inside the folder."""
    root = Path(folder)
    if not root.is_dir():
        raise NotFound("there is no such folder", path=root, next_step="pass the path of a folder, or log_artifact for a file")
    made = []
    for file in sorted(root.rglob("*")):
        if not file.is_file():
            continue
        if not file.resolve().is_relative_to(root.resolve()):
            raise InvalidInput("a link leads out of the folder", field="folder", got=file)
        named = check_path("/".join(part for part in (prefix.strip("/"), file.relative_to(root).as_posix()) if part))
        digest, size_bytes, at_us = store.blobs.put_file(file), file.stat().st_size, store.clock.now_us()
        made.append(Artifact(path=named, digest=digest, size_bytes=size_bytes, media_type=media_type_of(named), at_us=at_us))
    store.ledger.write(lambda c: write_artifacts_in(c, run, made, actor=actor))
    return made


def write_artifacts_in(connection: Connection, run: str, artifacts: Iterable[Artifact], *, actor: Actor) -> None:
    """``write_files_in`` for a run."""
    write_files_in(connection, f"run:{run}", artifacts, actor=actor)


def write_files_in(connection: Connection, owner: str, artifacts: Iterable[Artifact], *, actor: Actor) -> None:  # noqa: ARG001 - every write takes an actor
    """Name bytes that the artifact store holds already, inside the caller's transaction; what had the name loses it.

    Raises ``NotFound`` or ``Gone`` for the owner, ``Conflict`` when a path is a folder of other files, or leads through a file.
    """
    check_owner_in(connection, owner)
    for item in artifacts:
        _check_fits(connection, owner, item.path)
        run_sql(connection, _WRITE, (owner, item.path, item.digest, item.size_bytes, item.media_type, item.at_us))


def delete_files_in(connection: Connection, owner: str, path: str = "", *, actor: Actor) -> int:  # noqa: ARG001 - every write takes an actor
    """Forget the file ``path``, or all below the folder ``path`` ("": all of the owner's); how many. The next gc frees their bytes."""
    check_owner_in(connection, owner)
    statement, bound = "delete from artifacts where owner = ?", [owner]
    if path:
        statement += " and (path = ? or (path > ? and path < ?))"
        bound += [path, f"{path}/", f"{path}/{_LAST}"]
    return run_sql(connection, statement, tuple(bound))


def check_owner_in(connection: Connection, owner: str) -> None:
    """Raise ``NotFound`` unless the owner is there, ``Gone`` when it was deleted."""
    kind, _, name = owner.partition(":")
    if kind == "run":
        check_run_in(connection, name)
    elif kind in _THINGS:
        table, word, gone = _THINGS[kind]
        rows = rows_of(connection, f"select {gone} from {table} where id = ?", (name,))
        if not rows:
            raise NotFound(f"there is no such {word}", address=owner)
        if rows[0][0] is not None:
            raise Gone(f"this {word} was deleted", address=owner, deleted_us=rows[0][0])


def list_artifacts_in(connection: Connection, owner: str, path: str = "") -> list[tuple[str, bool, int]]:
    """What lies directly in the folder ``path`` ("": the root) of an owner: path from the root, whether it is a folder, size in bytes.

    A folder's size is 0. By path; empty for a file's path, and where nothing is. Whole folders below are stepped over by the key, so the
    cost grows with what is listed and not with what lies below it.
    """
    prefix = f"{path}/" if path else ""
    query = "select path, size_bytes from artifacts where owner = ? and path > ? and path < ? order by path limit ?"
    after, end, take = prefix, prefix + _LAST, _FEW
    found: list[tuple[str, bool, int]] = []
    while True:
        rows = rows_of(connection, query, (owner, after, end, take))
        before, folder = len(found), None
        for name, size_bytes in rows:
            if folder is not None and name.startswith(folder):
                continue
            slash = name.find("/", len(prefix))
            if slash < 0:
                found.append((name, False, size_bytes))
                folder = None
            else:
                folder = name[: slash + 1]
                if not found or found[-1][0] != name[:slash]:
                    found.append((name[:slash], True, 0))
        if len(rows) < take:
            found.sort()
            return found
        after = rows[-1][0] if folder is None else folder + _LAST
        take = min(_MANY, take * 2) if len(found) - before > take // 2 else _FEW


def find_artifact_in(connection: Connection, owner: str, path: str) -> Artifact | None:
    """An owner's file, or None."""
    query = "select path, digest, size_bytes, media_type, at_us from artifacts where owner = ? and path = ?"
    for name, digest, size_bytes, media_type, at_us in rows_of(connection, query, (owner, path)):
        return Artifact(path=name, digest=digest, size_bytes=size_bytes, media_type=media_type, at_us=at_us)
    return None


def artifacts_of(store: Store, run: str, *, prefix: str = "") -> list[Artifact]:
    """A run's artifacts whose path starts with ``prefix``, by path."""
    with store.ledger.read() as connection:
        return files_of_in(connection, f"run:{run}", prefix=prefix)


def files_of_in(connection: Connection, owner: str, *, prefix: str = "") -> list[Artifact]:
    """An owner's files whose path starts with ``prefix``, by path."""
    query = select(s.artifacts).where(s.artifacts.c.owner == owner).order_by(s.artifacts.c.path)
    if prefix:
        query = query.where(s.artifacts.c.path >= prefix, s.artifacts.c.path < prefix + _LAST)
    return [_artifact(row) for row in connection.execute(query)]


def open_artifact(store: Store, run: str, path: str) -> IO[bytes]:
    """A verified stream of an artifact's bytes. Raises ``NotFound``, or ``CorruptBytes`` naming run and path."""
    with store.ledger.read() as connection:
        found = find_artifact_in(connection, f"run:{run}", path)
    if found is None:
        raise NotFound("this run has no such artifact", address=f"run:{run}", path=path)
    try:
        return store.blobs.open(found.digest)
    except CorruptBytes as error:
        raise CorruptBytes("this artifact's stored bytes are damaged", **(error.fields | {"run": run, "path": path})) from error


def media_type_of(path: str) -> str:
    """What a file is, by its name.

    >>> media_type_of("plots/loss.png")
    'image/png'
    """
    return _TYPES.get(Path(path).suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"


def check_path(path: str) -> str:
    """Return ``path`` if it is plain and relative, else raise ``InvalidInput``: rejected, never mended.

    Refused too is what a machine that folds look-alikes (NFKC) would take for another path.

    >>> check_path("plots/loss.png")
    'plots/loss.png'
    """
    parts = path.split("/")
    bad = (
        not path
        or len(path.encode(errors="surrogatepass")) > MAX_PATH_BYTES
        or "\\" in path
        or not path.isprintable()
        or any(part in ("", ".", "..") for part in parts)
        or (len(path) > _NAME_BYTES // 4 and max(len(part.encode(errors="surrogatepass")) for part in parts) > _NAME_BYTES)
        or (":" in path and any(part.endswith(":") or part[:5].lower() == "file:" for part in parts))  # a drive, a URI's scheme
        or (not path.isascii() and _folds_away(path, len(parts)))
    )
    if bad:
        raise InvalidInput(
            f"an artifact's path is relative, at most {MAX_PATH_BYTES} bytes (a name {_NAME_BYTES}), '/' between names, and no '.' or '..'",
            field="path",
            got=repr(path)[:80],
        )
    return path


def _folds_away(path: str, parts: int) -> bool:
    folded = unicodedata.normalize("NFKC", path)
    pieces = folded.split("/")
    return len(pieces) != parts or "\\" in folded or any(piece in ("", ".", "..") for piece in pieces)


def _check_fits(connection: Connection, owner: str, path: str) -> None:
    """A name is a file's or a folder's, not both: a client could not lay the two out on its disk."""
    above = [path[:cut] for cut, sign in enumerate(path) if sign == "/"]
    if above:
        query = f"select path from artifacts where owner = ? and path in ({places(len(above))}) limit 1"
        for (file,) in rows_of(connection, query, (owner, *above)):
            raise Conflict("the path leads through a file", field="path", address=owner, file=file, next_step="delete the file first")
    query = "select path from artifacts where owner = ? and path > ? and path < ? limit 1"
    if rows_of(connection, query, (owner, f"{path}/", f"{path}/{_LAST}")):
        raise Conflict("there is a folder of this name", field="path", address=owner, path=path, next_step="delete the folder first")


def _own_name(source: str | os.PathLike[str] | bytes) -> str:
    if isinstance(source, bytes):
        raise InvalidInput("bytes need a path to be kept under", field="path")
    return Path(source).name


def _artifact(row: Any) -> Artifact:
    return Artifact(
        path=row.path,
        digest=row.digest,
        size_bytes=row.size_bytes,
        media_type=row.media_type,
        at_us=row.at_us,
    )
