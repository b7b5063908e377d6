"""Pieces of SQL with the values bound in them, in the words of SQLite and of Postgres."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

_INDEXED_BYTES = 2_000
"""Of a key and its text: longer ones are not in a Postgres index."""
_INT64 = 2**63 - 1


class Sql(NamedTuple):
    """Text with ``?`` where ``bound`` goes, in order."""

    text: str
    bound: tuple[Any, ...] = ()


def joined(word: str, parts: Iterable[Sql]) -> Sql:
    """The parts with ``word`` between them, each in parentheses."""
    given = list(parts)
    return Sql(f" {word} ".join(f"({part.text})" for part in given), tuple(value for part in given for value in part.bound))


class Dialect(NamedTuple):
    """What the two engines say differently."""

    postgres: bool

    @property
    def infinity(self) -> str:
        """An infinite double."""
        return "'infinity'::float8" if self.postgres else "9e999"

    def by(self, index: str) -> str:
        """What pins a table to an index. Postgres chooses by itself, from its statistics; SQLite may have none."""
        return "" if self.postgres else f" indexed by {index}"

    def indexed(self, alias: str, key: str, value: str) -> str | None:
        """What makes an index of texts serve: nothing in SQLite; in Postgres it has the short ones, and None is for the others."""
        if not self.postgres:
            return ""
        short = len(key.encode(errors="replace")) + len(value.encode(errors="replace")) < _INDEXED_BYTES
        return self.short(alias) if short else None

    def short(self, alias: str) -> str:
        """What says that a text is among those that an index of Postgres has."""
        return f" and octet_length({alias}.key) + octet_length({alias}.value) < {_INDEXED_BYTES}" if self.postgres else ""

    def among(self, column: str, values: Sequence[int] | Sequence[str]) -> Sql:
        """Whether ``column`` is one of any number of values."""
        if self.postgres:
            return Sql(f"{column} = any(?::{_pg(values)}[])", (list(values),))
        return Sql(f"{column} in (select value from json_each(?))", (json.dumps(list(values)),))

    def listed(self, name: str, values: Sequence[str]) -> Sql:
        """A query of the different values, as a column ``name``."""
        if self.postgres:
            return Sql(f"select distinct v as {name} from unnest(?::text[]) as given(v)", (list(values),))
        return Sql(f"select distinct value as {name} from json_each(?)", (json.dumps(list(values)),))

    def like(self, column: str, pattern: str) -> Sql:
        """Case-sensitive LIKE without an escape character. SQLite's own knows no case, its GLOB does."""
        if self.postgres:
            return Sql(f"{column} like ? escape ''", (pattern,))
        return Sql(f"{column} glob ?", ("".join(_GLOB.get(sign, sign) for sign in pattern),))

    def ilike(self, column: str, pattern: str) -> Sql:
        """LIKE that takes letters in either case (SQLite: ASCII letters)."""
        return Sql(f"{column} ilike ? escape ''" if self.postgres else f"{column} like ?", (pattern,))


_GLOB = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}


def _pg(values: Sequence[Any]) -> str:
    return "text" if values and isinstance(values[0], str) else "bigint"


def compared(column: str, op: str, value: Any, dialect: Dialect) -> Sql:
    """A clause's comparison of one column."""
    if op == "LIKE":
        return dialect.like(column, value)
    if op == "ILIKE":
        return dialect.ilike(column, value)
    if op in ("IN", "NOT IN"):
        one_of = dialect.among(column, value)
        return one_of if op == "IN" else Sql(f"not ({one_of.text})", one_of.bound)
    if isinstance(value, int) and abs(value) > _INT64:
        value = float(value)
    number = isinstance(value, float) and dialect.postgres
    return Sql(f"{column} {op} ?" + ("::float8" if number else ""), (value,))


def literal_prefix(pattern: str) -> str:
    """What every text that is LIKE ``pattern`` begins with."""
    ends = [at for at in (pattern.find("%"), pattern.find("_")) if at >= 0]
    return pattern[: min(ends, default=len(pattern))]


def beyond(prefix: str) -> str | None:
    """A text greater than all that begin with ``prefix``; None when there is none to be had."""
    for at in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[at]) + 1
        code = 0xE000 if 0xD800 <= code < 0xE000 else code
        if code < 0x110000:
            return prefix[:at] + chr(code)
    return None
