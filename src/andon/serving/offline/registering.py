"""The output of a batch job as a version of a dataset, made of its parts. The rows are not read again, so it costs no memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from andon import registry
from andon.core.actors import Actor
from andon.core.errors import InvalidInput
from andon.datasets.records import DataColumn, DatasetManifest
from andon.registry import Parent
from andon.serving.offline.records import OutputFormat
from andon.store import Store


def register_output(
    store: Store, name: str, folder: Path, kind: OutputFormat, rows: int, parents: Mapping[str, str], *, actor: Actor
) -> str:
    """Register the parts in ``folder`` as the next version of ``dataset:NAME``; its address. ``parents`` is role -> address."""
    files = sorted(folder.glob(f"part-*.{kind}"))
    if not files:
        raise InvalidInput("no row was answered, so there is nothing to register", field="register", got=name)
    with tempfile.TemporaryDirectory(prefix=".register-", dir=folder) as scratch:
        for file in files:
            try:
                os.link(file, Path(scratch, file.name))
            except OSError:  # a file system without hard links
                shutil.copyfile(file, Path(scratch, file.name))
        digest = store.blobs.put_tree(scratch)
    manifest = DatasetManifest(
        format=kind,
        layout="tree",
        bytes=digest,
        file_count=len(files),
        size_bytes=sum(file.stat().st_size for file in files),
        rows=rows,
        columns=_columns(files, kind),
    )
    made = [Parent(address, role) for role, address in parents.items()]
    version = registry.register(store, "dataset", name, manifest, actor=actor, reason="predictions", parents=made, blobs=[digest])
    return str(version.address)


def _columns(files: Sequence[Path], kind: OutputFormat) -> tuple[DataColumn, ...]:
    """Types and nulls, from the files' own statistics; a vector's nulls are not counted."""
    if kind == "csv":
        return ()
    import pyarrow.parquet as pq

    schema = pq.read_schema(files[0])
    nulls = dict.fromkeys(schema.names, 0)
    for file in files:
        metadata = pq.read_metadata(file)
        for group in range(metadata.num_row_groups):
            for at in range(metadata.num_columns):
                column = metadata.row_group(group).column(at)
                if column.path_in_schema in nulls and column.statistics is not None and column.statistics.has_null_count:
                    nulls[column.path_in_schema] += column.statistics.null_count
    return tuple(DataColumn(name=field.name, type=str(field.type), nulls=nulls[field.name]) for field in schema)
