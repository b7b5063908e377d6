"""Orders of runs as SQL, positions in them, and page tokens."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from andon.core.errors import InvalidInput
from andon.tracking.search.conditions import ARTIFACTS, NAME_TAG, USER
from andon.tracking.search.grammar import Order
from andon.tracking.search.sql import Dialect, Sql, joined

_VERSION = 1
MAX_RESULTS = 50_000
MAX_TOKEN_CHARACTERS = 100_000
_COLUMNS = {
    "run_id": "r.id",
    "run_name": "r.name",
    "status": "upper(r.status)",
    "user_id": USER,
    "artifact_uri": ARTIFACTS,
    "end_time": "r.ended_us",
    "start_time": "r.started_us",
}

Place = tuple[int, Any]
"""Where a run stands by one key: a rank (0: it has a value), then the value (None beyond rank 0)."""


class Page(NamedTuple):
    """The ids of one page in order, and the token of the next; None when this was the last."""

    ids: list[str]
    next_page_token: str | None


class OrderKey(NamedTuple):
    """One key: ``rank`` and ``value`` are expressions over ``r`` and what ``join`` adds; lower ranks come first whichever way it goes."""

    kind: str
    key: str
    ascending: bool
    rank: str
    value: str
    join: Sql = Sql("")
    values: type = str
    """Of what type the values are in Python."""


class Found(NamedTuple):
    """A run and where it stands by every key; pages go on after one."""

    run: str
    places: tuple[Place, ...]


STARTED = Order("attribute", "start_time", False)


def order_keys(orders: Sequence[Order], dialect: Dialect) -> tuple[OrderKey, ...]:
    """The keys; newest first is always the last of them, unless it was asked for otherwise."""
    given = list(orders)
    if not any((order.kind, order.key) == ("attribute", "start_time") for order in given):
        given.append(STARTED)
    return tuple(_key(order, f"o{n}", dialect) for n, order in enumerate(given))


def _key(order: Order, alias: str, dialect: Dialect) -> OrderKey:
    if (order.kind, order.key) == ("tag", NAME_TAG):  # says what the run's name says, which may have changed since
        order = Order("attribute", "run_name", order.ascending)
    if order.kind == "attribute":
        column = _COLUMNS[order.key]
        rank = "case when r.ended_us is null then 1 else 0 end" if order.key == "end_time" else "0"
        return OrderKey(
            order.kind, order.key, order.ascending, rank, column, values=int if order.key in ("start_time", "end_time") else str
        )
    bound = (order.key,)
    if order.kind == "metric":
        infinity = dialect.infinity
        rank = f"case when {alias}.run is null then 2 when {alias}.special = 1 then 1 else 0 end"
        value = f"case {alias}.special when 0 then {alias}.value when 2 then {infinity} when 3 then -{infinity} end"
        join = Sql(f"left join series {alias}{dialect.by('series_by_key')} on {alias}.key = ? and {alias}.run = r.id", bound)
    elif order.kind == "tag":
        rank, value = f"case when {alias}.subject is null then 1 else 0 end", f"{alias}.value"
        join = Sql(f"left join tags {alias} on {alias}.subject = 'run:' || r.id and {alias}.key = ?", bound)
    else:
        rank, value = f"case when {alias}.run is null then 1 else 0 end", f"{alias}.value"
        join = Sql(f"left join params {alias} on {alias}.run = r.id and {alias}.key = ?", bound)
    return OrderKey(order.kind, order.key, order.ascending, rank, value, join, float if order.kind == "metric" else str)


def placed(row: Sequence[Any]) -> Found:
    """A row of an id, then rank and value by each key."""
    return Found(row[0], tuple((row[n], row[n + 1] if not row[n] else None) for n in range(1, len(row), 2)))


def ordered(keys: Sequence[OrderKey]) -> str:
    """What follows ``order by``."""
    parts = []
    for key in keys:
        if key.rank != "0":
            parts.append(key.rank)
        parts.append(f"{key.value} {'asc' if key.ascending else 'desc'}")
    return ", ".join([*parts, "r.id"])


def after(keys: Sequence[OrderKey], last: Found) -> Sql:
    """Whether ``r`` comes after the run ``last``."""
    if not keys:
        return Sql("r.id > ?", (last.run,))
    key, (rank, value) = keys[0], last.places[0]
    later = after(keys[1:], Found(last.run, last.places[1:]))
    if rank:
        same = joined("and", (Sql(f"{key.rank} = ?", (rank,)), later))
        return joined("or", (Sql(f"{key.rank} > ?", (rank,)), same))
    within = joined("or", (past(key, value), joined("and", (Sql(f"{key.value} = ?", (value,)), later))))
    if key.rank == "0":  # said twice, since an OR alone gives an index no place to begin
        return joined("and", (Sql(f"{key.value} {'>=' if key.ascending else '<='} ?", (value,)), within))
    return joined("or", (Sql(f"{key.rank} > 0"), within))


def past(key: OrderKey, value: Any) -> Sql:
    """Whether ``r`` has a value, and one beyond ``value``."""
    return Sql(f"{key.value} {'>' if key.ascending else '<'} ?", (value,))


def fingerprint(*parts: Any) -> str:
    """What a search is for, so that no page token is taken for another one's."""
    return hashlib.blake2b(repr(parts).encode(errors="surrogatepass"), digest_size=9).hexdigest()


def check_size(max_results: int) -> None:
    """Raise ``InvalidInput`` unless a page may have so many."""
    if not 1 <= max_results <= MAX_RESULTS:
        most = "a positive integer" if max_results < 1 else f"at most {MAX_RESULTS}"
        message = f"Invalid value {max_results} for parameter 'max_results' supplied. It must be {most}"
        raise InvalidInput(message, field="max_results", got=max_results)


def page_of(found: Sequence[Found], max_results: int, query: str) -> Page:
    """A page of ``found``, which holds one more if there are more."""
    more = len(found) > max_results
    return Page([row.run for row in found[:max_results]], write_token(query, found[max_results - 1]) if more else None)


def write_token(query: str, last: Found) -> str:
    """An opaque token: the next page begins after ``last``."""
    body = json.dumps([_VERSION, query, last.run, last.places], separators=(",", ":"))
    return base64.urlsafe_b64encode(body.encode()).decode()


def read_token(token: str, query: str, keys: Sequence[OrderKey]) -> Found:
    """Where a page begins. Raises ``InvalidInput`` for what is no token of ours, or one of another search."""
    try:
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise ValueError
        version, made_for, run, places = json.loads(base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True))
        found = Found(run, tuple((rank, value) for rank, value in places))
        if version != _VERSION or not isinstance(run, str) or not isinstance(made_for, str):
            raise ValueError
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise InvalidInput("Invalid page token: it is not one that this server gave out", field="page_token") from None
    fits = len(found.places) == len(keys) and all(_fits(key, place) for key, place in zip(keys, found.places, strict=True))
    if made_for != query or not fits:
        raise InvalidInput("Invalid page token: it belongs to a search for something else", field="page_token")
    return found


def _fits(key: OrderKey, place: Place) -> bool:
    rank, value = place
    if type(rank) is not int or not 0 <= rank <= 2:
        return False
    if rank:
        return value is None
    if type(value) is int:
        return key.values is int and abs(value) < 2**63
    return type(value) is key.values
