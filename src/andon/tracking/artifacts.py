"""A run's files: names in the ledger, bytes in the artifact store."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, delete, insert, select

from andon.core.actors import Actor
from andon.core.errors import CorruptBytes, InvalidInput, NotFound
from andon.store import Store
from andon.store import schema as s
from andon.tracking.batches import check_run_in
from andon.tracking.records import Artifact

MAX_PATH_BYTES = 1_000
_TYPES = {".log": "text/plain", ".diff": "text/x-diff", ".parquet": "application/vnd.apache.parquet", ".md": "text/markdown"}


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
    kind = media_type or _TYPES.get(Path(named).suffix) or mimetypes.guess_type(named)[0] or "application/octet-stream"
    made = Artifact(path=named, digest=digest, size_bytes=size_bytes, media_type=kind, at_us=store.clock.now_us())
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
        kind = _TYPES.get(file.suffix) or mimetypes.guess_type(named)[0] or "application/octet-stream"
        digest = store.blobs.put_file(file)
        made.append(Artifact(path=named, digest=digest, size_bytes=file.stat().st_size, media_type=kind, at_us=store.clock.now_us()))
    store.ledger.write(lambda c: write_artifacts_in(c, run, made, actor=actor))
    return made


def write_artifacts_in(connection: Connection, run: str, artifacts: Iterable[Artifact], *, actor: Actor) -> None:  # noqa: ARG001 - every write takes an actor
    """Name bytes that the artifact store holds already, inside the caller's transaction."""
    check_run_in(connection, run)
    owner = f"run:{run}"
    for item in artifacts:
        at = (s.artifacts.c.owner == owner) & (s.artifacts.c.path == item.path)
        connection.execute(delete(s.artifacts).where(at))
        connection.execute(
            insert(s.artifacts).values(
                owner=owner, path=item.path, digest=item.digest, size_bytes=item.size_bytes, media_type=item.media_type, at_us=item.at_us
            )
        )
        held = (s.blob_refs.c.owner == owner) & (s.blob_refs.c.digest == item.digest)
        if connection.execute(select(s.blob_refs.c.owner).where(held)).first() is None:
            connection.execute(insert(s.blob_refs).values(owner=owner, digest=item.digest))


def artifacts_of(store: Store, run: str, *, prefix: str = "") -> list[Artifact]:
    """A run's artifacts whose path starts with ``prefix``, by path."""
    query = select(s.artifacts).where(s.artifacts.c.owner == f"run:{run}").order_by(s.artifacts.c.path)
    if prefix:
        query = query.where(s.artifacts.c.path.startswith(prefix, autoescape=True))
    with store.ledger.read() as connection:
        return [_artifact(row) for row in connection.execute(query)]


def open_artifact(store: Store, run: str, path: str) -> IO[bytes]:
    """A verified stream of an artifact's bytes. Raises ``NotFound``, or ``CorruptBytes`` naming run and path."""
    with store.ledger.read() as connection:
        row = connection.execute(select(s.artifacts).where(s.artifacts.c.owner == f"run:{run}", s.artifacts.c.path == path)).first()
    if row is None:
        raise NotFound("this run has no such artifact", address=f"run:{run}", path=path)
    try:
        return store.blobs.open(row.digest)
    except CorruptBytes as error:
        raise CorruptBytes("this artifact's stored bytes are damaged", **(error.fields | {"run": run, "path": path})) from error


def check_path(path: str) -> str:
    """Return ``path`` if it is plain and relative, else raise ``InvalidInput``: rejected, never mended.

    >>> check_path("plots/loss.png")
    'plots/loss.png'
    """
    parts = path.split("/")
    bad = (
        not path
        or len(path.encode(errors="surrogateescape")) > MAX_PATH_BYTES
        or "\\" in path
        or not path.isprintable()
        or any(part in ("", ".", "..") for part in parts)
        or (len(parts[0]) == 2 and parts[0][1] == ":")
    )
    if bad:
        raise InvalidInput(
            f"an artifact's path is relative, at most {MAX_PATH_BYTES} bytes, with '/' between names and no '.' or '..'",
            field="path",
            got=repr(path)[:80],
        )
    return path


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
