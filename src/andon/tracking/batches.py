"""What a run is told in batches: points, params and tags, in one transaction or none of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Connection

from andon.core.actors import Actor
from andon.core.errors import Conflict, Gone, InvalidInput, NotFound
from andon.registry.tags import set_tags_in
from andon.store import Store
from andon.store.statements import IN_ONE, places, rows_of, run_sql
from andon.tracking.points import Group, check_key, group, write_points

if TYPE_CHECKING:
    from concurrent.futures import Future

MAX_PARAM_CHARACTERS = 8_000


def log_batch(
    store: Store,
    run: str,
    *,
    metrics: Iterable[tuple[str, float, int, int]] = (),
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    actor: Actor,
) -> None:
    """Write points (``Point`` or plain ``(key, value, step, at_us)``), params and tags to a run; durable on return, all or nothing.

    A point that is there already is not written again, so a batch may be sent twice. Raises ``NotFound`` or ``Gone`` for the run,
    ``InvalidInput`` naming a key, ``Conflict`` naming a param that has another value.
    """
    submit_batch(store, run, metrics=metrics, params=params, tags=tags, actor=actor).result()


def submit_batch(
    store: Store,
    run: str,
    *,
    metrics: Iterable[tuple[str, float, int, int]] = (),
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    actor: Actor,
) -> Future[None]:
    """``log_batch`` without waiting: input is checked now, the future is done when the commit is durable."""
    groups, texts = group(metrics), param_texts(params or {})
    now_us = store.clock.now_us()
    return store.ledger.submit(lambda c: log_batch_in(c, run, groups=groups, params=texts, tags=tags or {}, now_us=now_us, actor=actor))


def log_batch_in(
    connection: Connection,
    run: str,
    *,
    groups: Sequence[Group] = (),
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    now_us: int,
    actor: Actor,
) -> None:
    """``log_batch`` inside the caller's transaction, given ``points.group(metrics)`` and ``param_texts(params)``."""
    check_run_in(connection, run)
    if params:
        write_params_in(connection, run, params)
    if groups:
        write_points(connection, run, groups)
    if tags:
        set_tags_in(connection, f"run:{run}", tags, now_us=now_us, actor=actor)


def check_run_in(connection: Connection, run: str) -> None:
    """Raise ``NotFound`` unless the run is there, ``Gone`` when it was deleted."""
    rows = rows_of(connection, "select deleted_us from runs where id = ?", (run,))
    if not rows:
        raise NotFound(address=f"run:{run}", next_step="run `andon ls run` to see what there is")
    if rows[0][0] is not None:
        raise Gone("this run was deleted", address=f"run:{run}", deleted_us=rows[0][0], next_step="restore it first")


def write_params_in(connection: Connection, run: str, params: Mapping[str, str]) -> None:
    """Params are written once: the same value again is nothing, another value raises ``Conflict`` naming the key."""
    known = params_in(connection, run, list(params))
    for key, value in known.items():
        if params[key] != value:
            raise Conflict(
                f"the param {key!r} has another value already; params do not change",
                field=key,
                found=value[:200],
                got=params[key][:200],
                next_step="log it under another name, or start another run",
            )
    rows = [(run, key, value) for key, value in params.items() if key not in known]
    if rows:
        run_sql(connection, "insert into params (run, key, value) values (?, ?, ?)", rows)


def params_in(connection: Connection, run: str, keys: Sequence[str]) -> dict[str, str]:
    """Those of a run's params that are named."""
    known: dict[str, str] = {}
    for start in range(0, len(keys), IN_ONE):
        part = keys[start : start + IN_ONE]
        known |= dict(rows_of(connection, f"select key, value from params where run = ? and key in ({places(len(part))})", (run, *part)))
    return known


def param_texts(params: Mapping[str, Any]) -> dict[str, str]:
    """Params as text: strings as they are, numbers, booleans, lists and mappings as JSON, the rest by ``str``.

    >>> param_texts({"depth": 6, "rate": 0.1, "on": True, "layers": [8, 8], "loss": "mae"})
    {'depth': '6', 'rate': '0.1', 'on': 'true', 'layers': '[8,8]', 'loss': 'mae'}
    """
    texts = {}
    for key, value in params.items():
        text = _text(value)
        if len(text) > MAX_PARAM_CHARACTERS:
            raise InvalidInput(
                f"a param has at most {MAX_PARAM_CHARACTERS} characters; log it as an artifact", field=str(key)[:80], got=len(text)
            )
        texts[check_key(key)] = text
    return texts


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a NumPy or torch scalar
        value = value.item()
    if isinstance(value, float):
        return repr(value)
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, NotImplementedError, OverflowError):
        return str(value)
