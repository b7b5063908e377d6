"""What the pages of runs say: the table with its columns and groups, the comparison, files and logs."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from andon.operations.showing.records import RunRow, SeriesPoints

Kind = Literal["metrics", "params", "tags", "attributes"]
RunsSeen = Literal["active", "deleted"]


class Column(msgspec.Struct, frozen=True):
    """A column of the table of runs; its name is ``metrics.mae``, ``params.depth``, ``tags.team`` or ``attributes.status``."""

    kind: Kind
    key: str

    @property
    def name(self) -> str:
        """``KIND.KEY``: how it is written in a URL."""
        return f"{self.kind}.{self.key}"

    @property
    def sort(self) -> str:
        """How the search grammar names it; empty for what it cannot sort by."""
        if self.kind == "attributes":
            return f"attributes.{self.key}" if self.key in SORTED_ATTRIBUTES else ""
        return f"{self.kind}.`{self.key}`" if "`" not in self.key else ""


SORTED_ATTRIBUTES = ("run_name", "status", "start_time", "end_time", "user_id")
ATTRIBUTES = ("status", "duration", "start_time", "end_time", "user_id", "experiment", "run_id")


class Experiments(msgspec.Struct, frozen=True, kw_only=True):
    """The experiments beside the table, with how many living runs each has."""

    rows: tuple[ExperimentRow, ...]
    total: int


class ExperimentRow(msgspec.Struct, frozen=True):
    """One experiment: its number, name, and living runs."""

    id: int
    name: str
    runs: int


class TableRow(msgspec.Struct, frozen=True, kw_only=True):
    """One run in the table. ``cells`` are in the order of the columns: numbers, text, or None where the run has none."""

    run: RunRow
    deleted_us: int | None
    cells: tuple[Any, ...]


class Spread(msgspec.Struct, frozen=True):
    """A metric over the runs of a group; ``n`` of them have it."""

    mean: float
    min: float
    max: float
    n: int


class GroupRow(msgspec.Struct, frozen=True, kw_only=True):
    """Runs that share a value. ``cells`` are a ``Spread`` for a metric, the one value that all share, or None where they differ."""

    value: str | None
    """None: the runs that have no such value."""
    count: int
    cells: tuple[Any, ...]
    filter: str
    """The clause that finds them in the search grammar; empty where it cannot be said."""


class RunsTable(msgspec.Struct, frozen=True, kw_only=True):
    """A page of runs that match a filter, in an order, with the columns asked for."""

    experiment: str | None
    columns: tuple[Column, ...]
    offered: tuple[Column, ...]
    """All that could be shown."""
    more_offered: bool
    """Whether there are more columns than are offered."""
    rows: tuple[TableRow, ...]
    groups: tuple[GroupRow, ...]
    group: Column | None
    grouped_all: bool
    """Whether the groups hold every run that matches; else only the first ``grouped`` of them."""
    grouped: int
    next_page_token: str | None


class CompareRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the comparison: a value for each run, None where it has none."""

    name: str
    values: tuple[Any, ...]
    differs: bool


class MetricRow(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of the compared runs: newest, lowest and highest of each. ``best``: where the best newest value is, if that is known."""

    key: str
    newest: tuple[float | None, ...]
    lowest: tuple[float | None, ...]
    highest: tuple[float | None, ...]
    best: int | None
    aim: Literal["low", "high"] | None
    """Which is better, told by the metric's name; None where it tells nothing."""
    points: int
    """The most that one run has."""


class RunsComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Runs side by side, in the order asked for."""

    runs: tuple[RunRow, ...]
    params: tuple[CompareRow, ...]
    metrics: tuple[MetricRow, ...]
    tags: tuple[CompareRow, ...]
    code: tuple[CompareRow, ...]
    packages: tuple[CompareRow, ...]
    """Only those that differ."""
    uncaptured: tuple[str, ...]
    """Names of the runs of which code and environment are not known."""


class RunsSeries(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of several runs, for one chart."""

    key: str
    runs: tuple[RunSeries, ...]


class RunSeries(msgspec.Struct, frozen=True, kw_only=True):
    """The points of one run; None when it has none."""

    run: str
    name: str
    started_us: int
    points: SeriesPoints | None


class LogPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of what a run printed. Ask again with ``offset=next_offset``; ``done`` when nothing more will come."""

    stream: str
    text: str
    next_offset: int
    size_bytes: int
    known: bool
    """False when nothing of it is kept here."""
    done: bool


class FilePreview(msgspec.Struct, frozen=True, kw_only=True):
    """What can be shown of a file. ``note`` says what is left out, or why nothing is shown."""

    path: str
    digest: str
    size_bytes: int
    media_type: str
    kind: Literal["image", "table", "text", "none"]
    text: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    note: str = ""
