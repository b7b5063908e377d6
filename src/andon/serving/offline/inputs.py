"""What a batch job reads: files, folders, globs, registered datasets and Andon's own tables, always as a stream of record batches.

A row is named by its file and its position there (0, 1, 2, … without the header), so that a part is the same rows in every attempt.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from andon.core.addresses import Address
from andon.core.digests import digest_json
from andon.core.errors import CorruptBytes, InvalidInput, NotFound
from andon.serving.offline.records import Input, InputFile, InputFormat
from andon.store import Store

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

READ_ROWS = 65_536
CSV_BLOCK_BYTES = 4 << 20
DIGEST_BYTES = 1 << 20
_SUFFIXES: dict[str, InputFormat] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}


class Bad(msgspec.Struct, frozen=True):
    """A row that is no row of the table: where it was, its text, and why."""

    row: int
    text: str
    reason: str


class Chunk(msgspec.Struct, frozen=True):
    """Some rows of a file with their positions, and what lay between them that could not be read as a row."""

    positions: np.ndarray[Any, Any]
    batch: pa.RecordBatch
    bad: tuple[Bad, ...] = ()


def resolve(store: Store, named: str) -> Input:
    """What ``named`` means: a path, a folder of parts, a glob, ``dataset:NAME@V`` or ``table:NAME``; every byte is digested.

    Raises ``NotFound``, or ``InvalidInput`` naming the file that cannot be read, is empty, or differs in its columns from the first.
    """
    address = None
    if named.startswith("dataset:"):
        address, found = _of_dataset(store, named)
    elif named.startswith("table:"):
        found = _of_table(store, named.removeprefix("table:"))
    else:
        found = _of_paths(named)
    files = tuple(_file(name, path, kind) for name, path, kind in found)
    if not files or all(file.rows == 0 for file in files):
        raise InvalidInput("the input has no rows", field="input", got=named)
    digest = digest_json([(file.name, file.digest) for file in files])
    return Input(named=address or named, files=files, address=address, digest=digest)


def _of_paths(named: str) -> list[tuple[str, Path, InputFormat]]:
    path = Path(named)
    if path.is_file():
        return [(path.name, path, _format(path))]
    if path.is_dir():
        inside = [one for one in sorted(path.rglob("*")) if one.is_file() and not any(p[0] in "._" for p in one.relative_to(path).parts)]
        return [(one.relative_to(path).as_posix(), one, _format(one)) for one in inside]
    matched = [Path(one) for one in sorted(glob.glob(named, recursive=True)) if Path(one).is_file()]  # noqa: PTH207  # a pattern may be absolute
    if not matched:
        raise NotFound("there is no such file or folder", field="input", got=named, next_step="give a path, a glob, dataset:… or table:…")
    return [(one.as_posix(), one, _format(one)) for one in matched]


def _of_dataset(store: Store, named: str) -> tuple[str, list[tuple[str, Path, InputFormat]]]:
    from andon import datasets

    data = datasets.read(store, Address.parse(named, kind="dataset"))
    kind = data.manifest.format
    if kind not in ("parquet", "csv", "arrow"):
        raise InvalidInput("this dataset is not a table of Parquet, CSV or Arrow files", field="input", dataset=str(data.address), got=kind)
    return str(data.address), [(name, store.blobs.local_path(digest), kind) for name, digest in data.files().items()]


def _of_table(store: Store, named: str) -> list[tuple[str, Path, InputFormat]]:
    """The sealed parts of one of Andon's tables, as they are now. Rows that still are in the inbox are sealed first."""
    from andon.store.tables.files import FileTables

    name, _, version = named.partition("@")
    if not isinstance(store.tables, FileTables):
        raise InvalidInput("tables in memory cannot be read part by part", field="input", got=f"table:{named}")
    if version and not version.isdigit():
        raise InvalidInput("a version of the tables is a whole number", field="input", got=f"table:{named}")
    if not version:
        store.tables.seal()
    parts = store.tables.parts(name, as_of=int(version) if version else None)
    if not parts:
        raise NotFound("this table has no rows", field="input", got=f"table:{named}", next_step="run `andon du` to see the tables")
    return [(part.path, store.tables.root / part.path, "parquet") for part in parts]


def _format(path: Path) -> InputFormat:
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise InvalidInput(f"input files end in {', '.join(_SUFFIXES)}", field="input", got=path.name)
    return kind


def _file(name: str, path: Path, kind: InputFormat) -> InputFile:
    size_bytes = path.stat().st_size
    if not size_bytes:
        raise InvalidInput("this file is empty", field="input", got=name)
    rows: int | None = None
    with _said_of(name, kind):
        if kind == "parquet":
            import pyarrow.parquet as pq

            rows = int(pq.read_metadata(path).num_rows)
        elif kind == "arrow":
            with _arrow(path) as reader:
                rows = sum(reader.get_batch(at).num_rows for at in range(reader.num_record_batches))
    return InputFile(name=name, path=str(path), format=kind, digest=_digest(path), size_bytes=size_bytes, rows=rows)


def _digest(path: Path) -> str:
    """As ``digest_file``, but read and not mapped: a mapped file counts as this process's memory."""
    from blake3 import blake3

    hasher = blake3()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(DIGEST_BYTES):
            hasher.update(piece)
    return f"b3:{hasher.hexdigest()}"


class _said_of:  # noqa: N801  # reads as the phrase it is
    """Turns what Arrow raises about a file into ``InvalidInput`` that names it."""

    def __init__(self, name: str, kind: str) -> None:
        self._name = name
        self._kind = kind

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        import pyarrow as pa

        if isinstance(error, pa.ArrowException | OSError) and not isinstance(error, CorruptBytes | InvalidInput):
            said = str(error).strip().splitlines()[0][:200]
            raise InvalidInput(f"this file cannot be read as {self._kind}: {said}", field="input", got=self._name) from None


def schema(file: InputFile) -> pa.Schema:
    """A file's columns. Columns of a CSV are text, as they are written: which of them are numbers is the release's to say."""
    with _said_of(file.name, file.format):
        if file.format == "parquet":
            import pyarrow.parquet as pq

            return pq.read_schema(file.path).remove_metadata()
        if file.format == "arrow":
            with _arrow(Path(file.path)) as reader:
                return reader.schema.remove_metadata()
        import pyarrow as pa

        return pa.schema([(name, pa.string()) for name in _csv_header(Path(file.path))])


def read(file: InputFile, columns: Sequence[str], start: int = 0) -> Iterator[Chunk]:
    """The rows of a file from position ``start`` on. Raises ``InvalidInput`` when it turns out damaged on the way."""
    readers = {"parquet": _read_parquet, "csv": _read_csv, "arrow": _read_arrow}
    with _said_of(file.name, file.format):
        yield from readers[file.format](Path(file.path), columns, start)


def _read_parquet(path: Path, columns: Sequence[str], start: int) -> Iterator[Chunk]:
    import numpy as np
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        sizes = [file.metadata.row_group(at).num_rows for at in range(file.metadata.num_row_groups)]
        first, at = 0, 0
        while first < len(sizes) and at + sizes[first] <= start:  # whole row groups that are not wanted are not read
            at += sizes[first]
            first += 1
        groups = list(range(first, len(sizes)))
        for batch in file.iter_batches(READ_ROWS, row_groups=groups, columns=list(columns)) if groups else ():
            skip = max(0, min(batch.num_rows, start - at))
            at += batch.num_rows
            if skip < batch.num_rows:
                kept = batch.slice(skip).select(list(columns))
                yield Chunk(np.arange(at - kept.num_rows, at, dtype=np.int64), kept)


def _read_arrow(path: Path, columns: Sequence[str], start: int) -> Iterator[Chunk]:
    import numpy as np

    at = 0
    with _arrow(path) as reader:
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            skip = max(0, min(batch.num_rows, start - at))
            at += batch.num_rows
            if skip < batch.num_rows:
                kept = batch.slice(skip).select(list(columns))
                yield Chunk(np.arange(at - kept.num_rows, at, dtype=np.int64), kept)


def _read_csv(path: Path, columns: Sequence[str], start: int) -> Iterator[Chunk]:
    """Every column as text; only an empty cell without quotes is null. Lines with too few or too many cells come as ``bad``."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv

    bad: list[Bad] = []

    def refuse(row: Any) -> str:
        reason = f"this line has {row.actual_columns} cells, not {row.expected_columns}"
        bad.append(Bad(int(row.number) - 2, str(row.text), reason))  # counted from 1, with the header
        return "skip"

    reader = csv.open_csv(
        path,
        read_options=csv.ReadOptions(block_size=CSV_BLOCK_BYTES, use_threads=False),  # or lines have no numbers
        parse_options=csv.ParseOptions(newlines_in_values=True, invalid_row_handler=refuse),
        convert_options=csv.ConvertOptions(
            column_types={name: pa.string() for name in _csv_header(path)},
            include_columns=list(columns),
            strings_can_be_null=True,
            null_values=[""],
            quoted_strings_can_be_null=False,
        ),
    )
    at = 0
    with reader:
        for batch in reader:
            positions, at, between = _place(batch.num_rows, at, bad)
            keep = positions >= start
            if keep.any() or any(one.row >= start for one in between):
                first = int(np.argmax(keep)) if keep.any() else batch.num_rows
                yield Chunk(positions[first:], batch.slice(first), tuple(one for one in between if one.row >= start))
    left = tuple(one for one in bad if one.row >= start)
    if left:
        yield Chunk(np.empty(0, dtype=np.int64), pa.RecordBatch.from_pylist([], schema=schema_of(columns)), left)


def schema_of(columns: Sequence[str]) -> pa.Schema:
    """Columns of text."""
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in columns])


def _place(rows: int, at: int, bad: list[Bad]) -> tuple[Any, int, list[Bad]]:
    """Positions of the next ``rows`` good rows from ``at`` on, stepping over the bad ones, which are taken out of ``bad``."""
    import numpy as np

    between: list[Bad] = []
    parts = []
    left = rows
    while bad and bad[0].row <= at + left:
        one = bad.pop(0)
        before = max(0, min(left, one.row - at))
        parts.append(np.arange(at, at + before, dtype=np.int64))
        between.append(msgspec.structs.replace(one, row=at + before))
        at += before + 1
        left -= before
    parts.append(np.arange(at, at + left, dtype=np.int64))
    return np.concatenate(parts), at + left, between


def _csv_header(path: Path) -> list[str]:
    import csv

    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            names = next(csv.reader(file), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"the first line of this CSV file cannot be read: {error}", field="input", got=path.name) from None
    if not names or len(set(names)) != len(names):
        raise InvalidInput("the first line of a CSV file names its columns, each once", field="input", got=path.name)
    return names


def _arrow(path: Path) -> Any:
    """An Arrow file, read and not mapped, so that its bytes do not count as this process's memory."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.OSFile(str(path)))
