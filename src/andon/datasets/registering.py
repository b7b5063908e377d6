"""Registering data: bytes into the artifact store, what is in them into the manifest, the version into the registry."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.core.actors import Actor
from andon.core.addresses import check_name
from andon.core.errors import InvalidInput, NotFound
from andon.datasets.records import DataFile, DatasetManifest, FileFormat
from andon.datasets.tables import as_table, describe, event_time_of, format_of, read_files, write_parquet
from andon.registry import Parent, Version
from andon.registry import register as register_version
from andon.store import Store
from andon.tracking import active_run

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_FILE = "data.parquet"


def register(
    store: Store,
    name: str,
    source: Any,
    *,
    actor: Actor,
    event_time: str | None = None,
    reason: str = "",
    parents: Iterable[Parent] = (),
    idempotency_key: str | None = None,
) -> Version:
    """Register data as the next version of ``dataset:NAME``; its bytes are durable on return.

    ``source`` is a file, a folder, a list of files, or a table (Arrow, pandas, polars, a mapping of columns, a list of rows), which is
    kept as one Parquet file. Parquet, CSV, Arrow and JSON-lines files are described as tables; a folder is one when all its files are of
    one such format. ``event_time`` names the column that says when a row happened (default: the only timestamp). The same bytes as the
    newest version's give that version back. Inside a run the run is the version's parent; ``parents`` adds others.
    Raises ``InvalidInput`` naming the field, ``NotFound`` for a path.
    """
    check_name(name)
    manifest = _keep(store, source, event_time)
    around = active_run()
    if around is not None and around.store is store:
        parents = [*parents, Parent(around.address, "run")]
    return register_version(
        store,
        "dataset",
        name,
        manifest,
        actor=actor,
        reason=reason,
        parents=parents,
        blobs=[manifest.bytes],
        idempotency_key=idempotency_key,
    )


def _keep(store: Store, source: Any, event_time: str | None) -> DatasetManifest:
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            return _keep_folder(store, path, event_time)
        if not path.is_file():
            raise NotFound("there is no such file or folder", path=path, next_step="pass a path that exists, or a table")
        return _keep_file(store, path, event_time)
    if isinstance(source, Sequence) and source and all(isinstance(item, str | os.PathLike) for item in source):
        with _gathered([Path(item) for item in source]) as folder:
            return _keep_folder(store, folder, event_time)
    table = as_table(source)
    if table is None:
        raise InvalidInput("data is a path, a list of paths or a table", field="source", got=type(source).__name__)
    if not table.num_columns:
        raise InvalidInput("a table needs at least one column", field="source")
    with tempfile.TemporaryDirectory(prefix="andon-data-") as scratch:
        path = Path(scratch, TABLE_FILE)
        write_parquet(table, path)
        return _keep_file(store, path, event_time, table=table)


def _keep_file(store: Store, path: Path, event_time: str | None, table: pa.Table | None = None) -> DatasetManifest:
    kind = format_of(path)
    if table is None and kind != "opaque":
        table = read_files([path], kind)
    digest = store.blobs.put_file(path)
    size_bytes = store.blobs.size_bytes(digest)  # of what was kept: the file may have grown since
    return _manifest(kind, "file", digest, table, event_time, files=(DataFile(path.name, digest, size_bytes),), size_bytes=size_bytes)


def _keep_folder(store: Store, folder: Path, event_time: str | None) -> DatasetManifest:
    if Path(store.settings.home).resolve().is_relative_to(folder.resolve()):
        raise InvalidInput("this folder holds Andon's own home, which would be kept inside itself", field="source", got=folder)
    digest = store.blobs.put_tree(folder)
    files = store.blobs.tree(digest)
    if not files:
        raise InvalidInput("this folder has no files", field="source", got=folder)
    kinds = {format_of(name) for name in files}
    kind: FileFormat = kinds.pop() if len(kinds) == 1 else "opaque"
    table = read_files([folder / name for name in files], kind) if kind != "opaque" else None
    size_bytes = sum(store.blobs.size_bytes(file) for file in files.values())
    return _manifest(kind, "tree", digest, table, event_time, file_count=len(files), size_bytes=size_bytes)


def _manifest(kind: FileFormat, layout: Any, digest: str, table: pa.Table | None, event_time: str | None, **fields: Any) -> DatasetManifest:
    if table is None:
        if event_time is not None:
            raise InvalidInput("only tables have an event time", field="event_time", got=event_time)
        return DatasetManifest(format=kind, layout=layout, bytes=digest, **fields)
    named, ends = event_time_of(table, event_time)
    return DatasetManifest(
        format=kind,
        layout=layout,
        bytes=digest,
        rows=table.num_rows,
        columns=describe(table),
        event_time=named,
        event_range_us=ends,
        **fields,
    )


@contextmanager
def _gathered(paths: list[Path]) -> Iterator[Path]:
    """A folder that holds the named files, for a tree to be made of."""
    names = [path.name for path in paths]
    if len(set(names)) != len(names):
        raise InvalidInput("files of one dataset need different names; pass their folder instead", field="source")
    for path in paths:
        if not path.is_file():
            raise NotFound("there is no such file", path=path)
    with tempfile.TemporaryDirectory(prefix="andon-data-") as scratch:
        for path in paths:
            try:
                os.link(path, Path(scratch, path.name))
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(path, Path(scratch, path.name))
        yield Path(scratch)
