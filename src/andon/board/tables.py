"""Evidence, differences and verdicts as a person reads them: nothing empty, one row as a fact, paths as words, like with like."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from andon.board.words import brief
from andon.core.verdicts import Evidence, Verdict
from andon.registry import Change

INPUTS = "inputs/"
FIRST = ("live-quality", "previous-release", "drift")
SEVERITY = ("fail", "warn", "undecided", "pass")
MANY = 8
"""More differences of one sort than this are folded."""
WORDS = {
    "code.commit": "commit",
    "code.tree": "code",
    "code.dirty_diff": "uncommitted changes",
    "code.transform": "transform",
    "code.remote": "code's remote",
    "environment.python": "Python",
    "environment.platform": "platform",
    "evaluation": "evaluation data",
    "files": "files",
}
PLURAL = {"features": "feature view", "prompts": "prompt", "indexes": "index", "policies": "policy", "data": "data"}
PACKAGE = re.compile(r"environment\.requirements\[(.+)\]$")
PINNED = re.compile(r"(\w+)(?:\[(.+)\])?\.(?:address|digest)$")


class Sheet(msgspec.Struct, frozen=True):
    """A table to draw; ``numeric`` says which columns are numbers, and stand to the right."""

    title: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Any, ...], ...]


class Fact(msgspec.Struct, frozen=True):
    """A table of one row, as a line: what it is about, and each value by its name."""

    title: str
    values: tuple[tuple[str, str], ...]


class Sheets(msgspec.Struct, frozen=True):
    """What is left of some evidence when everything empty is gone."""

    facts: tuple[Fact, ...]
    tables: tuple[Sheet, ...]


def sheets(evidence: Iterable[Evidence], *, without: frozenset[str] = frozenset()) -> Sheets:
    """Evidence to draw; ``without`` leaves out tables that have all of these columns, because the page says it already."""
    facts, tables = list[Fact](), list[Sheet]()
    for table in evidence:
        if not table.rows or (without and without <= set(table.columns)):
            continue
        rows = tuple(tuple(_cells(table.columns, row)) for row in table.rows)
        if len(rows) == 1:
            facts.append(Fact(table.title, tuple((name, brief(cell)) for name, cell in zip(table.columns, rows[0], strict=True))))
            continue
        known = [index for index in range(len(table.columns)) if any(row[index] is not None for row in rows)]
        names, rows = [table.columns[index] for index in known], tuple(tuple(row[index] for index in known) for row in rows)
        numeric = tuple(_numeric([row[index] for row in rows]) for index in range(len(names)))
        tables.append(Sheet(table.title, tuple(_header(name) for name in names), numeric, rows))
    return Sheets(tuple(facts), tuple(tables))


def _cells(columns: Sequence[str], row: Sequence[Any]) -> Iterable[Any]:
    """One cell for each column; a yes or no about a value that was never measured is not known."""
    cells = [*row, *[None] * len(columns)][: len(columns)]
    unmeasured = "value" in columns and cells[list(columns).index("value")] is None
    for name, cell in zip(columns, cells, strict=True):
        yield "unknown" if unmeasured and name == "yes" else cell


def _numeric(cells: Sequence[Any]) -> bool:
    known = [cell for cell in cells if cell is not None]
    return bool(known) and all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in known)


def _header(name: str) -> str:
    return "Answer" if name == "yes" else name[:1].upper() + name[1:]


class Differing(msgspec.Struct, frozen=True):
    """One difference in words; ``path`` is where it is in the manifest."""

    what: str
    path: str
    before: Any
    after: Any


class Folded(msgspec.Struct, frozen=True):
    """Differences of one sort that are too many, or too small, to be read one by one."""

    what: str
    rows: tuple[Differing, ...]


class Difference(msgspec.Struct, frozen=True):
    """Two manifests beside each other."""

    rows: tuple[Differing, ...]
    folded: tuple[Folded, ...]


def difference(changes: Sequence[Change]) -> Difference:
    """Differences in words. A digest that moved with its address says nothing more; packages and example rows are folded when many."""
    moved = {change.path.removesuffix(".address") for change in changes if change.path.endswith(".address")}
    rows, packages, examples = list[Differing](), list[Differing](), list[Differing]()
    for change in changes:
        if change.path.endswith(".digest") and change.path.removesuffix(".digest") in moved:
            continue
        package = PACKAGE.match(change.path)
        if package is not None:
            before, after = (_version(value) for value in (change.before, change.after))
            packages.append(Differing(f"package {package[1]}", change.path, before, after))
        elif change.path.startswith("example"):
            examples.append(Differing(change.path, change.path, change.before, change.after))
        else:
            rows.append(Differing(_words(change.path), change.path, change.before, change.after))
    if len(packages) <= MANY:
        rows, packages = [*rows, *packages], []
    sorts = (
        (f"{len(packages)} packages", packages),
        (f"{len(examples)} value{'' if len(examples) == 1 else 's'} in the example rows", examples),
    )
    return Difference(tuple(rows), tuple(Folded(what, tuple(found)) for what, found in sorts if found))


def _version(value: Any) -> Any:
    return value.partition("==")[2] or value if isinstance(value, str) else value


def _words(path: str) -> str:
    pinned = PINNED.match(path)
    if pinned is None:
        return WORDS.get(path, path)
    component, name = pinned[1], (pinned[2] or "").partition(":")[2]
    said = WORDS.get(component, PLURAL.get(component, component))
    return f"{said} {name}".strip() + (" (its bytes)" if path.endswith(".digest") else "")


class Checks(msgspec.Struct, frozen=True):
    """The newest verdicts: those to read one by one, and the input checks that pass, which are one row together."""

    rows: tuple[Verdict, ...]
    passing: tuple[Verdict, ...]


def checks(verdicts: Iterable[Verdict]) -> Checks:
    """What is wrong first; then live quality, the previous release and drift; passing input checks apart when there are several."""
    found = list(verdicts)
    passing = [one for one in found if one.check.startswith(INPUTS) and one.status == "pass"]
    if len(passing) < 2:
        passing = []
    rest = [one for one in found if one not in passing]
    rest.sort(key=lambda one: (SEVERITY.index(one.status), FIRST.index(one.check) if one.check in FIRST else len(FIRST), one.check))
    return Checks(tuple(rest), tuple(passing))
