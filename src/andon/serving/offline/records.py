"""What a batch job is asked to do, and what came of it."""

from __future__ import annotations

from typing import Literal

import msgspec

OutputFormat = Literal["parquet", "csv"]
InputFormat = Literal["parquet", "csv", "arrow"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a batch job runs."""

    keep: tuple[str, ...] | None = None
    """Columns of the input that go into the output, in this order; None: all of them."""
    format: OutputFormat = "parquet"
    part_rows: int = 250_000
    """Input rows of one part: what a killed job does again at most."""
    max_errors: int | None = None
    """More failed rows than this end the job; None: no number does."""
    memory_bytes: int = 64 << 20
    """About how much the rows in flight may take."""
    resume: bool = False
    """An output that is finished already is no error."""
    overwrite: bool = False
    """Throw away what an earlier job wrote there."""
    register: str | None = None
    """Register the output as the next version of ``dataset:NAME``."""


class InputFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the input. ``digest`` is of its bytes."""

    name: str
    path: str
    format: InputFormat
    digest: str
    size_bytes: int
    rows: int | None
    """None for CSV, whose rows are known at its end."""


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """All of the input. ``address`` is set when it is registered here."""

    named: str
    files: tuple[InputFile, ...]
    address: str | None = None
    digest: str = ""
    """Of the names and bytes of all files, in order."""

    @property
    def rows(self) -> int | None:
        """Rows of all files, where every file says so."""
        counts = [file.rows for file in self.files]
        return None if None in counts else sum(count or 0 for count in counts)


class PartKey(msgspec.Struct, frozen=True, order=True):
    """Part ``number`` of file ``file``: its rows from ``number * part_rows`` on."""

    file: int
    number: int

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"part-{self.file:05d}-{self.number:06d}"


class PartDone(msgspec.Struct, frozen=True, kw_only=True):
    """A part whose files are durable: how many input rows it took, and what became of them. ``rows + errors == taken``."""

    file: int
    number: int
    taken: int
    rows: int
    errors: int
    size_bytes: int
    """Of the output file; 0 when no row of this part was answered, and there is none."""

    @property
    def key(self) -> PartKey:
        """Which part."""
        return PartKey(self.file, self.number)


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """What an output folder is bound to: only the same work goes on in it."""

    job: str
    run: str
    release: str
    release_digest: str
    input: str
    input_digest: str
    keep: tuple[str, ...] | None
    format: OutputFormat
    part_rows: int


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a job is. ``rows_total`` is None when the input does not say."""

    rows: int
    errors: int
    rows_total: int | None
    rows_s: float
    parts: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a job did. ``rows + errors`` is the number of input rows."""

    job: str
    run: str
    release: str
    release_digest: str
    input: str
    input_digest: str
    output: str
    rows: int
    errors: int
    parts: int
    resumed_parts: int
    """Parts that an earlier attempt had written."""
    seconds: float
    rows_s: float
    batch_rows: int
    """The batch size that the measured cost led to."""
    peak_rss_bytes: int
    errors_folder: str | None
    dataset: str | None = None
