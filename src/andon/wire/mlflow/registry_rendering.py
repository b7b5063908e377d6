"""Registry entries as the protocol's registered models and versions: names, stages, aliases, and the reads behind every answer.

A registered model is an entry of kind ``model`` (or ``prompt``); its client's own name is the entry's title. What a client calls a
version's stage is a tag of ours that it does not see. An alias that our addresses cannot hold is kept under a name that says so.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from andon.core.addresses import Address, check_alias
from andon.core.errors import InvalidAddress
from andon.registry import Entry, entry_titled_in
from andon.store.statements import places, rows_of
from andon.wire.mlflow.errors import WireError, invalid, missing
from andon.wire.mlflow.messages import wrong_value

if TYPE_CHECKING:
    from sqlalchemy import Connection

KINDS = ("model", "prompt")
STAGE_TAG = "andon.stage"
STAGES = {"none": "None", "staging": "Staging", "production": "Production", "archived": "Archived"}
LATEST = "latest"
MAX_ALIAS = 255
_ALIAS = re.compile(r"[\w\-]*")
_RESERVED = re.compile(r"[vV]\d+")
_ESCAPED = "alias-x"
_VERSION = (
    "select v.kind, v.name, v.version, v.created_us, x.source, x.run, x.link, x.description, x.changed_us"
    " from versions v left join version_sources x on x.kind = v.kind and x.name = v.name and x.version = v.version"
)


class Row(NamedTuple):
    """A living version. ``source`` is None for one that no client of the protocol made."""

    kind: str
    name: str
    version: int
    created_us: int
    source: str | None
    run: str | None
    link: str | None
    description: str | None
    changed_us: int | None

    @property
    def address(self) -> str:
        """The version's address."""
        return f"{self.kind}:{self.name}@{self.version}"


# --- words


def check_name(name: str) -> None:
    """Raise ``WireError`` unless clients may call a model so."""
    if not name.strip():
        raise invalid("Missing value for required parameter 'name'.")
    if "/" in name or ":" in name:
        raise invalid(f"Invalid model name '{name[:300]}'. Names cannot contain '/' or ':'.")
    plain = posixpath.normpath(name)
    if plain != name or plain == "." or plain.startswith(".."):
        raise wrong_value(
            "name",
            name,
            "Names may be treated as files in certain cases, and must not resolve to other names when treated as such."
            f" This name would resolve to {plain!r}",
        )


def version_number(text: str | None) -> int:
    """A version as a number. Raises ``WireError`` naming the field."""
    try:
        number = int(text or "")
    except ValueError:
        raise invalid(f"Parameter 'version' must be an integer, got '{(text or '')[:80]}'.") from None
    return number if abs(number) < 2**62 else -1


def stage_of(text: str) -> str:
    """A stage as it is written. Raises ``WireError`` listing them."""
    stage = STAGES.get(text.lower())
    if stage is None:
        raise invalid(f"Invalid Model Version stage: {text[:80]}. Value must be one of {', '.join(STAGES.values())}.")
    return stage


def check_client_alias(alias: str) -> None:
    """Raise ``WireError`` unless the protocol knows such an alias."""
    if not _ALIAS.fullmatch(alias):
        raise invalid(f"Invalid alias name: '{alias[:300]}'. Names may only contain alphanumerics, underscores (_), and dashes (-).")
    if len(alias) > MAX_ALIAS:
        raise invalid(f"'Registered model alias name' exceeds the maximum length of {MAX_ALIAS} characters")


def check_free_alias(alias: str) -> None:
    """Raise ``WireError`` for an alias that nobody may set."""
    check_client_alias(alias)
    if alias.lower() == LATEST:
        raise invalid("'latest' alias name (case insensitive) is reserved.")
    if _RESERVED.fullmatch(alias):
        raise invalid(f"Version alias name '{alias}' is reserved.")


def our_alias(alias: str) -> str:
    """The alias that our addresses have for a client's. Raises ``WireError`` when it is too long for them.

    >>> our_alias("Champion_2"), our_alias("3")
    ('Champion_2', 'alias-x33')
    """
    fits = alias if not alias.startswith(_ESCAPED) else ""
    for name in (fits, _ESCAPED + alias.encode().hex()):
        try:
            return check_alias(name)
        except InvalidAddress:
            continue
    raise invalid(f"Invalid alias name: '{alias[:300]}'. Here an alias outside of a-z, 0-9, '_' and '-' has at most 120 bytes.")


def client_alias(alias: str) -> str:
    """The client's name of one of our aliases.

    >>> client_alias("alias-x33")
    '3'
    """
    if alias.startswith(_ESCAPED):
        try:
            return bytes.fromhex(alias.removeprefix(_ESCAPED)).decode()
        except ValueError:
            return alias
    return alias


# --- reading


def title_of(entry: Entry) -> str:
    """What clients call an entry."""
    return entry.title if entry.title is not None else entry.name


def entry_of(connection: Connection, name: str) -> Entry:
    """The entry that a client calls ``name``. Raises ``WireError``."""
    found = entry_titled_in(connection, KINDS, name)
    if found is None:
        check_name(name)
        raise missing(f"Registered Model with name={name} not found")
    return found


def row_of(connection: Connection, name: str, version: int) -> tuple[Entry, Row]:
    """A living version and its entry. Raises ``WireError``."""
    entry = entry_titled_in(connection, KINDS, name)
    if entry is None:
        check_name(name)
        raise no_version(name, version)
    return entry, row_at(connection, entry, version)


def row_at(connection: Connection, entry: Entry, version: int) -> Row:
    """A living version of an entry. Raises ``WireError``."""
    where = " where v.kind = ? and v.name = ? and v.version = ? and v.deleted_us is null"
    rows = rows_of(connection, _VERSION + where, (entry.kind, entry.name, version))
    if not rows:
        raise no_version(title_of(entry), version)
    return Row(*rows[0])


def no_version(name: str, version: int) -> WireError:
    """What is said of a version that is not there."""
    return missing(f"Model Version (name={name}, version={version}) not found")


def rows_at(connection: Connection, wanted: Sequence[tuple[str, str, int]]) -> list[Row]:
    """Versions by kind, name and number, in that order."""
    found: dict[tuple[str, str, int], Row] = {}
    for start in range(0, len(wanted), 300):
        part = wanted[start : start + 300]
        where = f" where (v.kind, v.name, v.version) in (values {', '.join(['(?, ?, ?)'] * len(part))})"
        for row in rows_of(connection, _VERSION + where, [value for item in part for value in item]):
            found[row[0], row[1], row[2]] = Row(*row)
    return [found[item] for item in wanted if item in found]


def tags_in(connection: Connection, subjects: Sequence[str]) -> dict[str, dict[str, str]]:
    """Tags by subject, by key."""
    found: dict[str, dict[str, str]] = {}
    for start in range(0, len(subjects), 1000):
        part = subjects[start : start + 1000]
        query = f"select subject, key, value from tags where subject in ({places(len(part))}) order by subject, key"
        for subject, key, value in rows_of(connection, query, part):
            found.setdefault(subject, {})[key] = value
    return found


def aliases_in(connection: Connection, entries: Sequence[Entry]) -> dict[tuple[str, str], list[tuple[str, int]]]:
    """Each entry's aliases, as its client calls them, with the version that they point to; in order of alias."""
    found: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for start in range(0, len(entries), 300):
        part = entries[start : start + 300]
        query = (
            "select kind, name, alias, target from aliases"
            f" where (kind, name) in (values {', '.join(['(?, ?)'] * len(part))}) and target is not null"
        )
        for kind, name, alias, target in rows_of(connection, query, [value for entry in part for value in (entry.kind, entry.name)]):
            found.setdefault((kind, name), []).append((client_alias(alias), int(target.rpartition("@")[2])))
    return {key: sorted(pairs) for key, pairs in found.items()}


def latest_in(connection: Connection, entries: Sequence[Entry]) -> dict[tuple[str, str], list[Row]]:
    """The newest living version in each stage of each entry, in order of each stage's oldest version."""
    if not entries:
        return {}
    # What is in a stage is few; the rest is told from it by what is not there, so that no version but the ends is looked at.
    staged: dict[tuple[str, str], dict[int, str]] = {}
    wanted = {(entry.kind, entry.name) for entry in entries}
    query = "select subject, value from tags where key = ?"
    bound: list[Any] = [STAGE_TAG]
    if len(entries) == 1:
        query, bound = query + " and subject like ?", [*bound, f"{entries[0].kind}:{entries[0].name}@%"]
    for subject, stage in rows_of(connection, query, bound):
        at = Address.parse(subject)
        if (at.kind, at.name) in wanted and at.version is not None:
            staged.setdefault((at.kind, at.name), {})[at.version] = stage
    first: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}
    for entry in entries:
        key = (entry.kind, entry.name)
        stages = staged.get(key, {})
        spans = {stage: (min(v for v in stages if stages[v] == stage), 0) for stage in stages.values()}
        first[key] = _plain_span(connection, key, stages) | {
            stage: (low, max(v for v in stages if stages[v] == stage)) for stage, (low, _) in spans.items()
        }
    order = [(key, newest) for key, spans in first.items() for _, newest in sorted(spans.values())]
    made: dict[tuple[str, str], list[Row]] = {}
    for row in rows_at(connection, [(*key, newest) for key, newest in order]):
        made.setdefault((row.kind, row.name), []).append(row)
    return made


def _plain_span(connection: Connection, key: tuple[str, str], staged: dict[int, str]) -> dict[str, tuple[int, int]]:
    """The oldest and newest living version in no stage."""
    found = []
    for way in ("asc", "desc"):
        after, number = "", None
        while number is None:
            query = (
                f"select version from versions where kind = ? and name = ? and deleted_us is null{after} order by version {way} limit 50"
            )
            rows = [row[0] for row in rows_of(connection, query, key)]
            number = next((version for version in rows if version not in staged), None)
            if len(rows) < 50:
                break
            after = f" and version {'>' if way == 'asc' else '<'} {int(rows[-1])}"
        if number is None:
            return {}
        found.append(number)
    return {"None": (found[0], found[1])}


# --- answers


def versions_json(
    connection: Connection, rows: Sequence[Row], titles: dict[tuple[str, str], str], *, aliased: Iterable[tuple[str, int, str]] = ()
) -> list[dict[str, Any]]:
    """Versions as the protocol has them. ``aliased``: address of the entry, version, client's alias."""
    tags = tags_in(connection, [row.address for row in rows])
    named: dict[str, list[str]] = {}
    for entry, version, alias in aliased:
        named.setdefault(f"{entry}@{version}", []).append(alias)
    native = _native_runs(connection, [row.address for row in rows if row.source is None])
    return [_version(row, titles[row.kind, row.name], tags.get(row.address, {}), named.get(row.address, []), native) for row in rows]


def version_json(connection: Connection, entry: Entry, row: Row) -> dict[str, Any]:
    """One version, with its aliases."""
    query = "select alias from aliases where kind = ? and name = ? and target = ?"
    aliases = sorted(client_alias(found[0]) for found in rows_of(connection, query, (entry.kind, entry.name, row.address)))
    aliased = [(f"{entry.kind}:{entry.name}", row.version, alias) for alias in aliases]
    return versions_json(connection, [row], {(entry.kind, entry.name): title_of(entry)}, aliased=aliased)[0]


def _version(row: Row, title: str, tags: dict[str, str], aliases: list[str], native: dict[str, str]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": title,
        "version": str(row.version),
        "creation_timestamp": row.created_us // 1000,
        "last_updated_timestamp": (row.changed_us or row.created_us) // 1000,
        "current_stage": tags.get(STAGE_TAG, "None"),
        "source": row.source if row.source is not None else f"andon:/{row.address}",
        "run_id": row.run if row.run is not None else native.get(row.address, ""),
        "status": "READY",
        "run_link": row.link or "",
    }
    if row.description is not None:
        made["description"] = row.description
    if shown := pairs(tags):
        made["tags"] = shown
    if aliases:
        made["aliases"] = aliases
    return made


def _native_runs(connection: Connection, addresses: list[str]) -> dict[str, str]:
    """The runs that made versions registered by Andon's own means."""
    found: dict[str, str] = {}
    for start in range(0, len(addresses), 1000):
        part = addresses[start : start + 1000]
        query = f"select child, parent from edges where role = 'run' and child in ({places(len(part))})"
        found |= {child: parent.partition(":")[2] for child, parent in rows_of(connection, query, part) if parent.startswith("run:")}
    return found


def models_json(connection: Connection, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Registered models as the protocol has them, with the newest version in each stage."""
    tags = tags_in(connection, [f"{entry.kind}:{entry.name}" for entry in entries])
    aliases, latest = aliases_in(connection, entries), latest_in(connection, entries)
    titles = {(entry.kind, entry.name): title_of(entry) for entry in entries}
    shown = versions_json(connection, [row for rows in latest.values() for row in rows], titles)
    by_title: dict[str, list[dict[str, Any]]] = {}
    for item in shown:
        by_title.setdefault(item["name"], []).append(item)
    made = []
    for entry in entries:
        told: dict[str, Any] = {
            "name": title_of(entry),
            "creation_timestamp": entry.created_us // 1000,
            "last_updated_timestamp": entry.changed_us // 1000,
        }
        if entry.description:
            told["description"] = entry.description
        if versions := by_title.get(title_of(entry)):
            told["latest_versions"] = versions
        if given := pairs(tags.get(f"{entry.kind}:{entry.name}", {})):
            told["tags"] = given
        if pointing := aliases.get((entry.kind, entry.name)):
            told["aliases"] = [{"alias": alias, "version": str(version)} for alias, version in pointing]
        made.append(told)
    return made


def pairs(tags: dict[str, str]) -> list[dict[str, str]]:
    """Tags as a list, without ours."""
    return [{"key": key, "value": value} for key, value in tags.items() if key != STAGE_TAG]
