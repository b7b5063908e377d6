"""What a dataset version says of itself."""

from __future__ import annotations

from typing import Literal

import msgspec

FileFormat = Literal["parquet", "csv", "arrow", "json", "opaque"]


class DataFile(msgspec.Struct, frozen=True):
    """One file: its path in the dataset, the digest of its bytes, and how many."""

    path: str
    digest: str
    size_bytes: int


class DataColumn(msgspec.Struct, frozen=True, kw_only=True):
    """A column: its Arrow type as text, and what it holds. ``min`` and ``max`` are numbers, or ISO 8601 text for instants.

    ``mean`` is of what is finite; None where a type has no such thing.
    """

    name: str
    type: str
    nulls: int
    min: float | int | str | bool | None = None
    max: float | int | str | bool | None = None
    mean: float | None = None


class DatasetManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest of ``dataset:NAME@VERSION``: bytes by digest, and for tables what is in them."""

    format: FileFormat
    layout: Literal["file", "tree"]
    """One file, or a folder."""
    bytes: str
    """Digest of the file, or of the folder's tree."""
    files: tuple[DataFile, ...] = ()
    """The one file; empty for a folder, whose tree lists them."""
    file_count: int = 1
    size_bytes: int = 0
    rows: int | None = None
    columns: tuple[DataColumn, ...] = ()
    event_time: str | None = None
    """The column that says when a row happened."""
    event_range_us: tuple[int, int] | None = None
    """Earliest and latest event time, microseconds since 1970 UTC."""
