"""A run's files as a page may show them: pictures by their first bytes, tables by their first rows, the rest as text or not at all."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from andon.core.addresses import Address
from andon.core.errors import AndonError, NotFound
from andon.operations.showing.records import ArtifactRow
from andon.operations.showing.run_records import FilePreview
from andon.store import Store
from andon.store import schema as s

TEXT_BYTES = 256 * 1024
TABLE_BYTES = 16 * 1024 * 1024
"""A JSON table is read whole or not at all."""
PARQUET_BYTES = 512 * 1024 * 1024
IMAGE_BYTES = 32 * 1024 * 1024
ROWS, COLUMNS, CELL = 100, 60, 500
TEXTUAL = (
    ".txt", ".log", ".md", ".py", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".diff", ".patch", ".json", ".html", ".htm", ".xml", ".svg",
    ".sh", ".rst", ".sql", ".r", ".js", ".css", ".jsonl", ".ndjson", ".env", ".lock", ".requirements",
)  # fmt: skip
TEXT_NAMES = frozenset({"MLmodel", "Dockerfile", "Makefile", "LICENSE", "README"})


def artifact_of(store: Store, run: str | Address, path: str) -> ArtifactRow:
    """One file of a run, by its path. Raises ``NotFound``."""
    at = Address.parse(run, kind="run")
    a = s.artifacts.c
    with store.ledger.read() as connection:
        row = connection.execute(select(s.artifacts).where(a.owner == str(at), a.path == path)).first()
    if row is None:
        raise NotFound("this run has no such artifact", run=at.name, path=path[:200], next_step=f"open /runs/{at.name} to see what it has")
    return ArtifactRow(path=row.path, digest=row.digest, size_bytes=row.size_bytes, media_type=row.media_type)


def image_type(head: bytes) -> str | None:
    """The media type of a picture by its first bytes, whatever its name says: PNG, JPEG, GIF or WebP; None for anything else.

    >>> image_type(b"GIF89a..."), image_type(b"<svg xmlns=")
    ('image/gif', None)
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return "image/webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


def preview(store: Store, run: str | Address, path: str) -> FilePreview:
    """What can be shown of a file. Raises ``NotFound``; a file that cannot be read is said so in ``note``."""
    found = artifact_of(store, run, path)
    try:
        return _preview(store, found)
    except AndonError as error:
        return _made(found, "none", note=f"It cannot be read: {error.message}.")
    except Exception as error:  # noqa: BLE001 - whatever a reader of some format says about bytes that anybody wrote
        return _made(found, "none", note=f"It is not what its name says: {type(error).__name__}.")


def _preview(store: Store, found: ArtifactRow) -> FilePreview:
    name = found.path.rpartition("/")[2]
    ending = "." + name.rpartition(".")[2].lower() if "." in name else ""
    if found.size_bytes == 0:
        return _made(found, "none", note="It is empty.")
    if ending == ".parquet":
        return _parquet(store, found)
    with store.blobs.open(found.digest) as stream:
        head = stream.read(min(found.size_bytes, TEXT_BYTES))
        kind = image_type(head[:16])
        if kind is not None:
            too_large = found.size_bytes > IMAGE_BYTES
            return _made(found, "none" if too_large else "image", note="It is too large to be shown here." if too_large else "")
        if ending in (".csv", ".tsv"):
            return _csv(found, head, "\t" if ending == ".tsv" else ",")
        if ending == ".json" and found.size_bytes <= TABLE_BYTES:
            return _json(found, head + stream.read())
    if ending in TEXTUAL or name in TEXT_NAMES or found.media_type.startswith("text/") or _reads_as_text(head):
        return _text(found, head)
    return _made(found, "none", note="There is no preview of this kind of file.")


def _made(found: ArtifactRow, kind: Any, **more: Any) -> FilePreview:
    return FilePreview(path=found.path, digest=found.digest, size_bytes=found.size_bytes, media_type=found.media_type, kind=kind, **more)


def _reads_as_text(head: bytes) -> bool:
    sample = head[:4096]
    if b"\x00" in sample:
        return False
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        return error.start > len(sample) - 4  # only the last character is cut
    return True


def _text(found: ArtifactRow, head: bytes) -> FilePreview:
    cut = found.size_bytes > len(head)
    note = f"The first {len(head) // 1024} KiB; save the file to read it all." if cut else ""
    return _made(found, "text", text=head.decode(errors="replace"), note=note)


def _json(found: ArtifactRow, data: bytes) -> FilePreview:
    """``mlflow.log_table`` writes ``{"columns": […], "data": [[…]]}``; other JSON is laid out as text."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return _text(found, data[:TEXT_BYTES])
    if isinstance(value, dict) and isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        rows = [row for row in value["data"] if isinstance(row, list)]
        return _table(found, [str(one) for one in value["columns"]], rows[:ROWS], total=len(rows))
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value[:ROWS]):
        columns = list(dict.fromkeys(str(key) for one in value[:ROWS] for key in one))
        return _table(found, columns, [[one.get(key) for key in columns] for one in value[:ROWS]], total=len(value))
    laid = json.dumps(value, indent=2, ensure_ascii=False).encode(errors="replace")
    return _made(
        found, "text", text=laid[:TEXT_BYTES].decode(errors="replace"), note="Only its beginning." if len(laid) > TEXT_BYTES else ""
    )


def _csv(found: ArtifactRow, head: bytes, delimiter: str) -> FilePreview:
    text = head.decode("utf-8-sig", errors="replace")
    if found.size_bytes > len(head):
        text = text[: text.rfind("\n") + 1] or text  # the last line is cut
    read = list(itertools.islice(csv.reader(io.StringIO(text), delimiter=delimiter), ROWS + 2))
    if not read:
        return _text(found, head)
    return _table(found, read[0], read[1 : ROWS + 1], more=len(read) > ROWS + 1 or found.size_bytes > len(head))


def _parquet(store: Store, found: ArtifactRow) -> FilePreview:
    import pyarrow.parquet as pq

    if found.size_bytes > PARQUET_BYTES:
        return _made(found, "none", note="It is too large to be shown here.")
    with pq.ParquetFile(store.blobs.local_path(found.digest)) as file:
        total, columns = file.metadata.num_rows, file.schema_arrow.names
        if file.metadata.num_row_groups and file.metadata.row_group(0).total_byte_size > PARQUET_BYTES:
            return _made(found, "none", note="Its first rows are too large to be shown here.")
        batch = next(file.iter_batches(batch_size=ROWS, columns=columns[:COLUMNS]), None)
    rows = [] if batch is None else [list(row.values()) for row in batch.to_pylist()]
    return _table(found, columns[:COLUMNS], rows[:ROWS], total=total, left_out=max(0, len(columns) - COLUMNS))


def _table(
    found: ArtifactRow,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    total: int | None = None,
    more: bool = False,
    left_out: int = 0,
) -> FilePreview:
    left_out += max(0, len(columns) - COLUMNS)
    shown = tuple(tuple(_cell(value) for value in itertools.islice(row, COLUMNS)) for row in rows)
    width = len(columns[:COLUMNS])
    shown = tuple(row[:width] + (None,) * (width - len(row)) for row in shown)
    said = []
    if total is not None and total > len(rows):
        said.append(f"The first {len(rows):,} of {total:,} rows.")
    elif more:
        said.append(f"The first {len(rows):,} rows.")
    if left_out:
        said.append(f"{left_out} more columns are not shown.")
    return _made(found, "table", columns=tuple(one[:CELL] for one in columns[:COLUMNS]), rows=shown, note=" ".join(said))


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else str(value) if not isinstance(value, dict | list) else json.dumps(value, default=str)
    return text if len(text) <= CELL else text[: CELL - 1] + "…"


def read_image(store: Store, run: str | Address, path: str) -> tuple[bytes, str]:
    """The bytes and the media type of a picture. Raises ``NotFound`` also for what is no picture that a browser may be shown."""
    found = artifact_of(store, run, path)
    if found.size_bytes <= IMAGE_BYTES:
        with store.blobs.open(found.digest) as stream:
            data = stream.read()
        kind = image_type(data[:16])
        if kind is not None:
            return data, kind
    raise NotFound("this file is not shown as a picture", path=path[:200], next_step="save it instead")


def image_ending(path: str) -> bool:
    """Whether a file is named as a picture that may be shown."""
    return path.lower().endswith((".png", ".jpg", ".jpeg", ".gif", ".webp"))
